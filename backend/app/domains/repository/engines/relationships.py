"""L5 engine of relationships: the checks before one is made, its changes, and lists of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import edges as driver
from app.domains.repository.drivers import relationships as shared_driver
from app.domains.repository.engines.artifacts import MAX_REVISION
from app.domains.repository.engines.changes import ChangeSet
from app.domains.repository.engines.documents import Document
from app.domains.repository.engines.values import is_id
from app.domains.repository.errors import (
    already_deleted,
    duplicate_id,
    duplicate_relationship,
    endpoint_not_found,
    gone,
    immutable_field,
    not_found,
    reference_not_found,
    relationship_cycle,
    self_relationship,
    too_large,
)
from app.domains.repository.models.graph import (
    ACYCLIC_TYPES,
    CreateRelationship,
    ListRelationships,
    RelationshipFilter,
    RelationshipView,
    UpdateRelationship,
)
from app.domains.repository.models.vocabulary import Action, EntityType
from app.kernel.canonical_json import loads

MAX_IDS = 500
FIXED = (
    "id", "source_id", "target_id", "type", "source_revision", "target_revision", "created_at", "created_by",
)  # fmt: skip
Row = Mapping[str, Any]


def relationship_view(row: Row) -> RelationshipView:
    """Return a relationship with its two JSON columns read."""
    parsed = {"metadata": loads(row["metadata_text"]), "provenance": loads(row["provenance"])}
    plain = {name: row[name] for name in RelationshipView.model_fields if name not in parsed}
    return RelationshipView(**plain, **parsed)


def get_relationship(
    connection: DriverConnection, *, tenant_id: str, relationship_id: str, include_deleted: bool = False
) -> Row:
    """Return a relationship; refuse RELATIONSHIP_NOT_FOUND, and GONE unless deleted ones are asked for."""
    row = None
    if is_id(relationship_id):
        row = driver.get_relationship(connection, tenant_id=tenant_id, relationship_id=relationship_id)
    if row is None:
        raise not_found("RELATIONSHIP")
    if row["deleted_at"] is not None and not include_deleted:
        raise gone(tombstone(row))
    return row


def tombstone(row: Row) -> dict[str, Any]:
    """Return what the refusal of a deleted relationship tells."""
    return {name: row[name] for name in ("id", "version", "deleted_at", "deleted_by")}


def check_deletable(row: Row) -> None:
    """Refuse ALREADY_DELETED."""
    if row["deleted_at"] is not None:
        raise already_deleted(tombstone(row))


def check_fixed(change: UpdateRelationship) -> None:
    """Refuse IMMUTABLE_FIELD."""
    for field in FIXED:
        if field in change.model_fields_set:
            raise immutable_field(field)


def check_ends_differ(source_id: str, target_id: str) -> None:
    """Refuse SELF_RELATIONSHIP."""
    if source_id == target_id:
        raise self_relationship()


def require_ends(
    connection: DriverConnection, *, tenant_id: str, source_id: str, target_id: str
) -> tuple[str, str]:
    """Return the collections of two live artifacts; refuse ENDPOINT_NOT_FOUND."""
    known = [identifier for identifier in (source_id, target_id) if is_id(identifier)]
    live = driver.list_live_ends(connection, tenant_id=tenant_id, artifact_ids=known) if known else {}
    missing = [
        end for end, identifier in (("source", source_id), ("target", target_id)) if identifier not in live
    ]
    if missing:
        raise endpoint_not_found("both" if len(missing) == 2 else missing[0])
    return live[source_id], live[target_id]


def require_revisions(connection: DriverConnection, wish: CreateRelationship, *, tenant_id: str) -> None:
    """Refuse REFERENCE_NOT_FOUND for a pinned revision that its artifact does not have."""
    pins = {
        "source_revision": (wish.source_id, wish.source_revision),
        "target_revision": (wish.target_id, wish.target_revision),
    }
    refs = [
        (artifact_id, revision)
        for artifact_id, revision in pins.values()
        if revision is not None and 1 <= revision <= MAX_REVISION
    ]
    known = driver.list_known_revisions(connection, tenant_id=tenant_id, refs=refs) if refs else frozenset()
    for field, (artifact_id, revision) in pins.items():
        if revision is not None and (artifact_id, revision) not in known:
            raise reference_not_found(field)


def require_new(
    connection: DriverConnection, wish: CreateRelationship, *, tenant_id: str, relationship_id: str
) -> None:
    """Refuse DUPLICATE_ID, DUPLICATE_RELATIONSHIP, and RELATIONSHIP_CYCLE with the path."""
    triple = {"source_id": wish.source_id, "type_name": wish.type, "target_id": wish.target_id}
    rivals = driver.list_rivals(connection, tenant_id=tenant_id, relationship_id=relationship_id, **triple)
    if relationship_id in rivals:
        raise duplicate_id(relationship_id)
    if rivals:
        raise duplicate_relationship(rivals[0])
    if wish.type in ACYCLIC_TYPES and driver.leads_back(connection, tenant_id=tenant_id, **triple):
        edges = driver.list_edges_towards(
            connection, tenant_id=tenant_id, source_id=wish.source_id, type_name=wish.type
        )
        raise relationship_cycle(
            [wish.source_id, *find_path(edges, start=wish.target_id, end=wish.source_id)]
        )


def find_path(edges: Sequence[tuple[str, str]], *, start: str, end: str) -> list[str]:
    """Return the shortest way from start to end over directed edges; the start alone when there is none."""
    following: dict[str, list[str]] = {}
    for source, target in edges:
        following.setdefault(source, []).append(target)
    came_from: dict[str, str | None] = {start: None}
    waiting = deque([start])
    while waiting and end not in came_from:
        here = waiting.popleft()
        for there in following.get(here, ()):
            if there not in came_from:
                came_from[there] = here
                waiting.append(there)
    path = [end if end in came_from else start]
    while (before := came_from[path[-1]]) is not None:
        path.append(before)
    return path[::-1]


def create_relationship(
    connection: DriverConnection,
    change_set: ChangeSet,
    wish: CreateRelationship,
    *,
    tenant_id: str,
    relationship_id: str,
    change_id: str,
    metadata: Document,
    provenance: Document,
) -> Row:
    """Insert a checked relationship and add its LINKED record; return it."""
    stamps = {"created": (change_set.at, change_set.origin.actor_id)}
    stamps["updated"] = stamps["created"]
    row = {
        "id": relationship_id,
        "source_id": wish.source_id,
        "target_id": wish.target_id,
        "type": wish.type,
        "source_revision": wish.source_revision,
        "target_revision": wish.target_revision,
        "metadata": metadata.text,
        "provenance": provenance.text,
        "version": 1,
        "created_seq": change_set.next_seq,
        **{f"{name}_at": at for name, (at, _) in stamps.items()},
        **{f"{name}_by": actor for name, (_, actor) in stamps.items()},
        "deleted_at": None,
        "deleted_by": None,
        "delete_change_set_id": None,
    }
    driver.insert_relationship(connection, tenant_id=tenant_id, row=row)
    change_set.add(
        change_id,
        EntityType.RELATIONSHIP,
        relationship_id,
        Action.LINKED,
        new={"version": 1},
        detail={"metadata_digest": metadata.digest, "provenance_digest": provenance.digest},
    )
    return {**row, "metadata_text": metadata.text}


def set_relationship(
    connection: DriverConnection,
    change_set: ChangeSet,
    row: Row,
    *,
    tenant_id: str,
    change_id: str,
    action: Action,
    values: Mapping[str, Any],
    changed_fields: Sequence[str] = (),
    detail: Mapping[str, Any] | None = None,
) -> Row:
    """Change a relationship under the tenant's write lock and add its record; return it."""
    stamps = {"updated_at": change_set.at, "updated_by": change_set.origin.actor_id}
    shared_driver.set_relationships(
        connection, tenant_id=tenant_id, relationship_ids=[row["id"]], values={**values, **stamps}
    )
    change_set.add(
        change_id,
        EntityType.RELATIONSHIP,
        row["id"],
        action,
        old={"version": row["version"]},
        new={"version": row["version"] + 1},
        changed_fields=changed_fields,
        detail=detail,
    )
    after = {**row, **values, **stamps, "version": row["version"] + 1}
    return {**after, "metadata_text": values.get("metadata", row["metadata_text"])}


def deletion_values(change_set: ChangeSet) -> dict[str, Any]:
    """Return the members of a tombstone."""
    return {
        "deleted_at": change_set.at,
        "deleted_by": change_set.origin.actor_id,
        "delete_change_set_id": change_set.origin.change_set_id,
    }


def _given(wanted: RelationshipFilter | ListRelationships) -> dict[str, Any]:
    """Return a filter's plain conditions; refuse TOO_LARGE."""
    ids = getattr(wanted, "ids", None)
    if ids is not None and len(ids) > MAX_IDS:
        raise too_large(MAX_IDS, len(ids), "The list of ids")
    names = ("source_id", "target_id", "type", "source_revision", "target_revision")
    equals = {name: getattr(wanted, name, None) for name in names}
    return {
        "equals": {name: value for name, value in equals.items() if value is not None},
        "ids": ids,
        "include_deleted": wanted.include_deleted,
    }


def _nothing(given: Mapping[str, Any]) -> bool:
    """Tell whether no row can match: an empty list of ids, or a revision that no column holds."""
    revisions = [given["equals"].get(name, 1) for name in ("source_revision", "target_revision")]
    return given["ids"] == [] or any(not 1 <= number <= MAX_REVISION for number in revisions)


def list_relationships(
    connection: DriverConnection,
    wanted: RelationshipFilter | ListRelationships,
    *,
    tenant_id: str,
    after: tuple[int, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return up to `limit` relationships in order of creation."""
    given = _given(wanted)
    if _nothing(given):
        return []
    return driver.list_relationships(connection, tenant_id=tenant_id, after=after, limit=limit, **given)


def count_relationships(connection: DriverConnection, wanted: RelationshipFilter, *, tenant_id: str) -> int:
    """Return how many relationships match."""
    given = _given(wanted)
    return 0 if _nothing(given) else driver.count_relationships(connection, tenant_id=tenant_id, **given)
