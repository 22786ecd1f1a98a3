"""Spine: operations on overrides of limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.db.connection import Row
from app.domains.controls.engines import limits, overrides
from app.domains.controls.errors import override_reference
from app.domains.controls.models.overrides import (
    DecideOverride,
    ListOverrides,
    OverrideRef,
    OverrideView,
    RequestOverride,
)
from app.domains.controls.models.usage import Upkeep, UpkeepDone
from app.domains.controls.models.vocabulary import OverrideStatus
from app.domains.tenants.engines import state
from app.hoc_spine.authority import insufficient_scope
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation, OperationsOf
from app.kernel.context import has_scope
from app.kernel.pages import Page, newest_first
from app.kernel.redaction import redact_text

EVENTS: Mapping[OverrideStatus, str] = {
    OverrideStatus.APPROVED: "LimitOverrideGranted",
    OverrideStatus.REJECTED: "LimitOverrideRejected",
    OverrideStatus.CANCELLED: "LimitOverrideRevoked",
    OverrideStatus.EXPIRED: "LimitOverrideExpired",
}


def request_override(ctx: OperationContext, given: RequestOverride) -> OverrideView:
    """Ask for another value of a limit for a while.

    Refuses REFERENCE_NOT_FOUND, LIMIT_SYSTEM, OVERRIDE_TOO_LONG, OVERRIDE_STACKING and OVERRIDE_QUOTA.
    """
    limit = limits.find(ctx.connection, tenant_id=ctx.tenant_id, limit_id=given.limit_id)
    if limit is None:
        raise override_reference(given.limit_id)
    limits.require_own(limit)
    window = overrides.check_window(given, now=ctx.now)
    # What has run out since the last maintenance is in nobody's way.
    expire_overrides(ctx, Upkeep())
    # Requests come one after the other, so that two of them cannot both be the fifth.
    state.hold(ctx.connection, tenant_id=ctx.tenant_id)
    overrides.check_beside(overrides.list_live(ctx.connection, tenant_id=ctx.tenant_id), given.limit_id)
    reason = redact_text(given.reason)[0]
    row = overrides.build(
        given,
        window,
        override_id=ctx.new_id("ovr"),
        requested_by=ctx.actor.id,
        protected=ctx.protect({"reason": reason, "review_notes": None}),
        now=ctx.now,
    )
    overrides.insert(ctx.connection, row, tenant_id=ctx.tenant_id)
    ctx.audit(
        "LimitOverrideRequested",
        "LIMIT_OVERRIDE",
        row["override_id"],
        after=overrides.image(row),
        reason=reason,
    )
    return overrides.view(row)


def approve_override(ctx: OperationContext, given: DecideOverride) -> OverrideView:
    """Let an override act, in running runs too; refuse SELF_APPROVAL and INVALID_TRANSITION."""
    row = _held(ctx, given.override_id)
    overrides.check_step(OverrideStatus(row["status"]), OverrideStatus.APPROVED)
    overrides.check_review(
        row, actor_id=ctx.actor.id, allow_self_approval=ctx.standing.allow_self_approval, now=ctx.now
    )
    return _review(ctx, row, OverrideStatus.APPROVED, given.notes)


def reject_override(ctx: OperationContext, given: DecideOverride) -> OverrideView:
    """Turn a request down; refuse INVALID_TRANSITION."""
    row = _held(ctx, given.override_id)
    overrides.check_step(OverrideStatus(row["status"]), OverrideStatus.REJECTED)
    return _review(ctx, row, OverrideStatus.REJECTED, given.notes)


def cancel_override(ctx: OperationContext, given: DecideOverride) -> OverrideView:
    """Take an override back, as its requester or an administrator; refuse INVALID_TRANSITION."""
    row = _held(ctx, given.override_id)
    admin = ctx.request.door != "tenant" or has_scope(ctx.request.scopes, "controls:admin")
    if not admin and row["requested_by"] != ctx.actor.id:
        raise insufficient_scope("controls:admin")
    overrides.check_step(OverrideStatus(row["status"]), OverrideStatus.CANCELLED)
    values = {"cancelled_at": ctx.now, "cancelled_by": ctx.actor.id}
    return _write(ctx, row, OverrideStatus.CANCELLED, values, given.notes)


def expire_overrides(ctx: OperationContext, given: Upkeep) -> UpkeepDone:
    """End the overrides whose time is over; those that others hold wait."""
    due = overrides.lock_due(ctx.connection, tenant_id=ctx.tenant_id, now=ctx.now, limit=given.limit)
    for row in due:
        _write(ctx, row, OverrideStatus.EXPIRED, {}, None)
    return UpkeepDone(count=len(due), more=len(due) == given.limit)


def get_override(ctx: OperationContext, given: OverrideRef) -> OverrideView:
    """Show one override."""
    return overrides.view(
        overrides.require(ctx.connection, tenant_id=ctx.tenant_id, override_id=given.override_id)
    )


def list_overrides(ctx: OperationContext, query: ListOverrides) -> Page[OverrideView]:
    """List the overrides, newest first."""
    return newest_first(
        query,
        tenant_id=ctx.tenant_id,
        operation="controls.overrides.list",
        columns=("created_at", "override_id"),
        fetch=lambda before, count: overrides.list_page(
            ctx.connection, query, tenant_id=ctx.tenant_id, before=before, limit=count
        ),
        view=overrides.view,
    )


def _held(ctx: OperationContext, override_id: str) -> Row:
    row = overrides.require(ctx.connection, tenant_id=ctx.tenant_id, override_id=override_id, lock=True)
    ctx.require_version(row["version"])
    return row


def _review(ctx: OperationContext, row: Row, status: OverrideStatus, notes: str | None) -> OverrideView:
    values: dict[str, Any] = {"reviewed_at": ctx.now, "reviewed_by": ctx.actor.id}
    # An erased row takes no new values: its commitment is the one that the erasure lists.
    if row["erased_fact_id"] is None:
        said = None if notes is None else redact_text(notes)[0]
        values |= ctx.protect({"reason": row["reason"], "review_notes": said})
    return _write(ctx, row, status, values, notes)


def _write(
    ctx: OperationContext,
    row: Row,
    status: OverrideStatus,
    values: Mapping[str, Any],
    reason: str | None,
) -> OverrideView:
    after = overrides.write(
        ctx.connection, row, {"status": status.value, **values}, tenant_id=ctx.tenant_id, now=ctx.now
    )
    if OverrideStatus.APPROVED in (status, row["status"]):
        state.bump_live_epoch(ctx.connection, tenant_id=ctx.tenant_id)
    ctx.audit(
        EVENTS[status],
        "LIMIT_OVERRIDE",
        row["override_id"],
        before=overrides.image(row),
        after=overrides.image(after),
        reason=reason,
    )
    return overrides.view(after)


declare = OperationsOf("controls")
OPERATIONS = (
    declare.write(
        "controls.overrides.request", RequestOverride, OverrideView, request_override, creates=True
    ),
    declare.write("controls.overrides.approve", DecideOverride, OverrideView, approve_override, verb="admin"),
    declare.write("controls.overrides.reject", DecideOverride, OverrideView, reject_override, verb="admin"),
    # Whoever asked for it may take it back; the handler asks everybody else for controls:admin.
    declare.write("controls.overrides.cancel", DecideOverride, OverrideView, cancel_override),
    declare.read("controls.overrides.get", OverrideRef, OverrideView, get_override),
    declare.read("controls.overrides.list", ListOverrides, Page[OverrideView], list_overrides),
    Operation(
        name="controls.overrides.expire",
        owner="controls",
        mode="write",
        scope=None,
        door="worker",
        input=Upkeep,
        output=UpkeepDone,
        handler=expire_overrides,
    ),
)
