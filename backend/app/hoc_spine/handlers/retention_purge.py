"""Spine L4: what a purge would take, and its permit: opened with the archive, closed when it is done."""

from __future__ import annotations

from datetime import timedelta

from app.domains.logs.engines import archives, purge, retention_plan
from app.domains.logs.models.retention import (
    PlanRetention,
    PurgeClosed,
    PurgeEvidence,
    PurgeOpened,
    PurgeRef,
    RetentionPlan,
)
from app.hoc_spine.coordinators.retention_plan import make_plan
from app.hoc_spine.coordinators.retention_purge import open_permit, read_file
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation


def show_plan(ctx: OperationContext, _payload: PlanRetention) -> RetentionPlan:
    """Return what a purge would take now, and what stays although it is over age."""
    days = archives.get_retention(ctx.connection, tenant_id=ctx.tenant_id)
    plan = make_plan(ctx.connection, tenant_id=ctx.tenant_id, now=ctx.now)
    values = retention_plan.count_over_age_values(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        over_age=ctx.now - timedelta(days=days.value_retention_days),
    )
    return RetentionPlan(
        epoch=plan.epoch,
        cut=plan.cut,
        runs=len(plan.run_ids),
        facts=len(plan.facts),
        pinned=dict(plan.pinned),
        retention_days=days.retention_days,
        value_retention_days=days.value_retention_days,
        values=values,
    )


def open_purge(ctx: OperationContext, _request: PurgeEvidence) -> PurgeOpened:
    """Open the permit to delete what an archive holds, or return the one that is open.

    Refuse ARCHIVE_REQUIRED.
    """
    opened = open_permit(ctx)
    if not opened.resumed:
        after = {name: getattr(opened, name) for name in ("purge_id", "archive_id", "cut", "runs", "facts")}
        ctx.audit("EvidencePurged", "EVIDENCE", opened.archive_id, after=after)
    return opened


def close_purge(ctx: OperationContext, payload: PurgeRef) -> PurgeClosed:
    """Close the permit: what could be deleted is; refuse PURGE_NOT_FOUND."""
    purge.close_permit(ctx.connection, tenant_id=ctx.tenant_id, purge_id=payload.purge_id, now=ctx.now)
    return PurgeClosed(purge_id=payload.purge_id, closed_at=ctx.now)


OPERATIONS = (
    Operation(
        "ops.retention.plan",
        "logs",
        "read",
        None,
        PlanRetention,
        RetentionPlan,
        show_plan,
        door="operator",
        snapshot=True,
    ),
    # The heads are the maintenance role's to write, and deleting is: operator operations take it on.
    Operation(
        "ops.retention.purge",
        "logs",
        "write",
        None,
        PurgeEvidence,
        PurgeOpened,
        open_purge,
        prepare=read_file,
        door="operator",
    ),
    Operation(
        "ops.retention.end_purge",
        "logs",
        "write",
        None,
        PurgeRef,
        PurgeClosed,
        close_purge,
        door="operator",
        no_audit="the entry EvidencePurged says what was permitted",
    ),
)
