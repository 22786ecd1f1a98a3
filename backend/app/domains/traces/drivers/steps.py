"""Traces L6: rows of chained steps; one statement for a batch of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSON

from app.db.connection import DriverConnection
from app.db.types import as_stored
from app.domains.traces.tables import aos_trace_steps, aos_traces

_ALL = tuple(aos_trace_steps.c)
_RAW = tuple(as_stored(column) for column in _ALL)
_NAMES = [column.name for column in _ALL]
# PostgreSQL takes a batch as one JSON parameter: a multi-row VALUES of 1000 steps would have 33 000.
_BATCH = (
    sa.func.json_to_recordset(sa.bindparam("batch", type_=JSON))
    .table_valued(*(sa.column(column.name, column.type) for column in _ALL))
    .render_derived(name="batch", with_types=True)
)
_INSERT_BATCH = aos_trace_steps.insert().from_select(
    _NAMES, sa.select(*(_BATCH.c[name] for name in _NAMES)), include_defaults=False
)
_INSERT_ROW = aos_trace_steps.insert()
_HEAD = (
    "trace_id",
    "attempt",
    "genesis_hash",
    "status",
    "head_hash",
    "step_count",
    "input_tokens",
    "output_tokens",
    "cost_micro",
)
_OVERLAP = (
    sa.select(
        *(aos_traces.c[name] for name in _HEAD), aos_trace_steps.c.step_index, aos_trace_steps.c.content_hash
    )
    .select_from(
        aos_traces.outerjoin(
            aos_trace_steps,
            sa.and_(
                aos_trace_steps.c.tenant_id == aos_traces.c.tenant_id,
                aos_trace_steps.c.trace_id == aos_traces.c.trace_id,
                aos_trace_steps.c.step_index.between(sa.bindparam("first"), sa.bindparam("last")),
            ),
        )
    )
    .where(
        aos_traces.c.tenant_id == sa.bindparam("tenant"),
        aos_traces.c.run_id == sa.bindparam("run"),
        aos_traces.c.attempt == sa.bindparam("number"),
    )
)


def insert_steps(connection: DriverConnection, rows: Sequence[Mapping[str, Any]], *, tenant_id: str) -> None:
    """Insert whole step rows in one statement."""
    batch = [{**row, "tenant_id": tenant_id} for row in rows]
    if connection.dialect_name == "postgresql":
        connection.execute(_INSERT_BATCH, {"batch": batch})
    else:
        connection.execute(_INSERT_ROW, batch)


def list_overlap(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    attempt: int,
    first_index: int,
    last_index: int,
) -> Sequence[Mapping[str, Any]]:
    """Return the head of an attempt's trace beside each of its steps in the index range.

    One row with null step columns when no step meets them, none when the trace does not exist.
    """
    given = {
        "tenant": tenant_id,
        "run": run_id,
        "number": attempt,
        "first": first_index,
        "last": last_index,
    }
    return connection.execute(_OVERLAP, given).mappings().all()


def list_external(
    connection: DriverConnection, *, tenant_id: str, trace_id: str, external_ids: Sequence[str]
) -> Sequence[Mapping[str, Any]]:
    """Return step_index and external_id of a trace's steps that bear one of these external ids."""
    statement = sa.select(aos_trace_steps.c.step_index, aos_trace_steps.c.external_id).where(
        aos_trace_steps.c.tenant_id == tenant_id,
        aos_trace_steps.c.trace_id == trace_id,
        aos_trace_steps.c.external_id.in_(external_ids),
    )
    return connection.execute(statement).mappings().all()


def list_steps(
    connection: DriverConnection,
    *,
    tenant_id: str,
    trace_id: str,
    status: str | None,
    after: int,
    limit: int,
) -> Sequence[Mapping[str, Any]]:
    """Return whole rows beyond index `after`, in order, of one status if given."""
    statement = sa.select(*_ALL).where(
        aos_trace_steps.c.tenant_id == tenant_id,
        aos_trace_steps.c.trace_id == trace_id,
        aos_trace_steps.c.step_index > after,
    )
    if status is not None:
        statement = statement.where(aos_trace_steps.c.status == status)
    return connection.execute(statement.order_by(aos_trace_steps.c.step_index).limit(limit)).mappings().all()


def list_run_steps(
    connection: DriverConnection, *, tenant_id: str, run_id: str, raw: bool = False
) -> Sequence[Mapping[str, Any]]:
    """Return the whole rows of all steps of a run, by attempt and index; `raw` as they are stored."""
    statement = (
        sa.select(*(_RAW if raw else _ALL))
        .select_from(
            aos_trace_steps.join(
                aos_traces,
                sa.and_(
                    aos_traces.c.tenant_id == aos_trace_steps.c.tenant_id,
                    aos_traces.c.trace_id == aos_trace_steps.c.trace_id,
                ),
            )
        )
        .where(aos_trace_steps.c.tenant_id == tenant_id, aos_traces.c.run_id == run_id)
        .order_by(aos_traces.c.attempt, aos_trace_steps.c.step_index)
    )
    return connection.execute(statement).mappings().all()
