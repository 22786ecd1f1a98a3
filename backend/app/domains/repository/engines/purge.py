"""L5 engine of a collection's purge: all of it redacted and tombstoned, in sets, under one change set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import redaction as driver
from app.domains.repository.drivers import relationships as edges_driver
from app.domains.repository.engines.changes import ChangeSet
from app.domains.repository.engines.redaction import (
    FULL_FIELDS,
    add_record,
    drop_bytes,
    hide_from_search,
    redacted_name,
    write_heads,
)
from app.domains.repository.engines.values import chunks
from app.domains.repository.engines.writing import side, touched
from app.domains.repository.models.vocabulary import Action, EntityType, Redaction

Row = Mapping[str, Any]
NewId = Callable[[str], str]
BATCH = 500


@dataclass(slots=True)
class Purge:
    """What a purge has destroyed so far; `sizes` are the bytes that its revisions cited."""

    legal_basis: str
    documents: int = 0
    revisions: int = 0
    edges: int = 0
    sizes: dict[str, int] = field(default_factory=dict)


def list_batches(
    connection: DriverConnection, *, tenant_id: str, collection_id: str
) -> Iterator[Sequence[Row]]:
    """Yield the heads of a collection, deleted ones too, 500 at a time."""
    after: str | None = None
    while True:
        heads = driver.list_collection_heads(
            connection, tenant_id=tenant_id, collection_id=collection_id, after=after, limit=BATCH
        )
        if not heads:
            return
        yield heads
        after = heads[-1]["id"]


def purge_batch(
    connection: DriverConnection,
    change_set: ChangeSet,
    purge: Purge,
    heads: Sequence[Row],
    *,
    tenant_id: str,
    new_id: NewId,
) -> None:
    """Make stubs of every revision of these artifacts, and tombstones of them and their relationships."""
    ids = [head["id"] for head in heads]
    purge.documents += len(ids)
    lost = _redact_revisions(connection, change_set, purge, ids, tenant_id=tenant_id)
    _remove_edges(connection, change_set, purge, ids, tenant_id=tenant_id, new_id=new_id)
    rows = [
        _bury(change_set, head, lost.get(head["id"], []), purge.legal_basis, new_id)
        for head in heads
        if head["id"] in lost or head["deleted_at"] is None
    ]
    write_heads(connection, rows, {head["id"]: head["version"] for head in heads}, tenant_id=tenant_id)
    hide_from_search(connection, tenant_id=tenant_id, artifact_ids=ids)


def _redact_revisions(
    connection: DriverConnection, change_set: ChangeSet, purge: Purge, ids: Sequence[str], *, tenant_id: str
) -> dict[str, list[int]]:
    lost: dict[str, list[int]] = {}
    places = []
    for row in driver.list_revisions(connection, tenant_id=tenant_id, artifact_ids=ids):
        if row["redaction"] == Redaction.FULL:
            continue
        places.append((row["artifact_id"], row["revision"]))
        lost.setdefault(row["artifact_id"], []).append(row["revision"])
        if row["content_digest"] is not None and row["redaction"] is None and row["blob_state"] == "PRESENT":
            purge.sizes[row["content_digest"]] = row["size"]
    for part in chunks(places):
        driver.set_redacted(
            connection, tenant_id=tenant_id, places=part, redaction=Redaction.FULL, at=change_set.at
        )
    purge.revisions += len(places)
    return lost


def _remove_edges(
    connection: DriverConnection,
    change_set: ChangeSet,
    purge: Purge,
    ids: Sequence[str],
    *,
    tenant_id: str,
    new_id: NewId,
) -> None:
    edges = driver.list_live_edges(connection, tenant_id=tenant_id, artifact_ids=ids)
    values = {"updated_at": change_set.at, "updated_by": change_set.origin.actor_id}
    for part in chunks(edges):
        edges_driver.set_relationships(
            connection,
            tenant_id=tenant_id,
            relationship_ids=[edge["id"] for edge in part],
            values={**values, **_tombstone(change_set)},
        )
    for edge in edges:
        change_set.add(
            new_id("chg"),
            EntityType.RELATIONSHIP,
            edge["id"],
            Action.UNLINKED,
            old={"version": edge["version"]},
            new={"version": edge["version"] + 1},
        )
    purge.edges += len(edges)


def _tombstone(change_set: ChangeSet) -> dict[str, Any]:
    return {
        "deleted_at": change_set.at,
        "deleted_by": change_set.origin.actor_id,
        "delete_change_set_id": change_set.origin.change_set_id,
    }


def _bury(
    change_set: ChangeSet, head: Row, lost: Sequence[int], legal_basis: str, new_id: NewId
) -> dict[str, Any]:
    """Add the REDACTED and DELETED records of one head, as far as they apply, and return the head after."""
    row = dict(head)
    if lost:
        after = {**row, **touched(change_set), "version": row["version"] + 1}
        after["name"] = after["name_key"] = redacted_name(row["id"])
        detail = {
            "revisions": list(lost),
            "redaction": Redaction.FULL.value,
            "legal_basis": legal_basis,
            "shared": "keep",
        }
        add_record(change_set, row, detail, change_id=new_id("chg"), fields=FULL_FIELDS)
        row = after
    if row["deleted_at"] is None:
        after = {**row, **touched(change_set), **_tombstone(change_set), "version": row["version"] + 1}
        change_set.add(
            new_id("chg"),
            EntityType.ARTIFACT,
            row["id"],
            Action.DELETED,
            old=side(row["version"], row),
            new={"version": after["version"]},
        )
        row = after
    return row


def drop_all(
    connection: DriverConnection, change_set: ChangeSet, purge: Purge, *, tenant_id: str
) -> tuple[int, int]:
    """Drop the bytes that nothing else cites; return how many bytes went, and how many stay for others."""
    dropped = sum(drop_bytes(connection, change_set, tenant_id=tenant_id, digests=list(purge.sizes)))
    return dropped, sum(purge.sizes.values()) - dropped
