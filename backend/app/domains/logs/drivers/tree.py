"""Logs L6: entries and tiles of a log's tree."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among, insert
from app.domains.logs.tables import log_entries, log_leaves, log_pending, log_tiles


def insert_entries(
    connection: DriverConnection,
    fact_ids: Sequence[str],
    *,
    tenant_id: str,
    epoch: int,
    first: int,
    now: datetime,
) -> None:
    """Insert entries with contiguous indices from `first`."""
    rows = [
        {"tenant_id": tenant_id, "epoch": epoch, "idx": idx, "fact_id": fact_id, "integrated_at": now}
        for idx, fact_id in enumerate(fact_ids, first)
    ]
    connection.execute(log_entries.insert(), rows)


def set_tiles(
    connection: DriverConnection,
    tiles: Sequence[tuple[int, int, bytes]],
    *,
    tenant_id: str,
    epoch: int,
    hash_bytes: int,
) -> None:
    """Write (level, tile_no, hashes): new tiles, and longer ones in the place of partial ones."""
    given = insert(connection, log_tiles)
    statement = given.on_conflict_do_update(
        index_elements=["tenant_id", "epoch", "level", "tile_no"],
        set_={"width": given.excluded.width, "hashes": given.excluded.hashes},
    )
    rows = [
        {
            "tenant_id": tenant_id,
            "epoch": epoch,
            "level": level,
            "tile_no": tile_no,
            "width": len(hashes) // hash_bytes,
            "hashes": hashes,
        }
        for level, tile_no, hashes in tiles
    ]
    connection.execute(statement, rows)


def list_tiles(
    connection: DriverConnection, *, tenant_id: str, epoch: int, level: int, tile_nos: Sequence[int]
) -> Sequence[Row]:
    """Return tile_no and hashes of tiles of one level."""
    statement = sa.select(log_tiles.c.tile_no, log_tiles.c.hashes).where(
        log_tiles.c.tenant_id == tenant_id,
        log_tiles.c.epoch == epoch,
        log_tiles.c.level == level,
        log_tiles.c.tile_no.in_(tile_nos),
    )
    return connection.execute(statement).mappings().all()


def get_entry(connection: DriverConnection, *, tenant_id: str, epoch: int, fact_id: str) -> Row | None:
    """Return statement, leaf_hash and idx of a fact; idx is null while it waits."""
    statement = (
        sa.select(log_leaves.c.statement, log_leaves.c.leaf_hash, log_entries.c.idx)
        .select_from(
            log_leaves.outerjoin(
                log_entries,
                sa.and_(
                    log_entries.c.tenant_id == log_leaves.c.tenant_id,
                    log_entries.c.epoch == epoch,
                    log_entries.c.fact_id == log_leaves.c.fact_id,
                ),
            )
        )
        .where(log_leaves.c.tenant_id == tenant_id, log_leaves.c.fact_id == fact_id)
    )
    return connection.execute(statement).mappings().one_or_none()


def list_statements(
    connection: DriverConnection, *, tenant_id: str, epoch: int, first: int, count: int
) -> Sequence[Row]:
    """Return idx and statement of entries from `first`, by index."""
    statement = (
        sa.select(log_entries.c.idx, log_leaves.c.statement)
        .select_from(
            log_entries.join(
                log_leaves,
                sa.and_(
                    log_leaves.c.tenant_id == log_entries.c.tenant_id,
                    log_leaves.c.fact_id == log_entries.c.fact_id,
                ),
            )
        )
        .where(
            log_entries.c.tenant_id == tenant_id,
            log_entries.c.epoch == epoch,
            log_entries.c.idx >= first,
            log_entries.c.idx < first + count,
        )
        .order_by(log_entries.c.idx)
    )
    return connection.execute(statement).mappings().all()


def list_indices(
    connection: DriverConnection, fact_ids: Sequence[str], *, tenant_id: str, epoch: int
) -> dict[str, int]:
    """Return the index of each of these facts that is in the tree."""
    statement = sa.select(log_entries.c.fact_id, log_entries.c.idx).where(
        log_entries.c.tenant_id == tenant_id,
        log_entries.c.epoch == epoch,
        among(connection, log_entries.c.fact_id, fact_ids),
    )
    return {fact_id: idx for fact_id, idx in connection.execute(statement)}  # noqa: C416 - mypy sees rows


def list_queued(connection: DriverConnection, fact_ids: Sequence[str], *, tenant_id: str) -> set[str]:
    """Return which of these facts wait in the queue."""
    statement = sa.select(log_pending.c.fact_id).where(
        log_pending.c.tenant_id == tenant_id, among(connection, log_pending.c.fact_id, fact_ids)
    )
    return set(connection.scalars(statement))
