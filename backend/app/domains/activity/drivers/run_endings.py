"""Activity L6: runs that ended lately or should have, with their evaluations, for reconciliation."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among, bytewise
from app.domains.activity.tables import policy_evaluations, runs

_FACTS = (
    runs.c.run_id,
    runs.c.status,
    runs.c.attempt,
    runs.c.started_at,
    runs.c.deadline_at,
    runs.c.completed_at,
)


def _overdue(before: datetime) -> sa.ColumnElement[bool]:
    # Written out: the partial index of what is due serves no parameter.
    return sa.and_(runs.c.status == sa.literal_column("'running'"), runs.c.deadline_at < before)


def _ended(since: datetime, until: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(runs.c.completed_at >= since, runs.c.completed_at < until)


def list_tenants_due(
    connection: DriverConnection, *, since: datetime, until: datetime
) -> Sequence[str]:  # gate: DRV-006 - maintenance serves all tenants
    """Return the tenants with runs that ended in [since, until), or should have before `until`."""
    tenant = runs.c.tenant_id
    ended = sa.select(tenant).where(_ended(since, until))  # gate: SCOPE-001 - all tenants
    overdue = sa.select(tenant).where(_overdue(until))  # gate: SCOPE-001 - all tenants
    return connection.scalars(ended.union(overdue)).all()


def list_overdue(
    connection: DriverConnection, *, tenant_id: str, before: datetime, limit: int
) -> Sequence[Row]:
    """Return running runs whose deadline was before a moment, oldest deadline first."""
    statement = (
        sa.select(*_FACTS)
        .where(runs.c.tenant_id == tenant_id, _overdue(before))
        .order_by(runs.c.deadline_at, runs.c.run_id)
        .limit(limit)
    )
    return connection.execute(statement).mappings().all()


def list_ended(
    connection: DriverConnection,
    *,
    tenant_id: str,
    since: datetime,
    until: datetime,
    after: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return runs that ended in [since, until), oldest end first."""
    run_id = bytewise(connection, runs.c.run_id)
    statement = (
        sa.select(*_FACTS)
        .where(runs.c.tenant_id == tenant_id, _ended(since, until))
        .order_by(runs.c.completed_at, run_id)
        .limit(limit)
    )
    if after is not None:
        at, last = after
        statement = statement.where(
            sa.tuple_(runs.c.completed_at, run_id) > sa.tuple_(sa.literal(at, runs.c.completed_at.type), last)
        )
    return connection.execute(statement).mappings().all()


def list_outcomes(connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]) -> Sequence[Row]:
    """Return run_id, attempt and outcome_kind of the evaluations of these runs, by attempt."""
    statement = (
        sa.select(
            policy_evaluations.c.run_id, policy_evaluations.c.attempt, policy_evaluations.c.outcome_kind
        )
        .where(
            policy_evaluations.c.tenant_id == tenant_id,
            among(connection, policy_evaluations.c.run_id, run_ids),
        )
        .order_by(policy_evaluations.c.attempt)
    )
    return connection.execute(statement).mappings().all()
