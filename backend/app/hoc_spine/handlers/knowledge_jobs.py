"""Spine L4: operations on plane jobs: what a tenant sees of them, and what a worker does with them."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

from pydantic import Field

from app.domains.knowledge.engines import jobs, planes
from app.domains.knowledge.engines.jobs import Lease, Row
from app.domains.knowledge.models.vocabulary import (
    JobStatus,
    JobType,
)
from app.hoc_spine.coordinators import plane_jobs, plane_lifecycle
from app.hoc_spine.coordinators.plane_jobs import PreparedStep
from app.hoc_spine.coordinators.plane_wake import wake_workers
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.hoc_spine.operation_registry import Operation, OperationsOf
from app.kernel.canonical_json import loads
from app.kernel.inputs import Identifier, Input, ListInput, LongText, Output
from app.kernel.pages import Page, encode_cursor, read_cursor

_EVENTS_ARE_THE_RECORD = "working state of a job; the plane's events, which are facts, record what it did"


class ListJobs(ListInput):
    """Input of knowledge.jobs.list."""

    plane_id: Identifier | None = None
    status: JobStatus | None = None
    job_type: JobType | None = None


class JobById(Input):
    """Input that names one job."""

    job_id: Identifier


class ClaimJob(JobById):
    """Input of knowledge.jobs.claim."""

    lease_owner: Identifier


class HeldJob(JobById):
    """Input of a worker that holds a job's lease."""

    lease_token: Identifier


class FailJob(HeldJob):
    """Input of knowledge.jobs.fail."""

    error_code: str = Field(pattern=r"^[A-Za-z0-9_:]{1,128}$")
    message: LongText
    retryable: bool


class JobView(Output):
    """A job as answers show it; its lease token and candidate configuration are not shown."""

    job_id: str
    plane_id: str
    job_type: str
    status: str
    attempt: int
    max_attempts: int
    expected_state: int
    target_state: int | None
    next_attempt_at: datetime
    lease_owner: str | None
    lease_until: datetime | None
    progress: dict[str, Any]
    result: dict[str, Any] | None
    error_code: str | None
    error_message: str | None
    retryable: bool | None
    requested_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobClaim(Output):
    """What a claim gave: the lease token and the number of this try, or nothing."""

    lease_token: str | None = None
    attempt: int = 0
    max_attempts: int = 0


class JobStep(Output):
    """What a step gave."""

    done: bool


def list_jobs(ctx: OperationContext, payload: ListJobs) -> Page[JobView]:
    """Return the tenant's jobs, newest first."""
    equal = payload.model_dump(mode="json", include={"plane_id", "status", "job_type"}, exclude_none=True)
    binding = f"{ctx.tenant_id} knowledge.jobs.list {sorted(equal.items())}"
    (after,) = read_cursor(payload.cursor, binding, str) or (None,)
    rows = jobs.list_jobs(
        ctx.connection, tenant_id=ctx.tenant_id, equal=equal, after=after, limit=payload.limit + 1
    )
    page = rows[: payload.limit]
    cursor = encode_cursor(binding, [page[-1]["job_id"]]) if len(rows) > payload.limit else None
    return Page[JobView](items=[_view(row) for row in page], next_cursor=cursor)


def get_job(ctx: OperationContext, payload: JobById) -> JobView:
    """Return one job; refuse JOB_NOT_FOUND."""
    return _view(jobs.require_job(ctx.connection, tenant_id=ctx.tenant_id, job_id=payload.job_id))


def retry_job(ctx: OperationContext, payload: JobById) -> JobView:
    """Queue a failed archive, refresh or archive deletion again; refuse JOB_NOT_RETRYABLE."""
    job = jobs.require_job(ctx.connection, tenant_id=ctx.tenant_id, job_id=payload.job_id)
    plane = planes.require_plane(ctx.connection, tenant_id=ctx.tenant_id, plane_id=job["plane_id"], lock=True)
    queued = jobs.retry_failed(
        ctx.connection, tenant_id=ctx.tenant_id, job=job, state=planes.state_of(plane), now=ctx.now
    )
    _audit(ctx, "PlaneJobRetried", job, queued)
    wake_workers(ctx)
    return _view(queued)


def cancel_job(ctx: OperationContext, payload: JobById) -> JobView:
    """Cancel an open refresh; refuse JOB_NOT_CANCELLABLE."""
    job = jobs.require_job(ctx.connection, tenant_id=ctx.tenant_id, job_id=payload.job_id)
    jobs.check_cancellable(job)
    plane = planes.require_plane(ctx.connection, tenant_id=ctx.tenant_id, plane_id=job["plane_id"], lock=True)
    cancelled = jobs.cancel_open(
        ctx.connection, tenant_id=ctx.tenant_id, plane_id=job["plane_id"], now=ctx.now
    )
    if cancelled is None or cancelled["job_id"] != job["job_id"]:
        raise jobs.job_not_cancellable()
    plane_lifecycle.cancel_refresh(ctx, plane, cancelled)
    _audit(ctx, "PlaneJobCancelled", job, cancelled)
    return _view(cancelled)


def claim_job(ctx: OperationContext, payload: ClaimJob) -> JobClaim:
    """Take a due job under a new lease; nothing while the tenant is inactive or a kill switch is engaged."""
    if ctx.standing.halted or ctx.standing.tenant_status != "ACTIVE":
        return JobClaim()
    row = jobs.claim_job(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        job_id=payload.job_id,
        owner=payload.lease_owner,
        token=secrets.token_hex(16),
        now=ctx.now,
    )
    if row is None:
        return JobClaim()
    return JobClaim(lease_token=row["lease_token"], attempt=row["attempt"], max_attempts=row["max_attempts"])


def prepare_progress(ctx: PrepareContext, payload: HeldJob) -> PreparedStep:
    """Read what the next step of the job needs."""
    return plane_jobs.prepare_step(ctx, _lease(payload))


def progress_job(ctx: OperationContext, payload: HeldJob) -> JobStep:
    """Do the next step of a job and renew its lease; refuse JOB_NOT_ACTIVE."""
    return JobStep(done=plane_jobs.run_step(ctx, _lease(payload)))


def complete_job(ctx: OperationContext, payload: HeldJob) -> JobView:
    """End a job whose work is done and move its plane, exactly once; refuse JOB_NOT_ACTIVE."""
    return _view(plane_jobs.complete(ctx, _lease(payload)))


def fail_job(ctx: OperationContext, payload: FailJob) -> JobView:
    """Record a failed try and what follows it; refuse JOB_NOT_ACTIVE."""
    row = plane_jobs.fail(
        ctx,
        _lease(payload),
        error_code=payload.error_code,
        message=payload.message,
        retryable=payload.retryable,
    )
    return _view(row)


def _lease(payload: HeldJob) -> Lease:
    return Lease(payload.job_id, payload.lease_token)


def _audit(ctx: OperationContext, event: str, before: Row, after: Row) -> None:
    ctx.audit(
        event,
        "PLANE",
        before["plane_id"],
        before={"job_id": before["job_id"], "status": before["status"], "attempt": before["attempt"]},
        after={"job_id": after["job_id"], "status": after["status"], "attempt": after["attempt"]},
    )
    ctx.outbox(event, {"plane_id": before["plane_id"], "job_id": before["job_id"]})


def _view(row: Row) -> JobView:
    members = {name: row[name] for name in JobView.model_fields}
    result = None if row["result"] is None else loads(row["result"])
    return JobView(**{**members, "progress": jobs.read_progress(row), "result": result})


declare = OperationsOf("knowledge")
OPERATIONS = (
    declare.read("knowledge.jobs.list", ListJobs, Page[JobView], list_jobs),
    declare.read("knowledge.jobs.get", JobById, JobView, get_job),
    declare.write("knowledge.jobs.retry", JobById, JobView, retry_job),
    declare.write("knowledge.jobs.cancel", JobById, JobView, cancel_job),
    Operation(
        "knowledge.jobs.claim",
        "knowledge",
        "write",
        None,
        ClaimJob,
        JobClaim,
        claim_job,
        door="worker",
        no_audit=_EVENTS_ARE_THE_RECORD,
    ),
    Operation(
        "knowledge.jobs.progress",
        "knowledge",
        "write",
        None,
        HeldJob,
        JobStep,
        progress_job,
        door="worker",
        prepare=prepare_progress,
        no_audit=_EVENTS_ARE_THE_RECORD,
    ),
    Operation(
        "knowledge.jobs.complete", "knowledge", "write", None, HeldJob, JobView, complete_job, door="worker"
    ),
    Operation("knowledge.jobs.fail", "knowledge", "write", None, FailJob, JobView, fail_job, door="worker"),
)
