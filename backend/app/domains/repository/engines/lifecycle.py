"""L5 engine of deletion and restoration: tombstones, detached edges, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import projections
from app.domains.repository.drivers import relationships as edges_driver
from app.domains.repository.drivers import revisions as revisions_driver
from app.domains.repository.engines import documents
from app.domains.repository.engines.artifacts import tombstone
from app.domains.repository.engines.changes import ChangeSet
from app.domains.repository.engines.revisions import content_state
from app.domains.repository.engines.search import IndexEntry, index_entry
from app.domains.repository.engines.values import chunks
from app.domains.repository.engines.writing import Batch, side, touched
from app.domains.repository.errors import (
    already_deleted,
    artifact_has_relationships,
    not_deleted,
    restore_impossible,
)
from app.domains.repository.models.vocabulary import Action, ContentState, EntityType, Redaction

SHOWN_RELATIONSHIPS = 20
ALIVE: dict[str, Any] = {"deleted_at": None, "deleted_by": None, "delete_change_set_id": None}
Row = Mapping[str, Any]


def check_deletable(row: Row) -> None:
    """Refuse ALREADY_DELETED."""
    if row["deleted_at"] is not None:
        raise already_deleted(tombstone(row))


def check_deleted(row: Row) -> None:
    """Refuse NOT_DELETED."""
    if row["deleted_at"] is None:
        raise not_deleted()


def check_restorable(row: Row) -> None:
    """Refuse RESTORE_IMPOSSIBLE when the bytes of the head were collected."""
    if content_state(row) is ContentState.COLLECTED:
        raise restore_impossible()


def check_detachable(edges: Sequence[Row], *, detach: bool) -> None:
    """Refuse ARTIFACT_HAS_RELATIONSHIPS unless the edges may go with the artifact."""
    if edges and not detach:
        shown = [edge["id"] for edge in edges[:SHOWN_RELATIONSHIPS]]
        raise artifact_has_relationships(shown, len(edges))


def list_live_edges(connection: DriverConnection, *, tenant_id: str, artifact_id: str) -> Sequence[Row]:
    """Return the live relationships of an artifact."""
    return edges_driver.list_live(connection, tenant_id=tenant_id, artifact_id=artifact_id)


def delete_artifact(
    connection: DriverConnection,
    batch: Batch,
    change_set: ChangeSet,
    row: Row,
    *,
    tenant_id: str,
    edges: Sequence[Row],
    new_id: Callable[[str], str],
) -> dict[str, Any]:
    """Make a tombstone of an artifact and of its edges, one record each; return the head."""
    gone = {
        "deleted_at": change_set.at,
        "deleted_by": change_set.origin.actor_id,
        "delete_change_set_id": change_set.origin.change_set_id,
    }
    detail = {"detached": len(edges)} if edges else None
    head = _touch(
        batch, change_set, row, change_id=new_id("chg"), action=Action.DELETED, members=gone, detail=detail
    )
    _change_edges(
        connection, change_set, edges, tenant_id=tenant_id, action=Action.UNLINKED, values=gone, new_id=new_id
    )
    projections.delete_metadata(connection, tenant_id=tenant_id, artifact_ids=[row["id"]])
    projections.delete_search(connection, tenant_id=tenant_id, artifact_ids=[row["id"]])
    return head


def restore_head(
    batch: Batch, change_set: ChangeSet, row: Row, *, change_id: str, entry: IndexEntry
) -> dict[str, Any]:
    """Bring a head back as it was: the same revision, the next version, found again; return it."""
    if row["redaction"] != Redaction.FULL:
        batch.documents.append((row["id"], documents.stored_document(row["metadata_text"])))
        batch.entries.append((row["id"], entry))
    return _touch(batch, change_set, row, change_id=change_id, action=Action.RESTORED, members=ALIVE)


def stored_entry(
    connection: DriverConnection, *, tenant_id: str, row: Row, name: str, media_type: str | None
) -> IndexEntry:
    """Return the index entry of a head whose bytes are stored already."""
    data = None
    if content_state(row) is ContentState.PRESENT:
        stored = revisions_driver.get_content(
            connection, tenant_id=tenant_id, artifact_id=row["id"], revision=None
        )
        data = None if stored is None else bytes(stored["data"])
    return index_entry(name, data, media_type)


def restore_edges(
    connection: DriverConnection,
    change_set: ChangeSet,
    row: Row,
    *,
    tenant_id: str,
    new_id: Callable[[str], str],
) -> tuple[list[str], list[str]]:
    """Bring back the edges that went with an artifact; return which came back, and which could not.

    Back come those whose both ends are live and whose triple is free.
    """
    edges = edges_driver.list_detached(
        connection, tenant_id=tenant_id, artifact_id=row["id"], change_set_id=row["delete_change_set_id"]
    )
    free = [edge for edge in edges if edge["both_live"] and edge["taken_by"] is None]
    _change_edges(
        connection, change_set, free, tenant_id=tenant_id, action=Action.RESTORED, values=ALIVE, new_id=new_id
    )
    back = [edge["id"] for edge in free]
    return back, [edge["id"] for edge in edges if edge["id"] not in back]


def _change_edges(
    connection: DriverConnection,
    change_set: ChangeSet,
    edges: Sequence[Row],
    *,
    tenant_id: str,
    action: Action,
    values: Mapping[str, Any],
    new_id: Callable[[str], str],
) -> None:
    stamps = {"updated_at": change_set.at, "updated_by": change_set.origin.actor_id}
    for part in chunks(edges):
        edges_driver.set_relationships(
            connection,
            tenant_id=tenant_id,
            relationship_ids=[edge["id"] for edge in part],
            values={**values, **stamps},
        )
    for edge in edges:
        change_set.add(
            new_id("chg"),
            EntityType.RELATIONSHIP,
            edge["id"],
            action,
            old={"version": edge["version"]},
            new={"version": edge["version"] + 1},
        )


def _touch(
    batch: Batch,
    change_set: ChangeSet,
    row: Row,
    *,
    change_id: str,
    action: Action,
    members: Mapping[str, Any],
    detail: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Add a change of the head that makes no revision (delete, restore); return the new head."""
    changes = {**touched(change_set), **members}
    batch.changed_heads.append({"id": row["id"], "version": row["version"], **changes})
    # A deletion names the last revision; a restoration has it on both sides.
    new = {"version": row["version"] + 1} if action is Action.DELETED else side(row["version"] + 1, row)
    change_set.add(
        change_id,
        EntityType.ARTIFACT,
        row["id"],
        action,
        old=side(row["version"], row),
        new=new,
        detail=detail,
    )
    return {**row, **changes, "version": row["version"] + 1}
