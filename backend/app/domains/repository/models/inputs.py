"""Models of the repository slice: the inputs of its operations."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from app.domains.repository.models.vocabulary import Action, EntityType
from app.kernel.inputs import AwareTime, Input, ListInput, Text

TYPE_PATTERN = r"^[a-z][a-z0-9_.-]{0,63}$"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"

TypeName = Annotated[str, StringConstraints(pattern=TYPE_PATTERN)]
Digest = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN)]
Seq = Annotated[int, Field(ge=0, le=2**63 - 1)]
Note = Annotated[Text, StringConstraints(max_length=1000)]


class CreateCollection(Input):
    """A new collection; without `id` one is made."""

    id: str | None = None
    name: str
    description: Note | None = None
    metadata: Any = Field(default_factory=dict)


class CollectionRef(Input):
    """One collection."""

    collection_id: str
    include_deleted: bool = False


class ListCollections(ListInput):
    """Live collections, oldest first."""

    name: Text | None = None
    include_deleted: bool = False


class UpdateCollection(Input):
    """Changes of a collection; `metadata` is a merge patch (RFC 7396)."""

    collection_id: str
    name: str | None = None
    description: Note | None = None
    metadata: Any = None


class DeleteCollection(Input):
    """Remove a collection that holds no live artifact."""

    collection_id: str
    reason: Note | None = None


class ArtifactItem(Input):
    """A new artifact: at most one of `content` (text) and `content_base64`."""

    id: str | None = None
    collection_id: str | None = None
    name: str
    artifact_type: TypeName
    content: str | None = None
    content_base64: str | None = None
    media_type: str | None = None
    metadata: Any = Field(default_factory=dict)
    provenance: Any = Field(default_factory=dict)
    produced_by_run: str | None = None
    expected_digest: Digest | None = None


class CreateArtifact(ArtifactItem):
    """A new artifact, in the collection `default` when none is named."""

    reason: Note | None = None


class CreateArtifacts(Input):
    """Up to 1000 new artifacts, all or nothing."""

    items: list[ArtifactItem]
    collection_id: str | None = None
    on_existing: Literal["refuse", "update"] = "refuse"
    reason: Note | None = None


class ArtifactRef(Input):
    """One artifact, now, at a revision, at a change number or at a time."""

    artifact_id: str
    revision: int | None = None
    as_of_seq: Seq | None = None
    as_of: AwareTime | None = None
    include_deleted: bool = False


class ListArtifacts(ListInput):
    """Artifacts, oldest first."""

    collection_id: Text | None = None
    artifact_type: Text | None = None
    name: Text | None = None
    name_prefix: Text | None = None
    digest: Text | None = None
    include_deleted: bool = False


class ContentRef(Input):
    """The content of an artifact's head."""

    artifact_id: str


class UpdateArtifact(Input):
    """Changes of an artifact: what is not given stays; `metadata` is a merge patch (RFC 7396).

    `replace_metadata` and bytes as `content` are what the two PUT routes fill. The last four members never
    change and are named only to be refused as such.
    """

    artifact_id: str
    name: str | None = None
    collection_id: str | None = None
    media_type: str | None = None
    provenance: Any = None
    content: str | bytes | None = None
    content_base64: str | None = None
    metadata: Any = None
    replace_metadata: Any = None
    produced_by_run: str | None = None
    expected_digest: Digest | None = None
    reason: Note | None = None
    id: Any = None
    artifact_type: Any = None
    created_at: Any = None
    created_by: Any = None


class DeleteArtifact(Input):
    """Remove an artifact; `detach` removes its live relationships with it."""

    artifact_id: str
    mode: Literal["restrict", "detach"] = "restrict"
    reason: Note | None = None


class RestoreArtifact(Input):
    """Bring a deleted artifact back, under another name if need be."""

    artifact_id: str
    new_name: str | None = None
    with_relationships: bool = False
    reason: Note | None = None


class RevisionRef(Input):
    """One revision of an artifact."""

    artifact_id: str
    revision: int


class ListRevisions(ListInput):
    """The revisions of an artifact, first to last; deleted artifacts keep theirs."""

    artifact_id: str


class DiffRevisions(Input):
    """Two revisions of an artifact; `text` asks for a unified diff of their content."""

    artifact_id: str
    from_revision: int = Field(alias="from")
    to_revision: int = Field(alias="to")
    text: bool = False


class MetadataFilter(Input):
    """One condition on a metadata value, addressed by a JSON pointer."""

    pointer: str
    op: str
    value: Any = None


class RelatedTo(Input):
    """Artifacts that share a live relationship with this one."""

    artifact_id: Text
    type: Text | None = None
    direction: Literal["out", "in", "both"] = "both"


class ArtifactFilter(Input):
    """Conditions on artifacts; all of them must hold."""

    ids: list[Text] | None = None
    collection_id: Text | None = None
    name: Text | None = None
    name_prefix: Text | None = None
    artifact_type: Text | None = None
    digest: Text | None = None
    metadata: list[MetadataFilter] = Field(default_factory=list)
    text: Text | None = None
    related_to: RelatedTo | None = None
    produced_by_run: Text | None = None
    created_from: AwareTime | None = None
    created_to: AwareTime | None = None
    updated_from: AwareTime | None = None
    updated_to: AwareTime | None = None
    include_deleted: bool = False


class ArtifactQuery(ArtifactFilter):
    """A filtered, ordered page of artifacts."""

    order_by: Literal["created_seq", "name", "updated_at", "id"] = "created_seq"
    direction: Literal["asc", "desc"] = "asc"
    limit: int = Field(50, ge=1, le=500)
    cursor: str | None = None


class ListChanges(Input):
    """The change feed after `since_seq`, in order."""

    since_seq: Seq = 0
    entity_type: EntityType | None = None
    entity_id: Text | None = None
    actor_id: Text | None = None
    run_id: Text | None = None
    action: Action | None = None
    change_set_id: Text | None = None
    limit: int = Field(50, ge=1, le=500)
