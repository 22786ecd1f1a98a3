"""Spine L4: tenants, seen by themselves and by the operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.domains.tenants.engines import tenants as engine
from app.domains.tenants.models import (
    ChangeTenantStatus,
    CreateTenant,
    ListTenants,
    NoInput,
    ReasonInput,
    TenantPath,
    TenantStatus,
    TenantUsage,
    TenantView,
    UpdateTenant,
)
from app.hoc_spine.coordinators import log_sequencing
from app.hoc_spine.coordinators.plan_limits import settle_plan_limit, tokens_this_month
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation, OperationsOf
from app.kernel.pages import Page, page_of, read_cursor
from app.kernel.redaction import redact_text


def get_own(ctx: OperationContext, _payload: NoInput) -> TenantView:
    """Return the caller's tenant."""
    return engine.view(engine.require(ctx.connection, tenant_id=ctx.tenant_id))


def get_usage(ctx: OperationContext, _payload: NoInput) -> TenantUsage:
    """Return the caller's use against its plan."""
    return engine.usage(
        ctx.connection, tenant_id=ctx.tenant_id, now=ctx.now, tokens_this_month=tokens_this_month(ctx)
    )


def freeze(ctx: OperationContext, payload: ReasonInput) -> TenantView:
    """Engage the tenant's own switch; a no-op when it is engaged."""
    return _switch(ctx, payload.reason, frozen=True)


def unfreeze(ctx: OperationContext, payload: ReasonInput) -> TenantView:
    """Lift the tenant's own switch; a no-op when it is lifted."""
    return _switch(ctx, payload.reason, frozen=False)


def _switch(ctx: OperationContext, reason: str, *, frozen: bool) -> TenantView:
    current = engine.require(ctx.connection, tenant_id=ctx.tenant_id, lock=True)
    ctx.require_version(current["version"])
    clean = redact_text(reason)[0]
    if not engine.set_frozen(
        ctx.connection, tenant_id=ctx.tenant_id, frozen=frozen, now=ctx.now, by=ctx.actor.id, reason=clean
    ):
        return engine.view(current)
    # The view shows the switch, so its version moves with it.
    row = engine.change(ctx.connection, current, {}, now=ctx.now)
    ctx.audit(
        "EmergencyOverrideActivated" if frozen else "EmergencyOverrideDeactivated",
        "TENANT",
        ctx.tenant_id,
        before=engine.image(current) | {"frozen": not frozen},
        after=engine.image(row) | {"frozen": frozen},
        reason=clean,
    )
    return engine.view(engine.require(ctx.connection, tenant_id=ctx.tenant_id))


def create(ctx: OperationContext, payload: CreateTenant) -> TenantView:
    """Create an ACTIVE tenant with its state and log; refuse TENANT_EXISTS and TENANT_ID_RESERVED."""
    row = {
        "name": payload.name,
        "slug": payload.slug or payload.tenant_id,
        "plan": payload.plan.value,
        "status": TenantStatus.ACTIVE.value,
        "allow_self_approval": payload.allow_self_approval,
        "created_at": ctx.now,
        "updated_at": ctx.now,
        **ctx.protect({"status_reason": None}),
    }
    created = engine.create(ctx.connection, row, tenant_id=payload.tenant_id, now=ctx.now)
    log_sequencing.open_log(
        ctx.connection, tenant_id=payload.tenant_id, prefix=ctx.services.settings.log_origin, now=ctx.now
    )
    settle_plan_limit(ctx, tenant_id=payload.tenant_id, plan=payload.plan)
    ctx.audit("TenantCreated", "TENANT", payload.tenant_id, after=engine.image(created))
    return engine.view(engine.require(ctx.connection, tenant_id=payload.tenant_id))


def get(ctx: OperationContext, payload: TenantPath) -> TenantView:
    """Return one tenant."""
    return engine.view(engine.require(ctx.connection, tenant_id=payload.tenant_id))


def list_page(ctx: OperationContext, payload: ListTenants) -> Page[TenantView]:
    """Return tenants by id."""
    binding = f"ops.tenants.list:{payload.status}"
    (after,) = read_cursor(payload.cursor, binding, str) or (None,)
    rows = engine.list_page(ctx.connection, status=payload.status, after=after, limit=payload.limit + 1)
    return page_of(
        rows, limit=payload.limit, binding=binding, key=lambda row: (row["tenant_id"],), view=engine.view
    )


def update(ctx: OperationContext, payload: UpdateTenant) -> TenantView:
    """Change name, plan or self-approval; needs If-Match."""
    current = engine.require(ctx.connection, tenant_id=payload.tenant_id, lock=True)
    ctx.require_version(current["version"], required=True)
    given = payload.model_dump(exclude={"tenant_id"}, exclude_none=True, mode="json")
    if payload.plan is not None:
        settle_plan_limit(ctx, tenant_id=payload.tenant_id, plan=payload.plan)
    return _write(ctx, current, given, event="TenantUpdated", reason=None)


def suspend(ctx: OperationContext, payload: ChangeTenantStatus) -> TenantView:
    """Suspend a tenant; a no-op when it is suspended, TENANT_CLOSED when it is closed."""
    return _set_status(ctx, payload, TenantStatus.SUSPENDED, "TenantSuspended")


def activate(ctx: OperationContext, payload: ChangeTenantStatus) -> TenantView:
    """Activate a suspended tenant; a no-op when it is active, TENANT_CLOSED when it is closed."""
    return _set_status(ctx, payload, TenantStatus.ACTIVE, "TenantActivated")


def close(ctx: OperationContext, payload: ChangeTenantStatus) -> TenantView:
    """Close a tenant for good; a no-op when it is closed."""
    return _set_status(ctx, payload, TenantStatus.CLOSED, "TenantClosed")


def _set_status(
    ctx: OperationContext, payload: ChangeTenantStatus, wanted: TenantStatus, event: str
) -> TenantView:
    current = engine.require(ctx.connection, tenant_id=payload.tenant_id, lock=True)
    ctx.require_version(current["version"])
    if not engine.decide_status(TenantStatus(current["status"]), wanted):
        return engine.view(current)
    reason = redact_text(payload.reason)[0]
    values = {"status": wanted.value, **ctx.protect({"status_reason": reason})}
    return _write(ctx, current, values, event=event, reason=reason)


def _write(
    ctx: OperationContext,
    current: Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    event: str,
    reason: str | None,
) -> TenantView:
    changed = {name: value for name, value in values.items() if current[name] != value}
    if not changed:
        return engine.view(current)
    row = engine.change(ctx.connection, current, changed, now=ctx.now)
    ctx.audit(
        event,
        "TENANT",
        current["tenant_id"],
        before=engine.image(current),
        after=engine.image(row),
        reason=reason,
    )
    return engine.view(row)


declare = OperationsOf("tenants", "tenant")
OPERATIONS = (
    declare.read("tenants.get", NoInput, TenantView, get_own),
    declare.read("tenants.usage", NoInput, TenantUsage, get_usage),
    declare.write("tenants.freeze", ReasonInput, TenantView, freeze, verb="admin"),
    declare.write("tenants.unfreeze", ReasonInput, TenantView, unfreeze, verb="admin"),
    Operation(
        "ops.tenants.create",
        "tenants",
        "write",
        None,
        CreateTenant,
        TenantView,
        create,
        door="operator",
        creates=True,
    ),
    Operation("ops.tenants.get", "tenants", "read", None, TenantPath, TenantView, get, door="operator"),
    Operation(
        "ops.tenants.list", "tenants", "read", None, ListTenants, Page[TenantView], list_page, door="operator"
    ),
    Operation(
        "ops.tenants.update", "tenants", "write", None, UpdateTenant, TenantView, update, door="operator"
    ),
    Operation(
        "ops.tenants.suspend",
        "tenants",
        "write",
        None,
        ChangeTenantStatus,
        TenantView,
        suspend,
        door="operator",
    ),
    Operation(
        "ops.tenants.activate",
        "tenants",
        "write",
        None,
        ChangeTenantStatus,
        TenantView,
        activate,
        door="operator",
    ),
    Operation(
        "ops.tenants.close", "tenants", "write", None, ChangeTenantStatus, TenantView, close, door="operator"
    ),
)
