"""Logs L5: what a bundle reads of the log, at one moment: sections, proofs, and the rows that it opens."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from app.db.connection import DriverConnection, Row
from app.db.governed import GOVERNED
from app.domains.logs.drivers import bundles as driver
from app.domains.logs.drivers import leaves as leaves_driver
from app.domains.logs.engines.bundle import READ_TYPES, Claims, SectionRoot
from app.domains.logs.engines.tiles import TileTree
from app.domains.logs.errors import checkpoint_pending, integrity_failed
from app.kernel import merkle
from app.kernel.canonical_json import dumps, loads
from app.kernel.hashing import protected_commit

PLANES, PLANE_FACT = "knowledge_plane_registry", "knowledge.plane"
SNAPSHOTS, SNAPSHOT_FACT = "policy_snapshots", "policy.snapshot"
LOG_KEY_FACT = "log.key"
ROWS_AT_ONCE = 200


@dataclass(slots=True)
class SectionHashes:
    """The leaf hashes of a section, 40 bytes for each of its statements."""

    indices: array[int] = field(default_factory=lambda: array("q"))
    tree: merkle.MerkleRoot = field(default_factory=merkle.MerkleRoot)

    def add(self, index: int, leaf_hash: str) -> None:
        """Append one statement."""
        self.indices.append(index)
        self.tree.append_hash(bytes.fromhex(leaf_hash))

    def root(self) -> SectionRoot:
        """Return count and root."""
        return SectionRoot(len(self.indices), self.tree.hexdigest())


def get_counter(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Row | None:
    """Return how many facts and late facts the run has, and whether it is closed."""
    return leaves_driver.get_counter(connection, tenant_id=tenant_id, run_id=run_id)


def is_covered(connection: DriverConnection, *, tenant_id: str, run_id: str, epoch: int, size: int) -> bool:
    """Tell whether all facts of the run but late ones are in the tree of this size."""
    found = driver.find_uncovered(connection, tenant_id=tenant_id, run_id=run_id, epoch=epoch, size=size)
    return found is None


def read_section(
    connection: DriverConnection,
    claims: Claims,
    *,
    tenant_id: str,
    run_id: str,
    late: bool,
    epoch: int,
    size: int,
) -> SectionHashes:
    """Return the hashes of the facts, or of the late facts up to the cut, and count them into the claims.

    Refuse CHECKPOINT_PENDING when the tree of this size does not hold a fact that comes before one it holds.
    """
    section = SectionHashes()
    beyond = False
    rows = driver.list_run_hashes(
        connection, tenant_id=tenant_id, run_id=run_id, late=late, epoch=epoch, read_types=READ_TYPES
    )
    for row in rows:
        if row["idx"] is None or row["idx"] >= size:
            beyond = True
            continue
        if beyond:
            raise checkpoint_pending()
        section.add(row["idx"], row["leaf_hash"])
        claims.add(row["type"], row["statement"], fact_id=row["fact_id"])
    if beyond and not late:
        raise checkpoint_pending()
    return section


def read_context(
    connection: DriverConnection, claims: Claims, *, tenant_id: str, run_id: str, epoch: int, size: int
) -> list[Row]:
    """Return the facts of other acts that the run's facts refer to, in the order of the log.

    Those of the snapshots and of the plane versions that its facts name, and of the log's keys.
    """
    found: list[Row] = []
    for table, type_name, keys in (
        (SNAPSHOTS, SNAPSHOT_FACT, [(dumps([name]), None) for name in sorted(claims.snapshots)]),
        (PLANES, PLANE_FACT, [(dumps([name]), version) for name, version in sorted(claims.planes)]),
    ):
        for start in range(0, len(keys), ROWS_AT_ONCE):
            found += driver.list_about(
                connection,
                tenant_id=tenant_id,
                epoch=epoch,
                table=table,
                type_name=type_name,
                keys=keys[start : start + ROWS_AT_ONCE],
            )
    found += driver.list_of_type(
        connection, tenant_id=tenant_id, epoch=epoch, type_name=LOG_KEY_FACT, size=size
    )
    # What belongs to the run stands among its own facts already.
    context = [row for row in found if row["run_id"] != run_id]
    if any(row["idx"] is None or row["idx"] >= size for row in context):
        raise checkpoint_pending()
    return sorted(context, key=lambda row: int(row["idx"]))


def prove(tree: TileTree, indices: Sequence[int]) -> list[bytes]:
    """Return the multiproof of all these leaves."""
    ranges = merkle.multiproof_ranges(indices, tree.size)
    tree.fetch(ranges)
    return [tree.range_root(low, high) for low, high in ranges]


def list_statements(
    connection: DriverConnection, *, tenant_id: str, run_id: str, late: bool, count: int
) -> Iterator[str]:
    """Yield the statements of the facts, or of the late facts, by number."""
    rows = driver.list_run_statements(connection, tenant_id=tenant_id, run_id=run_id, late=late, count=count)
    for row in rows:
        yield row["statement"]


@dataclass(frozen=True, slots=True)
class Opened:
    """What has become of the values behind a commitment."""

    commitment: str
    salt: str | None = None
    value: Mapping[str, Any] | None = None
    erasure: str | None = None


def list_values(
    connection: DriverConnection, *, tenant_id: str, run_id: str, counts: Mapping[bool, int]
) -> Iterator[Opened]:
    """Yield the values that the newest commitments of the run's rows stand for; steps have their own.

    A row that no longer opens its commitment refuses INTEGRITY_FAILED.
    """
    seen: set[str] = set()
    for late, count in counts.items():
        rows = driver.list_run_statements(
            connection, tenant_id=tenant_id, run_id=run_id, late=late, count=count
        )
        yield from open_values(connection, rows, seen, tenant_id=tenant_id)


def open_values(
    connection: DriverConnection, leaves: Iterable[Row], seen: set[str], *, tenant_id: str
) -> Iterator[Opened]:
    """Yield the values behind the commitments of these leaves; `seen` are those of heads, opened once."""
    waiting: dict[str, dict[str, list[Any]]] = {}
    for row in leaves:
        entry = GOVERNED.get(row["ref_table"] or "")
        if entry is None or not entry.protected:
            continue
        statement = loads(row["statement"])
        commit = statement["body"].get("protected_commit")
        if commit is None:
            continue
        of_table = waiting.setdefault(row["ref_table"], {})
        of_table[commit] = statement["key"]
        if len(of_table) >= ROWS_AT_ONCE:
            yield from _open_rows(connection, row["ref_table"], of_table, seen, tenant_id=tenant_id)
            of_table.clear()
    for table, of_table in waiting.items():
        yield from _open_rows(connection, table, of_table, seen, tenant_id=tenant_id)


def _open_rows(
    connection: DriverConnection,
    table: str,
    commits: Mapping[str, list[Any]],
    seen: set[str],
    *,
    tenant_id: str,
) -> Iterator[Opened]:
    entry = GOVERNED[table]
    keys = {dumps(key): key for key in commits.values()}
    rows = driver.list_protected(connection, tenant_id=tenant_id, table=table, keys=list(keys.values()))
    # An earlier commitment of a row that has changed since is superseded: its values are nowhere.
    newest = {row["protected_commit"]: row for row in rows}
    for commit in commits:
        row = newest.get(commit)
        if row is None or commit in seen:
            continue
        if entry.mode != "APPEND":
            seen.add(commit)
        yield open_row(commit, row, entry.protected)


def open_row(commit: str, row: Mapping[str, Any], members: Sequence[str]) -> Opened:
    """Return the values of a row that open its commitment; refuse INTEGRITY_FAILED."""
    salt = row["protected_salt"]
    if salt is None:
        if row["erased_fact_id"] is None:
            raise integrity_failed("VALUE_MISSING")
        return Opened(commit, erasure=row["erased_fact_id"])
    # A column of JSON text may be committed to as the value, or as the text that it is.
    for chosen in product(*(_readings(row[name]) for name in members)):
        value = dict(zip(members, chosen, strict=True))
        with suppress(ValueError):
            if protected_commit(salt, value) == commit:
                return Opened(commit, salt=salt, value=value)
    raise integrity_failed("VALUE_TAMPERED")


def _readings(stored: Any) -> list[Any]:
    readings = [stored]
    if isinstance(stored, str):
        with suppress(ValueError):
            readings.insert(0, loads(stored))
    return readings
