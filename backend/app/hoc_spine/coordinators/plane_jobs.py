"""Spine: what a plane job does, step by step, and how its end moves the plane exactly once."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from prometheus_client import Counter

from app.db.connection import DriverConnection
from app.domains.knowledge.engines import classification, ingest, jobs, planes
from app.domains.knowledge.engines.config_shapes import PlaneConfig, RepositoryConfig
from app.domains.knowledge.engines.events import EventDraft
from app.domains.knowledge.engines.jobs import FailureDecision, Lease, Row
from app.domains.knowledge.engines.plane_config import read_config
from app.domains.knowledge.models.vocabulary import (
    GateDecision,
    JobType,
    KnowledgePlaneLifecycleState,
    LifecycleAction,
    LifecycleEventType,
)
from app.hoc_spine.coordinators import (
    plane_archive,
    plane_checks,
    plane_ingest,
    plane_lifecycle,
    plane_outcomes,
)
from app.hoc_spine.coordinators.plane_ingest import DONE, START, IngestStep, Progress, Work
from app.hoc_spine.coordinators.plane_lifecycle import PlaneRow
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.kernel.clock import format_time
from app.kernel.errors import HocError

ENDED = Counter("hoc_plane_jobs", "Ends of plane jobs and of their tries", ["type", "status"])
State = KnowledgePlaneLifecycleState
STALE = plane_ingest.STALE
# Why another try may succeed: somebody held a lock, the disk was full, or the program failed unexpectedly.
PASSING = frozenset({"BUSY", STALE})
_INGESTING = ("INGESTION_FAILED", "INDEXING_FAILED", "NOTHING_TO_INGEST", "INGEST_LIMIT_EXCEEDED")
# The codes that a job may end with; whatever else stopped it is the cause of the first one.
_STAGE_CODES: Mapping[JobType, tuple[str, ...]] = {
    JobType.VERIFY_CONNECTIVITY: ("VERIFICATION_FAILED",),
    JobType.INGEST_DATA: _INGESTING,
    JobType.REFRESH_DATA: (*_INGESTING, "VERIFICATION_FAILED"),
    JobType.ARCHIVE_DATA: ("ARCHIVE_FAILED",),
    JobType.DELETE_ARCHIVE: ("ARCHIVE_FAILED",),
}
_random = secrets.SystemRandom()


@dataclass(frozen=True, slots=True)
class PreparedStep:
    """A job under its lease, its plane, and the next step of its work.

    `ingest` is a step of many; without it the work was one step, and `found` is what it brought.
    """

    job: Row
    plane: PlaneRow
    work: Work | None = None
    ingest: IngestStep | None = None
    found: Mapping[str, Any] = field(default_factory=dict)


def list_due(connection: DriverConnection, *, now: datetime, limit: int) -> list[tuple[str, str]]:
    """Return tenant and id of due jobs of every tenant, on a maintenance connection."""
    return jobs.list_due(connection, now=now, limit=limit)


def prepare_step(ctx: PrepareContext, lease: Lease) -> PreparedStep:
    """Prepare the next step of a running job; refuse JOB_NOT_ACTIVE, raise StageFailedError."""
    with ctx.read_unit() as connection:
        job = jobs.require_running(connection, tenant_id=ctx.tenant_id, lease=lease)
        plane = planes.require_plane(connection, tenant_id=ctx.tenant_id, plane_id=job["plane_id"])
    job_type, progress = JobType(job["job_type"]), jobs.read_progress(job)
    if progress.get("phase") == DONE:
        # A worker died between the last step and the completion: what it found is there.
        return PreparedStep(job, plane, found={name: progress[name] for name in progress if name != "phase"})
    if job_type is JobType.ARCHIVE_DATA:
        return PreparedStep(job, plane, found=_archived(ctx, plane, job))
    if job_type is JobType.DELETE_ARCHIVE:
        plane_archive.delete_archive(ctx, plane)
        return PreparedStep(job, plane)
    candidate = read_candidate(plane, job)
    config = candidate or read_config(plane["connector_type"], plane["config"])
    begins = progress.get("phase", START) == START
    found: dict[str, Any] = {}
    if job_type is JobType.VERIFY_CONNECTIVITY or (job_type is JobType.REFRESH_DATA and begins):
        found = plane_checks.check_source(ctx, plane, config, candidate=candidate is not None)
    if job_type is JobType.VERIFY_CONNECTIVITY:
        return PreparedStep(job, plane, found=found)
    if isinstance(config, RepositoryConfig):
        work = Work(plane, config, candidate if isinstance(candidate, RepositoryConfig) else None)
        return PreparedStep(job, plane, work, plane_ingest.prepare(ctx, work, progress))
    scanned = plane_checks.scan_source(ctx, plane, config)
    return PreparedStep(job, plane, found={"scan": classification.totals_as_json(scanned)})


def read_candidate(plane: PlaneRow, job: Row) -> PlaneConfig | None:
    """Return the configuration that waits for the success of a refresh, None without one."""
    text = jobs.read_candidate(job)
    return None if text is None else read_config(plane["connector_type"], text)


def run_step(ctx: OperationContext, lease: Lease) -> bool:
    """Write the prepared step and tell whether the work is done; refuse JOB_NOT_ACTIVE."""
    step: PreparedStep = ctx.prepared
    if step.ingest is None or step.work is None:
        reached = {"phase": DONE, **step.found}
        jobs.save_progress(
            ctx.connection, tenant_id=ctx.tenant_id, lease=lease, progress=reached, now=ctx.now
        )
        return True
    phase = Progress.read(jobs.read_progress(step.job)).phase
    planned = step.ingest.progress.stored()
    jobs.save_progress(ctx.connection, tenant_id=ctx.tenant_id, lease=lease, progress=planned, now=ctx.now)
    reached = plane_ingest.apply(ctx, step.work, step.ingest, phase=phase).stored()
    if reached != planned:
        jobs.save_progress(
            ctx.connection, tenant_id=ctx.tenant_id, lease=lease, progress=reached, now=ctx.now
        )
    return bool(reached["phase"] == DONE)


def complete(ctx: OperationContext, lease: Lease) -> Row:
    """End a job whose work is done: its result, its events, and its edge unless that waits for an actor.

    Everything in one transaction, once: refuse JOB_NOT_ACTIVE when the lease is not held, the work is not
    done or the plane has moved on.
    """
    job, plane = _require_own(ctx, lease)
    if jobs.read_progress(job).get("phase") != DONE:
        raise jobs.job_not_active()
    outcome = plane_outcomes.find_outcome(ctx, job, plane, candidate=read_candidate(plane, job))
    plane_outcomes.apply_outcome(ctx, job, plane, outcome)
    result = {
        "status": outcome.status,
        "message": outcome.message,
        "data": outcome.data,
        "error_code": None,
        "duration_ms": plane_outcomes.duration_ms(ctx, job),
    }
    ctx.after_commit(ENDED.labels(job["job_type"], "SUCCEEDED").inc)
    return jobs.succeed(ctx.connection, tenant_id=ctx.tenant_id, lease=lease, result=result, now=ctx.now)


def fail(ctx: OperationContext, lease: Lease, *, error_code: str, message: str, retryable: bool) -> Row:
    """Record a failed try and what follows: another try later, or the job's end and the plane's edge."""
    job, plane = _require_own(ctx, lease)
    cause, error_code = error_code, _stage_code(job, error_code)
    decision = jobs.decide_failure(
        attempt=job["attempt"],
        max_attempts=job["max_attempts"],
        state=job["expected_state"],
        retryable=retryable,
        spread=_random.uniform(-1, 1),
        now=ctx.now,
    )
    details = {"cause": cause, "retryable": retryable}
    told = _failed_event(job, plane, decision, details, code=error_code, message=message)
    if decision.plane_to is None:
        (event,) = plane_lifecycle.note_events(ctx, plane["plane_id"], (told,))
        ctx.outbox(
            "PlaneJobFailed", plane_lifecycle.outbox_body({**plane, "version": event["plane_version"]}, event)
        )
    else:
        action = LifecycleAction.FAIL if decision.plane_to is State.FAILED else LifecycleAction.RETRY
        moved = plane_outcomes.move(ctx, plane, job, decision.plane_to, action, told, reason=message)
        ctx.outbox("PlaneJobFailed", {**moved, "event_type": told.event_type.value, "error_code": error_code})
    if not decision.will_retry:
        ingest.sweep_staged(
            ctx.connection,
            tenant_id=ctx.tenant_id,
            plane_id=plane["plane_id"],
            generation=plane["generation"],
        )
    ends: dict[str, Any] = {
        "tenant_id": ctx.tenant_id,
        "lease": lease,
        "error_code": error_code,
        "message": message,
    }
    due = decision.next_attempt_at
    ctx.after_commit(ENDED.labels(job["job_type"], "FAILED" if due is None else "RETRIED").inc)
    if due is not None:
        return jobs.requeue(ctx.connection, **ends, next_attempt_at=due)
    return jobs.fail(ctx.connection, **ends, retryable=retryable, now=ctx.now)


def _failed_event(
    job: Row,
    plane: PlaneRow,
    decision: FailureDecision,
    details: Mapping[str, Any],
    *,
    code: str,
    message: str,
) -> EventDraft:
    due = decision.next_attempt_at
    return EventDraft(
        event_type=LifecycleEventType.LIFECYCLE_JOB_FAILED,
        from_state=planes.state_of(plane),
        to_state=None,
        decision=GateDecision.BLOCKED,
        error_code=code,
        job_id=job["job_id"],
        details={
            **details,
            "job_type": job["job_type"],
            "attempt": job["attempt"],
            "will_retry": decision.will_retry,
            "next_attempt_at": None if due is None else format_time(due),
        },
        reason=message,
    )


def failure_of(error: HocError) -> tuple[str, str, bool]:
    """Return code, message and retryable of what stopped a step."""
    if "retryable" in error.extra:
        return error.code, error.detail, bool(error.extra["retryable"])
    if error.code.startswith("HANDLER_EXCEPTION"):
        return "HANDLER_EXCEPTION", "The server failed unexpectedly.", True
    return error.code, error.detail, error.code in PASSING or error.code == "STORAGE_FAILED"


def _stage_code(job: Row, code: str) -> str:
    codes = _STAGE_CODES[JobType(job["job_type"])]
    if code in codes:
        return code
    indexing = jobs.read_progress(job).get("phase") == plane_ingest.PIN and "INDEXING_FAILED" in codes
    return "INDEXING_FAILED" if indexing else codes[0]


def _require_own(ctx: OperationContext, lease: Lease) -> tuple[Row, PlaneRow]:
    """Return job and plane, the plane held first, as everyone does; refuse JOB_NOT_ACTIVE."""
    job = jobs.require_running(ctx.connection, tenant_id=ctx.tenant_id, lease=lease)
    plane = planes.require_plane(ctx.connection, tenant_id=ctx.tenant_id, plane_id=job["plane_id"], lock=True)
    if plane["lifecycle_state_value"] != job["expected_state"]:
        raise jobs.job_not_active()
    return job, plane


def _archived(ctx: PrepareContext, plane: PlaneRow, job: Row) -> dict[str, Any]:
    made = plane_archive.write_archive(ctx, plane, job_id=job["job_id"], attempt=job["attempt"])
    return {
        "archive_key": made.key,
        "archive_digest": made.digest,
        "archive_size_bytes": made.size_bytes,
        "manifest_hash": made.manifest_hash,
    }
