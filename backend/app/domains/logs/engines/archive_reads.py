"""Logs L5: what an archive reads of the log: statements by fact, erasures with their places, the proof."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from app.db.connection import DriverConnection, Row
from app.domains.logs.drivers import leaves as leaves_driver
from app.domains.logs.drivers import tree as tree_driver
from app.domains.logs.engines.tiles import LoadTiles, TileTree
from app.domains.logs.errors import checkpoint_pending, integrity_failed
from app.kernel import merkle

LEAVES_AT_ONCE = 500
HASHES_AT_ONCE = 1000


def list_leaves(connection: DriverConnection, fact_ids: Sequence[str], *, tenant_id: str) -> Iterator[Row]:
    """Yield the leaves of these facts in their order; refuse INTEGRITY_FAILED for one that is not there."""
    for start in range(0, len(fact_ids), LEAVES_AT_ONCE):
        wanted = fact_ids[start : start + LEAVES_AT_ONCE]
        rows = leaves_driver.list_known(connection, wanted, tenant_id=tenant_id)
        found = {row["fact_id"]: row for row in rows}
        for fact_id in wanted:
            if fact_id not in found:
                raise integrity_failed("FACT_GAP")
            yield found[fact_id]


def list_placed(
    connection: DriverConnection, fact_ids: Sequence[str], *, tenant_id: str, epoch: int, size: int
) -> list[tuple[int, str]]:
    """Return index and fact in the order of the log; CHECKPOINT_PENDING: the tree has not all of them."""
    indices = tree_driver.list_indices(connection, fact_ids, tenant_id=tenant_id, epoch=epoch)
    if any(indices.get(fact_id, size) >= size for fact_id in fact_ids):
        raise checkpoint_pending()
    return sorted((index, fact_id) for fact_id, index in indices.items())


def prove(load: LoadTiles, size: int, indices: Sequence[int]) -> list[bytes]:
    """Return the multiproof of all these leaves; few tiles are held at once, however many it needs."""
    hashes: list[bytes] = []
    ranges = iter(merkle.multiproof_ranges(indices, size))
    while some := list(islice(ranges, HASHES_AT_ONCE)):
        tree = TileTree(size, load)
        tree.fetch(some)
        hashes += [tree.range_root(low, high) for low, high in some]
    return hashes
