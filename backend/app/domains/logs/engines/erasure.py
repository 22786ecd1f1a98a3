"""Logs L5: which rows an erasure is about, in which order they are taken, and the records that say so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from app.db.connection import DriverConnection, Row
from app.db.governed import GOVERNED, Governed
from app.domains.logs.drivers import erasures as driver
from app.domains.logs.drivers import leaves as leaves_driver
from app.domains.logs.drivers import protected_rows as rows_driver
from app.domains.logs.drivers.protected_rows import Reach
from app.domains.logs.engines.recorded import Recorded, read
from app.domains.logs.models.erasure import EraseEvidence, ErasureView
from app.kernel.canonical_json import dumps, loads

AUDIT, EXTENDED, STEPS = "audit", "trace.extended", "aos_trace_steps"
# Of one transaction: so many rows, in so many records, each of so many rows.
MAX_ROWS, MAX_RECORDS, MAX_COMMITMENTS = 10_000, 200, 500
_VIEWED = ("erasure_id", "scope", "scope_id", "run_id", "reason", "legal_basis", "requested_by")


@dataclass(frozen=True, slots=True)
class Held:
    """One row that holds values, and the run whose proof opens them."""

    table: str
    key: tuple[Any, ...]
    commitment: str
    run_id: str | None


@dataclass(frozen=True, slots=True)
class Scope:
    """The rows that an erasure is about, table by table; of `only` these commitments, where given.

    Beside named rows, the steps of `steps_of` these runs; of all of them what was last written by `until`.
    """

    reach: Reach | None = None
    rows: Mapping[str, Sequence[Sequence[Any]]] | None = None
    only: frozenset[str] | None = None
    steps_of: Sequence[str] = ()
    until: datetime | None = None

    def of(self, table: str) -> Reach | None:
        """Return the rows meant of one table; None for none."""
        if self.rows is None:
            return self.reach
        if table == STEPS and self.steps_of:
            return Reach(run_ids=self.steps_of, until=self.until)
        return Reach(keys=self.rows[table], until=self.until) if table in self.rows else None


def scope_of_run(run_id: str) -> Scope:
    """Return the rows that the facts of a run are about, and its steps."""
    return Scope(Reach(run_ids=[run_id]))


def scope_of_subject(subject_ref: str) -> Scope:
    """Return the rows of all runs about a subject."""
    return Scope(Reach(subject_ref=subject_ref))


def scope_of_fact(connection: DriverConnection, *, tenant_id: str, fact_id: str) -> Scope | None:
    """Return the rows whose values a fact commits to; None for an unknown fact.

    That of a batch of steps stands for each of them, a ledger entry also for the row that it is the fact of.
    """
    found = read(leaves_driver.list_known(connection, [fact_id], tenant_id=tenant_id))
    if not found or found[0].said is None:
        return None
    fact = found[0]
    said = found[0].said
    if said["type"] == EXTENDED:
        body = fact.body
        first, last = int(body["from_index"]), int(body["to_index"])
        return Scope(rows={STEPS: [(body["trace_id"], index) for index in range(first, last + 1)]})
    rows: dict[str, Sequence[Sequence[Any]]] = {}
    if said["table"] is not None:
        rows[said["table"]] = [said["key"]]
    only = {fact.body.get("protected_commit")} if said["type"] == AUDIT else None
    if only is not None:
        for table, key, commitment in _audited(fact):
            rows[table] = [key]
            only.add(commitment)
    return Scope(rows=rows, only=None if only is None else frozenset(name for name in only if name))


def _audited(fact: Recorded) -> Iterator[tuple[str, list[Any], str]]:
    """Yield the rows without facts of their own that a ledger entry is the fact of."""
    for table, entry in GOVERNED.items():
        image = fact.body.get("after_state")
        if entry.mode != "AUDITED" or entry.types or not entry.key or not entry.protected:
            continue
        if entry.entity != fact.body.get("entity_type") or not isinstance(image, dict):
            continue
        if all(name in image for name in entry.key) and isinstance(image.get("protected_commit"), str):
            yield table, [image[name] for name in entry.key], image["protected_commit"]


def _is_head(entry: Governed) -> bool:
    return entry.mode in ("EVENTED", "AUDITED")


def tables(*, heads: bool) -> list[str]:
    """Return the tables with protected members; of heads in the order in which everybody locks them."""
    names = [name for name, entry in GOVERNED.items() if entry.protected and _is_head(entry) == heads]
    # The tenant's own row is the operator's.
    found = [name for name in names if GOVERNED[name].key]
    return sorted(found, key=lambda name: (name != "runs", name))


def lock_heads(connection: DriverConnection, scope: Scope, *, tenant_id: str) -> list[Held]:
    """Return the rows that others change too, and hold them: before the tenant's state row, as everywhere."""
    return _take(connection, scope, tables(heads=True), tenant_id=tenant_id, most=MAX_ROWS, lock=True)


def list_records(connection: DriverConnection, scope: Scope, *, tenant_id: str, most: int) -> list[Held]:
    """Return the rows that nothing but an erasure changes."""
    return _take(connection, scope, tables(heads=False), tenant_id=tenant_id, most=most, lock=False)


def _take(
    connection: DriverConnection,
    scope: Scope,
    tables: Sequence[str],
    *,
    tenant_id: str,
    most: int,
    lock: bool,
) -> list[Held]:
    found: list[Held] = []
    for table in tables:
        reach = scope.of(table)
        if reach is None or len(found) >= most:
            continue
        names = GOVERNED[table].key
        for row in rows_driver.list_held(
            connection, table, reach, tenant_id=tenant_id, limit=most - len(found), lock=lock
        ):
            if scope.only is None or row["protected_commit"] in scope.only:
                key = tuple(row[name] for name in names)
                found.append(Held(table, key, row["protected_commit"], row["of_run"]))
    return found


def count_left(connection: DriverConnection, scope: Scope, *, tenant_id: str) -> int:
    """Return how many rows of the scope still hold values."""
    if scope.only is not None:
        return 0
    reached = ((table, scope.of(table)) for heads in (True, False) for table in tables(heads=heads))
    return sum(
        rows_driver.count_held(connection, table, reach, tenant_id=tenant_id)
        for table, reach in reached
        if reach is not None
    )


def list_planes(
    connection: DriverConnection, scope: Scope, *, tenant_id: str, plane_ids: Sequence[str]
) -> set[str]:
    """Return those of the planes that rows of the scope are about: accesses and lifecycle events."""
    found: set[str] = set()
    for table in tables(heads=False):
        reach = scope.of(table)
        if reach is not None and "plane_id" in GOVERNED[table].table.c:
            found.update(
                rows_driver.list_planes(connection, table, reach, tenant_id=tenant_id, plane_ids=plane_ids)
            )
    return found


def parts_of(held: Sequence[Held]) -> list[tuple[str | None, list[Held]]]:
    """Return the rows of each record: of one run, so that its proof and its bundle have the fact."""
    parts: list[tuple[str | None, list[Held]]] = []
    ordered = sorted(held, key=lambda row: (row.run_id is not None, row.run_id or ""))
    for run_id, group in groupby(ordered, key=lambda row: row.run_id):
        rows = list(group)
        parts += [
            (run_id, rows[start : start + MAX_COMMITMENTS]) for start in range(0, len(rows), MAX_COMMITMENTS)
        ]
    return parts[:MAX_RECORDS]


def record(
    request: EraseEvidence,
    rows: Sequence[Held],
    *,
    erasure_id: str,
    run_id: str | None,
    requested_by: str,
    now: datetime,
) -> dict[str, Any]:
    """Return the record of an erasure."""
    return {
        "erasure_id": erasure_id,
        "scope": request.scope.value,
        "scope_id": request.scope_id,
        "commitments": dumps([row.commitment for row in rows]),
        "run_id": run_id,
        "reason": request.reason,
        "legal_basis": request.legal_basis,
        "requested_by": requested_by,
        "created_at": now,
    }


def erase(connection: DriverConnection, row: Row, rows: Sequence[Held], *, tenant_id: str) -> None:
    """Store the record and take the values away."""
    driver.insert_erasure(connection, row, tenant_id=tenant_id)
    ordered = sorted(rows, key=lambda held: held.table)
    for table, group in groupby(ordered, key=lambda held: held.table):
        keys = [held.key for held in group]
        erased = rows_driver.set_erased(connection, table, keys, tenant_id=tenant_id, fact_id=row["fact_id"])
        if erased != len(keys):
            raise RuntimeError(f"rows of {table} changed under the tenant's lock")


def list_page(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return the records of erasures, newest first."""
    return driver.list_erasures(connection, tenant_id=tenant_id, run_id=run_id, before=before, limit=limit)


def view(row: Row) -> ErasureView:
    """Return what a caller sees of an erasure: its commitments are in its fact."""
    plain = {name: row[name] for name in (*_VIEWED, "created_at", "fact_id")}
    return ErasureView.model_validate({**plain, "values": len(loads(row["commitments"]))})
