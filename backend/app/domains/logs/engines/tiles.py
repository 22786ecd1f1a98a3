"""Logs L5: the tree as tiles of 256 hashes (C2SP tlog-tiles): growth, range roots, names of tiles; pure."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from app.domains.logs.errors import invalid_tile
from app.kernel import merkle
from app.kernel.merkle import HASH_BYTES

WIDTH: Final = 256
HEIGHT: Final = 8
TOP_LEVEL: Final = 7
CACHED_TILES: Final = 1024
_NUMBER: Final = re.compile(r"((?:x[0-9]{3}/)*)([0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


class TileId(NamedTuple):
    """Where a tile stands: its level above the leaves, and its number in the level."""

    level: int
    tile_no: int


Tiles = Mapping[TileId, bytes]
LoadTiles = Callable[[Sequence[TileId]], Tiles]


class MissingTileError(LookupError):
    """A tile that the size of the tree promises is not there, or is too short."""


@dataclass(slots=True)
class Growth:
    """A tree after leaves were appended: its size, root, and every tile that changed, whole."""

    size: int
    root: bytes
    tiles: dict[TileId, bytes]


class TileTree:
    """The roots of ranges of a tree, from the tiles that `load` reads; each tile is read once."""

    def __init__(self, size: int, load: LoadTiles) -> None:
        self.size = size
        self._load = load
        self._tiles: dict[TileId, bytes] = {}

    def fetch(self, needed: Sequence[tuple[int, int]]) -> None:
        """Read the tiles of many ranges at once."""
        wanted = {tile for low, high in needed for tile in _tiles_under(low, high)}
        missing = sorted(wanted - self._tiles.keys())
        if missing:
            self._tiles.update(self._load(missing))

    def range_root(self, low: int, high: int) -> bytes:
        """Return the root of the leaves [low, high); MissingTileError when the tiles do not hold it."""
        self.fetch([(low, high)])
        return self._root(low, high)

    def root(self) -> bytes:
        """Return the root of the whole tree."""
        return self.range_root(0, self.size) if self.size else merkle.EMPTY_ROOT

    def _root(self, low: int, high: int) -> bytes:
        count = high - low
        if count & (count - 1):
            middle = low + merkle.split(count)
            return merkle.node(self._root(low, middle), self._root(middle, high))
        level, inside = divmod(count.bit_length() - 1, HEIGHT)
        first = low >> (level * HEIGHT)
        tile = TileId(level, first // WIDTH)
        start = (first % WIDTH) * HASH_BYTES
        end = start + (HASH_BYTES << inside)
        hashes = self._tiles.get(tile, b"")
        if len(hashes) < end:
            raise MissingTileError(f"tile {tile.level}/{tile.tile_no} has {len(hashes)} bytes, not {end}")
        return merkle.root(cut(hashes[start:end]))


def _tiles_under(low: int, high: int) -> Iterator[TileId]:
    count = high - low
    if count <= 0:
        return
    if count & (count - 1):
        middle = low + merkle.split(count)
        yield from _tiles_under(low, middle)
        yield from _tiles_under(middle, high)
        return
    level = (count.bit_length() - 1) // HEIGHT
    yield TileId(level, (low >> (level * HEIGHT)) // WIDTH)


def cut(hashes: bytes) -> list[bytes]:
    """Return the hashes that stand in a row in the bytes of a tile."""
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]


def width_of(tile: TileId, size: int) -> int:
    """Return how many hashes a tile has in a tree of this size: 0 when it is not there yet."""
    return max(0, min(WIDTH, (size >> (tile.level * HEIGHT)) - tile.tile_no * WIDTH))


def edge_of(size: int) -> list[TileId]:
    """Return the partial tiles at the right edge, which the next leaves lengthen."""
    counts = [(level, size >> (level * HEIGHT)) for level in range(TOP_LEVEL + 1)]
    return [TileId(level, count // WIDTH) for level, count in counts if count % WIDTH]


def grow(size: int, edge: Tiles, leaves: Sequence[bytes]) -> Growth:
    """Append leaf hashes to a tree of which only the right edge is known."""
    changed: dict[TileId, bytes] = {}
    rising = list(leaves)
    for level in range(TOP_LEVEL + 1):
        if not rising:
            break
        count = size >> (level * HEIGHT)
        held = edge.get(TileId(level, count // WIDTH), b"")[: (count % WIDTH) * HASH_BYTES]
        whole = held + b"".join(rising)
        rising = []
        for at in range(0, len(whole), WIDTH * HASH_BYTES):
            part = whole[at : at + WIDTH * HASH_BYTES]
            changed[TileId(level, count // WIDTH + at // (WIDTH * HASH_BYTES))] = part
            if len(part) == WIDTH * HASH_BYTES:
                rising.append(merkle.root(cut(part)))
    known = {**edge, **changed}
    new_size = size + len(leaves)
    tree = TileTree(new_size, lambda wanted: {tile: known[tile] for tile in wanted if tile in known})
    return Growth(new_size, tree.root(), changed)


@dataclass(slots=True)
class TileCache:
    """The full tiles that proofs read most, of all tenants; a full tile never changes."""

    capacity: int = CACHED_TILES
    _held: OrderedDict[tuple[str, int, TileId], bytes] = field(default_factory=OrderedDict)

    def loader(self, tenant_id: str, epoch: int, load: LoadTiles) -> LoadTiles:
        """Return a loader that asks `load` for what is not held."""

        def cached(wanted: Sequence[TileId]) -> Tiles:
            # Each operation on the table is whole by itself: threads need no lock of their own.
            found = {}
            for tile in wanted:
                hashes = self._held.pop((tenant_id, epoch, tile), None)
                if hashes is not None:
                    # Taken out and put back at the end: what was read longest ago goes first.
                    found[tile] = self._held[tenant_id, epoch, tile] = hashes
            missing = [tile for tile in wanted if tile not in found]
            if missing:
                loaded = load(missing)
                for tile, hashes in loaded.items():
                    if len(hashes) == WIDTH * HASH_BYTES:
                        self._hold((tenant_id, epoch, tile), hashes)
                found.update(loaded)
            return found

        return cached

    def _hold(self, key: tuple[str, int, TileId], hashes: bytes) -> None:
        self._held[key] = hashes
        while len(self._held) > self.capacity:
            try:
                self._held.popitem(last=False)
            except KeyError:
                return


@dataclass(frozen=True, slots=True)
class TileName:
    """A tile as its path names it; level None is a bundle of entries, width None a full tile."""

    level: int | None
    tile_no: int
    width: int | None

    @property
    def wanted(self) -> int:
        """How many hashes or entries are asked for."""
        return WIDTH if self.width is None else self.width


def parse_name(level: str, rest: str) -> TileName:
    """Return what `/tile/<level>/<N>[.p/<W>]` names; refuse INVALID_TILE for any other spelling."""
    if level == "entries":
        height = None
    elif re.fullmatch(r"[0-7]", level):
        height = int(level)
    else:
        raise invalid_tile()
    match = _NUMBER.fullmatch(rest)
    if match is None:
        raise invalid_tile()
    groups = [*match[1].replace("x", "").split("/")[:-1], match[2]]
    tile_no = int("".join(groups))
    width = None if match[3] is None else int(match[3])
    # tlog-tiles: no leading group of zeros; a partial tile has 1 to 255 hashes.
    if (len(groups) > 1 and groups[0] == "000") or (width or 0) >= WIDTH or tile_no >= 1 << 55:
        raise invalid_tile()
    return TileName(height, tile_no, width)


def format_number(tile_no: int) -> str:
    """Return a tile's number as tlog-tiles spells it: 1234067 is `x001/x234/067`."""
    digits = str(tile_no)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    return "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])


def entry_bundle(statements: Sequence[str]) -> bytes:
    """Return entries as tlog-tiles bundles them: each a big-endian uint16 length and its bytes."""
    entries = [statement.encode() for statement in statements]
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)
