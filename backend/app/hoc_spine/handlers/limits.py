"""Spine: operations on limits, and the list of their breaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.db.connection import Row
from app.domains.controls.engines import breaches, ledger, limits, reserving
from app.domains.controls.engines.windows import window_key
from app.domains.controls.errors import limit_exists
from app.domains.controls.models.limits import (
    ChangeLimitStatus,
    CreateLimit,
    LimitRef,
    LimitRule,
    LimitStanding,
    LimitView,
    ListLimits,
    UpdateLimit,
)
from app.domains.controls.models.usage import (
    BreachView,
    CheckCounters,
    CounterCheck,
    Drift,
    ListBreaches,
    Upkeep,
    UpkeepDone,
)
from app.domains.controls.models.vocabulary import LimitCategory, LimitSource, LimitStatus
from app.domains.tenants.engines import state
from app.domains.tenants.models import Plan
from app.hoc_spine.coordinators.limit_use import live_overrides
from app.hoc_spine.coordinators.plan_limits import PLAN_LIMIT, settle_plan_limit
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation, OperationsOf
from app.kernel.amounts import as_number
from app.kernel.pages import Page, newest_first


def create_limit(ctx: OperationContext, given: CreateLimit) -> LimitView:
    """Make an ACTIVE limit for the runs that start from now on; refuse LIMIT_EXISTS."""
    if given.limit_id == PLAN_LIMIT:
        raise limit_exists("limit_id")
    if given.name == PLAN_LIMIT:
        raise limit_exists("name")
    row = limits.build(
        given,
        tenant_id=ctx.tenant_id,
        limit_id=given.limit_id or ctx.new_id("lim"),
        source=LimitSource.MANUAL,
        created_by=ctx.actor.id,
        now=ctx.now,
    )
    limits.insert(ctx.connection, row, tenant_id=ctx.tenant_id)
    state.bump_policy_version(ctx.connection, tenant_id=ctx.tenant_id)
    ctx.audit("LimitCreated", "LIMIT", row["limit_id"], after=limits.image(row))
    return limits.view(row)


def update_limit(ctx: OperationContext, given: UpdateLimit) -> LimitView:
    """Give a limit a new version; If-Match is demanded. Refuses IMMUTABLE_FIELD and LIMIT_SYSTEM."""
    row = _held(ctx, given.limit_id)
    ctx.require_version(row["version"], required=True)
    limits.require_own(row)
    return _write(ctx, row, limits.plan_update(row, given), reason=given.reason)


def disable_limit(ctx: OperationContext, given: ChangeLimitStatus) -> LimitView:
    """Leave a limit out of the runs that start from now on; a no-op when it is disabled."""
    return _set_status(ctx, given, LimitStatus.DISABLED)


def enable_limit(ctx: OperationContext, given: ChangeLimitStatus) -> LimitView:
    """Take a limit into the runs that start from now on; refuse LIMIT_EXISTS for a name taken since."""
    return _set_status(ctx, given, LimitStatus.ACTIVE)


def _set_status(ctx: OperationContext, given: ChangeLimitStatus, wanted: LimitStatus) -> LimitView:
    row = limits.require_own(_held(ctx, given.limit_id))
    ctx.require_version(row["version"])
    changed = {} if row["status"] == wanted else {"status": wanted.value}
    return _write(ctx, row, changed, reason=given.reason)


def _held(ctx: OperationContext, limit_id: str) -> Row:
    return limits.require(ctx.connection, tenant_id=ctx.tenant_id, limit_id=limit_id, lock=True)


def _write(ctx: OperationContext, row: Row, changed: Mapping[str, Any], *, reason: str | None) -> LimitView:
    if not changed:
        return limits.view(row)
    after = limits.write(ctx.connection, row, changed, tenant_id=ctx.tenant_id, now=ctx.now)
    state.bump_policy_version(ctx.connection, tenant_id=ctx.tenant_id)
    ctx.audit(
        "LimitUpdated",
        "LIMIT",
        row["limit_id"],
        before=limits.image(row),
        after=limits.image(after),
        reason=reason,
    )
    return limits.view(after)


def get_limit(ctx: OperationContext, given: LimitRef) -> LimitStanding:
    """Show a limit with its use in the window of now."""
    row = limits.require(ctx.connection, tenant_id=ctx.tenant_id, limit_id=given.limit_id)
    rule = LimitRule.of(row)
    in_force = {item.limit_id: item for item in live_overrides(ctx) if item.is_in_force(ctx.now)}
    override = in_force.get(rule.limit_id)
    most = rule.max_value if override is None else override.value
    standing: dict[str, Any] = dict.fromkeys(("window_key", "committed", "reserved", "headroom"))
    if rule.category is not LimitCategory.THRESHOLD:
        window = window_key(rule, ctx.now, "")
        committed, reserved = reserving.read_counter(
            ctx.connection, tenant_id=ctx.tenant_id, limit_id=rule.limit_id, window=window
        )
        standing = {
            "window_key": window,
            "committed": as_number(committed),
            "reserved": as_number(reserved),
            "headroom": as_number(max(0, most - committed - reserved)),
        }
    return LimitStanding(
        **limits.view_members(row),
        **standing,
        in_force_value=as_number(most),
        override_id=None if override is None else override.override_id,
    )


def list_limits(ctx: OperationContext, query: ListLimits) -> Page[LimitView]:
    """List the limits, newest first."""
    return newest_first(
        query,
        tenant_id=ctx.tenant_id,
        operation="controls.limits.list",
        columns=("created_at", "limit_id"),
        fetch=lambda before, count: limits.list_page(
            ctx.connection, query, tenant_id=ctx.tenant_id, before=before, limit=count
        ),
        view=limits.view,
    )


def list_breaches(ctx: OperationContext, query: ListBreaches) -> Page[BreachView]:
    """List the breaches, newest first."""
    return newest_first(
        query,
        tenant_id=ctx.tenant_id,
        operation="controls.breaches.list",
        columns=("breached_at", "breach_id"),
        fetch=lambda before, count: breaches.list_page(
            ctx.connection, query, tenant_id=ctx.tenant_id, before=before, limit=count
        ),
        view=breaches.view,
    )


def check_counters(ctx: OperationContext, _given: CheckCounters) -> CounterCheck:
    """Recompute every counter from its entries and show those that differ."""
    found = ledger.find_drift(ctx.connection, tenant_id=ctx.tenant_id)
    amounts = ("committed", "reserved", "entered_committed", "entered_reserved")
    return CounterCheck(
        drifting=[Drift(**{**row, **{name: as_number(row[name]) for name in amounts}}) for row in found]
    )


def settle_plan(ctx: OperationContext, _given: Upkeep) -> UpkeepDone:
    """Give the tenant its plan's limit where it has none yet, or another value."""
    changed = settle_plan_limit(ctx, tenant_id=ctx.tenant_id, plan=Plan(ctx.standing.plan))
    return UpkeepDone(count=int(changed), more=False)


declare = OperationsOf("controls")
OPERATIONS = (
    declare.write("controls.limits.create", CreateLimit, LimitView, create_limit, creates=True),
    declare.write("controls.limits.update", UpdateLimit, LimitView, update_limit),
    declare.write("controls.limits.disable", ChangeLimitStatus, LimitView, disable_limit),
    declare.write("controls.limits.enable", ChangeLimitStatus, LimitView, enable_limit),
    declare.read("controls.limits.list", ListLimits, Page[LimitView], list_limits),
    declare.read("controls.limits.get", LimitRef, LimitStanding, get_limit),
    declare.read("controls.breaches.list", ListBreaches, Page[BreachView], list_breaches),
    Operation(
        name="controls.limits.settle_plan",
        owner="controls",
        mode="write",
        scope=None,
        door="worker",
        input=Upkeep,
        output=UpkeepDone,
        handler=settle_plan,
    ),
    Operation(
        name="controls.counters.check",
        owner="controls",
        mode="read",
        scope=None,
        door="worker",
        input=CheckCounters,
        output=CounterCheck,
        handler=check_counters,
    ),
)
