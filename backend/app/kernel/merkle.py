"""Kernel: Merkle trees of RFC 6962 over SHA-256: roots, inclusion, consistency, multiproofs; all pure."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

HASH_BYTES = 32
# RFC 6962 section 2.1: the tree of no entries.
EMPTY_ROOT = hashlib.sha256(b"").digest()
RangeRoot = Callable[[int, int], bytes]
"""Returns the root of the leaves [low, high); the range is one that the RFC's splits lead to."""


def leaf(entry: bytes) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(count: int) -> int:
    """Return the largest power of two below `count`, which is at least 2."""
    return 1 << (count - 1).bit_length() - 1


def root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes, level by level; a last hash without a neighbour moves up as it is."""
    if not hashes:
        return EMPTY_ROOT
    level = list(hashes)
    while len(level) > 1:
        paired = [node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = [*paired, level[-1]] if len(level) % 2 else paired
    return level[0]


class MerkleRoot:
    """The root over entries that arrive one by one, in memory that grows with their number's logarithm."""

    __slots__ = ("_peaks", "size")

    def __init__(self) -> None:
        self.size = 0
        # Roots of whole subtrees, largest first: one for each bit of the size.
        self._peaks: list[bytes] = []

    def append(self, entry: bytes) -> None:
        """Append one entry."""
        self.append_hash(leaf(entry))

    def append_hash(self, leaf_hash: bytes) -> None:
        """Append one entry of which only the leaf hash is at hand."""
        found, count = leaf_hash, self.size
        while count % 2:
            found = node(self._peaks.pop(), found)
            count //= 2
        self._peaks.append(found)
        self.size += 1

    def digest(self) -> bytes:
        """Return the root over what was appended so far."""
        if not self._peaks:
            return EMPTY_ROOT
        found = self._peaks[-1]
        for peak in self._peaks[-2::-1]:
            found = node(peak, found)
        return found

    def hexdigest(self) -> str:
        """Return the root in hex."""
        return self.digest().hex()


def ranges_of(hashes: Sequence[bytes]) -> RangeRoot:
    """Return the range roots of a tree that is held in memory."""
    return lambda low, high: root(hashes[low:high])


def inclusion_path(index: int, size: int, range_root: RangeRoot) -> list[bytes]:
    """Return the audit path of a leaf, RFC 6962 section 2.1.1; ValueError when it is outside the tree."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    path: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + split(high - low)
        if index < middle:
            path.append(range_root(middle, high))
            high = middle
        else:
            path.append(range_root(low, middle))
            low = middle
    return path[::-1]


def root_of_inclusion(index: int, size: int, leaf_hash: bytes, path: Sequence[bytes]) -> bytes | None:
    """Return the root that a leaf and its audit path give; None when the path has another shape."""
    if not 0 <= index < size:
        return None
    found, last = leaf_hash, size - 1
    for other in path:
        if last == 0:
            return None
        if index % 2 or index == last:
            found = node(other, found)
            # A right edge without a neighbour moves up as it is.
            while index % 2 == 0 and index:
                index, last = index // 2, last // 2
        else:
            found = node(found, other)
        index, last = index // 2, last // 2
    return found if last == 0 else None


def consistency_path(old: int, new: int, range_root: RangeRoot) -> list[bytes]:
    """Return the proof that `new` leaves continue the first `old`, RFC 6962 section 2.1.2."""
    if not 0 < old <= new:
        raise ValueError(f"no tree of {new} continues one of {old}")
    path: list[bytes] = []
    low, high = 0, new
    known = True
    while old != high:
        middle = low + split(high - low)
        if old <= middle:
            path.append(range_root(middle, high))
            high = middle
        else:
            path.append(range_root(low, middle))
            low, known = middle, False
    if not known:
        path.append(range_root(low, high))
    return path[::-1]


def is_consistent(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Tell whether the proof shows that the tree of `new` leaves continues the one of `old`."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not path and old_root == new_root
    given = list(path)
    if old & (old - 1) == 0:
        # The old tree is one whole subtree of the new one, so the proof leaves its root out.
        given.insert(0, old_root)
    if not given:
        return False
    index, last = old - 1, new - 1
    while index % 2:
        index, last = index // 2, last // 2
    first = second = given[0]
    for other in given[1:]:
        if last == 0:
            return False
        if index % 2 or index == last:
            first, second = node(other, first), node(other, second)
            while index % 2 == 0 and index:
                index, last = index // 2, last // 2
        else:
            second = node(second, other)
        index, last = index // 2, last // 2
    return last == 0 and first == old_root and second == new_root


def multiproof(indices: Sequence[int], size: int, range_root: RangeRoot) -> list[bytes]:
    """Return the hashes that prove all these leaves at once: what the walk meets outside them, in order."""
    return [range_root(low, high) for low, high in multiproof_ranges(indices, size)]


def multiproof_ranges(indices: Sequence[int], size: int) -> list[tuple[int, int]]:
    """Return the ranges whose roots a multiproof lists, in order; ValueError for leaves outside the tree."""
    ranges: list[tuple[int, int]] = []

    def walk(low: int, high: int, wanted: Sequence[int]) -> None:
        if not wanted:
            ranges.append((low, high))
        elif len(wanted) < high - low:
            middle = low + split(high - low)
            place = bisect_left(wanted, middle)
            walk(low, middle, wanted[:place])
            walk(middle, high, wanted[place:])

    walk(0, size, _ordered(indices, size))
    return ranges


def root_of_multiproof(leaves: Mapping[int, bytes], size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that leaf hashes by index and a multiproof give; None when they do not fit."""
    try:
        wanted = _ordered(list(leaves), size)
    except ValueError:
        return None
    given = iter(path)

    def join(low: int, high: int, first: int, last: int) -> bytes:
        if first == last:
            return next(given)
        if high - low == 1:
            return leaves[low]
        middle = low + split(high - low)
        place = bisect_left(wanted, middle, first, last)
        return node(join(low, middle, first, place), join(middle, high, place, last))

    try:
        found = join(0, size, 0, len(wanted))
    except StopIteration:
        return None
    return found if next(given, None) is None else None


def _ordered(indices: Sequence[int], size: int) -> list[int]:
    ordered = sorted(set(indices))
    if size < 1 or not ordered or ordered[0] < 0 or ordered[-1] >= size:
        raise ValueError(f"no such leaves in a tree of {size}")
    return ordered
