"""Models of the repository slice: context packages and opaque references to an external memory."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from app.domains.repository.models.inputs import Note
from app.domains.repository.models.runs import Code, TargetState
from app.domains.repository.models.views import JsonValue
from app.domains.repository.models.vocabulary import ContextItemKind
from app.kernel.inputs import AwareTime, Input, ListInput, Name, Output, OutputTime, Text

MAX_ITEMS = 1000
Resolution = Literal["ok", "changed", "deleted", "redacted", "opaque"]
# Kept exactly as it came: never parsed, resolved, normalised, fetched, deduplicated or checked as a URL.
MemoryRef = Annotated[Text, StringConstraints(min_length=1, max_length=2048)]


class MemoryProvenance(Input):
    """Who says that a reference belongs here, and since when."""

    asserted_by: Name
    asserted_at: AwareTime
    source_run_id: Code | None = None
    trace_id: Code | None = None
    note: Note | None = None


class ExternalMemoryRef(Input):
    """An opaque, provenance-tagged reference into a memory system that is not ours."""

    system: Code
    ref: MemoryRef
    kind: Code | None = None
    digest: Annotated[Text, StringConstraints(min_length=1, max_length=256)] | None = None
    provenance: MemoryProvenance


class ArtifactContext(Input):
    """A revision of an artifact; without a revision the head of this moment."""

    kind: Literal["artifact"]
    artifact_id: Text
    revision: int | None = None
    provenance: Any = Field(default_factory=dict)
    note: Note | None = None


class RelationshipContext(Input):
    """A relationship of the tenant."""

    kind: Literal["relationship"]
    relationship_id: Text
    provenance: Any = Field(default_factory=dict)
    note: Note | None = None


class RunContext(Input):
    """A workflow run of the tenant."""

    kind: Literal["run"]
    run_id: Text
    provenance: Any = Field(default_factory=dict)
    note: Note | None = None


class MemoryContext(Input):
    """A reference to an external memory; its provenance is inside it."""

    kind: Literal["external_memory"]
    memory: ExternalMemoryRef
    note: Note | None = None


ContextItem = Annotated[
    ArtifactContext | RelationshipContext | RunContext | MemoryContext, Field(discriminator="kind")
]


class CreateContextPackage(Input):
    """A new package; a change of one is a new one that may name it in `supersedes`."""

    name: str
    purpose: Note | None = None
    metadata: Any = Field(default_factory=dict)
    provenance: Any = Field(default_factory=dict)
    supersedes: Text | None = None
    items: list[ContextItem] = Field(default_factory=list, max_length=MAX_ITEMS)


class ContextPackageRef(Input):
    """One package; `resolve` tells what has become of each item."""

    package_id: str
    resolve: bool = False


class ListContextPackages(ListInput):
    """Packages, oldest first; a memory reference is looked up exactly."""

    artifact_id: Text | None = None
    revision: int | None = None
    memory_system: Text | None = None
    memory_ref: Text | None = None


class PackageArtifact(Input):
    """An artifact whose surroundings become a new package; its id is the name unless one is given."""

    artifact_id: str
    name: str | None = None
    purpose: Note | None = None


class MemoryView(Output):
    """A reference to an external memory, as it came."""

    system: str
    ref: str
    kind: str | None
    digest: str | None


class ContextItemView(Output):
    """An item; the members of the other kinds are null, and so is `resolution` unless it was asked for."""

    position: int
    kind: ContextItemKind
    artifact_id: str | None
    revision: int | None
    revision_digest: str | None
    relationship_id: str | None
    run_id: str | None
    memory: MemoryView | None
    provenance: JsonValue
    note: str | None
    target_state: TargetState | None
    resolution: Resolution | None


class ContextPackageSummary(Output):
    """A package without its items."""

    id: str
    name: str
    purpose: str | None
    metadata: JsonValue
    provenance: JsonValue
    supersedes: str | None
    package_digest: str
    created_seq: int
    created_at: OutputTime
    created_by: str
    item_count: int


class ContextPackageView(ContextPackageSummary):
    """A package; the digest is that of `hoc-context-1`, a line feed, and what it says."""

    items: list[ContextItemView]
