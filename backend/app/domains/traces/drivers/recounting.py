"""Traces L6: what digests of steps and totals of open traces are recounted from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among
from app.db.types import BigInt
from app.domains.traces.tables import aos_trace_steps, aos_traces

_S, _T = aos_trace_steps.c, aos_traces.c
_STEP = tuple(
    column
    for column in aos_trace_steps.columns
    if column.name not in ("tenant_id", "prev_hash", "step_hash", "protected_salt", "protected_commit")
)
_TOTALS = (_T.trace_id, _T.run_id, _T.attempt, _T.input_tokens, _T.output_tokens, _T.cost_micro)


def list_stretches(
    connection: DriverConnection,
    *,
    tenant_id: str,
    stretches: Mapping[str, tuple[int, int]],
) -> Sequence[Row]:
    """Return steps with their content and its digest: of each trace from one index to another."""
    wanted = [
        sa.and_(_S.trace_id == trace_id, _S.step_index.between(first, last))
        for trace_id, (first, last) in stretches.items()
    ]
    statement = sa.select(*_STEP).where(_S.tenant_id == tenant_id, sa.or_(*wanted))
    return connection.execute(statement).mappings().all()


def list_open(connection: DriverConnection, *, tenant_id: str, trace_ids: Sequence[str]) -> Sequence[Row]:
    """Return the totals of those of these traces that are open."""
    statement = sa.select(*_TOTALS).where(
        _T.tenant_id == tenant_id, among(connection, _T.trace_id, trace_ids), _T.status == "OPEN"
    )
    return connection.execute(statement).mappings().all()


def list_used(connection: DriverConnection, *, tenant_id: str, trace_ids: Sequence[str]) -> Sequence[Row]:
    """Return usage and cost of steps by trace; those that report no use are summed up in one row."""
    mine = (_S.tenant_id == tenant_id, among(connection, _S.trace_id, trace_ids))
    silent = (
        sa.select(
            _S.trace_id,
            sa.cast(sa.func.sum(_S.cost_micro), BigInt).label("cost_micro"),
            sa.literal("{}").label("usage"),
        )
        .where(*mine, _S.usage == "{}")
        .group_by(_S.trace_id)
    )
    telling = sa.select(_S.trace_id, _S.cost_micro, sa.cast(_S.usage, sa.Text)).where(*mine, _S.usage != "{}")
    return connection.execute(sa.union_all(silent, telling)).mappings().all()


def list_of_runs(connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]) -> Sequence[Row]:
    """Return run_id, attempt, trace_id, step_index and usage of all steps of these runs."""
    statement = (
        sa.select(_T.run_id, _T.attempt, _S.trace_id, _S.step_index, _S.usage)
        .select_from(
            aos_traces.join(
                aos_trace_steps, sa.and_(_T.tenant_id == _S.tenant_id, _T.trace_id == _S.trace_id)
            )
        )
        .where(_T.tenant_id == tenant_id, among(connection, _T.run_id, run_ids))
    )
    return connection.execute(statement).mappings().all()
