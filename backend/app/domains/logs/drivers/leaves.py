"""Logs L6: fact counters of runs and leaves of the tenant's log (the last statements of a transaction)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.domains.logs.tables import log_leaves, run_fact_counters

_counters = run_fact_counters.c
# Built once: every governed write ends with them.
_COUNT_FACTS = (
    run_fact_counters.update()
    .where(
        _counters.tenant_id == sa.bindparam("tenant"),
        _counters.run_id == sa.bindparam("run"),
        _counters.closed.is_(False),
    )
    .values(
        fact_count=_counters.fact_count + sa.bindparam("added", type_=_counters.fact_count.type),
        closed=sa.bindparam("close"),
    )
    .returning(_counters.fact_count)
)
_COUNT_LATE_FACTS = (
    run_fact_counters.update()
    .where(_counters.tenant_id == sa.bindparam("tenant"), _counters.run_id == sa.bindparam("run"))
    .values(late_count=_counters.late_count + sa.bindparam("added", type_=_counters.late_count.type))
    .returning(_counters.late_count)
)
_INSERT_LEAF = log_leaves.insert()


def insert_counter(connection: DriverConnection, *, tenant_id: str, run_id: str, fact_count: int) -> None:
    """Insert the counter of a run that starts here."""
    connection.execute(
        run_fact_counters.insert().values(
            tenant_id=tenant_id, run_id=run_id, fact_count=fact_count, late_count=0, closed=False
        )
    )


def count_facts(
    connection: DriverConnection, *, tenant_id: str, run_id: str, count: int, close: bool
) -> int | None:
    """Add to an open counter, closing it when asked; return the new count, None when closed or unknown."""
    given = {"tenant": tenant_id, "run": run_id, "added": count, "close": close}
    return connection.scalars(_COUNT_FACTS, given).one_or_none()


def count_late_facts(connection: DriverConnection, *, tenant_id: str, run_id: str, count: int) -> int | None:
    """Add to the late count of a run; return it, None when the run is unknown."""
    given = {"tenant": tenant_id, "run": run_id, "added": count}
    return connection.scalars(_COUNT_LATE_FACTS, given).one_or_none()


def insert_leaves(connection: DriverConnection, rows: Sequence[Mapping[str, Any]], *, tenant_id: str) -> None:
    """Insert leaves, all of one tenant, in one statement."""
    connection.execute(_INSERT_LEAF, [{**row, "tenant_id": tenant_id} for row in rows])


def count_types(connection: DriverConnection, *, tenant_id: str, run_id: str) -> dict[str, int]:
    """Return the number of each type over the numbered facts of a run."""
    rows = connection.execute(
        sa.select(log_leaves.c.type, sa.func.count())
        .where(
            log_leaves.c.tenant_id == tenant_id, log_leaves.c.run_id == run_id, log_leaves.c.late.is_(False)
        )
        .group_by(log_leaves.c.type)
    )
    return {row.type: row[1] for row in rows}


def list_leaves(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Sequence[Row]:
    """Return a run's leaves, facts before late facts, by number."""
    return (
        connection.execute(
            sa.select(
                log_leaves.c.fact_id,
                log_leaves.c.type,
                log_leaves.c.v,
                log_leaves.c.ref_table,
                log_leaves.c.ref_key,
                log_leaves.c.attempt,
                log_leaves.c.fact_no,
                log_leaves.c.late,
                log_leaves.c.statement,
                log_leaves.c.leaf_hash,
            )
            .where(log_leaves.c.tenant_id == tenant_id, log_leaves.c.run_id == run_id)
            .order_by(log_leaves.c.late, log_leaves.c.fact_no)
        )
        .mappings()
        .all()
    )


def get_counter(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Row | None:
    """Return fact_count, late_count and closed of a run."""
    return (
        connection.execute(
            sa.select(
                run_fact_counters.c.fact_count, run_fact_counters.c.late_count, run_fact_counters.c.closed
            ).where(run_fact_counters.c.tenant_id == tenant_id, run_fact_counters.c.run_id == run_id)
        )
        .mappings()
        .one_or_none()
    )
