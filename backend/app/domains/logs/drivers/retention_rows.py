"""Logs L6: what stands below a cut of the log, and the runs that it is of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among
from app.db.governed import GOVERNED
from app.db.run_rows import KEPT
from app.domains.logs.tables import (
    audit_ledger,
    log_entries,
    log_leaves,
    run_fact_counters,
)

_L, _E, _A = log_leaves.c, log_entries.c, audit_ledger.c
# When a row was last written, by the first of these columns that its table has.
_WRITTEN = ("updated_at", "created_at", "recorded_at", "occurred_at")


def first_young(
    connection: DriverConnection, *, tenant_id: str, epoch: int, over_age: datetime
) -> int | None:
    """Return the first index whose leaf was written after a moment."""
    statement = (
        sa.select(_E.idx)
        .select_from(_entries_with_leaves())
        .where(_E.tenant_id == tenant_id, _E.epoch == epoch, _L.created_at > over_age)
        .order_by(_E.idx)
        .limit(1)
    )
    return connection.scalars(statement).one_or_none()


def list_leaves(connection: DriverConnection, *, tenant_id: str, epoch: int, cut: int) -> Sequence[Row]:
    """Return the entries below the cut with what their leaves are about, by index."""
    statement = (
        sa.select(
            _E.idx, _E.fact_id, _L.type, _L.ref_table, _L.ref_key, _L.ref_version, _L.run_id, _L.leaf_hash
        )
        .select_from(_entries_with_leaves())
        .where(_E.tenant_id == tenant_id, _E.epoch == epoch, _E.idx < cut)
        .order_by(_E.idx)
    )
    return connection.execute(statement).mappings().all()


def _entries_with_leaves() -> sa.FromClause:
    return log_entries.join(log_leaves, sa.and_(_L.tenant_id == _E.tenant_id, _L.fact_id == _E.fact_id))


def list_runs(connection: DriverConnection, *, tenant_id: str, over_age: datetime) -> Sequence[Row]:
    """Return run_id, run_no, subject_ref, status and closed of the runs that are there since a moment."""
    runs = GOVERNED["runs"].table
    counters = run_fact_counters.c
    statement = (
        sa.select(runs.c.run_id, runs.c.run_no, runs.c.subject_ref, runs.c.status, counters.closed)
        .select_from(
            runs.outerjoin(
                run_fact_counters,
                sa.and_(counters.tenant_id == runs.c.tenant_id, counters.run_id == runs.c.run_id),
            )
        )
        .where(runs.c.tenant_id == tenant_id, runs.c.created_at <= over_age)
        .order_by(runs.c.run_no.desc())
    )
    return connection.execute(statement).mappings().all()


def lock_runs(connection: DriverConnection, *, tenant_id: str, over_age: datetime) -> None:
    """Hold the runs that are there since a moment until the transaction ends."""
    run_id = GOVERNED["runs"].table.c.run_id
    connection.execute(_runs_since(tenant_id, over_age).order_by(run_id).with_for_update())


def lock_counters(connection: DriverConnection, *, tenant_id: str, over_age: datetime) -> None:
    """Hold the counters of the runs that are there since a moment until the transaction ends."""
    counters = run_fact_counters.c
    statement = (
        sa.select(counters.run_id)
        .where(counters.tenant_id == tenant_id, counters.run_id.in_(_runs_since(tenant_id, over_age)))
        .order_by(counters.run_id)
        .with_for_update()
    )
    connection.execute(statement)


def _runs_since(tenant_id: str, over_age: datetime) -> sa.Select[tuple[str]]:
    runs = GOVERNED["runs"].table.c
    return sa.select(runs.run_id).where(runs.tenant_id == tenant_id, runs.created_at <= over_age)


def list_recent_runs(
    connection: DriverConnection,
    *,
    tenant_id: str,
    epoch: int,
    cut: int,
    over_age: datetime,
    records: Sequence[str],
) -> set[str]:
    """Return runs, there since a moment, with a leaf that is not below the cut.

    Leaves of kept tables do not count, nor ledger entries with one of the `records` as entity or event.
    """
    runs = GOVERNED["runs"].table
    entry = sa.and_(_E.tenant_id == _L.tenant_id, _E.epoch == epoch, _E.fact_id == _L.fact_id)
    itself = sa.exists().where(
        _A.tenant_id == _L.tenant_id,
        _A.fact_id == _L.fact_id,
        sa.or_(_A.entity_type.in_(records), _A.event_type.in_(records)),
    )
    statement = (
        sa.select(runs.c.run_id)
        .select_from(
            runs.join(
                log_leaves, sa.and_(_L.tenant_id == runs.c.tenant_id, _L.run_id == runs.c.run_id)
            ).outerjoin(log_entries, entry)
        )
        .where(
            runs.c.tenant_id == tenant_id,
            runs.c.created_at <= over_age,
            sa.or_(_E.idx.is_(None), _E.idx >= cut),
            _L.ref_table.not_in(sorted(KEPT)),
            ~sa.and_(_L.type == "audit", itself),
        )
        .distinct()
    )
    return set(connection.scalars(statement))


def list_records(connection: DriverConnection, *, tenant_id: str, records: Sequence[str]) -> set[str]:
    """Return the facts of ledger entries with one of these as entity or event."""
    statement = sa.select(_A.fact_id).where(
        _A.tenant_id == tenant_id, sa.or_(_A.entity_type.in_(records), _A.event_type.in_(records))
    )
    return set(connection.scalars(statement))


def list_versions(connection: DriverConnection, table: str, *, tenant_id: str) -> Sequence[Row]:
    """Return ref_key, first and newest version of the rows of a table that leaves are about."""
    statement = (
        sa.select(
            _L.ref_key,
            sa.func.min(_L.ref_version).label("first"),
            sa.func.max(_L.ref_version).label("newest"),
        )
        .where(_L.tenant_id == tenant_id, _L.ref_table == table)
        .group_by(_L.ref_key)
    )
    return connection.execute(statement).mappings().all()


def newest_of_type(connection: DriverConnection, *, tenant_id: str, type_name: str) -> str | None:
    """Return the newest fact of a type that has one table."""
    statement = sa.select(sa.func.max(_L.fact_id)).where(_L.tenant_id == tenant_id, _L.type == type_name)
    return connection.scalars(statement).one_or_none()


def list_ledger(connection: DriverConnection, entity: str, *, tenant_id: str) -> Sequence[Row]:
    """Return entity_id and fact_id of all ledger entries about a kind of entity, newest first."""
    statement = (
        sa.select(_A.entity_id, _A.fact_id)
        .where(_A.tenant_id == tenant_id, _A.entity_type == entity)
        .order_by(_A.created_at.desc(), _A.entry_id.desc())
    )
    return connection.execute(statement).mappings().all()


def list_states(
    connection: DriverConnection, fact_ids: Sequence[str], *, tenant_id: str
) -> dict[str, tuple[str | None, str | None]]:
    """Return run and after_state of the ledger entries with these facts."""
    statement = (
        sa.select(_A.fact_id, _L.run_id, _A.after_state)
        .select_from(
            audit_ledger.join(log_leaves, sa.and_(_L.tenant_id == _A.tenant_id, _L.fact_id == _A.fact_id))
        )
        .where(_A.tenant_id == tenant_id, among(connection, _A.fact_id, fact_ids))
    )
    return {row[0]: (row[1], row[2]) for row in connection.execute(statement)}


def list_keys(
    connection: DriverConnection, table: str, column: str | None, *, tenant_id: str
) -> Sequence[Row]:
    """Return the keys of all rows of a table, and as `of_run` the run that a column names."""
    entry = GOVERNED[table]
    rows = entry.table.c
    run = sa.null() if column is None else rows[column]
    statement = sa.select(*(rows[name] for name in entry.key), run.label("of_run"))
    return connection.execute(statement.where(rows.tenant_id == tenant_id)).mappings().all()


def count_over_age_values(
    connection: DriverConnection, table: str, *, tenant_id: str, over_age: datetime
) -> int:
    """Return how many rows of a table hold values and were last written before a moment."""
    rows = GOVERNED[table].table.c
    written = next(rows[name] for name in _WRITTEN if name in rows)
    statement = (
        sa.select(sa.func.count())
        .select_from(GOVERNED[table].table)
        .where(rows.tenant_id == tenant_id, rows.protected_salt.is_not(None), written <= over_age)
    )
    return int(connection.scalars(statement).one())


def list_runs_of_records(connection: DriverConnection, *, tenant_id: str, records: Sequence[str]) -> set[str]:
    """Return the runs that ledger entries name which stay for themselves: a key holds them there."""
    statement = sa.select(_A.run_id).where(
        _A.tenant_id == tenant_id,
        _A.run_id.is_not(None),
        sa.or_(_A.entity_type.in_(records), _A.event_type.in_(records)),
    )
    return set(connection.scalars(statement))
