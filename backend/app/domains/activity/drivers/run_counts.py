"""Activity L6: SQL of runs by what governs them, and of evaluations across runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among
from app.db.newest import newest
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
    equal: Mapping[str, Any],
    before: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return evaluations, newest first, before a (created_at, evaluation_id)."""
    mine = sa.select(*policy_evaluations.columns).where(_E.tenant_id == tenant_id)
    page = newest(mine, _E.created_at, _E.evaluation_id, equal=equal, before=before, limit=limit)
    return connection.execute(page).mappings().all()
