"""L5 engine of context packages: immutable, ordered, and opaque where they point at an external memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import context_packages as driver
from app.domains.repository.engines import documents
from app.domains.repository.engines.artifacts import MAX_REVISION
from app.domains.repository.engines.documents import Document
from app.domains.repository.engines.operation_runs import list_statuses
from app.domains.repository.engines.references import Pinned, list_relationship_ids, pin, target_state
from app.domains.repository.engines.values import check_name, is_id
from app.domains.repository.errors import invalid_query, item_not_found, not_found, reference_not_found
from app.domains.repository.models.packages import (
    ArtifactContext,
    ContextItem,
    ContextItemView,
    ContextPackageSummary,
    ContextPackageView,
    CreateContextPackage,
    ListContextPackages,
    MemoryContext,
    MemoryView,
    RelationshipContext,
    Resolution,
    RunContext,
)
from app.domains.repository.models.vocabulary import ContextItemKind
from app.kernel.canonical_json import RawJson, dumps_object, loads
from app.kernel.clock import format_time
from app.kernel.hashing import digest_of

Row = Mapping[str, Any]
_TAG = "hoc-context-1\n"
_EMPTY_ITEM: Mapping[str, Any] = {
    "artifact_id": None,
    "revision": None,
    "revision_digest": None,
    "relationship_id": None,
    "run_id": None,
    "memory_system": None,
    "memory_ref": None,
    "memory_ref_digest": None,
    "memory_kind": None,
    "memory_digest": None,
}


@dataclass(frozen=True, slots=True)
class PackageDraft:
    """A new package, checked and canonical; `provenances` are those of its items, in order."""

    name: str
    purpose: str | None
    metadata: Document
    provenance: Document
    supersedes: str | None
    items: Sequence[ContextItem]
    provenances: Sequence[str]


def read_package(request: CreateContextPackage) -> PackageDraft:
    """Return the draft of a package; refuse INVALID_NAME and INVALID_METADATA."""
    check_name(request.name)
    return PackageDraft(
        name=request.name,
        purpose=request.purpose,
        metadata=documents.read_document(request.metadata, field="metadata"),
        provenance=documents.read_document(
            request.provenance, field="provenance", limit=documents.MAX_PROVENANCE_BYTES
        ),
        supersedes=request.supersedes,
        items=request.items,
        provenances=[_item_provenance(item, index) for index, item in enumerate(request.items)],
    )


def _item_provenance(item: ContextItem, index: int) -> str:
    if not isinstance(item, MemoryContext):
        return documents.read_document(
            item.provenance, field=f"items/{index}/provenance", limit=documents.MAX_PROVENANCE_BYTES
        ).text
    said = item.memory.provenance
    return dumps_object(
        {
            "asserted_by": said.asserted_by,
            "asserted_at": format_time(said.asserted_at),
            "source_run_id": said.source_run_id,
            "trace_id": said.trace_id,
            "note": said.note,
        }
    )


def pin_items(connection: DriverConnection, draft: PackageDraft, *, tenant_id: str) -> list[dict[str, Any]]:
    """Return the rows of the items without package_id; refuse REFERENCE_NOT_FOUND with the position.

    An external reference is taken as it is: nothing here could tell whether it leads anywhere.
    """
    items = draft.items
    pinned = pin(
        connection,
        tenant_id=tenant_id,
        refs=[(item.artifact_id, item.revision) for item in items if isinstance(item, ArtifactContext)],
    )
    edges = list_relationship_ids(
        connection,
        tenant_id=tenant_id,
        relationship_ids=[item.relationship_id for item in items if isinstance(item, RelationshipContext)],
    )
    runs = list_statuses(
        connection,
        tenant_id=tenant_id,
        run_ids=[item.run_id for item in items if isinstance(item, RunContext)],
    )
    rows = []
    for position, (item, provenance) in enumerate(zip(items, draft.provenances, strict=True)):
        known: Mapping[str, Any]
        match item:
            case ArtifactContext():
                known = _artifact_columns(pinned.get((item.artifact_id, item.revision)), position)
            case RelationshipContext():
                known = {"relationship_id": _known(item.relationship_id, edges, "relationship_id", position)}
            case RunContext():
                known = {"run_id": _known(item.run_id, runs, "run_id", position)}
            case MemoryContext():
                known = _memory_columns(item)
        rows.append(
            {
                **_EMPTY_ITEM,
                "position": position,
                "kind": item.kind,
                "provenance": provenance,
                "note": item.note,
                **known,
            }
        )
    return rows


def _artifact_columns(pinned: Pinned | None, position: int) -> dict[str, Any]:
    if pinned is None:
        raise item_not_found("artifact_id", position)
    return {
        "artifact_id": pinned.artifact_id,
        "revision": pinned.revision,
        "revision_digest": pinned.revision_digest,
    }


def _known(name: str, known: Mapping[str, Any] | frozenset[str], field: str, position: int) -> str:
    if name not in known:
        raise item_not_found(field, position)
    return name


def _memory_columns(item: MemoryContext) -> dict[str, Any]:
    memory = item.memory
    return {
        "memory_system": memory.system,
        "memory_ref": memory.ref,
        "memory_ref_digest": memory_ref_digest(memory.ref),
        "memory_kind": memory.kind,
        "memory_digest": memory.digest,
    }


def memory_ref_digest(ref: str) -> str:
    """Return the key under which a reference is found: of its exact text, nothing is made equal."""
    return digest_of(ref.encode())


def package_row(
    draft: PackageDraft, *, package_id: str, seq: int, at: datetime, created_by: str
) -> dict[str, Any]:
    """Return the row of a new package, without digest and fact."""
    return {
        "id": package_id,
        "name": draft.name,
        "purpose": draft.purpose,
        "metadata": draft.metadata.text,
        "provenance": draft.provenance.text,
        "supersedes": draft.supersedes,
        "created_seq": seq,
        "created_at": at,
        "created_by": created_by,
    }


def package_digest(row: Row, items: Sequence[Row]) -> str:
    """Return the digest of what a package says, from its rows; the order of the items matters."""
    text = dumps_object(
        {
            "name": row["name"],
            "purpose": row["purpose"],
            "metadata": RawJson(row["metadata"]),
            "provenance": RawJson(row["provenance"]),
            "supersedes": row["supersedes"],
            "items": RawJson("[" + ",".join(_item_text(item) for item in items) + "]"),
        }
    )
    return digest_of((_TAG + text).encode())


def _item_text(item: Row) -> str:
    members: dict[str, Any] = {
        "kind": str(item["kind"]),
        "provenance": RawJson(item["provenance"]),
        "note": item["note"],
    }
    match item["kind"]:
        case ContextItemKind.ARTIFACT:
            members |= {name: item[name] for name in ("artifact_id", "revision", "revision_digest")}
        case ContextItemKind.RELATIONSHIP:
            members["relationship_id"] = item["relationship_id"]
        case ContextItemKind.RUN:
            members["run_id"] = item["run_id"]
        case _:
            members["memory"] = {name: item[f"memory_{name}"] for name in ("system", "ref", "kind", "digest")}
    return dumps_object(members)


def require_superseded(connection: DriverConnection, *, tenant_id: str, supersedes: str | None) -> None:
    """Refuse REFERENCE_NOT_FOUND for a package that is not there."""
    if supersedes is not None and _find(connection, tenant_id=tenant_id, package_id=supersedes) is None:
        raise reference_not_found("supersedes")


def insert_package(
    connection: DriverConnection, row: Row, items: Sequence[Mapping[str, Any]], *, tenant_id: str
) -> None:
    """Append a package with its items."""
    driver.insert_package(connection, tenant_id=tenant_id, row=row)
    if items:
        driver.insert_items(
            connection, tenant_id=tenant_id, rows=[{"package_id": row["id"], **item} for item in items]
        )


def get_package(connection: DriverConnection, *, tenant_id: str, package_id: str) -> Row:
    """Return a package; refuse CONTEXT_PACKAGE_NOT_FOUND."""
    row = _find(connection, tenant_id=tenant_id, package_id=package_id)
    if row is None:
        raise not_found("CONTEXT_PACKAGE")
    return row


def _find(connection: DriverConnection, *, tenant_id: str, package_id: str) -> Row | None:
    if not is_id(package_id):
        return None
    return driver.get_package(connection, tenant_id=tenant_id, package_id=package_id)


def list_items(connection: DriverConnection, *, tenant_id: str, package_id: str) -> Sequence[Row]:
    """Return the items of a package in order, with what has become of their targets."""
    return driver.list_items(connection, tenant_id=tenant_id, package_id=package_id)


def item_filters(query: ListContextPackages) -> dict[str, Any] | None:
    """Return the columns that an item must have, None when none can; refuse INVALID_QUERY."""
    if query.revision is not None and query.artifact_id is None:
        raise invalid_query("revision goes with artifact_id.")
    if query.memory_ref is not None and query.memory_system is None:
        raise invalid_query("memory_ref goes with memory_system.")
    if query.artifact_id is not None and query.memory_system is not None:
        raise invalid_query("Look for an artifact or for a memory reference, not both.")
    if query.artifact_id is not None and not is_id(query.artifact_id):
        return None
    if query.revision is not None and not 1 <= query.revision <= MAX_REVISION:
        return None
    filters = {
        "artifact_id": query.artifact_id,
        "revision": query.revision,
        "memory_system": query.memory_system,
        "memory_ref_digest": None if query.memory_ref is None else memory_ref_digest(query.memory_ref),
    }
    return {name: value for name, value in filters.items() if value is not None}


def list_packages(
    connection: DriverConnection,
    *,
    tenant_id: str,
    filters: Mapping[str, Any],
    after: int,
    limit: int,
) -> Sequence[Row]:
    """Return up to `limit` packages after a creation number that have such an item."""
    return driver.list_packages(
        connection, tenant_id=tenant_id, item_filters=filters, after=after, limit=limit
    )


def resolve_item(item: Row) -> Resolution:
    """Return what has become of an item's target; of an external reference nothing is known here."""
    if item["kind"] == ContextItemKind.EXTERNAL_MEMORY:
        return "opaque"
    state = target_state(item)
    if state != "live":
        return state
    moved = item["kind"] == ContextItemKind.ARTIFACT and item["head_revision"] != item["revision"]
    return "changed" if moved else "ok"


def summary_view(row: Row) -> ContextPackageSummary:
    """Return a package without its items."""
    return ContextPackageSummary(**_members(row))


def package_view(row: Row, items: Sequence[Row], *, resolve: bool) -> ContextPackageView:
    """Return a package with its items and, with `resolve`, what has become of each."""
    return ContextPackageView(**_members(row), items=[_item_view(item, resolve=resolve) for item in items])


def _members(row: Row) -> dict[str, Any]:
    parsed = {"metadata": loads(row["metadata_text"]), "provenance": loads(row["provenance"])}
    members = {name: row[name] for name in ContextPackageSummary.model_fields if name not in parsed}
    return {**members, **parsed}


def _item_view(item: Row, *, resolve: bool) -> ContextItemView:
    memory = None
    if item["memory_system"] is not None:
        memory = MemoryView(**{name: item[f"memory_{name}"] for name in MemoryView.model_fields})
    names = ("position", "kind", "artifact_id", "revision", "revision_digest", "relationship_id", "run_id")
    return ContextItemView(
        **{name: item[name] for name in names},
        memory=memory,
        provenance=loads(item["provenance"]),
        note=item["note"],
        target_state=None if memory is not None else target_state(item),
        resolution=resolve_item(item) if resolve else None,
    )
