"""Spine: operations that bind policies to planes, consent to a purge, and suspend a plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.domains.knowledge.engines import approvals, bindings, planes
from app.domains.knowledge.engines.bindings import RuleFacts
from app.domains.knowledge.engines.events import EventDraft
from app.domains.knowledge.engines.planes import PlaneRow
from app.domains.knowledge.engines.suspension import decide_suspension
from app.domains.knowledge.errors import conflict, rule_not_found
from app.domains.knowledge.models.planes import (
    ApprovePurge,
    PlaneChange,
    PlanePolicy,
    PurgeApprovalView,
    SetSuspension,
)
from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState,
    LifecycleEventType,
)
from app.domains.policies.engines import rules
from app.domains.tenants.engines import state as tenant_state
from app.hoc_spine.coordinators.plane_gates import bound_rules
from app.hoc_spine.coordinators.plane_lifecycle import WrittenPlane, write_plane
from app.hoc_spine.coordinators.plane_views import change_view
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.errors import HocError

State = KnowledgePlaneLifecycleState


def bind_policy(ctx: OperationContext, request: PlanePolicy) -> PlaneChange:
    """Bind an ACTIVE ACCESS rule to a plane in PENDING_ACTIVATE or ACTIVE; bound already is a no-op."""
    _peek(ctx, request.plane_id, bindings.check_binding_open)
    # The rule before the plane, as everywhere: a rule that is being retired now is seen as it ends up.
    rule = _hold_rule(ctx, request.policy_id)
    plane = _hold(ctx, request.plane_id)
    _raise(bindings.check_binding_open(planes.state_of(plane)))
    bound = bindings.list_policy_ids(ctx.connection, tenant_id=ctx.tenant_id, plane_id=request.plane_id)
    if request.policy_id in bound:
        return change_view(ctx, request.plane_id, changed=False)
    _raise(bindings.check_bindable(rule, bound=len(bound)))
    row: dict[str, Any] = {
        "binding_id": ctx.new_id("kpb"),
        "plane_id": request.plane_id,
        "policy_id": request.policy_id,
        "bound_by": ctx.actor.id,
        "bound_at": ctx.now,
        "unbound_by": None,
        "unbound_at": None,
        "version": 1,
    }
    row["fact_id"] = ctx.facts.add("policy.binding", row)
    bindings.insert_binding(ctx.connection, tenant_id=ctx.tenant_id, row=row)
    event = _binding_event(plane, row, LifecycleEventType.PLANE_POLICY_BOUND)
    _write(ctx, plane, {}, event, "PlanePolicyBound")
    tenant_state.bump_policy_version(ctx.connection, tenant_id=ctx.tenant_id)
    return change_view(ctx, request.plane_id, changed=True)


def unbind_policy(ctx: OperationContext, request: PlanePolicy) -> PlaneChange:
    """End a binding in PENDING_ACTIVATE, ACTIVE or PENDING_DEACTIVATE; not bound is a no-op."""
    _peek(ctx, request.plane_id, bindings.check_unbinding_open)
    _hold_rule(ctx, request.policy_id)
    plane = _hold(ctx, request.plane_id)
    _raise(bindings.check_unbinding_open(planes.state_of(plane)))
    binding = bindings.find_binding(
        ctx.connection, tenant_id=ctx.tenant_id, plane_id=request.plane_id, policy_id=request.policy_id
    )
    if binding is None:
        return change_view(ctx, request.plane_id, changed=False)
    _raise(
        bindings.check_last_binding(
            planes.state_of(plane), request.policy_id, bound_rules(ctx, request.plane_id)
        )
    )
    ended = {
        **binding,
        "unbound_by": ctx.actor.id,
        "unbound_at": ctx.now,
        "version": binding["version"] + 1,
    }
    fact_id = ctx.facts.add("policy.binding", ended)
    bindings.end_binding(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        binding=binding,
        unbound_by=ctx.actor.id,
        unbound_at=ctx.now,
        fact_id=fact_id,
    )
    event = _binding_event(plane, ended, LifecycleEventType.PLANE_POLICY_UNBOUND)
    _write(ctx, plane, {}, event, "PlanePolicyUnbound")
    tenant_state.bump_policy_version(ctx.connection, tenant_id=ctx.tenant_id)
    return change_view(ctx, request.plane_id, changed=True)


def approve_purge(ctx: OperationContext, request: ApprovePurge) -> PurgeApprovalView:
    """Consent to the purge of an ARCHIVED plane for some days; only a person may."""
    plane = _hold(ctx, request.plane_id)
    _raise(approvals.check_approval(planes.state_of(plane), actor_type=ctx.actor.type))
    approval_id = ctx.new_id("kpa")
    draft = EventDraft(
        event_type=LifecycleEventType.LIFECYCLE_PURGE_APPROVED,
        from_state=planes.state_of(plane),
        to_state=None,
        approval_id=approval_id,
        reason=request.reason,
    )
    written = _write(ctx, plane, {}, draft, "PlanePurgeApproved", reason=request.reason)
    row = approvals.new_approval(
        approval_id=approval_id,
        plane_id=request.plane_id,
        approved_by=ctx.actor.id,
        event_id=written.event["event_id"],
        now=ctx.now,
        valid_days=ctx.services.settings.purge_approval_days,
    )
    approvals.append_approval(ctx.connection, tenant_id=ctx.tenant_id, row=row)
    return PurgeApprovalView(**row, version=written.plane["version"])


def set_suspension(ctx: OperationContext, request: SetSuspension) -> PlaneChange:
    """Stop or resume every access to a plane at once, whatever its state says."""
    plane = _hold(ctx, request.plane_id)
    state = planes.state_of(plane)
    change = decide_suspension(
        state,
        suspended=plane["suspended_at"] is not None,
        wanted=request.suspended,
        halted=ctx.standing.halted,
    )
    if not change:
        return change_view(ctx, request.plane_id, changed=False)
    values: Mapping[str, Any] = {
        "suspended_at": ctx.now if request.suspended else None,
        "suspended_by": ctx.actor.id if request.suspended else None,
    }
    draft = EventDraft(
        event_type=(
            LifecycleEventType.PLANE_SUSPENDED if request.suspended else LifecycleEventType.PLANE_RESUMED
        ),
        from_state=state,
        to_state=None,
        reason=request.reason,
    )
    audit = "PlaneSuspended" if request.suspended else "PlaneResumed"
    _write(ctx, plane, values, draft, audit, reason=request.reason)
    return change_view(ctx, request.plane_id, changed=True)


def _peek(ctx: OperationContext, plane_id: str, check: Any) -> None:
    plane = planes.require_plane(ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane_id)
    ctx.require_version(plane["version"])
    _raise(check(planes.state_of(plane)))


def _hold(ctx: OperationContext, plane_id: str) -> PlaneRow:
    plane = planes.require_plane(ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane_id, lock=True)
    ctx.require_version(plane["version"])
    return plane


def _hold_rule(ctx: OperationContext, rule_id: str) -> RuleFacts:
    try:
        rule = rules.load(ctx.connection, tenant_id=ctx.tenant_id, rule_id=rule_id)
    except HocError as error:
        raise rule_not_found() from error
    effect = rule.version.effect
    return RuleFacts(
        rule.rule_id, rule.head["kind"], rule.status.value, None if effect is None else effect.value
    )


def _raise(error: HocError | None) -> None:
    if error is not None:
        raise error


def _binding_event(plane: PlaneRow, binding: Mapping[str, Any], event_type: LifecycleEventType) -> EventDraft:
    return EventDraft(
        event_type=event_type,
        from_state=planes.state_of(plane),
        to_state=None,
        details={"binding_id": binding["binding_id"], "policy_id": binding["policy_id"]},
    )


def _write(
    ctx: OperationContext,
    plane: PlaneRow,
    values: Mapping[str, Any],
    draft: EventDraft,
    audit: str,
    *,
    reason: str | None = None,
) -> WrittenPlane:
    written = write_plane(ctx, plane, values=values, drafts=(draft,), audit=audit, reason=reason)
    if written is None:
        raise conflict("TRANSITION_CONFLICT", "The plane changed at the same moment.")
    return written


declare = OperationsOf("knowledge")
OPERATIONS = (
    declare.write("knowledge.planes.bind_policy", PlanePolicy, PlaneChange, bind_policy),
    declare.write("knowledge.planes.unbind_policy", PlanePolicy, PlaneChange, unbind_policy),
    declare.write(
        "knowledge.planes.approve_purge",
        ApprovePurge,
        PurgeApprovalView,
        approve_purge,
        verb="admin",
        creates=True,
    ),
    declare.write("knowledge.planes.set_suspension", SetSuspension, PlaneChange, set_suspension),
)
