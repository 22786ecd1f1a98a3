"""Activity L6: what rows of runs tell of their incidents, lessons and risk."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among, bytewise
from app.domains.activity.tables import runs

_TOLD = (
    runs.c.run_id,
    runs.c.status,
    runs.c.attempt,
    runs.c.risk_level,
    runs.c.policy_violation,
    runs.c.policy_draft_count,
    runs.c.incident_count,
)


def list_projections(
    connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]
) -> Sequence[Row]:
    """Return the projections of these runs, with status and attempt."""
    statement = sa.select(*_TOLD).where(
        runs.c.tenant_id == tenant_id, among(connection, runs.c.run_id, run_ids)
    )
    return connection.execute(statement).mappings().all()


def list_governed(connection: DriverConnection, *, tenant_id: str, after: str, limit: int) -> Sequence[Row]:
    """Return run_id and policy_snapshot_id of runs by id, after one of them."""
    run_id = bytewise(connection, runs.c.run_id)
    statement = (
        sa.select(runs.c.run_id, runs.c.policy_snapshot_id)
        .where(runs.c.tenant_id == tenant_id, run_id > after)
        .order_by(run_id)
        .limit(limit)
    )
    return connection.execute(statement).mappings().all()
