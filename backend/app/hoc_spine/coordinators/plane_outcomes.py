"""Spine: what the success of a plane job changes: columns, events, edge, in its last transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from app.domains.knowledge.engines import classification, ingest, jobs, planes
from app.domains.knowledge.engines.config_shapes import PlaneConfig
from app.domains.knowledge.engines.events import EventDraft
from app.domains.knowledge.engines.jobs import Row
from app.domains.knowledge.engines.plane_config import read_operational
from app.domains.knowledge.models.vocabulary import (
    JobType,
    KnowledgePlaneLifecycleState,
    LifecycleAction,
    LifecycleEventType,
)
from app.hoc_spine.coordinators import plane_lifecycle
from app.hoc_spine.coordinators.plane_classes import class_values
from app.hoc_spine.coordinators.plane_ingest import Progress, hold_repository
from app.hoc_spine.coordinators.plane_lifecycle import PlaneMove, PlaneRow
from app.hoc_spine.coordinators.plane_sources import hold_collections
from app.hoc_spine.operation_context import OperationContext
from app.kernel.clock import format_time
from app.kernel.hashing import digest_of

State = KnowledgePlaneLifecycleState
FEDERATED = "FEDERATED"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job brought: the data of its result, and the columns of the plane that its end sets."""

    data: dict[str, Any]
    values: Mapping[str, Any] = field(default_factory=dict)
    status: str = "success"
    message: str = ""
    applied: bool = False
    """Whether the configuration that waited for the job is among the values."""


def find_outcome(
    ctx: OperationContext, job: Row, plane: PlaneRow, *, candidate: PlaneConfig | None
) -> Outcome:
    """Return what a job whose work is done brought; its generation is settled, nothing else is written."""
    progress = jobs.read_progress(job)
    done = f"{job['job_type']} succeeded"
    found = {name: value for name, value in progress.items() if name != "phase"}
    match JobType(job["job_type"]):
        case JobType.VERIFY_CONNECTIVITY:
            return Outcome({"verified_at": format_time(ctx.now), **found}, message=done)
        case JobType.ARCHIVE_DATA:
            return Outcome(found, _archive_values(ctx, plane, found), message=done)
        case JobType.DELETE_ARCHIVE:
            return Outcome(found, message=done)
        case JobType.INGEST_DATA:
            return _ingested(ctx, plane, progress)
        case JobType.REFRESH_DATA:
            return _refreshed(ctx, job, plane, progress, candidate)


def apply_outcome(ctx: OperationContext, job: Row, plane: PlaneRow, outcome: Outcome) -> None:
    """Write events and columns of a job's success and take its edge; refuse JOB_NOT_ACTIVE."""
    told = _completed_event(job, plane, outcome)
    match JobType(job["job_type"]):
        case JobType.REFRESH_DATA:
            refreshed = EventDraft(
                event_type=LifecycleEventType.PLANE_REFRESHED,
                from_state=planes.state_of(plane),
                to_state=None,
                job_id=job["job_id"],
                details={"config_applied": outcome.applied, "generation": outcome.values.get("generation")},
            )
            audit = "PlaneConfigUpdated" if outcome.applied else "PlaneTransitioned"
            _write(ctx, plane, outcome, (told, refreshed), audit)
        case JobType.ARCHIVE_DATA:
            _write(ctx, plane, outcome, (told,), "PlaneTransitioned")
        case JobType.DELETE_ARCHIVE:
            deleted = EventDraft(
                event_type=LifecycleEventType.PLANE_ARCHIVE_DELETED,
                from_state=planes.state_of(plane),
                to_state=None,
                job_id=job["job_id"],
                details={"archive_key": plane["archive_key"], "archive_digest": plane["archive_digest"]},
            )
            plane_lifecycle.note_events(ctx, plane["plane_id"], (told, deleted))
        case JobType.VERIFY_CONNECTIVITY | JobType.INGEST_DATA:
            _advance(ctx, job, plane, outcome, told)


def move(
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
    """Take the edge that a job's end leads to, after the event of that end; refuse JOB_NOT_ACTIVE."""
    written = plane_lifecycle.apply_transition(
        ctx,
        plane,
        PlaneMove(
            to_state=to_state,
            action=action,
            reason=reason,
            job_id=job["job_id"],
            values=values or {},
            before=(told,),
            ends_job=False,
        ),
    )
    if written is None:
        raise jobs.job_not_active()
    return plane_lifecycle.outbox_body(written.plane, written.event)


def duration_ms(ctx: OperationContext, job: Row) -> int:
    """Return for how long a job has run since its first try."""
    return max(0, int((ctx.now - (job["started_at"] or ctx.now)).total_seconds() * 1000))


def _advance(ctx: OperationContext, job: Row, plane: PlaneRow, outcome: Outcome, told: EventDraft) -> None:
    if read_operational(plane["connector_type"], plane["config"]).auto_advance:
        target = State(job["target_state"])
        move(ctx, plane, job, target, LifecycleAction.JOB_COMPLETE, told, values=outcome.values)
        return
    plane_lifecycle.note_events(ctx, plane["plane_id"], (told,))
    if outcome.values:
        ingest.set_statistics(
            ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane["plane_id"], values=outcome.values
        )


def _write(
    ctx: OperationContext, plane: PlaneRow, outcome: Outcome, drafts: tuple[EventDraft, ...], audit: str
) -> None:
    if (
        plane_lifecycle.write_plane(
            ctx, plane, values=outcome.values, drafts=drafts, audit=audit, headline=-1
        )
        is None
    ):
        raise jobs.job_not_active()


def _completed_event(job: Row, plane: PlaneRow, outcome: Outcome) -> EventDraft:
    shown = {name: value for name, value in outcome.data.items() if name != "diagnostics"}
    return EventDraft(
        event_type=LifecycleEventType.LIFECYCLE_JOB_COMPLETED,
        from_state=planes.state_of(plane),
        to_state=None,
        job_id=job["job_id"],
        details={"job_type": job["job_type"], **shown},
    )


def _archive_values(ctx: OperationContext, plane: PlaneRow, found: Mapping[str, Any]) -> dict[str, Any]:
    config = read_operational(plane["connector_type"], plane["config"])
    return {
        "archive_key": found["archive_key"],
        "archive_digest": found["archive_digest"],
        "archive_size_bytes": found["archive_size_bytes"],
        "archived_at": ctx.now,
        "retention_until": ctx.now + timedelta(days=config.retention_days),
    }


def _ingested(ctx: OperationContext, plane: PlaneRow, stored: Mapping[str, Any]) -> Outcome:
    if "scan" in stored:
        data = {"skipped": FEDERATED, "records_ingested": 0, "scan": stored["scan"]}
        return Outcome(data, status="skipped", message=f"{FEDERATED}: nothing of the source is copied")
    data, values = _settle(ctx, plane, Progress.read(stored))
    return Outcome(data, values, message="ingest_data succeeded")


def _refreshed(
    ctx: OperationContext,
    job: Row,
    plane: PlaneRow,
    stored: Mapping[str, Any],
    candidate: PlaneConfig | None,
) -> Outcome:
    keys: dict[str, Any] = {"tenant_id": ctx.tenant_id, "plane_id": plane["plane_id"]}
    values: dict[str, Any] = {}
    if "scan" in stored:
        data = {"skipped": FEDERATED, "records_ingested": 0, "scan": stored["scan"]}
        totals = classification.totals_from_json(stored["scan"])
    else:
        data, values = _settle(ctx, plane, Progress.read(stored))
        data |= ingest.count_changes(ctx.connection, **keys, generation=values["generation"])
        totals = classification.read_totals(ctx.connection, **keys, generation=values["generation"])
    config = candidate or read_operational(plane["connector_type"], plane["config"])
    values |= class_values(ctx, totals, config)
    text = jobs.read_candidate(job)
    if text is not None and candidate is not None:
        data["collections"] = hold_collections(ctx, plane["plane_id"], candidate)
        values |= {"config": text, "config_digest": digest_of(text.encode())}
    return Outcome(data, values, message="refresh_data succeeded", applied=text is not None)


def _settle(
    ctx: OperationContext, plane: PlaneRow, progress: Progress
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settle the generation that was written; a redaction comes before it or after it, never between."""
    hold_repository(ctx)
    found = ingest.settle_generation(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        plane_id=plane["plane_id"],
        generation=plane["generation"] + 1,
    )
    values = {
        "generation": found.generation,
        "document_count": found.document_count,
        "passage_count": found.passage_count,
        "token_total": found.token_total,
        "ingested_seq": progress.ingested_seq,
    }
    data = {
        "records_ingested": found.document_count,
        "bytes_processed": progress.text_bytes,
        "batch_count": progress.batches,
        "passages_created": progress.passages,
        "pins_digest": found.pins_digest,
        "skipped": progress.skipped,
        "diagnostics": [list(item) for item in progress.diagnostics],
        # What the registry row is recounted from.
        **values,
    }
    return data, values
