"""Spine: operations that move a plane through its lifecycle, and tell where it can go (GAP-089)."""

from __future__ import annotations

from typing import Any

from app.domains.knowledge.engines import bindings, jobs, lifecycle, planes, transitions
from app.domains.knowledge.engines.gates import SHOWN_IDS, GateResult
from app.domains.knowledge.engines.planes import PlaneRow
from app.domains.knowledge.engines.transitions import Intent, Move
from app.domains.knowledge.errors import conflict, plane_not_found, transition_conflict
from app.domains.knowledge.models.planes import (
    GateView,
    NextAction,
    NextActions,
    PlaneById,
    TransitionPlane,
    TransitionView,
)
from app.domains.knowledge.models.vocabulary import (
    GateDecision,
    JobType,
    KnowledgePlaneLifecycleState,
    LifecycleAction,
)
from app.domains.tenants.models import TenantStatus
from app.hoc_spine.authority import tenant_inactive
from app.hoc_spine.coordinators.plane_classes import classify
from app.hoc_spine.coordinators.plane_gates import Judged, judge_gate, running_readers
from app.hoc_spine.coordinators.plane_lifecycle import (
    PlaneMove,
    WrittenPlane,
    apply_transition,
    record_refusal,
)
from app.hoc_spine.coordinators.plane_purge import purge
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf, Refusal
from app.kernel.context import has_scope
from app.kernel.errors import HocError

State = KnowledgePlaneLifecycleState
_STAGE_JOBS = {State.PENDING_VERIFY: JobType.VERIFY_CONNECTIVITY, State.INGESTING: JobType.INGEST_DATA}


def transition_plane(ctx: OperationContext, request: TransitionPlane) -> TransitionView | Refusal:
    """Take one edge of the lifecycle, or record why not."""
    intent = transitions.read_intent(request)
    plane = planes.find_plane(ctx.connection, tenant_id=ctx.tenant_id, plane_id=request.plane_id)
    if ctx.standing.tenant_status != TenantStatus.ACTIVE:
        if plane is None:
            raise tenant_inactive()
        return _refuse(ctx, plane, tenant_inactive(), intent)
    if plane is None:
        raise plane_not_found()
    ctx.require_version(plane["version"])
    move = transitions.decide_move(intent, planes.state_of(plane))
    if isinstance(move, HocError):
        return _refuse(ctx, plane, move, intent)
    error = (
        transitions.check_switch(move.to_state, halted=ctx.standing.halted)
        or transitions.check_authority(
            move, force=intent.force, is_admin=has_scope(ctx.request.scopes, transitions.ADMIN_SCOPE)
        )
        or _check_stage(ctx, plane, move)
    )
    if error is not None:
        return _refuse(ctx, plane, error, intent, move)
    judged = judge_gate(ctx, plane, move.to_state, force=intent.force)
    if judged is not None and not judged.gate.allowed:
        return _refuse_gate(ctx, plane, judged.gate, intent, move)
    return _take(ctx, plane, intent, move, judged)


def _take(
    ctx: OperationContext, plane: PlaneRow, intent: Intent, move: Move, judged: Judged | None
) -> TransitionView | Refusal:
    details = _details(ctx, plane, intent, move)
    values: dict[str, Any] | HocError = {}
    if move.action is LifecycleAction.CLASSIFY:
        values = classify(ctx, plane)
    elif move.to_state is State.PURGED:
        purged = purge(ctx, plane, None if judged is None else judged.consent, reason=intent.reason)
        if isinstance(purged, HocError):
            values = purged
        else:
            values, certificate = purged
            details["certificate"] = certificate
    if isinstance(values, HocError):
        return _refuse(ctx, plane, values, intent, move)
    written = apply_transition(
        ctx,
        plane,
        PlaneMove(
            to_state=move.to_state,
            action=move.action,
            reason=intent.reason,
            gate=None if judged is None else judged.gate.as_json(),
            approval_id=None if judged is None or judged.consent is None else judged.consent.approval_id,
            details=details,
            values=values,
        ),
    )
    if written is None:
        return _refuse(ctx, plane, transition_conflict(), intent, move)
    return _view(move, judged, written)


def _check_stage(ctx: OperationContext, plane: PlaneRow, move: Move) -> HocError | None:
    if not transitions.needs_job(move):
        return None
    job_type = _STAGE_JOBS[move.from_state]
    return transitions.check_job(
        planes.get_visit_job_status(ctx.connection, tenant_id=ctx.tenant_id, plane=plane, job_type=job_type)
    )


def _details(ctx: OperationContext, plane: PlaneRow, intent: Intent, move: Move) -> dict[str, Any]:
    details: dict[str, Any] = {"forced": True} if intent.force else {}
    if move.to_state is State.PENDING_DEACTIVATE:
        plane_id = plane["plane_id"]
        policy_ids = bindings.list_policy_ids(ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane_id)
        details["dependents"] = {
            "binding_count": len(policy_ids),
            "policy_ids": policy_ids[:SHOWN_IDS],
            "running_run_ids": list(running_readers(ctx, plane_id)),
        }
    return details


def _refuse(
    ctx: OperationContext, plane: PlaneRow, error: HocError, intent: Intent, move: Move | None = None
) -> Refusal:
    required = error.extra.get("required_action")
    return record_refusal(
        ctx,
        plane["plane_id"],
        error,
        action=intent.action if move is None else move.action,
        to_state=intent.target if move is None else move.to_state,
        reason=intent.reason,
        decision=GateDecision.BLOCKED if required is None else GateDecision.PENDING,
        required_action=required,
    )


def _refuse_gate(
    ctx: OperationContext, plane: PlaneRow, gate: GateResult, intent: Intent, move: Move
) -> Refusal:
    pending = gate.decision is GateDecision.PENDING
    error = conflict(
        "POLICY_GATE_PENDING" if pending else "POLICY_GATE_BLOCKED",
        f"The gate to {move.to_state.name} is closed: {gate.reason}.",
        gate=gate.as_json(),
        required_action=gate.required_action,
    )
    return record_refusal(
        ctx,
        plane["plane_id"],
        error,
        action=move.action,
        to_state=move.to_state,
        reason=intent.reason,
        decision=gate.decision,
        required_action=gate.required_action,
        gate=gate.as_json(),
    )


def _view(move: Move, judged: Judged | None, written: WrittenPlane) -> TransitionView:
    return TransitionView(
        plane_id=written.plane["plane_id"],
        from_state=move.from_state.name,
        from_state_value=int(move.from_state),
        to_state=move.to_state.name,
        to_state_value=int(move.to_state),
        action=move.action.value,
        gate=None if judged is None else _gate_view(judged.gate),
        event_id=written.event["event_id"],
        event_seq=written.event["seq"],
        version=written.plane["version"],
        job_id=written.job_id,
        updated_at=written.plane["updated_at"],
    )


def _gate_view(gate: GateResult) -> GateView:
    return GateView.model_validate(gate.as_json())


def list_next_actions(ctx: OperationContext, request: PlaneById) -> NextActions:
    """Return every legal edge out of the plane's state, with its gate as it stands now and the open job."""
    plane = planes.require_plane(ctx.connection, tenant_id=ctx.tenant_id, plane_id=request.plane_id)
    state = planes.state_of(plane)
    open_job = jobs.get_open(ctx.connection, tenant_id=ctx.tenant_id, plane_id=request.plane_id)
    actions = []
    for target in lifecycle.get_valid_transitions(state):
        edge = lifecycle.validate_transition(state, target)
        judged = judge_gate(ctx, plane, target, force=False)
        actions.append(
            NextAction(
                action=str(lifecycle.get_actor_action(state, target)),
                to_state=target.name,
                to_state_value=int(target),
                requires_async=edge.requires_async,
                requires_gate=edge.requires_gate,
                gate=None if judged is None else _gate_view(judged.gate),
                open_job_id=None if open_job is None else open_job["job_id"],
            )
        )
    return NextActions(
        plane_id=request.plane_id,
        state=state.name,
        state_value=int(state),
        version=plane["version"],
        actions=actions,
    )


declare = OperationsOf("knowledge")
OPERATIONS = (
    declare.write(
        "knowledge.planes.transition", TransitionPlane, TransitionView, transition_plane, authority="recorded"
    ),
    declare.read("knowledge.planes.next_actions", PlaneById, NextActions, list_next_actions),
)
