"""Spine: what a plane job does, step by step, and how its end moves the plane exactly once."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.knowledge.engines import ingest, jobs, plane_collections, planes
from app.domains.knowledge.engines.config_shapes import RepositoryConfig
from app.domains.knowledge.engines.events import EventDraft
from app.domains.knowledge.engines.jobs import Lease, Row
from app.domains.knowledge.engines.plane_config import read_config, read_operational
from app.domains.knowledge.models import (
    GateDecision,
    JobType,
    KnowledgePlaneLifecycleState,
    LifecycleAction,
    LifecycleEventType,
)
from app.domains.repository.engines import collections
from app.hoc_spine.coordinators import plane_files, plane_ingest, plane_lifecycle
from app.hoc_spine.coordinators.plane_ingest import DONE, IngestStep, Progress, StageFailedError
from app.hoc_spine.coordinators.plane_lifecycle import PlaneMove, PlaneRow
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.kernel.clock import format_time
from app.kernel.errors import HocError

State = KnowledgePlaneLifecycleState
STALE = plane_ingest.STALE
# Why another try may succeed: somebody held a lock, the disk was full, or the program failed unexpectedly.
PASSING = frozenset({"BUSY", STALE})
# The codes that a job may end with; whatever else stopped it is the cause of the first one.
_STAGE_CODES: Mapping[JobType, tuple[str, ...]] = {
    JobType.VERIFY_CONNECTIVITY: ("VERIFICATION_FAILED",),
    JobType.INGEST_DATA: (
        "INGESTION_FAILED",
        "INDEXING_FAILED",
        "NOTHING_TO_INGEST",
        "INGEST_LIMIT_EXCEEDED",
    ),
    JobType.REFRESH_DATA: ("INGESTION_FAILED",),
    JobType.ARCHIVE_DATA: ("ARCHIVE_FAILED",),
    JobType.DELETE_ARCHIVE: ("ARCHIVE_FAILED",),
}
_random = secrets.SystemRandom()


@dataclass(frozen=True, slots=True)
class PreparedStep:
    """A job under its lease, its plane, and the next step of its work."""

    job: Row
    plane: PlaneRow
    ingest: IngestStep | None = None


def list_due(connection: DriverConnection, *, now: datetime, limit: int) -> list[tuple[str, str]]:
    """Return tenant and id of due jobs of every tenant, on a maintenance connection."""
    return jobs.list_due(connection, now=now, limit=limit)


def prepare_step(ctx: PrepareContext, lease: Lease) -> PreparedStep:
    """Prepare the next step of a running job; refuse JOB_NOT_ACTIVE, raise StageFailedError."""
    with ctx.read_unit() as connection:
        job = jobs.require_running(connection, tenant_id=ctx.tenant_id, lease=lease)
        plane = planes.require_plane(connection, tenant_id=ctx.tenant_id, plane_id=job["plane_id"])
    job_type = JobType(job["job_type"])
    if job_type is JobType.VERIFY_CONNECTIVITY:
        _check_source(ctx, plane)
        return PreparedStep(job, plane)
    if job_type is JobType.INGEST_DATA:
        return PreparedStep(job, plane, plane_ingest.prepare(ctx, plane, jobs.read_progress(job)))
    raise StageFailedError("JOB_TYPE_NOT_SUPPORTED", f"This server does not run {job_type.value} jobs.")


def run_step(ctx: OperationContext, lease: Lease) -> bool:
    """Write the prepared step and tell whether the work is done; refuse JOB_NOT_ACTIVE."""
    step: PreparedStep = ctx.prepared
    if step.ingest is None:
        jobs.save_progress(
            ctx.connection, tenant_id=ctx.tenant_id, lease=lease, progress={"phase": DONE}, now=ctx.now
        )
        return True
    phase = Progress.read(jobs.read_progress(step.job)).phase
    planned = step.ingest.progress.stored()
    jobs.save_progress(ctx.connection, tenant_id=ctx.tenant_id, lease=lease, progress=planned, now=ctx.now)
    reached = plane_ingest.apply(ctx, step.plane, step.ingest, phase=phase).stored()
    if reached != planned:
        jobs.save_progress(
            ctx.connection, tenant_id=ctx.tenant_id, lease=lease, progress=reached, now=ctx.now
        )
    return bool(reached["phase"] == DONE)


def complete(ctx: OperationContext, lease: Lease) -> Row:
    """End a job whose work is done: its result, its event and, unless the plane waits for an actor, its edge.

    Everything in one transaction, once: refuse JOB_NOT_ACTIVE when the lease is not held, the work is not
    done or the plane has moved on.
    """
    job, plane = _require_own(ctx, lease)
    if jobs.read_progress(job).get("phase") != DONE:
        raise jobs.job_not_active()
    data, values = _outcome(ctx, job, plane)
    result = {
        "status": "success",
        "message": f"{job['job_type']} succeeded",
        "data": data,
        "error_code": None,
        "duration_ms": _duration_ms(ctx, job),
    }
    told = EventDraft(
        event_type=LifecycleEventType.LIFECYCLE_JOB_COMPLETED,
        from_state=planes.state_of(plane),
        to_state=None,
        job_id=job["job_id"],
        details={
            "job_type": job["job_type"],
            **{name: value for name, value in data.items() if name != "diagnostics"},
        },
    )
    if read_operational(plane["connector_type"], plane["config"]).auto_advance:
        _move(ctx, plane, job, State(job["target_state"]), LifecycleAction.JOB_COMPLETE, told, values=values)
    else:
        plane_lifecycle.note_events(ctx, plane["plane_id"], (told,))
        if values:
            ingest.set_statistics(
                ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane["plane_id"], values=values
            )
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
    due = decision.next_attempt_at
    told = EventDraft(
        event_type=LifecycleEventType.LIFECYCLE_JOB_FAILED,
        from_state=planes.state_of(plane),
        to_state=None,
        decision=GateDecision.BLOCKED,
        error_code=error_code,
        job_id=job["job_id"],
        details={
            "job_type": job["job_type"],
            "cause": cause,
            "attempt": job["attempt"],
            "retryable": retryable,
            "will_retry": decision.will_retry,
            "next_attempt_at": None if due is None else format_time(due),
        },
        reason=message,
    )
    if decision.plane_to is None:
        (event,) = plane_lifecycle.note_events(ctx, plane["plane_id"], (told,))
        ctx.outbox(
            "PlaneJobFailed", plane_lifecycle.outbox_body({**plane, "version": event["plane_version"]}, event)
        )
    else:
        action = LifecycleAction.FAIL if decision.plane_to is State.FAILED else LifecycleAction.RETRY
        ingest.sweep_staged(
            ctx.connection,
            tenant_id=ctx.tenant_id,
            plane_id=plane["plane_id"],
            generation=plane["generation"],
        )
        moved = _move(ctx, plane, job, decision.plane_to, action, told, reason=message)
        ctx.outbox("PlaneJobFailed", {**moved, "event_type": told.event_type.value, "error_code": error_code})
    ends: dict[str, Any] = {
        "tenant_id": ctx.tenant_id,
        "lease": lease,
        "error_code": error_code,
        "message": message,
    }
    if due is not None:
        return jobs.requeue(ctx.connection, **ends, next_attempt_at=due)
    return jobs.fail(ctx.connection, **ends, retryable=retryable, now=ctx.now)


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


def _move(
    ctx: OperationContext,
    plane: PlaneRow,
    job: Row,
    to_state: State,
    action: LifecycleAction,
    told: EventDraft,
    *,
    values: Mapping[str, Any] | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    move = PlaneMove(
        to_state=to_state,
        action=action,
        reason=reason,
        job_id=job["job_id"],
        values=values or {},
        before=(told,),
        ends_job=False,
    )
    written = plane_lifecycle.apply_transition(ctx, plane, move)
    if written is None:
        raise jobs.job_not_active()
    return plane_lifecycle.outbox_body(written.plane, written.event)


def _outcome(ctx: OperationContext, job: Row, plane: PlaneRow) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the data of a finished job, and the columns of the plane that its end sets."""
    if job["job_type"] == JobType.VERIFY_CONNECTIVITY:
        return _verified(ctx, job, plane), {}
    progress = Progress.read(jobs.read_progress(job))
    statistics = ingest.settle_generation(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        plane_id=plane["plane_id"],
        generation=plane["generation"] + 1,
    )
    data = {
        "records_ingested": statistics.document_count,
        "bytes_processed": progress.text_bytes,
        "batch_count": progress.batches,
        "passages_created": statistics.passage_count,
        "pins_digest": statistics.pins_digest,
        "generation": statistics.generation,
        "skipped": progress.skipped,
        "diagnostics": [list(item) for item in progress.diagnostics],
    }
    values = {
        "generation": statistics.generation,
        "document_count": statistics.document_count,
        "passage_count": statistics.passage_count,
        "token_total": statistics.token_total,
        "ingested_seq": progress.ingested_seq,
    }
    return data, values


def _verified(ctx: OperationContext, job: Row, plane: PlaneRow) -> dict[str, Any]:
    owned, shared = plane_collections.list_held(
        ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane["plane_id"]
    )
    return {
        "verified_at": format_time(ctx.now),
        "source_type": plane["connector_type"],
        "schema_info": {"owned_collection": owned, "shared_collections": list(shared)},
        "connection_latency_ms": _duration_ms(ctx, job),
    }


def _check_source(ctx: PrepareContext, plane: PlaneRow) -> None:
    """Check the collections and, for a plane over files, its ingest root."""
    config = read_config(plane["connector_type"], plane["config"])
    if not isinstance(config, RepositoryConfig):
        raise StageFailedError(
            "VERIFICATION_FAILED", f"There is no {plane['connector_type']} connector here."
        )
    _check_collections(ctx, plane)
    if config.source.kind != "files":
        return
    root = ctx.services.settings.ingest_roots.get(config.source.root or "")
    if not plane_files.is_readable(root, config.source.folder):
        raise StageFailedError("VERIFICATION_FAILED", "The ingest root or its folder cannot be read.")


def _check_collections(ctx: PrepareContext, plane: PlaneRow) -> None:
    """Check that the plane owns a collection and that every collection it reads is live."""
    with ctx.read_unit() as connection:
        owned, shared = plane_collections.list_held(
            connection, tenant_id=ctx.tenant_id, plane_id=plane["plane_id"]
        )
        known = collections.look_up(
            connection, tenant_id=ctx.tenant_id, collection_ids=[*shared, *([owned] if owned else [])]
        )
    if owned is None:
        raise StageFailedError("VERIFICATION_FAILED", "The plane owns no collection.")
    for collection_id in (owned, *shared):
        if collection_id not in known.live:
            raise StageFailedError("VERIFICATION_FAILED", f"The collection {collection_id} is not live.")


def _duration_ms(ctx: OperationContext, job: Row) -> int:
    return max(0, int((ctx.now - (job["started_at"] or ctx.now)).total_seconds() * 1000))
