"""Logs L6: fact counters of runs and leaves of the tenant's log (the last statements of a transaction)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among
from app.db.hot import HotStatement
from app.db.types import as_stored
from app.domains.logs.tables import log_leaves, run_fact_counters
from app.kernel.canonical_json import dumps

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
# On PostgreSQL counting and writing are one statement: each statement's text lacks nothing but its number,
# and the leaf's hash (RFC 6962 section 2.1) follows from the text.
_APPEND_COUNTED = HotStatement(
    sa.text(
        """
        WITH counted AS (
            UPDATE run_fact_counters SET fact_count = fact_count + CAST(:added AS bigint)
            WHERE tenant_id = :tenant AND run_id = :run AND NOT closed
            RETURNING fact_count - CAST(:added AS bigint) AS before
        ), numbered AS (
            SELECT fact.*, counted.before + fact.place AS number,
                fact.head || CAST(counted.before + fact.place AS text) || fact.tail AS said
            FROM counted CROSS JOIN json_to_recordset(CAST(:facts AS json)) AS fact(
                fact_id text, type text, v integer, ref_table text, ref_key text, ref_version bigint,
                attempt integer, place bigint, head text, tail text)
        )
        INSERT INTO log_leaves (tenant_id, fact_id, type, v, ref_table, ref_key, ref_version, run_id,
            attempt, fact_no, late, statement, leaf_hash, created_at)
        SELECT :tenant, fact_id, type, v, ref_table, ref_key, ref_version, :run, attempt, number, false,
            said, encode(sha256('\\x00'::bytea || convert_to(said, 'UTF8')), 'hex'),
            CAST(:now AS timestamptz)
        FROM numbered RETURNING fact_no
        """
    )
    .bindparams(
        sa.bindparam("now", type_=log_leaves.c.created_at.type), sa.bindparam("tenant", type_=sa.Text)
    )
    .columns(fact_no=sa.Integer)
)
_LEAF = (
    log_leaves.c.fact_id,
    log_leaves.c.type,
    log_leaves.c.v,
    log_leaves.c.ref_table,
    log_leaves.c.ref_key,
    log_leaves.c.ref_version,
    log_leaves.c.run_id,
    log_leaves.c.attempt,
    log_leaves.c.fact_no,
    log_leaves.c.late,
    log_leaves.c.statement,
    log_leaves.c.leaf_hash,
    log_leaves.c.created_at,
)
_RAW_LEAF = tuple(as_stored(column) for column in _LEAF)
_COUNTER = (_counters.fact_count, _counters.late_count, _counters.closed)
_RAW_COUNTER = tuple(as_stored(column) for column in _COUNTER)


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


def append_counted(
    connection: DriverConnection,
    facts: Sequence[Mapping[str, Any]],
    *,
    tenant_id: str,
    run_id: str,
    now: datetime,
) -> bool:
    """Number facts of one open run and insert their leaves, in one statement, on PostgreSQL alone.

    Each has `place`, from 1, and its statement's text in front of (`head`) and behind (`tail`) the number.
    False, and nothing done, when the run's counter is closed or unknown.
    """
    given = {"tenant": tenant_id, "run": run_id, "added": len(facts), "facts": dumps(list(facts)), "now": now}
    return len(connection.hot(_APPEND_COUNTED, given)) == len(facts)


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


def list_leaves(
    connection: DriverConnection, *, tenant_id: str, run_id: str, raw: bool = False
) -> Sequence[Row]:
    """Return a run's leaves, facts before late facts, by number; `raw` as they are stored."""
    statement = (
        sa.select(*(_RAW_LEAF if raw else _LEAF))
        .where(log_leaves.c.tenant_id == tenant_id, log_leaves.c.run_id == run_id)
        .order_by(log_leaves.c.late, log_leaves.c.fact_no)
    )
    return connection.execute(statement).mappings().all()


def list_known(
    connection: DriverConnection, fact_ids: Sequence[str], *, tenant_id: str, raw: bool = False
) -> Sequence[Row]:
    """Return those of these leaves that there are; `raw` as they are stored."""
    statement = sa.select(*(_RAW_LEAF if raw else _LEAF)).where(
        log_leaves.c.tenant_id == tenant_id, among(connection, log_leaves.c.fact_id, fact_ids)
    )
    return connection.execute(statement).mappings().all()


def get_counter(
    connection: DriverConnection, *, tenant_id: str, run_id: str, raw: bool = False
) -> Row | None:
    """Return fact_count, late_count and closed of a run; `raw` as they are stored."""
    statement = sa.select(*(_RAW_COUNTER if raw else _COUNTER)).where(
        run_fact_counters.c.tenant_id == tenant_id, run_fact_counters.c.run_id == run_id
    )
    return connection.execute(statement).mappings().one_or_none()
