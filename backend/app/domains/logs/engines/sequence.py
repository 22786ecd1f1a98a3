"""Logs L5: integrate waiting facts of one tenant into its tree, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from app.db.connection import DriverConnection, Row
from app.domains.logs.drivers import checkpoints as checkpoints_driver
from app.domains.logs.drivers import heads as heads_driver
from app.domains.logs.drivers import tree as driver
from app.domains.logs.engines import heads
from app.domains.logs.engines.leaf_lookup import LOG_EPOCH
from app.domains.logs.engines.tiles import (
    Growth,
    LoadTiles,
    MissingTileError,
    TileId,
    Tiles,
    TileTree,
    edge_of,
    grow,
)
from app.domains.logs.models.tree import (
    Batch,
    HaltReason,
    LogState,
)
from app.kernel.canonical_json import loads
from app.kernel.hashing import leaf_hash
from app.kernel.merkle import HASH_BYTES


class ForkRefusedError(RuntimeError):
    """Another sequencer advanced the head first; this transaction must roll back."""


def tile_loader(connection: DriverConnection, *, tenant_id: str, epoch: int) -> LoadTiles:
    """Return what reads tiles of a log, one statement a level."""

    def load(wanted: Sequence[TileId]) -> Tiles:
        found: dict[TileId, bytes] = {}
        for level in sorted({tile.level for tile in wanted}):
            numbers = [tile.tile_no for tile in wanted if tile.level == level]
            for start in range(0, len(numbers), 500):
                rows = driver.list_tiles(
                    connection,
                    tenant_id=tenant_id,
                    epoch=epoch,
                    level=level,
                    tile_nos=numbers[start : start + 500],
                )
                found.update({TileId(level, row["tile_no"]): bytes(row["hashes"]) for row in rows})
        return found

    return load


def integrate(connection: DriverConnection, *, tenant_id: str, limit: int, now: datetime) -> Batch:
    """Integrate at most `limit` waiting facts in fact_id order; halt when a leaf is not its statement's.

    Nothing is taken while the log is not ACTIVE or another sequencer works on it. ForkRefusedError: the head
    moved under this transaction.
    """
    head = heads.lock_head(connection, tenant_id=tenant_id)
    if head is None:
        return Batch()
    epoch, size = head["epoch"], head["size"]
    # A later epoch begins with the fact that says so, and takes in all older ones after it.
    opens = size == 0 and epoch > heads.FIRST_EPOCH
    waiting = heads_driver.list_waiting(
        connection, tenant_id=tenant_id, epoch=epoch, limit=limit, type_name=LOG_EPOCH if opens else None
    )
    if opens:
        waiting = [row for row in waiting if loads(row["statement"])["body"]["new_origin"] == head["origin"]]
    new = [row for row in waiting if row["idx"] is None]
    edge: Tiles = {}
    reason: HaltReason | None = None
    if new:
        edge = tile_loader(connection, tenant_id=tenant_id, epoch=epoch)(edge_of(size))
        signed = checkpoints_driver.get_checkpoint(connection, tenant_id=tenant_id, epoch=epoch, size=None)
        reason = check_batch(head, edge, new, signed_size=0 if signed is None else signed["size"])
    if reason is not None:
        heads.halt(connection, tenant_id=tenant_id, epoch=epoch, reason=reason, now=now)
        return Batch(0, size, reason)
    if new:
        growth = grow(size, edge, [bytes.fromhex(row["leaf_hash"]) for row in new])
        _write(connection, head, growth, [row["fact_id"] for row in new], tenant_id=tenant_id, now=now)
        size = growth.size
    if waiting:
        heads_driver.delete_waiting(connection, [row["fact_id"] for row in waiting], tenant_id=tenant_id)
    if opens and waiting:
        heads_driver.queue_leaves(connection, tenant_id=tenant_id, besides=waiting[0]["fact_id"])
    return Batch(len(waiting), size, opened=opens and bool(waiting))


def check_batch(head: Row, edge: Tiles, rows: Sequence[Row], *, signed_size: int) -> HaltReason | None:
    """Return why these leaves must not enter: one is not its statement's, or the tree is not its head's."""
    if signed_size > head["size"]:
        return HaltReason.ROLLED_BACK
    for row in rows:
        # A leaf that is gone cannot be recomputed, so it is no better than one that differs.
        if row["statement"] is None or leaf_hash(row["statement"]) != row["leaf_hash"]:
            return HaltReason.LEAF_MISMATCH
    edge_tree = TileTree(head["size"], lambda wanted: {tile: edge[tile] for tile in wanted if tile in edge})
    try:
        root = edge_tree.root()
    except MissingTileError:
        return HaltReason.INCONSISTENT
    return None if root.hex() == head["root"] else HaltReason.INCONSISTENT


def _write(
    connection: DriverConnection,
    head: Row,
    growth: Growth,
    fact_ids: Sequence[str],
    *,
    tenant_id: str,
    now: datetime,
) -> None:
    epoch, size = head["epoch"], head["size"]
    driver.insert_entries(connection, fact_ids, tenant_id=tenant_id, epoch=epoch, first=size, now=now)
    tiles = [(tile.level, tile.tile_no, hashes) for tile, hashes in sorted(growth.tiles.items())]
    driver.set_tiles(connection, tiles, tenant_id=tenant_id, epoch=epoch, hash_bytes=HASH_BYTES)
    advanced = heads_driver.set_size(
        connection,
        tenant_id=tenant_id,
        epoch=epoch,
        old=size,
        new=growth.size,
        root=growth.root.hex(),
        state=LogState.ACTIVE.value,
        now=now,
    )
    if not advanced:
        raise ForkRefusedError(f"the log of {tenant_id} moved on from {size}")
