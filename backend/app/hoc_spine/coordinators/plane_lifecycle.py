"""Spine: every write on a plane: one conditional change with its events, facts, ledger and outbox entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from prometheus_client import Counter

from app.domains.knowledge.engines import events, ingest, jobs, lifecycle, plane_collections, planes
from app.domains.knowledge.engines.events import EventDraft
from app.domains.knowledge.engines.plane_config import read_operational
from app.domains.knowledge.models.vocabulary import (
    GateDecision,
    JobType,
    KnowledgePlaneLifecycleState,
    LifecycleAction,
    LifecycleEventType,
)
from app.domains.tenants.engines import state as tenant_state
from app.hoc_spine.coordinators.plane_wake import wake_workers
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Refusal
from app.kernel.errors import HocError
from app.kernel.redaction import redact_text

TRANSITIONS = Counter("hoc_plane_transitions", "Attempts to move a plane", ["action", "decision"])
State = KnowledgePlaneLifecycleState
PlaneRow = Mapping[str, Any]

# The job that entering a state queues, and the state its success leads to.
ENTRY_JOBS: Mapping[State, tuple[JobType, State | None]] = {
    State.PENDING_VERIFY: (JobType.VERIFY_CONNECTIVITY, State.VERIFIED),
    State.INGESTING: (JobType.INGEST_DATA, State.INDEXED),
    State.ARCHIVED: (JobType.ARCHIVE_DATA, None),
    State.PURGED: (JobType.DELETE_ARCHIVE, None),
}
# States in which policies may be bound: giving such a plane up changes what new snapshots hold.
_BOUND_STATES = frozenset({State.PENDING_ACTIVATE, State.PENDING_DEACTIVATE})


# States in which no job of the plane can be open: each job was ended by the edge that led there.
_IDLE_STATES = frozenset({State.DRAFT, State.VERIFIED, State.PENDING_DEACTIVATE, State.DEACTIVATED})


@dataclass(frozen=True, slots=True)
class WrittenPlane:
    """A plane after a write, the event that the answer names, and the job the write queued."""

    plane: PlaneRow
    event: Mapping[str, Any]
    job_id: str | None = None


@dataclass(frozen=True, slots=True)
class PlaneMove:
    """An edge to take, and what goes with it."""

    to_state: State
    action: LifecycleAction
    reason: str | None = None
    gate: Mapping[str, Any] | None = None
    approval_id: str | None = None
    job_id: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    before: tuple[EventDraft, ...] = ()
    """Events told before the transition: the completion or failure of the job that causes it."""
    ends_job: bool = True
    """False when the caller itself ends the plane's open job."""


def write_plane(
    ctx: OperationContext,
    plane: PlaneRow,
    *,
    values: Mapping[str, Any],
    drafts: Sequence[EventDraft],
    audit: str,
    reason: str | None = None,
    headline: int = 0,
) -> WrittenPlane | None:
    """Change a plane that is still as it was read, with events, facts, ledger entry and outbox event.

    Raises its version by one; `headline` is the index of the event that answer and outbox name. None when
    another writer was first: then nothing was written or queued.
    """
    reason = clean_reason(reason)
    after = {**plane, **values, "updated_at": ctx.now, "version": plane["version"] + 1}
    after["fact_id"] = ctx.facts.add("knowledge.plane", after)
    seq = planes.set_plane(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        plane=plane,
        values={**values, "updated_at": ctx.now, "fact_id": after["fact_id"]},
        events=len(drafts),
    )
    if seq is None:
        # The change did not happen, so neither did its fact, which was queued last.
        ctx.facts.queued.pop()
        return None
    after["event_seq"] = seq
    rows = append_events(ctx, after, drafts)
    ctx.audit(
        audit,
        "PLANE",
        plane["plane_id"],
        before=planes.audit_image(plane),
        after=planes.audit_image(after),
        reason=reason,
    )
    ctx.outbox(audit, outbox_body(after, rows[headline]))
    return WrittenPlane(after, rows[headline])


def append_events(
    ctx: OperationContext, plane: PlaneRow, drafts: Sequence[EventDraft]
) -> tuple[Mapping[str, Any], ...]:
    """Write events whose numbers end at the plane's event_seq, each with its fact, and return the rows."""
    rows = []
    for seq, draft in enumerate(drafts, start=plane["event_seq"] - len(drafts) + 1):
        row: dict[str, Any] = {
            "plane_id": plane["plane_id"],
            "seq": seq,
            "event_id": ctx.new_id("kpe"),
            **events.event_columns(draft),
            "actor_type": ctx.actor.type,
            "actor_id": ctx.actor.id,
            "plane_version": plane["version"],
            "config_digest": plane["config_digest"],
            "request_id": ctx.request.request_id,
            "trace_id": ctx.request.trace_id,
            "occurred_at": ctx.now,
            **ctx.protect({"reason": clean_reason(draft.reason)}),
        }
        row["fact_id"] = ctx.facts.add("knowledge.transition", row)
        rows.append(row)
    events.append_events(ctx.connection, tenant_id=ctx.tenant_id, rows=rows)
    return tuple(rows)


def note_events(
    ctx: OperationContext, plane_id: str, drafts: Sequence[EventDraft]
) -> tuple[Mapping[str, Any], ...]:
    """Write events of a plane that itself does not change, and return their rows."""
    counted = planes.count_events(
        ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane_id, events=len(drafts)
    )
    return append_events(ctx, {**counted, "plane_id": plane_id}, drafts)


def apply_transition(ctx: OperationContext, plane: PlaneRow, move: PlaneMove) -> WrittenPlane | None:
    """Take a legal edge; None when another writer was first.

    Ends the job of the state that is left, queues the job of the state that is entered, and on FAILED gives
    up content and collections. Gates and authority are the caller's; the database refuses an illegal edge.
    """
    from_state = planes.state_of(plane)
    job_id = ctx.new_id("job") if move.to_state in ENTRY_JOBS else None
    written = write_plane(
        ctx,
        plane,
        values=_values(ctx, plane, move),
        drafts=(*move.before, _transition_event(from_state, move, job_id), *_started_event(move, job_id)),
        audit="PlaneTransitioned",
        reason=move.reason,
        headline=len(move.before),
    )
    if written is None:
        return None
    if move.ends_job and from_state not in _IDLE_STATES:
        _cancel_job(ctx, plane)
    if job_id is not None:
        _queue_entry_job(ctx, plane, move.to_state, job_id)
    if move.to_state.is_terminal:
        _give_up(ctx, plane, from_state)
    _count(ctx, move.action, GateDecision.ALLOWED)
    return WrittenPlane(written.plane, written.event, job_id)


def record_refusal(
    ctx: OperationContext,
    plane_id: str,
    error: HocError,
    *,
    action: LifecycleAction | None,
    to_state: State | None,
    reason: str | None,
    decision: GateDecision = GateDecision.BLOCKED,
    required_action: str | None = None,
    gate: Mapping[str, Any] | None = None,
) -> Refusal:
    """Record a refused attempt to move as one event; return the refusal that commits it (LIFECYCLE-005)."""
    counted = planes.count_events(ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane_id, events=1)
    from_state = planes.state_of(counted)
    draft = EventDraft(
        event_type=LifecycleEventType.LIFECYCLE_BLOCKED,
        from_state=from_state,
        to_state=to_state,
        action=action,
        decision=decision,
        error_code=error.code,
        required_action=required_action,
        gate=gate,
        reason=reason,
    )
    (row,) = append_events(ctx, {**counted, "plane_id": plane_id}, (draft,))
    ctx.outbox("PlaneTransitionBlocked", outbox_body({**counted, "plane_id": plane_id}, row))
    _count(ctx, action, decision)
    return Refusal(
        HocError(
            error.kind,
            error.code,
            error.detail,
            errors=error.errors,
            extra={**error.extra, "event_id": row["event_id"], "event_seq": row["seq"]},
        )
    )


def outbox_body(plane: PlaneRow, event: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the outbox tells about a plane write; no free text leaves here."""
    return {
        "plane_id": plane["plane_id"],
        "plane_version": plane["version"],
        "state": planes.state_of(plane).name,
        "event_id": event["event_id"],
        "event_seq": event["seq"],
        "event_type": event["event_type"],
        "from_state_value": event["from_state_value"],
        "to_state_value": event["to_state_value"],
        "action": event["action"],
        "decision": event["decision"],
        "error_code": event["error_code"],
        "required_action": event["required_action"],
        "job_id": event["job_id"],
    }


def clean_reason(reason: str | None) -> str | None:
    """Return a free text without secrets, as it is committed to."""
    return None if reason is None else redact_text(reason)[0]


def _count(ctx: OperationContext, action: LifecycleAction | None, decision: GateDecision) -> None:
    # An illegal pair of states has no action.
    labels = ("none" if action is None else action.value, decision.value)
    ctx.after_commit(TRANSITIONS.labels(*labels).inc)


def _values(ctx: OperationContext, plane: PlaneRow, move: PlaneMove) -> dict[str, Any]:
    values: dict[str, Any] = {
        "lifecycle_state_value": int(move.to_state),
        "state_entered_at": ctx.now,
    }
    if move.to_state is State.PENDING_DEACTIVATE:
        config = read_operational(plane["connector_type"], plane["config"])
        values["grace_until"] = ctx.now + timedelta(days=config.grace_period_days)
    elif move.to_state is State.ACTIVE:
        values["grace_until"] = None
    return {**values, **move.values}


def _transition_event(from_state: State, move: PlaneMove, job_id: str | None) -> EventDraft:
    back = (from_state, move.to_state) in lifecycle.ROLLBACK_EDGES
    return EventDraft(
        event_type=LifecycleEventType.LIFECYCLE_ROLLBACK if back else LifecycleEventType.LIFECYCLE_TRANSITION,
        from_state=from_state,
        to_state=move.to_state,
        action=move.action,
        gate=move.gate,
        job_id=job_id or move.job_id,
        approval_id=move.approval_id,
        details=move.details,
        reason=move.reason,
    )


def _started_event(move: PlaneMove, job_id: str | None) -> tuple[EventDraft, ...]:
    if job_id is None:
        return ()
    job_type, _target = ENTRY_JOBS[move.to_state]
    return (
        EventDraft(
            event_type=LifecycleEventType.LIFECYCLE_JOB_STARTED,
            from_state=move.to_state,
            to_state=None,
            job_id=job_id,
            details={"job_type": job_type.value},
        ),
    )


def _queue_entry_job(ctx: OperationContext, plane: PlaneRow, state: State, job_id: str) -> None:
    job_type, target = ENTRY_JOBS[state]
    jobs.queue_job(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        plane_id=plane["plane_id"],
        job_type=job_type,
        expected_state=int(state),
        target_state=None if target is None else int(target),
        config=None,
        requested_by=ctx.actor.id,
        now=ctx.now,
        job_id=job_id,
    )
    wake_workers(ctx)


def cancel_refresh(ctx: OperationContext, plane: PlaneRow, job: Mapping[str, Any]) -> None:
    """Take back what a cancelled refresh has written for the generation after the served one."""
    if job["job_type"] == JobType.REFRESH_DATA:
        ingest.sweep_staged(
            ctx.connection,
            tenant_id=ctx.tenant_id,
            plane_id=plane["plane_id"],
            generation=plane["generation"],
        )


def _cancel_job(ctx: OperationContext, plane: PlaneRow) -> None:
    cancelled = jobs.cancel_open(
        ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane["plane_id"], now=ctx.now
    )
    if cancelled is not None:
        cancel_refresh(ctx, plane, cancelled)


def _give_up(ctx: OperationContext, plane: PlaneRow, from_state: State) -> None:
    if from_state in _BOUND_STATES:
        tenant_state.bump_policy_version(ctx.connection, tenant_id=ctx.tenant_id)
    plane_collections.release(
        ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane["plane_id"], now=ctx.now
    )
    planes.delete_content(ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane["plane_id"])
