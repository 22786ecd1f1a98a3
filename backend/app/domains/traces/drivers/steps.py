"""Traces L6: rows of chained steps; one statement for a batch of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSON

from app.db.connection import DriverConnection
from app.db.dialect import among
from app.db.types import BigInt, as_stored
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


def insert_steps(connection: DriverConnection, rows: Sequence[Mapping[str, Any]], *, tenant_id: str) -> None:
    """Insert whole step rows in one statement."""
    batch = [{**row, "tenant_id": tenant_id} for row in rows]
    if connection.dialect_name == "postgresql":
        connection.execute(_INSERT_BATCH, {"batch": batch})
    else:
        connection.execute(_INSERT_ROW, batch)


def list_met(
    connection: DriverConnection,
    *,
    tenant_id: str,
    trace_id: str,
    indices: tuple[int, int] | None,
    external_ids: Sequence[str],
) -> Sequence[Mapping[str, Any]]:
    """Return index, content hash and external id of the steps in an index range or with one of the ids."""
    met: list[sa.ColumnElement[bool]] = []
    if indices is not None:
        met.append(aos_trace_steps.c.step_index.between(*indices))
    if external_ids:
        met.append(among(connection, aos_trace_steps.c.external_id, external_ids))
    statement = sa.select(
        aos_trace_steps.c.step_index, aos_trace_steps.c.content_hash, aos_trace_steps.c.external_id
    ).where(aos_trace_steps.c.tenant_id == tenant_id, aos_trace_steps.c.trace_id == trace_id, sa.or_(*met))
    return connection.execute(statement).mappings().all()


def sum_usage(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Sequence[Mapping[str, Any]]:
    """Return attempt, metric, total, and the total of steps that do not state their TOKENS_TOTAL."""
    usage = aos_trace_steps.c.usage
    if connection.dialect_name == "postgresql":
        each = (
            sa.func.json_each_text(sa.cast(usage, JSON))
            .table_valued("key", "value")
            .render_derived(name="used")
        )
        unstated = sa.func.json_extract_path_text(sa.cast(usage, JSON), "TOKENS_TOTAL").is_(None)
    else:
        each = sa.func.json_each(usage).table_valued("key", "value", name="used")
        unstated = sa.func.json_extract(usage, "$.TOKENS_TOTAL").is_(None)
    amount = sa.cast(each.c.value, BigInt)
    statement = (
        sa.select(
            aos_traces.c.attempt,
            each.c.key.label("metric"),
            sa.cast(sa.func.sum(amount), BigInt).label("total"),
            sa.cast(sa.func.sum(sa.case((unstated, amount), else_=0)), BigInt).label("unstated"),
        )
        .select_from(
            aos_traces.join(
                aos_trace_steps,
                sa.and_(
                    aos_traces.c.tenant_id == aos_trace_steps.c.tenant_id,
                    aos_traces.c.trace_id == aos_trace_steps.c.trace_id,
                ),
            ).join(each, sa.true())
        )
        .where(aos_trace_steps.c.tenant_id == tenant_id, aos_traces.c.run_id == run_id, usage != "{}")
        .group_by(aos_traces.c.attempt, each.c.key)
    )
    return connection.execute(statement).mappings().all()


def list_run_external(
    connection: DriverConnection, *, tenant_id: str, run_id: str, external_ids: Sequence[str]
) -> Sequence[str]:
    """Return which of these external ids the steps of a run bear, whatever the attempt."""
    statement = (
        sa.select(aos_trace_steps.c.external_id)
        .select_from(
            aos_trace_steps.join(
                aos_traces,
                sa.and_(
                    aos_traces.c.tenant_id == aos_trace_steps.c.tenant_id,
                    aos_traces.c.trace_id == aos_trace_steps.c.trace_id,
                ),
            )
        )
        .where(
            aos_trace_steps.c.tenant_id == tenant_id,
            aos_traces.c.run_id == run_id,
            aos_trace_steps.c.external_id.in_(external_ids),
        )
    )
    return connection.scalars(statement).all()


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
