"""Spine L4: legal holds: placed, listed, released."""

from __future__ import annotations

from app.domains.activity.engines import runs, subjects
from app.domains.knowledge.engines import planes
from app.domains.logs.engines import legal_holds as engine
from app.domains.logs.engines import over_age, purge
from app.domains.logs.errors import scope_not_found
from app.domains.logs.models.erasure import (
    HoldScope,
    HoldView,
    ListHolds,
    PlaceHold,
    ReleaseHold,
)
from app.domains.repository.engines import operation_runs
from app.hoc_spine.coordinators.legal_holds import lock_holds
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.pages import Page, newest_first
from app.kernel.redaction import redact_text

ENTITY = "LEGAL_HOLD"
LIST = "evidence.holds.list"


def place(ctx: OperationContext, request: PlaceHold) -> HoldView:
    """Place a hold; refuse REFERENCE_NOT_FOUND for what is not there, so that no hold covers nothing."""
    scope_id = request.scope_id or ctx.tenant_id
    if not _is_there(ctx, request.scope, scope_id):
        raise scope_not_found()
    lock_holds(ctx)
    hold_id = ctx.new_id("hold")
    row = {
        "hold_id": hold_id,
        "scope": request.scope.value,
        "scope_id": scope_id,
        "reason": redact_text(request.reason)[0],
        "placed_by": ctx.actor.id,
        "placed_at": ctx.now,
        "released_by": None,
        "released_at": None,
        "version": 1,
    }
    engine.place(ctx.connection, row, tenant_id=ctx.tenant_id)
    ctx.audit("LegalHoldPlaced", ENTITY, hold_id, after=engine.image(row))
    return engine.view(row)


def _is_there(ctx: OperationContext, scope: HoldScope, scope_id: str) -> bool:
    key = {"tenant_id": ctx.tenant_id}
    if scope is HoldScope.RUN:
        is_there = runs.run_exists(ctx.connection, **key, run_id=scope_id)
        # A run that is being purged is gone.
        is_there = is_there and not purge.purged_among(ctx.connection, [scope_id], **key)
        return is_there or bool(operation_runs.list_statuses(ctx.connection, **key, run_ids=[scope_id]))
    if scope is HoldScope.SUBJECT:
        return subjects.has_runs(ctx.connection, **key, subject_ref=scope_id)
    if scope is HoldScope.PLANE:
        found = planes.find_plane(ctx.connection, tenant_id=ctx.tenant_id, plane_id=scope_id)
        return found is not None
    return scope_id == ctx.tenant_id


def list_holds(ctx: OperationContext, query: ListHolds) -> Page[HoldView]:
    """Return holds, newest first."""
    return newest_first(
        query,
        tenant_id=ctx.tenant_id,
        operation=LIST,
        columns=("placed_at", "hold_id"),
        fetch=lambda before, limit: engine.list_page(
            ctx.connection, query, tenant_id=ctx.tenant_id, before=before, limit=limit
        ),
        view=engine.view,
    )


def release(ctx: OperationContext, request: ReleaseHold) -> HoldView:
    """Release a hold for good; refuse HOLD_NOT_FOUND, HOLD_RELEASED."""
    row = engine.lock_active(ctx.connection, tenant_id=ctx.tenant_id, hold_id=request.hold_id)
    ctx.require_version(row["version"])
    after = engine.release(ctx.connection, row, tenant_id=ctx.tenant_id, by=ctx.actor.id, now=ctx.now)
    # What the hold kept from erasure is past its age by now, and nothing has looked at it since.
    over_age.set_position(ctx.connection, tenant_id=ctx.tenant_id, fact_id=None)
    ctx.audit(
        "LegalHoldReleased",
        ENTITY,
        row["hold_id"],
        before=engine.image(row),
        after=engine.image(after),
        reason=request.reason,
    )
    return engine.view(after)


declare = OperationsOf("logs")
OPERATIONS = (
    declare.write("evidence.holds.place", PlaceHold, HoldView, place, verb="admin", creates=True),
    declare.read(LIST, ListHolds, Page[HoldView], list_holds, verb="admin"),
    declare.write("evidence.holds.release", ReleaseHold, HoldView, release, verb="admin"),
)
