"""L5 engine of the repository check: the chain of changes, and the leaves of the log that cover it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import changes as changes_driver
from app.domains.repository.drivers import verification as driver
from app.domains.repository.engines.changes import GENESIS_HASH, change_hash
from app.domains.repository.engines.findings import Code, Findings
from app.domains.repository.engines.verification import PAGE

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Leaf:
    """What one `repository.changed` fact says: a stretch of the feed and the hash at its end."""

    fact_id: str
    seq_from: int
    seq_to: int
    head_hash: str


@dataclass(frozen=True, slots=True)
class Leaves:
    """The log's answers, handed in by the spine: leaves that end at these numbers, and those beyond one."""

    ending_at: Callable[[Sequence[int]], Sequence[Leaf]]
    beyond: Callable[[int], Sequence[Leaf]]


@dataclass(slots=True)
class _Chain:
    """How far the check has come: the last record, and the first number that no leaf has covered yet."""

    seq: int = 0
    hash: str = GENESIS_HASH
    uncovered: int = 1
    hashes: dict[int, str] = field(default_factory=dict)


def verify_changes(connection: DriverConnection, found: Findings, leaves: Leaves, *, tenant_id: str) -> None:
    """Check numbers, hashes and leaves of the change feed (E11, E12, E13), 1000 records at a time."""
    chain = _Chain()
    while True:
        rows = changes_driver.list_changes(
            connection, tenant_id=tenant_id, since_seq=chain.seq, filters={}, limit=PAGE
        )
        if rows:
            first, last = chain.seq + 1, rows[-1]["seq"]
            _check_page(found, chain, rows)
            # A fact may end at a record that is missing, so all numbers of the stretch are asked for.
            near = last - first < 2 * PAGE
            ends = range(first, last + 1) if near else [row["seq"] for row in rows]
            _check_leaves(found, chain, leaves.ending_at(ends))
        if len(rows) < PAGE:
            break
    _check_end(found, chain, leaves.beyond(chain.seq), driver.get_state(connection, tenant_id=tenant_id))


def covers(
    connection: DriverConnection, *, tenant_id: str, seq_from: int, seq_to: int, head_hash: str
) -> bool:
    """Tell whether the records of a stretch are all there, hash as they say, and end at this hash."""
    try:
        return _last_hash(connection, tenant_id=tenant_id, seq_from=seq_from, seq_to=seq_to) == head_hash
    except Exception:  # noqa: BLE001 - a damaged value covers nothing; an outage fails the next statement too
        return False


def _last_hash(connection: DriverConnection, *, tenant_id: str, seq_from: int, seq_to: int) -> str | None:
    since, link = seq_from - 1, None
    while since < seq_to:
        rows = changes_driver.list_changes(
            connection, tenant_id=tenant_id, since_seq=since, filters={}, limit=min(PAGE, seq_to - since)
        )
        for row in rows:
            follows = link is None or row["prev_hash"] == link
            if row["seq"] != since + 1 or not follows or change_hash(row) != row["hash"]:
                return None
            since, link = row["seq"], row["hash"]
        if not rows:
            return None
    return link


def _check_page(found: Findings, chain: _Chain, rows: Sequence[Row]) -> None:
    found.count("changes", len(rows))
    chain.hashes = {}
    for row in rows:
        seq = row["seq"]
        if seq != chain.seq + 1:
            found.add(Code.CHANGE_GAP, f"change {seq}", f"change {chain.seq + 1} is missing")
        elif row["prev_hash"] != chain.hash:
            found.add(Code.CHANGE_HASH, f"change {seq}", "it does not follow the record before")
        if change_hash(row) != row["hash"]:
            found.add(Code.CHANGE_HASH, f"change {seq}", "the record has another hash")
        chain.seq, chain.hash = seq, row["hash"]
        chain.hashes[seq] = row["hash"]


def _check_leaves(found: Findings, chain: _Chain, leaves: Sequence[Leaf]) -> None:
    found.count("leaves", len(leaves))
    for leaf in sorted(leaves, key=lambda leaf: (leaf.seq_to, leaf.seq_from, leaf.fact_id)):
        if leaf.seq_from > chain.uncovered:
            found.add(
                Code.CHANGE_LEAF,
                f"change {chain.uncovered}",
                f"no fact covers changes {chain.uncovered} to {leaf.seq_from - 1}",
            )
        elif leaf.seq_from < chain.uncovered:
            found.add(Code.CHANGE_LEAF, leaf.fact_id, f"change {leaf.seq_from} has two facts")
        if chain.hashes.get(leaf.seq_to, leaf.head_hash) != leaf.head_hash:
            found.add(Code.CHANGE_LEAF, leaf.fact_id, f"change {leaf.seq_to} has another hash")
        chain.uncovered = max(chain.uncovered, leaf.seq_to + 1)


def _check_end(found: Findings, chain: _Chain, beyond: Sequence[Leaf], state: Row | None) -> None:
    for leaf in beyond:
        found.add(Code.CHANGE_LEAF, leaf.fact_id, f"change {leaf.seq_to} is beyond the last record")
    if not beyond and chain.uncovered <= chain.seq:
        detail = f"no fact covers changes {chain.uncovered} to {chain.seq}"
        found.add(Code.CHANGE_LEAF, f"change {chain.uncovered}", detail)
    if beyond:
        return
    last = (0, GENESIS_HASH) if state is None else (state["last_seq"], state["last_hash"])
    if last[0] != chain.seq:
        found.add(Code.CHANGE_GAP, "repository_state", f"it counts {last[0]} changes, there are {chain.seq}")
    elif last[1] != chain.hash:
        found.add(Code.CHANGE_HASH, "repository_state", "it names another hash than the last record")
