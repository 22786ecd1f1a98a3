"""Logs L5: what a tenant reads of its log: tiles, entries, facts, inclusion and consistency."""

from __future__ import annotations

import base64

from app.db.connection import DriverConnection, Row
from app.domains.logs.drivers import tree as driver
from app.domains.logs.engines import purge
from app.domains.logs.engines.sequence import tile_loader
from app.domains.logs.engines.tiles import (
    WIDTH,
    TileCache,
    TileId,
    TileName,
    TileTree,
    entry_bundle,
    width_of,
)
from app.domains.logs.errors import (
    entry_pruned,
    fact_not_found,
    invalid_index,
    invalid_tree_size,
    not_integrated,
    one_of_fact_and_index,
    tile_not_found,
)
from app.domains.logs.models.tree import (
    ConsistencyProof,
    FactView,
    InclusionProof,
    InclusionQuery,
)
from app.kernel import merkle
from app.kernel.merkle import HASH_BYTES


def read_tile(connection: DriverConnection, head: Row | None, name: TileName, *, tenant_id: str) -> bytes:
    """Return the bytes of a tile or bundle of entries; refuse TILE_NOT_FOUND and ENTRY_PRUNED."""
    if head is None or width_of(TileId(name.level or 0, name.tile_no), head["size"]) < name.wanted:
        raise tile_not_found()
    if name.level is None:
        return _entries(connection, head, name, tenant_id=tenant_id)
    tile = TileId(name.level, name.tile_no)
    hashes = tile_loader(connection, tenant_id=tenant_id, epoch=head["epoch"])([tile]).get(tile, b"")
    if len(hashes) < name.wanted * HASH_BYTES:
        raise LookupError(f"tile {tile.level}/{tile.tile_no} of {tenant_id} is not as long as its log")
    return hashes[: name.wanted * HASH_BYTES]


def _entries(connection: DriverConnection, head: Row, name: TileName, *, tenant_id: str) -> bytes:
    first = name.tile_no * WIDTH
    rows = driver.list_statements(
        connection, tenant_id=tenant_id, epoch=head["epoch"], first=first, count=name.wanted
    )
    if [row["idx"] for row in rows] != list(range(first, first + name.wanted)):
        if first < head["min_index"]:
            raise entry_pruned()
        raise LookupError(f"entries from {first} of {tenant_id} are not all there")
    return entry_bundle([row["statement"] for row in rows])


def view_fact(connection: DriverConnection, head: Row | None, *, tenant_id: str, fact_id: str) -> FactView:
    """Return a fact's statement and where it stands; refuse FACT_NOT_FOUND, ENTRY_PRUNED."""
    row = _require_fact(connection, head, tenant_id=tenant_id, fact_id=fact_id)
    index = row["idx"]
    signed_size = 0 if head is None else head["signed_size"]
    return FactView(
        fact_id=fact_id,
        statement=row["statement"],
        leaf_hash=row["leaf_hash"],
        index=index,
        status="PENDING" if index is None else "INCLUDED" if index < signed_size else "INTEGRATED",
    )


def _require_fact(connection: DriverConnection, head: Row | None, *, tenant_id: str, fact_id: str) -> Row:
    epoch = 0 if head is None else head["epoch"]
    row = driver.get_entry(connection, tenant_id=tenant_id, epoch=epoch, fact_id=fact_id)
    if row is None:
        pruned = purge.may_be_pruned(connection, tenant_id=tenant_id, fact_id=fact_id)
        raise entry_pruned() if pruned else fact_not_found()
    return row


def prove_inclusion(
    connection: DriverConnection,
    head: Row | None,
    query: InclusionQuery,
    *,
    tenant_id: str,
    cache: TileCache,
) -> InclusionProof:
    """Return the audit path of a fact or index in a signed tree.

    Refuse INVALID_TREE_SIZE, INVALID_INDEX, FACT_NOT_FOUND, ENTRY_PRUNED, and NOT_INTEGRATED for a fact
    beyond the size. An index has a proof for ever.
    """
    if (query.fact_id is None) == (query.index is None):
        raise one_of_fact_and_index()
    signed_size = 0 if head is None else head["signed_size"]
    size = signed_size if query.size is None else query.size
    if query.size is not None and not 1 <= size <= signed_size:
        raise invalid_tree_size(signed_size)
    if query.fact_id is not None:
        found = _require_fact(connection, head, tenant_id=tenant_id, fact_id=query.fact_id)["idx"]
        if found is None or found >= size:
            raise not_integrated()
        index = int(found)
    else:
        index = int(query.index or 0)
    if head is None or index >= size:
        raise invalid_index(index, size)
    tree = _cached_tree(connection, head, size, tenant_id=tenant_id, cache=cache)
    path = merkle.inclusion_path(index, size, tree.range_root)
    return InclusionProof(
        index=index,
        size=size,
        leaf_hash=tree.range_root(index, index + 1).hex(),
        root=tree.root().hex(),
        hashes=[part.hex() for part in path],
    )


def prove_consistency(
    connection: DriverConnection, head: Row | None, *, tenant_id: str, old: int, new: int, cache: TileCache
) -> ConsistencyProof:
    """Return the proof that one signed tree continues another; refuse INVALID_TREE_SIZE."""
    signed_size = 0 if head is None else head["signed_size"]
    if head is None or not 1 <= old <= new <= signed_size:
        raise invalid_tree_size(signed_size)
    tree = _cached_tree(connection, head, new, tenant_id=tenant_id, cache=cache)
    path = merkle.consistency_path(old, new, tree.range_root)
    return ConsistencyProof(from_=old, to=new, hashes=[part.hex() for part in path])


def _cached_tree(
    connection: DriverConnection, head: Row, size: int, *, tenant_id: str, cache: TileCache
) -> TileTree:
    load = tile_loader(connection, tenant_id=tenant_id, epoch=head["epoch"])
    return TileTree(size, cache.loader(tenant_id, head["epoch"], load))


def proof_text(proof: InclusionProof, checkpoint: str) -> str:
    """Return a proof as C2SP tlog-proof text, which carries the checkpoint that it is against."""
    hashes = "".join(f"{_base64(text)}\n" for text in proof.hashes)
    return f"c2sp.org/tlog-proof@v1\nindex {proof.index}\n{hashes}\n{checkpoint}"


def _base64(text: str) -> str:
    return base64.b64encode(bytes.fromhex(text)).decode()
