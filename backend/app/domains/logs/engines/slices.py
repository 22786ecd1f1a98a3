"""Logs L5: a stretch of the log checked against its leaves, its tiles and the level of tiles above them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from app.db.connection import DriverConnection, Row
from app.domains.logs.drivers import verifications as driver
from app.domains.logs.engines.recorded import Recorded, check_envelope, read
from app.domains.logs.engines.row_reading import tolerant
from app.domains.logs.engines.sequence import tile_loader
from app.domains.logs.engines.tiles import HEIGHT, TOP_LEVEL, WIDTH, TileId, Tiles, cut, width_of
from app.domains.logs.models.tree import (
    VerificationFailure,
)
from app.kernel import merkle
from app.kernel.merkle import HASH_BYTES

LOG_MISMATCH = "LOG_MISMATCH"


@dataclass(frozen=True, slots=True)
class Slice:
    """The entries [first, last) of a log of `size`, and the tiles over them; nothing of it is trusted."""

    first: int
    last: int
    size: int
    entries: Sequence[Row]
    facts: Sequence[Recorded]
    tiles: Tiles


def read_slice(
    connection: DriverConnection, *, tenant_id: str, epoch: int, first: int, last: int, size: int
) -> Slice:
    """Read a stretch of the log, however damaged."""
    entries = tolerant(
        driver.list_entries, connection, tenant_id=tenant_id, epoch=epoch, first=first, last=last
    )
    load = tile_loader(connection, tenant_id=tenant_id, epoch=epoch)
    leaves = [entry for entry in entries if entry["fact_id"] is not None]
    return Slice(first, last, size, entries, read(leaves), load(_tiles_over(first, last, size)))


def _tiles_over(first: int, last: int, size: int) -> list[TileId]:
    found: list[TileId] = []
    low, high = first // WIDTH, -(-last // WIDTH)
    for level in range(TOP_LEVEL + 1):
        found += [
            TileId(level, number) for number in range(low, high) if width_of(TileId(level, number), size)
        ]
        low, high = low // WIDTH, -(-high // WIDTH)
        if size >> ((level + 1) * HEIGHT) == 0:
            break
    return found


def check_slice(part: Slice, *, tenant_id: str, min_index: int) -> list[VerificationFailure]:
    """Return what is wrong: LOG_MISMATCH, or what a leaf's columns contradict of its own statement.

    Below `min_index` an entry that is not there was purged; one that is there is checked like all others.
    """
    facts = {fact.fact_id: fact for fact in part.facts}
    found = list(_gaps(part, min_index))
    for entry in part.entries:
        fact = facts.get(str(entry["fact_id"]))
        code = _entry_code(part, entry, fact, tenant_id)
        if code is not None:
            found.append(
                VerificationFailure(
                    code=code,
                    table="log_leaves",
                    fact_id=_text(entry["entry_fact_id"]),
                    index=_number(entry["idx"]),
                )
            )
    found.extend(_uneven(part.tiles))
    return found


def _gaps(part: Slice, min_index: int) -> Iterator[VerificationFailure]:
    there = {entry["idx"] for entry in part.entries}
    for index in range(max(part.first, min_index), part.last):
        if index not in there:
            yield VerificationFailure(code=LOG_MISMATCH, table="log_entries", index=index)


def _entry_code(part: Slice, entry: Row, fact: Recorded | None, tenant_id: str) -> str | None:
    if fact is None or fact.said is None:
        # A leaf that is gone, or is not its statement's, is not the one that the tree was made of.
        return LOG_MISMATCH
    if _hash_at(part.tiles, entry["idx"]) != entry["leaf_hash"]:
        return LOG_MISMATCH
    return check_envelope(fact, tenant_id=tenant_id, run_id=None)


def _hash_at(tiles: Tiles, index: object) -> str | None:
    if not isinstance(index, int):
        return None
    number, place = divmod(index, WIDTH)
    hashes = tiles.get(TileId(0, number), b"")
    return hashes[place * HASH_BYTES : (place + 1) * HASH_BYTES].hex()


def _uneven(tiles: Mapping[TileId, bytes]) -> Iterator[VerificationFailure]:
    """Yield full tiles whose root is not the hash that the level above has of them."""
    for tile, hashes in sorted(tiles.items()):
        above = TileId(tile.level + 1, tile.tile_no // WIDTH)
        if len(hashes) != WIDTH * HASH_BYTES or tile.level == TOP_LEVEL:
            continue
        place = tile.tile_no % WIDTH * HASH_BYTES
        if tiles.get(above, b"")[place : place + HASH_BYTES] != merkle.root(cut(hashes)):
            yield VerificationFailure(
                code=LOG_MISMATCH, table="log_tiles", key=f"{tile.level}/{tile.tile_no}"
            )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None
