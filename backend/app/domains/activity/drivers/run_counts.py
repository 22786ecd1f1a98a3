"""Activity L6: SQL of runs by what governs them, and of evaluations across runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among
from app.domains.activity.tables import policy_evaluations, runs

_E = policy_evaluations.c


def count_governed(
    connection: DriverConnection, *, tenant_id: str, snapshot_ids: Sequence[str], since: datetime
) -> int:
    """Return how many runs started since then under one of these snapshots."""
    statement = sa.select(sa.func.count()).where(
        runs.c.tenant_id == tenant_id,
        runs.c.started_at >= since,
        among(connection, runs.c.policy_snapshot_id, snapshot_ids),
    )
    return int(connection.execute(statement).scalar_one())


def list_evaluations(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str | None,
    after: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return evaluations, newest first, after a (created_at, evaluation_id)."""
    statement = sa.select(*policy_evaluations.columns).where(_E.tenant_id == tenant_id)
    if run_id is not None:
        statement = statement.where(_E.run_id == run_id)
    if after is not None:
        moment, evaluation_id = after
        statement = statement.where(
            sa.or_(_E.created_at < moment, sa.and_(_E.created_at == moment, _E.evaluation_id < evaluation_id))
        )
    statement = statement.order_by(_E.created_at.desc(), _E.evaluation_id.desc()).limit(limit)
    return connection.execute(statement).mappings().all()
