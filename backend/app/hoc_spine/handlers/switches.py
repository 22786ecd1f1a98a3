"""Spine L4: the system's switches and the telemetry of dispatches, for the operator."""

from __future__ import annotations

from app.domains.tenants.engines import switches as engine
from app.domains.tenants.models import (
    DispatchList,
    ListDispatches,
    NoInput,
    OperationMetrics,
    ReasonInput,
    SwitchesView,
)
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation
from app.kernel.redaction import redact_text

ENTITY = "system"


def get(ctx: OperationContext, _payload: NoInput) -> SwitchesView:
    """Return both switches."""
    return engine.view(engine.read(ctx.connection))


def engage_kill(ctx: OperationContext, payload: ReasonInput) -> SwitchesView:
    """Engage the kill switch; a no-op when it is engaged."""
    return _set(ctx, "kill", payload.reason, engaged=True, event="EmergencyOverrideActivated")


def release_kill(ctx: OperationContext, payload: ReasonInput) -> SwitchesView:
    """Release the kill switch; degraded mode stays as it is."""
    return _set(ctx, "kill", payload.reason, engaged=False, event="EmergencyOverrideDeactivated")


def enter_degraded(ctx: OperationContext, payload: ReasonInput) -> SwitchesView:
    """Enter degraded mode; a no-op when it is on."""
    return _set(ctx, "degraded", payload.reason, engaged=True, event="DegradedModeEntered")


def exit_degraded(ctx: OperationContext, payload: ReasonInput) -> SwitchesView:
    """Leave degraded mode; the kill switch stays as it is."""
    return _set(ctx, "degraded", payload.reason, engaged=False, event="DegradedModeExited")


def _set(
    ctx: OperationContext, switch: engine.Switch, reason: str, *, engaged: bool, event: str
) -> SwitchesView:
    before = engine.read(ctx.connection)
    clean = redact_text(reason)[0]
    if not engine.set_switch(
        ctx.connection, switch, engaged=engaged, now=ctx.now, by=ctx.actor.id, reason=clean
    ):
        return engine.view(before)
    after = engine.read(ctx.connection)
    ctx.audit(event, "SYSTEM", ENTITY, before=engine.image(before), after=engine.image(after), reason=clean)
    return engine.view(after)


def list_dispatches(ctx: OperationContext, payload: ListDispatches) -> DispatchList:
    """Return the newest dispatch records, of any tenant."""
    records = ctx.services.caches["audit_store"].get_dispatch_records(
        operation=payload.operation, tenant_id=payload.tenant_id, limit=payload.limit
    )
    return DispatchList(items=records)


def operation_metrics(ctx: OperationContext, _payload: NoInput) -> OperationMetrics:
    """Return counts and latencies of each operation, of this process."""
    return OperationMetrics(items=ctx.services.caches["dispatch_metrics"].snapshot())


OPERATIONS = (
    Operation("ops.switches.get", "tenants", "read", None, NoInput, SwitchesView, get, door="operator"),
    Operation(
        "ops.killswitch.engage",
        "tenants",
        "write",
        None,
        ReasonInput,
        SwitchesView,
        engage_kill,
        door="operator",
    ),
    Operation(
        "ops.killswitch.release",
        "tenants",
        "write",
        None,
        ReasonInput,
        SwitchesView,
        release_kill,
        door="operator",
    ),
    Operation(
        "ops.degraded.enter",
        "tenants",
        "write",
        None,
        ReasonInput,
        SwitchesView,
        enter_degraded,
        door="operator",
    ),
    Operation(
        "ops.degraded.exit",
        "tenants",
        "write",
        None,
        ReasonInput,
        SwitchesView,
        exit_degraded,
        door="operator",
    ),
    Operation(
        "ops.dispatches.list",
        "logs",
        "read",
        None,
        ListDispatches,
        DispatchList,
        list_dispatches,
        door="operator",
    ),
    Operation(
        "ops.metrics.operations",
        "logs",
        "read",
        None,
        NoInput,
        OperationMetrics,
        operation_metrics,
        door="operator",
    ),
)
