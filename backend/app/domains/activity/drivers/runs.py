"""Activity L6: rows of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import different, insert
from app.db.hot import HotStatement
from app.db.newest import newest
from app.domains.activity.tables import runs

_ALL = tuple(runs.c)
# Written out: the partial index of what is due serves no parameter.
_RUNNING = runs.c.status == sa.literal_column("'running'")
# Built once, for the paths that run most.
_ONE = HotStatement(
    sa.select(*_ALL).where(runs.c.tenant_id == sa.bindparam("tenant"), runs.c.run_id == sa.bindparam("run"))
)

# FOR NO KEY UPDATE: rows that merely refer to the run do not wait for it.
_LOCK_STATE = (
    sa.select(runs.c.status, runs.c.attempt)
    .where(runs.c.tenant_id == sa.bindparam("tenant"), runs.c.run_id == sa.bindparam("run"))
    .with_for_update(key_share=True)
)


def get_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Mapping[str, Any] | None:
    """Return the whole row of a run, without a lock."""
    return next(iter(connection.hot(_ONE, {"tenant": tenant_id, "run": run_id})), None)


def lock_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Mapping[str, Any] | None:
    """Return the whole row of a run and hold it against other writers until the end of the transaction."""
    # FOR NO KEY UPDATE: rows that merely refer to the run do not wait for it.
    statement = (
        sa.select(*_ALL)
        .where(runs.c.tenant_id == tenant_id, runs.c.run_id == run_id)
        .with_for_update(key_share=True)
    )
    return connection.execute(statement).mappings().one_or_none()


def lock_run_state(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Mapping[str, Any] | None:
    """Return status and attempt of a run and hold it like `lock_run`; narrow, for the hot path."""
    return connection.execute(_LOCK_STATE, {"tenant": tenant_id, "run": run_id}).mappings().one_or_none()


def list_known(
    connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]
) -> Sequence[Mapping[str, Any]]:
    """Return the whole rows of those of the run ids that exist."""
    statement = sa.select(*_ALL).where(runs.c.tenant_id == tenant_id, runs.c.run_id.in_(run_ids))
    return connection.execute(statement).mappings().all()


def list_statuses(
    connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]
) -> Sequence[Mapping[str, Any]]:
    """Return run_id and status of those of the run ids that exist."""
    statement = sa.select(runs.c.run_id, runs.c.status).where(
        runs.c.tenant_id == tenant_id, runs.c.run_id.in_(run_ids)
    )
    return connection.execute(statement).mappings().all()


def count_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> int:
    """Return 1 when the run exists, else 0."""
    statement = sa.select(runs.c.run_no).where(runs.c.tenant_id == tenant_id, runs.c.run_id == run_id)
    return len(connection.execute(statement).all())


def insert_run(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> bool:
    """Insert a run; return False when its id is taken."""
    # The row count of an INSERT is not told on PostgreSQL; what it returns is.
    statement = (
        insert(connection, runs)
        .on_conflict_do_nothing(index_elements=[runs.c.tenant_id, runs.c.run_id])
        .returning(runs.c.run_id)
    )
    return connection.execute(statement, {**row, "tenant_id": tenant_id}).one_or_none() is not None


def set_run(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    expected_status: str,
    expected_attempt: int,
    values: Mapping[str, Any],
    raised: Mapping[str, Any],
) -> Mapping[str, Any] | None:
    """Change a run that is still in this status and attempt, and return it; None when it moved on.

    `raised` are the projections that go up with it (see `raise_projections`).
    """
    statement = (
        sa.update(runs)
        .where(
            runs.c.tenant_id == tenant_id,
            runs.c.run_id == run_id,
            runs.c.status == expected_status,
            runs.c.attempt == expected_attempt,
        )
        .values({**values, **_raised(**raised), "version": runs.c.version + 1})
        .returning(*_ALL)
    )
    return connection.execute(statement).mappings().one_or_none()


def raise_projections(
    connection: DriverConnection, *, tenant_id: str, run_id: str, raised: Mapping[str, Any], now: datetime
) -> None:
    """Raise what a run's row tells of its incidents, lessons and risk; nothing of it ever falls."""
    statement = (
        sa.update(runs)
        .where(runs.c.tenant_id == tenant_id, runs.c.run_id == run_id)
        .values({**_raised(**raised), "updated_at": now, "version": runs.c.version + 1})
    )
    connection.execute(statement)


def _raised(
    *, incidents: int = 0, drafts: int = 0, violation: bool = False, ranks: Mapping[str, int], risk: str
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if incidents:
        values["incident_count"] = runs.c.incident_count + incidents
    if drafts:
        values["policy_draft_count"] = runs.c.policy_draft_count + drafts
    if violation:
        values["policy_violation"] = True
    lower = [word for word, rank in ranks.items() if rank < ranks[risk]]
    if lower:
        values["risk_level"] = sa.case((runs.c.risk_level.in_(lower), risk), else_=runs.c.risk_level)
    return values


def list_runs(
    connection: DriverConnection,
    *,
    tenant_id: str,
    filters: Mapping[str, Any],
    started_after: datetime | None,
    started_before: datetime | None,
    after: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Mapping[str, Any]]:
    """Return whole rows, newest first, that equal `filters` and start in (after, before)."""
    statement = sa.select(*_ALL).where(runs.c.tenant_id == tenant_id)
    if started_after is not None:
        statement = statement.where(runs.c.started_at > started_after)
    if started_before is not None:
        statement = statement.where(runs.c.started_at < started_before)
    page = newest(statement, runs.c.started_at, runs.c.run_id, equal=filters, before=after, limit=limit)
    return connection.execute(page).mappings().all()


def list_due(
    connection: DriverConnection, *, tenant_id: str, now: datetime, limit: int
) -> Sequence[Mapping[str, Any]]:
    """Return running runs past their deadline, oldest deadline first; those that others hold are left out."""
    statement = (
        sa.select(*_ALL)
        .where(runs.c.tenant_id == tenant_id, _RUNNING, runs.c.deadline_at < now)
        .order_by(runs.c.deadline_at, runs.c.run_id)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    )
    return connection.execute(statement).mappings().all()


def list_tenants_due(
    connection: DriverConnection, *, now: datetime
) -> Sequence[str]:  # gate: DRV-006 - maintenance serves all tenants
    """Return the tenants that have running runs past their deadline."""
    late = sa.and_(_RUNNING, runs.c.deadline_at < now)
    due = sa.select(runs.c.tenant_id).where(late)  # gate: SCOPE-001 - all tenants
    return connection.scalars(different(due)).all()
