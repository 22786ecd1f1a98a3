"""Spine: the SYSTEM limit that a tenant's plan sets: its tokens a month."""

from __future__ import annotations

from typing import Final

from app.db.connection import DriverConnection
from app.domains.controls.engines import limits, reserving
from app.domains.controls.engines.windows import window_key
from app.domains.controls.models.limits import CreateLimit, LimitRule
from app.domains.controls.models.vocabulary import LimitCategory, LimitSource, ResetPeriod
from app.domains.tenants.engines import state, tenants
from app.domains.tenants.models import QUOTAS, Plan
from app.hoc_spine.operation_context import OperationContext
from app.kernel.amounts import MICRO, Metric, as_number

PLAN_LIMIT: Final = "plan-tokens-month"
"""The id and name of the limit; a tenant cannot take either."""


def list_tenants_unsettled(connection: DriverConnection) -> list[str]:
    """Return the tenants whose plan's limit is not there yet, or has another value than the plan."""
    values = limits.system_values(connection, limit_id=PLAN_LIMIT)
    return [
        tenant_id
        for tenant_id, plan in tenants.plans(connection).items()
        if values.get(tenant_id) != _tokens(plan)
    ]


def settle_plan_limit(ctx: OperationContext, *, tenant_id: str, plan: Plan) -> bool:
    """Make the plan's limit, or set it to what the plan allows; return whether that changed anything."""
    tokens = _tokens(plan)
    row = limits.find(ctx.connection, tenant_id=tenant_id, limit_id=PLAN_LIMIT, lock=True)
    # The operator's entries stand in the system's own ledger, so they say whose limit it is.
    whose = {} if tenant_id == ctx.tenant_id else {"tenant_id": tenant_id}
    if row is None:
        made = limits.build(
            CreateLimit.model_construct(
                name=PLAN_LIMIT,
                description="Tokens a month that the plan allows.",
                category=LimitCategory.BUDGET,
                metric=Metric.TOKENS_TOTAL,
                reset_period=ResetPeriod.MONTHLY,
                max_value=tokens,
            ),
            tenant_id=tenant_id,
            limit_id=PLAN_LIMIT,
            source=LimitSource.SYSTEM,
            created_by=ctx.actor.id,
            now=ctx.now,
        )
        limits.insert(ctx.connection, made, tenant_id=tenant_id)
        ctx.audit("LimitCreated", "LIMIT", PLAN_LIMIT, after=limits.image(made) | whose)
    elif row["max_value"] != tokens:
        changed = limits.write(ctx.connection, row, {"max_value": tokens}, tenant_id=tenant_id, now=ctx.now)
        ctx.audit(
            "LimitUpdated",
            "LIMIT",
            PLAN_LIMIT,
            before=limits.image(row) | whose,
            after=limits.image(changed) | whose,
        )
    else:
        return False
    state.bump_policy_version(ctx.connection, tenant_id=tenant_id)
    return True


def _tokens(plan: Plan) -> int:
    return QUOTAS[plan].tokens_per_month * MICRO


def tokens_this_month(ctx: OperationContext) -> float:
    """Return the tokens that the tenant has used this month, as its plan's limit has counted them."""
    row = limits.find(ctx.connection, tenant_id=ctx.tenant_id, limit_id=PLAN_LIMIT)
    if row is None:
        return 0.0
    window = window_key(LimitRule.of(row), ctx.now, "")
    committed, _ = reserving.read_counter(
        ctx.connection, tenant_id=ctx.tenant_id, limit_id=PLAN_LIMIT, window=window
    )
    return as_number(committed)
