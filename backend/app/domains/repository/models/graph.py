"""Models of the repository slice: relationships, neighbours and lineage."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from app.domains.repository.models.inputs import Note, TypeName
from app.domains.repository.models.views import ChangeView, JsonValue
from app.kernel.inputs import Input, ListInput, Output, Text

# Types that say where something comes from: over live edges of one type no artifact leads back to itself.
ACYCLIC_TYPES = ("derived_from", "supersedes", "part_of")


class CreateRelationship(Input):
    """A new directed relationship between two artifacts, at wish pinned to revisions of them."""

    id: str | None = None
    source_id: str
    target_id: str
    type: TypeName
    source_revision: int | None = None
    target_revision: int | None = None
    metadata: Any = Field(default_factory=dict)
    provenance: Any = Field(default_factory=dict)
    reason: Note | None = None


class RelationshipRef(Input):
    """One relationship."""

    relationship_id: str
    include_deleted: bool = False


class UpdateRelationship(Input):
    """Changes of a relationship; `metadata` is a merge patch (RFC 7396), `provenance` replaces the old.

    The last eight members never change and are named only to be refused as such.
    """

    relationship_id: str
    metadata: Any = None
    provenance: Any = None
    reason: Note | None = None
    id: Any = None
    source_id: Any = None
    target_id: Any = None
    type: Any = None
    source_revision: Any = None
    target_revision: Any = None
    created_at: Any = None
    created_by: Any = None


class DeleteRelationship(Input):
    """Remove a relationship; the same triple may be made again under a new id."""

    relationship_id: str
    reason: Note | None = None


class RelationshipFilter(Input):
    """Conditions on relationships; all of them must hold."""

    ids: list[Text] | None = None
    source_id: Text | None = None
    target_id: Text | None = None
    type: Text | None = None
    source_revision: int | None = None
    target_revision: int | None = None
    include_deleted: bool = False


class RelationshipQuery(RelationshipFilter):
    """A filtered page of relationships, oldest first."""

    limit: int = Field(50, ge=1, le=500)
    cursor: str | None = None


class ListRelationships(ListInput):
    """Relationships by plain filters, oldest first."""

    source_id: Text | None = None
    target_id: Text | None = None
    type: Text | None = None
    include_deleted: bool = False


class ListNeighbors(ListInput):
    """The artifacts at the other end of an artifact's live relationships."""

    artifact_id: str
    direction: Literal["out", "in", "both"] = "both"
    type: Text | None = None


class LineageQuery(Input):
    """What an artifact comes from (upstream), or what comes from it (downstream)."""

    artifact_id: str
    direction: Literal["upstream", "downstream", "both"] = "both"
    depth: int = 3
    types: list[Text] | None = None
    include_runs: bool = True
    max_nodes: int = 500
    include_deleted: bool = False


class ListConsumers(ListInput):
    """Who used a revision: input bundles, the runs that were given them, context packages."""

    artifact_id: str
    revision: int


class RelationshipView(Output):
    """A relationship; without a pinned revision it means the artifact as it goes on."""

    id: str
    source_id: str
    target_id: str
    type: str
    source_revision: int | None
    target_revision: int | None
    metadata: JsonValue
    provenance: JsonValue
    version: int
    created_seq: int
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str
    deleted_at: datetime | None
    deleted_by: str | None


class RelationshipUpdated(Output):
    """What an update did; `change` is null when nothing changed."""

    relationship: RelationshipView
    changed: bool
    change: ChangeView | None


class RelationshipDeleted(Output):
    """The change record of a relationship's deletion."""

    id: str
    version: int
    change: ChangeView


class Neighbor(Output):
    """One live relationship, seen from one of its ends, with the artifact at the other."""

    relationship_id: str
    type: str
    direction: Literal["out", "in"]
    source_revision: int | None
    target_revision: int | None
    artifact_id: str
    name: str
    artifact_type: str
    collection_id: str
    head_revision: int
    version: int


class LineageNode(Output):
    """An artifact or an operation run, at its least distance; of a deleted artifact only a stub stays."""

    kind: Literal["artifact", "run"]
    id: str
    depth: int
    name: str | None
    artifact_type: str | None
    head_revision: int | None
    status: str | None
    deleted: bool


class LineageEdge(Output):
    """`from` comes from `to`: by a relationship, as output of a run, or as a run from its input."""

    kind: Literal["relationship", "output", "input"]
    from_kind: Literal["artifact", "run"]
    from_id: str
    to_kind: Literal["artifact", "run"]
    to_id: str
    type: str
    relationship_id: str | None
    from_revision: int | None
    to_revision: int | None


class Lineage(Output):
    """The graph around an artifact; `truncated` when more nodes were there than were asked for."""

    artifact_id: str
    nodes: list[LineageNode]
    edges: list[LineageEdge]
    truncated: bool


class Consumer(Output):
    """One use of a revision."""

    kind: Literal["bundle", "context_package", "run"]
    id: str
    position: int
    role: str | None
