"""Merkle trees: roots, inclusion and consistency agree with an implementation that is not ours."""

from __future__ import annotations

import random

import pytest
from pymerkle import InmemoryTree, verify_consistency

from app.kernel import merkle


@pytest.fixture(scope="module")
def entries() -> list[bytes]:
    """Entries of up to 5000 leaves, of all lengths from nothing on."""
    source = random.Random(6962)
    return [source.randbytes(source.randrange(40)) for _ in range(5000)]


@pytest.fixture(scope="module")
def theirs(entries: list[bytes]) -> InmemoryTree:
    tree = InmemoryTree(algorithm="sha256")
    for entry in entries:
        tree.append_entry(entry)
    return tree


def sizes() -> list[int]:
    """Return small sizes, sizes around powers of two and tiles, and random ones."""
    source = random.Random(9162)
    edges = [size + near for size in (64, 256, 512, 1024, 2048, 4096) for near in (-1, 0, 1)]
    return [*range(1, 18), *edges, *(source.randrange(18, 5000) for _ in range(10)), 5000]


def test_roots_and_proofs_of_trees_up_to_5000_leaves_agree_with_pymerkle(
    entries: list[bytes], theirs: InmemoryTree
) -> None:
    source = random.Random(1)
    leaves = [merkle.leaf(entry) for entry in entries]
    assert theirs.get_root(0) == merkle.EMPTY_ROOT
    for size in sizes():
        ranges = merkle.ranges_of(leaves[:size])
        root = merkle.root(leaves[:size])
        assert root == theirs.get_root(size)
        for index in {0, size // 2, size - 1, source.randrange(size)}:
            path = merkle.inclusion_path(index, size, ranges)
            # Theirs begins with the leaf itself and counts from one.
            assert [leaves[index], *path] == theirs.prove_inclusion(index + 1, size).path
        for old in {1, (size + 1) // 2, size, source.randrange(1, size + 1)}:
            path = merkle.consistency_path(old, size, ranges)
            # Their proof has another form; it holds between our two roots, and ours between theirs.
            assert merkle.is_consistent(old, size, theirs.get_root(old), theirs.get_root(size), path)
            proof = theirs.prove_consistency(old, size)
            verify_consistency(merkle.root(leaves[:old]), root, proof, prior_size=old, later_size=size)
