"""Logs L6: rows of any governed table that still hold protected values, and taking the values away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.governed import GOVERNED, Governed, ref_key_of
from app.domains.logs.tables import log_leaves

_RUNS, _TRACES, _STEPS = "runs", "aos_traces", "aos_trace_steps"
# When a head was last written to, or a step.
_WRITTEN = ("updated_at", "recorded_at")


@dataclass(frozen=True, slots=True)
class Reach:
    """Which rows are meant: those of runs, of all runs about a subject, or rows named by table and key.

    Of these, with `until`, the ones that nothing has written to since that moment; a record is never written
    to, so that whoever names it answers for its age.
    """

    run_ids: Sequence[str] = ()
    subject_ref: str | None = None
    keys: Sequence[Sequence[Any]] | None = None
    until: datetime | None = None


def list_held(
    connection: DriverConnection, table: str, reach: Reach, *, tenant_id: str, limit: int, lock: bool
) -> Sequence[Row]:
    """Return key, commitment and run of rows that hold values, by key; locked against writers if asked."""
    entry = GOVERNED[table]
    source, run = _source(entry, tenant_id)
    key = [entry.table.c[name] for name in entry.key]
    statement = (
        sa.select(*key, entry.table.c.protected_commit, run.label("of_run"))
        .select_from(source)
        .where(*_holding(entry, reach, run, tenant_id))
        .order_by(*key)
        .limit(limit)
    )
    if lock:
        statement = statement.with_for_update(of=entry.table, key_share=True)
    return connection.execute(statement).mappings().all()


def count_held(connection: DriverConnection, table: str, reach: Reach, *, tenant_id: str) -> int:
    """Return how many rows hold values."""
    entry = GOVERNED[table]
    source, run = _source(entry, tenant_id)
    statement = sa.select(sa.func.count()).select_from(source).where(*_holding(entry, reach, run, tenant_id))
    return int(connection.scalars(statement).one())


def list_planes(
    connection: DriverConnection, table: str, reach: Reach, *, tenant_id: str, plane_ids: Sequence[str]
) -> Sequence[str]:
    """Return those of the planes that rows with values are about."""
    entry = GOVERNED[table]
    source, run = _source(entry, tenant_id)
    plane = entry.table.c.plane_id
    statement = (
        sa.select(plane)
        .distinct()
        .select_from(source)
        .where(*_holding(entry, reach, run, tenant_id), plane.in_(plane_ids))
    )
    return connection.scalars(statement).all()


def set_erased(
    connection: DriverConnection, table: str, keys: Sequence[Sequence[Any]], *, tenant_id: str, fact_id: str
) -> int:
    """Take the values and the salt of rows away and name the erasure; return how many rows changed."""
    entry = GOVERNED[table]
    rows = entry.table
    gone = dict.fromkeys((*entry.protected, "protected_salt"))
    statement = (
        rows.update()
        .where(rows.c.tenant_id == tenant_id, rows.c.protected_salt.is_not(None), *_named(entry, keys))
        .values(**gone, erased_fact_id=fact_id)
    )
    return connection.execute(statement).rowcount


def _holding(
    entry: Governed, reach: Reach, run: sa.ColumnElement[Any], tenant_id: str
) -> list[sa.ColumnElement[bool]]:
    rows = entry.table
    found = [rows.c.tenant_id == tenant_id, rows.c.protected_salt.is_not(None)]
    if reach.until is not None:
        found += [rows.c[name] <= reach.until for name in _WRITTEN if name in rows.c]
    if reach.keys is not None:
        return [*found, *_named(entry, reach.keys)]
    if "fact_id" not in rows.c and entry.types:
        # Heads with facts of their own: found by the run's leaves, which name them by key.
        leaves = log_leaves.c
        named = sa.select(sa.func.substr(leaves.ref_key, 3, sa.func.length(leaves.ref_key) - 4)).where(
            leaves.tenant_id == tenant_id,
            leaves.ref_table == rows.name,
            _of_runs(leaves.run_id, reach, tenant_id),
        )
        return [*found, rows.c[entry.key[0]].in_(named)]
    return [*found, _of_runs(run, reach, tenant_id)]


def _of_runs(run: sa.ColumnElement[Any], reach: Reach, tenant_id: str) -> sa.ColumnElement[bool]:
    if reach.run_ids:
        return run.in_(reach.run_ids)
    runs = GOVERNED[_RUNS].table
    mine = sa.select(runs.c.run_id).where(
        runs.c.tenant_id == tenant_id, runs.c.subject_ref == reach.subject_ref
    )
    return run.in_(mine)


def _named(entry: Governed, keys: Sequence[Sequence[Any]]) -> list[sa.ColumnElement[bool]]:
    columns = [entry.table.c[name] for name in entry.key]
    if not columns:
        return []
    if len(columns) == 1:
        return [columns[0].in_([key[0] for key in keys])]
    return [sa.tuple_(*columns).in_([tuple(key) for key in keys])]


def _source(entry: Governed, tenant_id: str) -> tuple[sa.FromClause, sa.ColumnElement[Any]]:
    """Return where to look for a table's rows, and the run whose proof opens their values."""
    rows, leaves = entry.table, log_leaves
    if "fact_id" in rows.c:
        mine = sa.and_(leaves.c.tenant_id == tenant_id, leaves.c.fact_id == rows.c.fact_id)
        return rows.join(leaves, mine), leaves.c.run_id
    if rows.name == _STEPS:
        traces = GOVERNED[_TRACES].table
        chain = sa.and_(traces.c.tenant_id == tenant_id, traces.c.trace_id == rows.c.trace_id)
        return rows.join(traces, chain), traces.c.run_id
    if entry.types:
        stated = (
            sa.select(sa.func.max(leaves.c.run_id))
            .where(
                leaves.c.tenant_id == tenant_id,
                leaves.c.ref_table == rows.name,
                leaves.c.ref_key == ref_key_of(entry),
            )
            .scalar_subquery()
        )
        return rows, stated
    return rows, rows.c.source_run_id if "source_run_id" in rows.c else sa.null()
