"""Traces L6: the steps of a run within a span of time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.domains.traces.tables import aos_trace_steps, aos_traces

_S = aos_trace_steps.c


def list_between(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    since: datetime,
    until: datetime,
    limit: int,
) -> Sequence[Row]:
    """Return what a run did in [since, until], oldest first."""
    statement = (
        sa.select(_S.trace_id, _S.step_index, _S.skill_name, _S.status, _S.occurred_at)
        .select_from(
            aos_trace_steps.join(
                aos_traces,
                sa.and_(aos_traces.c.tenant_id == _S.tenant_id, aos_traces.c.trace_id == _S.trace_id),
            )
        )
        .where(
            _S.tenant_id == tenant_id,
            aos_traces.c.run_id == run_id,
            _S.occurred_at >= since,
            _S.occurred_at <= until,
        )
        .order_by(_S.occurred_at, _S.trace_id, _S.step_index)
        .limit(limit)
    )
    return connection.execute(statement).mappings().all()
