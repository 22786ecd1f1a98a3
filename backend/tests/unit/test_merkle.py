"""Merkle trees: the published vectors, and every function against an oracle written from the RFC's text."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domains.logs.engines import tiles as tile_engine
from app.domains.logs.engines.tiles import (
    MissingTileError,
    TileCache,
    TileId,
    TileTree,
    edge_of,
    grow,
    width_of,
)
from app.kernel import merkle

PUBLISHED = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
ENTRIES = [bytes.fromhex(text) for text in PUBLISHED]
LEAVES = [merkle.leaf(entry) for entry in ENTRIES]
ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


# The oracle: MTH, PATH and SUBPROOF as RFC 6962 section 2.1 defines them, over whole lists.


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def power_below(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(d: list[bytes]) -> bytes:
    if not d:
        return sha(b"")
    if len(d) == 1:
        return d[0]
    k = power_below(len(d))
    return sha(b"\x01", mth(d[:k]), mth(d[k:]))


def rfc_path(m: int, d: list[bytes]) -> list[bytes]:
    if len(d) == 1:
        return []
    k = power_below(len(d))
    if m < k:
        return [*rfc_path(m, d[:k]), mth(d[k:])]
    return [*rfc_path(m - k, d[k:]), mth(d[:k])]


def rfc_proof(m: int, d: list[bytes], whole: bool = True) -> list[bytes]:
    if m == len(d):
        return [] if whole else [mth(d)]
    k = power_below(len(d))
    if m <= k:
        return [*rfc_proof(m, d[:k], whole), mth(d[k:])]
    return [*rfc_proof(m - k, d[k:], False), mth(d[:k])]


def made(count: int) -> list[bytes]:
    return [sha(number.to_bytes(4, "big")) for number in range(count)]


def test_the_published_roots_are_kept() -> None:
    for size, expected in ROOTS.items():
        assert merkle.root(LEAVES[:size]).hex() == expected


def test_the_published_multiproof_is_kept() -> None:
    path = merkle.multiproof([5, 1, 2], 7, merkle.ranges_of(LEAVES[:7]))
    assert [part.hex()[:8] for part in path] == ["6e340b9c", "07506a85", "bc1a0643", "b08693ec"]


def test_a_root_that_grows_entry_by_entry_is_the_root_of_all() -> None:
    growing = merkle.MerkleRoot()
    for size, entry in enumerate(ENTRIES):
        assert growing.digest() == merkle.root(LEAVES[:size])
        growing.append(entry)
        assert growing.size == size + 1
    assert growing.hexdigest() == ROOTS[8]


@pytest.mark.parametrize("size", [*range(1, 34), 255, 256, 257])
def test_every_inclusion_proof_is_the_one_of_the_rfc(size: int) -> None:
    leaves = made(size)
    expected = mth(leaves)
    for index in range(size):
        path = merkle.inclusion_path(index, size, merkle.ranges_of(leaves))
        assert path == rfc_path(index, leaves)
        assert merkle.root_of_inclusion(index, size, leaves[index], path) == expected


@pytest.mark.parametrize("size", [*range(1, 34), 257])
def test_every_consistency_proof_is_the_one_of_the_rfc(size: int) -> None:
    leaves = made(size)
    new_root = mth(leaves)
    for old in range(1, size + 1):
        path = merkle.consistency_path(old, size, merkle.ranges_of(leaves))
        assert path == rfc_proof(old, leaves)
        assert merkle.is_consistent(old, size, mth(leaves[:old]), new_root, path)


@given(st.integers(1, 2000), st.data())
def test_random_trees_up_to_2000_leaves_agree_with_the_oracle(size: int, data: st.DataObject) -> None:
    leaves = made(size)
    ranges = merkle.ranges_of(leaves)
    expected = mth(leaves)
    assert merkle.root(leaves) == expected
    index = data.draw(st.integers(0, size - 1))
    assert merkle.inclusion_path(index, size, ranges) == rfc_path(index, leaves)
    old = data.draw(st.integers(1, size))
    path = merkle.consistency_path(old, size, ranges)
    assert path == rfc_proof(old, leaves)
    assert merkle.is_consistent(old, size, mth(leaves[:old]), expected, path)
    chosen = data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=30))
    many = merkle.multiproof(sorted(chosen), size, ranges)
    assert merkle.root_of_multiproof({i: leaves[i] for i in chosen}, size, many) == expected


@given(st.integers(2, 300), st.data())
def test_a_proof_with_a_hash_swapped_missing_or_extra_gives_another_root(
    size: int, data: st.DataObject
) -> None:
    leaves = made(size)
    ranges = merkle.ranges_of(leaves)
    expected = mth(leaves)
    index = data.draw(st.integers(0, size - 1))
    path = merkle.inclusion_path(index, size, ranges)
    other = b"\x5a" * 32
    for wrong in (
        [other, *path[1:]],
        path[:-1],
        [*path, other],
        path[::-1] if path != path[::-1] else [other],
    ):
        assert merkle.root_of_inclusion(index, size, leaves[index], wrong) != expected
    assert merkle.root_of_inclusion(index, size, other, path) != expected
    assert merkle.root_of_inclusion(size, size, leaves[index], path) is None
    assert merkle.root_of_inclusion(-1, size, leaves[index], path) is None
    chosen = {index: leaves[index]}
    many = merkle.multiproof([index], size, ranges)
    for wrong in ([other, *many[1:]], many[:-1], [*many, other]):
        assert merkle.root_of_multiproof(chosen, size, wrong) != expected
    assert merkle.root_of_multiproof({size: other}, size, many) is None
    assert merkle.root_of_multiproof({}, size, many) is None


@given(st.integers(2, 300), st.data())
def test_a_tree_that_rewrote_its_past_is_not_consistent(size: int, data: st.DataObject) -> None:
    leaves = made(size)
    old = data.draw(st.integers(1, size - 1))
    path = merkle.consistency_path(old, size, merkle.ranges_of(leaves))
    old_root, new_root, other = mth(leaves[:old]), mth(leaves), b"\x5a" * 32
    rewritten = leaves[:]
    rewritten[data.draw(st.integers(0, old - 1))] = other
    honest = merkle.consistency_path(old, size, merkle.ranges_of(rewritten))
    assert not merkle.is_consistent(old, size, old_root, mth(rewritten), honest)
    assert not merkle.is_consistent(old, size, other, new_root, path)
    for wrong in ([other, *path[1:]], path[:-1], [*path, other]):
        assert not merkle.is_consistent(old, size, old_root, new_root, wrong)
    assert not merkle.is_consistent(size, old, new_root, old_root, path)
    assert not merkle.is_consistent(0, size, merkle.EMPTY_ROOT, new_root, [])


def test_an_inner_node_is_no_leaf() -> None:
    inner = merkle.node(LEAVES[0], LEAVES[1])
    assert merkle.leaf(LEAVES[0] + LEAVES[1]) != inner
    path = merkle.inclusion_path(0, 8, merkle.ranges_of(LEAVES))
    assert merkle.root_of_inclusion(0, 8, inner, path[1:]) is None


def test_what_has_no_proof_is_refused() -> None:
    ranges = merkle.ranges_of(LEAVES)
    for bad in ((8, 8), (-1, 8), (0, 0)):
        with pytest.raises(ValueError, match="no leaf"):
            merkle.inclusion_path(*bad, ranges)
    for bad in ((0, 8), (9, 8)):
        with pytest.raises(ValueError, match="no tree"):
            merkle.consistency_path(*bad, ranges)
    with pytest.raises(ValueError, match="no such leaves"):
        merkle.multiproof([], 8, ranges)


# Tiles


def grown(batches: list[int]) -> tuple[dict[TileId, bytes], list[bytes], bytes]:
    """Grow a tree batch by batch, knowing at each step only the right edge, as the sequencer does."""
    leaves = made(sum(batches))
    store: dict[TileId, bytes] = {}
    size, root = 0, merkle.EMPTY_ROOT
    for count in batches:
        edge = {tile: store[tile] for tile in edge_of(size)}
        assert all(width_of(tile, size) * 32 == len(hashes) for tile, hashes in edge.items())
        growth = grow(size, edge, leaves[size : size + count])
        for tile, hashes in growth.tiles.items():
            assert hashes.startswith(store.get(tile, b"")), "a tile only lengthens"
        store |= growth.tiles
        size, root = growth.size, growth.root
    return store, leaves, root


@given(st.lists(st.integers(1, 700), min_size=1, max_size=6))
def test_a_tree_grown_in_batches_is_the_tree_of_all_its_leaves(batches: list[int]) -> None:
    store, leaves, root = grown(batches)
    assert root == mth(leaves)
    for tile, hashes in store.items():
        assert len(hashes) == 32 * width_of(tile, len(leaves))
    bottom = b"".join(hashes for tile, hashes in sorted(store.items()) if tile.level == 0)
    assert bottom == b"".join(leaves)


def test_a_tree_of_three_levels_is_the_tree_of_all_its_leaves() -> None:
    store, leaves, root = grown([65_000, 600, 1])
    assert root == merkle.root(leaves)
    assert store[TileId(2, 0)] == merkle.root(leaves[:65_536])
    assert max(tile.level for tile in store) == 2


@given(st.integers(1, 2000), st.data())
def test_proofs_from_tiles_are_those_of_the_rfc(size: int, data: st.DataObject) -> None:
    store, leaves, _ = grown([size])
    # An earlier tree is read from the same, longer tiles.
    earlier = data.draw(st.integers(1, size))
    tree = TileTree(earlier, lambda wanted: {tile: store[tile] for tile in wanted if tile in store})
    assert tree.root() == mth(leaves[:earlier])
    index = data.draw(st.integers(0, earlier - 1))
    assert merkle.inclusion_path(index, earlier, tree.range_root) == rfc_path(index, leaves[:earlier])
    old = data.draw(st.integers(1, earlier))
    assert merkle.consistency_path(old, earlier, tree.range_root) == rfc_proof(old, leaves[:earlier])


def test_a_proof_reads_two_tiles_a_level_at_most() -> None:
    store, _, _ = grown([65_536 + 300 * 256 + 7])
    reads: list[TileId] = []

    def load(wanted: list[TileId]) -> dict[TileId, bytes]:
        reads.extend(wanted)
        return {tile: store[tile] for tile in wanted if tile in store}

    size = 65_536 + 300 * 256 + 7
    for index in (0, 65_535, 65_536, 100_000, size - 1):
        reads.clear()
        tree = TileTree(size, load)
        path = merkle.inclusion_path(index, size, tree.range_root)
        assert len(path) <= 64
        assert len(reads) == len(set(reads)), "each tile is read once"
        assert all(sum(tile.level == level for tile in reads) <= 2 for level in range(8))


def test_a_missing_or_short_tile_is_an_error_not_another_root() -> None:
    store, _, _ = grown([600])
    for tile in [TileId(0, 2), TileId(1, 0)]:
        broken = {**store, tile: store[tile][:-32]}
        tree = TileTree(600, lambda wanted, held=broken: {t: held[t] for t in wanted if t in held})
        with pytest.raises(MissingTileError):
            tree.root()
    assert TileTree(0, lambda wanted: {}).root() == merkle.EMPTY_ROOT


def test_the_cache_keeps_full_tiles_of_each_log_apart_and_bounded() -> None:
    asked: list[TileId] = []
    full = b"\x01" * 8192

    def load(wanted: list[TileId]) -> dict[TileId, bytes]:
        asked.extend(wanted)
        return {tile: full if tile.tile_no < 9 else b"\x02" * 32 for tile in wanted}

    cache = TileCache(capacity=2)
    mine, other = cache.loader("t-1", 1, load), cache.loader("t-2", 1, load)
    assert mine([TileId(0, 0), TileId(0, 9)]) == {TileId(0, 0): full, TileId(0, 9): b"\x02" * 32}
    mine([TileId(0, 0)])
    assert asked == [TileId(0, 0), TileId(0, 9)]
    mine([TileId(0, 9)])
    other([TileId(0, 0)])
    assert asked[2:] == [TileId(0, 9), TileId(0, 0)]
    # The one that was read longest ago goes.
    mine([TileId(0, 0)])
    mine([TileId(0, 1)])
    del asked[:]
    mine([TileId(0, 0)])
    assert asked == []
    other([TileId(0, 0)])
    assert asked == [TileId(0, 0)]


@pytest.mark.parametrize(
    ("tile_no", "text"),
    [(0, "000"), (7, "007"), (999, "999"), (1000, "x001/000"), (1_234_067, "x001/x234/067")],
)
def test_a_tile_number_is_spelled_as_tlog_tiles_spells_it(tile_no: int, text: str) -> None:
    assert tile_engine.format_number(tile_no) == text
    assert tile_engine.parse_name("0", text) == (tile_engine.TileName(0, tile_no, None))
    assert tile_engine.parse_name("entries", f"{text}.p/255").width == 255


@given(st.integers(0, 2**55 - 1))
def test_each_tile_number_is_read_back(tile_no: int) -> None:
    assert tile_engine.parse_name("7", tile_engine.format_number(tile_no)).tile_no == tile_no


@pytest.mark.parametrize(
    ("level", "rest"),
    [
        ("8", "000"),
        ("00", "000"),
        ("-1", "000"),
        ("\u0663", "000"),
        ("entrie", "000"),
        ("0", ""),
        ("0", "0"),
        ("0", "0000"),
        ("0", "x000/001"),
        ("0", "001/002"),
        ("0", "x001"),
        ("0", "x001/x002"),
        ("0", "\u0660\u0660\u0660"),
        ("0", "000.p/0"),
        ("0", "000.p/256"),
        ("0", "000.p/01"),
        ("0", "000.p"),
        ("0", "000.p/"),
        ("0", "000\n"),
        ("0", "x999/" * 6 + "999"),
    ],
)
def test_any_other_spelling_names_no_tile(level: str, rest: str) -> None:
    from app.kernel.errors import HocError

    with pytest.raises(HocError) as caught:
        tile_engine.parse_name(level, rest)
    assert caught.value.code == "INVALID_TILE"


def test_entries_are_bundled_with_their_lengths() -> None:
    assert tile_engine.entry_bundle(["", "ä"]) == b"\x00\x00\x00\x02\xc3\xa4"


def test_random_sizes_give_the_same_root_in_any_batches() -> None:
    dice = random.Random(7)
    for _ in range(5):
        cuts = [dice.randint(1, 400) for _ in range(4)]
        assert grown(cuts)[2] == grown([sum(cuts)])[2]
