"""Logs L5: are facts in the tree under the newest signed root; the tree part of a run's proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app.db.connection import DriverConnection, Row
from app.domains.logs.drivers import checkpoints as checkpoints_driver
from app.domains.logs.drivers import heads as heads_driver
from app.domains.logs.drivers import tree as driver
from app.domains.logs.engines import note
from app.domains.logs.engines.keys import KeyRing
from app.domains.logs.engines.note import Checkpoint, NoteError
from app.domains.logs.engines.row_reading import tolerant
from app.domains.logs.engines.sequence import tile_loader
from app.domains.logs.engines.tiles import MissingTileError, TileTree
from app.kernel import merkle
from app.kernel.hashing import leaf_hash

Leaf = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What the log holds of some facts, read at one moment."""

    head: Row | None
    checkpoint: Row | None
    indices: Mapping[str, int]
    queued: frozenset[str]
    tree: TileTree
    keys: KeyRing | None


@dataclass(frozen=True, slots=True)
class LogVerdict:
    """How far the newest checkpoint covers the facts."""

    status: Literal["INCLUDED", "PENDING", "FAILED", "UNSIGNED"]
    origin: str | None
    size: int
    root: str | None
    code: str | None = None


def read_log(
    connection: DriverConnection, leaves: Sequence[Leaf], *, tenant_id: str, keys: KeyRing | None
) -> LogFacts:
    """Return what the log holds of these leaves, and the keys that its checkpoints may be signed with."""
    head = tolerant(heads_driver.get_head, connection, tenant_id=tenant_id)
    fact_ids = [leaf["fact_id"] for leaf in leaves]
    if head is None:
        queued = driver.list_queued(connection, fact_ids, tenant_id=tenant_id)
        return LogFacts(None, None, {}, frozenset(queued), TileTree(0, lambda _: {}), keys)
    epoch = head["epoch"]
    indices = driver.list_indices(connection, fact_ids, tenant_id=tenant_id, epoch=epoch)
    missing = [name for name in fact_ids if name not in indices]
    queued = driver.list_queued(connection, missing, tenant_id=tenant_id) if missing else set()
    checkpoint = tolerant(
        checkpoints_driver.get_checkpoint, connection, tenant_id=tenant_id, epoch=epoch, size=None
    )
    load = tile_loader(connection, tenant_id=tenant_id, epoch=epoch)
    tree = TileTree(checkpoint["size"] if checkpoint else 0, load)
    return LogFacts(head, checkpoint, indices, frozenset(queued), tree, keys)


def verify_inclusion(leaves: Sequence[Leaf], facts: LogFacts) -> LogVerdict:
    """Return whether every leaf, hashed again from its statement, is under the signed root.

    A leaf that is neither in the tree nor in the queue, a checkpoint that does not open, a tree that does not
    give its root, and rows of the log that hold no sizes and hashes any more are LOG_MISMATCH.
    """
    try:
        return _verdict(leaves, facts)
    except (AttributeError, TypeError, ValueError):
        return LogVerdict("FAILED", None, 0, None, "LOG_MISMATCH")


def _verdict(leaves: Sequence[Leaf], facts: LogFacts) -> LogVerdict:
    origin = None if facts.head is None else facts.head["origin"]
    known = facts.indices.keys() | facts.queued
    lost = any(leaf["fact_id"] not in known for leaf in leaves)
    head_size = 0 if facts.head is None else facts.head["size"]
    if lost or any(index >= head_size for index in facts.indices.values()):
        return LogVerdict("FAILED", origin, 0, None, "LOG_MISMATCH")
    if facts.checkpoint is None:
        return LogVerdict("UNSIGNED", origin, 0, None)
    size, root = facts.checkpoint["size"], facts.checkpoint["root"]
    signed = Checkpoint(str(origin), size, bytes.fromhex(root))
    covered = {
        facts.indices[leaf["fact_id"]]: bytes.fromhex(leaf_hash(leaf["statement"]))
        for leaf in leaves
        if facts.indices.get(leaf["fact_id"], size) < size
    }
    if (
        size > head_size
        or not _opens(facts.checkpoint["note"], signed, facts.keys)
        or not _gives(covered, facts.tree, root)
    ):
        return LogVerdict("FAILED", origin, size, root, "LOG_MISMATCH")
    return LogVerdict("INCLUDED" if len(covered) == len(leaves) else "PENDING", origin, size, root)


def _opens(text: str, wanted: Checkpoint, keys: KeyRing | None) -> bool:
    try:
        read = note.parse_note(text)
        if note.parse_checkpoint(read.text) != wanted:
            return False
    except NoteError:
        return False
    # A process without the keys cannot judge the signature; whoever holds a verifier key can.
    return keys is None or keys.opens(read, wanted.origin)


def _gives(covered: Mapping[int, bytes], tree: TileTree, root: str) -> bool:
    try:
        if not covered:
            return tree.root().hex() == root
        ranges = merkle.multiproof_ranges(list(covered), tree.size)
        tree.fetch(ranges)
        path = [tree.range_root(low, high) for low, high in ranges]
    except MissingTileError:
        return False
    found = merkle.root_of_multiproof(covered, tree.size, path)
    return found is not None and found.hex() == root
