"""Logs L5: which rows the next leaves of a log are about, as far as these are over age."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from app.db.connection import DriverConnection, Row
from app.db.governed import GOVERNED
from app.domains.logs.drivers import value_sweeps as driver
from app.domains.logs.engines.erasure import AUDIT, EXTENDED, Held, Scope, tables
from app.domains.logs.models.erasure import HoldScope
from app.domains.logs.models.retention import DEFAULT_DAYS
from app.kernel.canonical_json import loads

RUNS = "runs"
LEAVES_AT_ONCE = 1000
# A tenant is asked once a day: what is due then was due for less than a day.
ONCE = timedelta(days=1)


class Part(NamedTuple):
    """The rows of one record, and the run that they are of; of none, the fact of the first of them."""

    run_id: str | None
    fact_id: str
    rows: Sequence[Held]


@dataclass(slots=True)
class Slice:
    """Some leaves in the order of their ids: what they are about, and the last of them."""

    rows: dict[str, dict[tuple[Any, ...], str]] = field(default_factory=dict)
    stepped: set[str] = field(default_factory=set)
    last: str | None = None
    more: bool = False

    def scope(self, until: datetime, *, without: Collection[str] = ()) -> Scope:
        """Return the rows, as far as nothing has written to them since; no steps of some of the runs."""
        named = {table: list(keys) for table, keys in self.rows.items()}
        return Scope(rows=named, steps_of=sorted(self.stepped.difference(without)), until=until)

    def run_ids(self) -> set[str]:
        """Return the runs that the leaves belong to."""
        return {str(key[0]) for key in self.rows.get(RUNS, ())}

    def fact_of(self, held: Held) -> str:
        """Return the newest of the leaves that is about a row."""
        return self.rows[held.table][held.key]


def list_tenants_due(connection: DriverConnection, *, now: datetime) -> Sequence[str]:
    """Return the tenants that have something to look at."""
    own = {days: now - timedelta(days=days) - ONCE for days in driver.list_value_days(connection)}
    return driver.list_tenants_due(
        connection,
        before=now - timedelta(days=DEFAULT_DAYS) - ONCE,
        own=own,
        tenant_scope=HoldScope.TENANT,
    )


def lock_position(connection: DriverConnection, *, tenant_id: str) -> str:
    """Return the newest fact that was looked at; who releases a hold waits until the transaction ends."""
    return driver.lock_position(connection, tenant_id=tenant_id) or ""


def set_position(connection: DriverConnection, *, tenant_id: str, fact_id: str | None) -> None:
    """Store the newest fact that was looked at; None to look at everything again."""
    driver.set_position(connection, tenant_id=tenant_id, swept_to=fact_id)


def read_slice(connection: DriverConnection, *, tenant_id: str, after: str, until: datetime) -> Slice:
    """Return what the next leaves are about, up to the first that is not over age."""
    leaves = driver.list_leaves(
        connection, tenant_id=tenant_id, after=after, limit=LEAVES_AT_ONCE, read_types=(AUDIT,)
    )
    found = Slice()
    heads = {GOVERNED[name].key: name for name in tables(heads=True)}
    for leaf in leaves:
        if leaf["created_at"] > until:
            return found
        found.last = leaf["fact_id"]
        if leaf["type"] == EXTENDED:
            found.stepped.add(leaf["run_id"])
        for table, key in _rows_of(leaf, heads):
            found.rows.setdefault(table, {})[key] = leaf["fact_id"]
    found.more = len(leaves) == LEAVES_AT_ONCE
    return found


def _rows_of(leaf: Row, heads: dict[tuple[str, ...], str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the row that a leaf is of, and the heads that it is about: each of its writes has a leaf."""
    if leaf["run_id"] is not None:
        yield RUNS, (leaf["run_id"],)
    entry = GOVERNED.get(leaf["ref_table"] or "")
    if entry is None:
        return
    key = tuple(loads(leaf["ref_key"]))
    if entry.protected and entry.key:
        yield entry.table.name, key
    for name, value in zip(entry.key, key, strict=True):
        if (name,) in heads:
            yield heads[(name,)], (value,)
    if leaf["type"] == AUDIT:
        body = loads(leaf["statement"])["body"]
        for table in heads.values():
            if GOVERNED[table].entity == body["entity_type"]:
                yield table, (body["entity_id"],)


def parts_of(found: Slice, held: Sequence[Held], *, most_records: int, most_rows: int) -> list[Part]:
    """Return what each record is of: rows of one run, or of none."""
    by_run: dict[str, list[Held]] = {}
    for row in held:
        by_run.setdefault(row.run_id or "", []).append(row)
    return [
        Part(run_id or None, "" if run_id else found.fact_of(rows[at]), rows[at : at + most_rows])
        for run_id, rows in sorted(by_run.items())
        for at in range(0, len(rows), most_rows)
    ][:most_records]
