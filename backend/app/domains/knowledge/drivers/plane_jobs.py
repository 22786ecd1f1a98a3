"""L6 SQL of plane jobs: queue, claim, progress and end; every change is one conditional statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import bytewise, insert
from app.db.hot import HotStatement
from app.domains.knowledge.models.vocabulary import (
    JobStatus,
)
from app.domains.knowledge.tables import knowledge_plane_jobs as jobs

# Written out, not bound: only so does the planner see that the partial indexes of open jobs fit, and does
# PostgreSQL find the index of ON CONFLICT once it has prepared the statement.
_OPEN: sa.ColumnElement[bool] = jobs.c.status.in_(
    [sa.literal_column("'QUEUED'"), sa.literal_column("'RUNNING'")]
)
_ONE = HotStatement(
    sa.select(*jobs.c).where(jobs.c.tenant_id == sa.bindparam("tenant"), jobs.c.job_id == sa.bindparam("job"))
)
_NO_LEASE: Mapping[str, None] = {"lease_owner": None, "lease_token": None, "lease_until": None}


Row = Mapping[str, Any]


def insert_job(connection: DriverConnection, *, tenant_id: str, values: Mapping[str, Any]) -> Row | None:
    """Insert a job; None when the plane has an open one."""
    statement = (
        insert(connection, jobs)
        .on_conflict_do_nothing(index_elements=["tenant_id", "plane_id"], index_where=_OPEN)
        .returning(*jobs.c)
    )
    return connection.execute(statement, {**values, "tenant_id": tenant_id}).mappings().one_or_none()


def get_job(connection: DriverConnection, *, tenant_id: str, job_id: str) -> Row | None:
    """Return a job or None."""
    return next(iter(connection.hot(_ONE, {"tenant": tenant_id, "job": job_id})), None)


def get_open_job(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> Row | None:
    """Return the plane's queued or running job or None."""
    statement = sa.select(*jobs.c).where(jobs.c.tenant_id == tenant_id, jobs.c.plane_id == plane_id, _OPEN)
    return connection.execute(statement).mappings().one_or_none()


def get_newest_job(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, job_type: str, since: datetime
) -> Row | None:
    """Return the plane's newest job of a type queued at or after a moment, or None."""
    statement = (
        sa.select(*jobs.c)
        .where(
            jobs.c.tenant_id == tenant_id,
            jobs.c.plane_id == plane_id,
            jobs.c.job_type == job_type,
            jobs.c.created_at >= since,
        )
        .order_by(jobs.c.created_at.desc(), jobs.c.job_id.desc())
        .limit(1)
    )
    return connection.execute(statement).mappings().one_or_none()


def get_newest_result(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, job_types: Sequence[str]
) -> Row | None:
    """Return the result of the plane's newest job of these types that succeeded, or None."""
    statement = (
        sa.select(jobs.c.result)
        .where(
            jobs.c.tenant_id == tenant_id,
            jobs.c.plane_id == plane_id,
            jobs.c.job_type.in_(job_types),
            jobs.c.status == JobStatus.SUCCEEDED.value,
        )
        .order_by(jobs.c.finished_at.desc(), jobs.c.job_id.desc())
        .limit(1)
    )
    return connection.execute(statement).mappings().one_or_none()


def list_jobs(
    connection: DriverConnection, *, tenant_id: str, equal: Mapping[str, str], after: str | None, limit: int
) -> list[Row]:
    """Return jobs newest first by id, filtered by equality of columns."""
    job_id = bytewise(connection, jobs.c.job_id)
    conditions = [jobs.c[name] == value for name, value in equal.items()]
    if after is not None:
        conditions.append(job_id < after)
    statement = (
        sa.select(*jobs.c)
        .where(jobs.c.tenant_id == tenant_id, *conditions)
        .order_by(job_id.desc())
        .limit(limit)
    )
    return list(connection.execute(statement).mappings())


def list_due_jobs(
    connection: DriverConnection,
    *,
    tenant_id: str | None,
    now: datetime,
    limit: int,
) -> list[Row]:
    """Return tenant and job id of open jobs that are due, longest first; no tenant means every tenant."""
    conditions = [] if tenant_id is None else [jobs.c.tenant_id == tenant_id]
    statement = (
        sa.select(jobs.c.tenant_id, jobs.c.job_id)  # gate: SCOPE-001 - a worker polls every tenant's due jobs
        .where(_OPEN, jobs.c.next_attempt_at <= now, *conditions)
        .order_by(jobs.c.next_attempt_at, jobs.c.tenant_id, jobs.c.job_id)
        .limit(limit)
    )
    return list(connection.execute(statement).mappings())


def lock_due_job(
    connection: DriverConnection,
    *,
    tenant_id: str,
    job_id: str,
    now: datetime,
    lease_owner: str,
    lease_token: str,
    lease_until: datetime,
) -> Row | None:
    """Take a due job under a new lease and return it; None when another worker was first."""
    due = (
        sa.select(jobs.c.job_id)
        .where(jobs.c.tenant_id == tenant_id, jobs.c.job_id == job_id, _OPEN, jobs.c.next_attempt_at <= now)
        .with_for_update(skip_locked=True)
    )
    statement = (
        sa.update(jobs)
        .where(jobs.c.tenant_id == tenant_id, jobs.c.job_id == due.scalar_subquery(), _OPEN)
        .values(
            status=JobStatus.RUNNING.value,
            attempt=jobs.c.attempt + 1,
            started_at=sa.func.coalesce(
                jobs.c.started_at, sa.bindparam("started", now, type_=jobs.c.started_at.type)
            ),
            lease_owner=lease_owner,
            lease_token=lease_token,
            lease_until=lease_until,
            # The one column that workers poll: a lease that runs out makes its job due again.
            next_attempt_at=lease_until,
        )
        .returning(*jobs.c)
    )
    return connection.execute(statement).mappings().one_or_none()


def set_progress(
    connection: DriverConnection,
    *,
    tenant_id: str,
    job_id: str,
    lease_token: str,
    progress: str,
    lease_until: datetime,
) -> int:
    """Write progress and renew the lease of a running job; return 0 when the lease is not ours."""
    statement = (
        sa.update(jobs)
        .where(*_held(tenant_id, job_id, lease_token))
        .values(progress=progress, lease_until=lease_until, next_attempt_at=lease_until)
    )
    return connection.execute(statement).rowcount


def set_ended(
    connection: DriverConnection,
    *,
    tenant_id: str,
    job_id: str,
    lease_token: str,
    values: Mapping[str, Any],
) -> Row | None:
    """End a running job under its lease and return it; None when the lease is not ours."""
    statement = (
        sa.update(jobs)
        .where(*_held(tenant_id, job_id, lease_token))
        .values(**_NO_LEASE, **values)
        .returning(*jobs.c)
    )
    return connection.execute(statement).mappings().one_or_none()


def set_requeued(
    connection: DriverConnection,
    *,
    tenant_id: str,
    job_id: str,
    lease_token: str,
    next_attempt_at: datetime,
    error_code: str,
    error_message: str,
) -> Row | None:
    """Queue a running job again under its lease and return it; None when the lease is not ours."""
    statement = (
        sa.update(jobs)
        .where(*_held(tenant_id, job_id, lease_token))
        .values(
            **_NO_LEASE,
            status=JobStatus.QUEUED.value,
            next_attempt_at=next_attempt_at,
            error_code=error_code,
            error_message=error_message,
            retryable=True,
        )
        .returning(*jobs.c)
    )
    return connection.execute(statement).mappings().one_or_none()


def set_queued_again(
    connection: DriverConnection, *, tenant_id: str, job_id: str, expected_state: int, now: datetime
) -> Row | None:
    """Put a failed job back into the queue, as new, and return it; None when it is not FAILED."""
    statement = (
        sa.update(jobs)
        .where(
            jobs.c.tenant_id == tenant_id, jobs.c.job_id == job_id, jobs.c.status == JobStatus.FAILED.value
        )
        .values(
            status=JobStatus.QUEUED.value,
            expected_state=expected_state,
            attempt=0,
            progress="{}",
            next_attempt_at=now,
            finished_at=None,
        )
        .returning(*jobs.c)
    )
    return connection.execute(statement).mappings().one_or_none()


def set_cancelled(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, now: datetime
) -> Row | None:
    """Cancel the plane's open job and return it; None when there is none."""
    statement = (
        sa.update(jobs)
        .where(jobs.c.tenant_id == tenant_id, jobs.c.plane_id == plane_id, _OPEN)
        .values(**_NO_LEASE, status=JobStatus.CANCELLED.value, finished_at=now)
        .returning(*jobs.c)
    )
    return connection.execute(statement).mappings().one_or_none()


def _held(tenant_id: str, job_id: str, lease_token: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        jobs.c.tenant_id == tenant_id,
        jobs.c.job_id == job_id,
        jobs.c.lease_token == lease_token,
        jobs.c.status == JobStatus.RUNNING.value,
    )
