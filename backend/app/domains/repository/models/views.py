"""Models of the repository slice: what its operations answer."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import PlainSerializer, SerializationInfo

from app.domains.repository.models.vocabulary import Action, ContentState, EntityType, Redaction
from app.kernel.canonical_json import RawJson, dumps
from app.kernel.inputs import Output


def _as_text(value: Any, info: SerializationInfo) -> Any:
    # The door splices canonical text in; a general JSON writer would write 1e16 as 1e+16.
    return RawJson(dumps(value)) if info.mode == "python" else value


JsonValue = Annotated[Any, PlainSerializer(_as_text)]


class CollectionView(Output):
    """A collection, the number of its live artifacts and the planes bound to it."""

    id: str
    name: str
    description: str | None
    metadata: JsonValue
    version: int
    created_seq: int
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str
    deleted_at: datetime | None
    deleted_by: str | None
    live_artifacts: int
    planes: list[str]


class ArtifactView(Output):
    """An artifact with the revision it shows."""

    id: str
    collection_id: str
    name: str | None
    artifact_type: str
    version: int
    head_revision: int
    revision: int
    media_type: str | None
    size: int | None
    content_digest: str | None
    content_state: ContentState
    metadata: JsonValue
    metadata_digest: str
    provenance: JsonValue
    produced_by_run: str | None
    revision_digest: str
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str
    deleted_at: datetime | None
    deleted_by: str | None
    redacted: Redaction | None


class ChangeView(Output):
    """One record of the change feed."""

    seq: int
    change_id: str
    change_set_id: str
    entity_type: EntityType
    entity_id: str
    action: Action
    old_version: int | None
    new_version: int | None
    old_revision: int | None
    new_revision: int | None
    old_digest: str | None
    new_digest: str | None
    old_revision_digest: str | None
    new_revision_digest: str | None
    changed_fields: list[str]
    actor_id: str
    reason: str | None
    run_id: str | None
    trace_id: str | None
    request_id: str | None
    occurred_at: datetime
    detail: JsonValue
    prev_hash: str
    hash: str


class ArtifactUpdated(Output):
    """What an update did; `change` is null when nothing changed."""

    artifact: ArtifactView
    changed: bool
    change: ChangeView | None


class ArtifactDeleted(Output):
    """The change record of a deletion and the relationships that went with it."""

    id: str
    version: int
    change: ChangeView
    detached: list[str]


class ArtifactRestored(Output):
    """The restored artifact, and the relationships that came back or could not."""

    artifact: ArtifactView
    change: ChangeView
    relationships_restored: list[str]
    relationships_skipped: list[str]


class CollectionDeleted(Output):
    """The change record of a collection's deletion."""

    id: str
    version: int
    change: ChangeView


class BulkItemResult(Output):
    """What became of one item of a bulk call."""

    id: str
    result: Literal["created", "updated", "unchanged"]
    version: int
    revision: int
    content_digest: str | None
    revision_digest: str


class BulkResult(Output):
    """What became of a bulk call; without an effective change the first three are null."""

    change_set_id: str | None
    first_seq: int | None
    last_seq: int | None
    items: list[BulkItemResult]


class ContentView(Output):
    """Bytes as they were stored, checked against their digest; null when the revision has none."""

    artifact_id: str
    revision: int
    version: int
    content: bytes | None
    media_type: str | None
    content_digest: str | None


class RevisionView(Output):
    """One immutable revision, and the operation run that produced it."""

    artifact_id: str
    revision: int
    parent_digest: str | None
    content_digest: str | None
    size: int | None
    media_type: str | None
    name: str | None
    name_digest: str
    collection_id: str
    artifact_type: str
    metadata: JsonValue
    metadata_digest: str
    provenance: JsonValue
    provenance_digest: str
    produced_by_run: str | None
    created_at: datetime
    created_by: str
    revision_digest: str
    redaction: Redaction | None
    redacted_at: datetime | None
    content_state: ContentState
    produced_by: str | None


class MetadataDiff(Output):
    """JSON pointers of what differs; empty and `redacted` when a side was destroyed."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    redacted: bool


class ContentDiff(Output):
    """How the content of two revisions compares."""

    state: Literal["equal", "different", "absent", "redacted"]
    from_digest: str | None
    to_digest: str | None
    text: str | None
    truncated: bool


class RevisionDiff(Output):
    """The difference of two revisions of one artifact."""

    artifact_id: str
    from_revision: int
    to_revision: int
    name_changed: bool
    metadata: MetadataDiff
    content: ContentDiff


class CountView(Output):
    """How many rows a filter matches."""

    count: int


class ChangePage(Output):
    """A stretch of the change feed; ask again with `next_since_seq`."""

    items: list[ChangeView]
    next_since_seq: int
