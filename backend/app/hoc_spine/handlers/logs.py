"""Spine L4: the logs of a run and of the tenant."""

from __future__ import annotations

from datetime import datetime

from app.domains.activity.engines import runs
from app.domains.logs.engines import run_log
from app.domains.logs.models import (
    AuditEntry,
    AuditEntryDetail,
    EntryPath,
    ListAudit,
    ListRunDispatches,
    LogMetadata,
    RunGovernanceLog,
    RunLogInput,
)
from app.domains.tenants.models import DispatchList
from app.domains.traces.engines import traces
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation
from app.kernel.pages import Page, page_of, read_cursor


def run_governance(ctx: OperationContext, payload: RunLogInput) -> RunGovernanceLog:
    """Return a run's governance events, oldest first; refuse RUN_NOT_FOUND, never answer null."""
    run = runs.require_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=payload.run_id)
    key = {"tenant_id": ctx.tenant_id, "run_id": payload.run_id}
    binding = f"{ctx.tenant_id}:logs.run_governance:{payload.run_id}"
    page = page_of(
        run_log.list_events(
            ctx.connection,
            **key,
            after=read_cursor(payload.cursor, binding, datetime, str),
            limit=payload.limit + 1,
        ),
        limit=payload.limit,
        binding=binding,
        key=lambda event: (event.timestamp, event.entry_id),
        view=lambda event: event,
    )
    shown = page.items
    found = traces.list_traces(ctx.connection, **key)
    return RunGovernanceLog(
        run_id=payload.run_id,
        events=shown,
        total_events=run_log.count_events(ctx.connection, **key),
        next_cursor=page.next_cursor,
        metadata=LogMetadata(
            tenant_id=ctx.tenant_id,
            run_id=payload.run_id,
            occurred_at=run["started_at"],
            recorded_at=shown[-1].timestamp if shown else None,
            trace_id=found[-1]["trace_id"] if found else None,
            policy_ids=sorted({event.policy_id for event in shown if event.policy_id}),
            incident_ids=sorted({event.entity_id for event in shown if event.entity_type == "INCIDENT"}),
            correlation_id=run["traceparent"],
            source_component="AuditLedger",
        ),
    )


def list_audit(ctx: OperationContext, payload: ListAudit) -> Page[AuditEntry]:
    """Return ledger entries newest first, without their states."""
    binding = f"{ctx.tenant_id}:logs.audit_list:{payload.model_dump_json(exclude={'limit', 'cursor'})}"
    found = run_log.list_entries(
        ctx.connection,
        payload,
        tenant_id=ctx.tenant_id,
        before=read_cursor(payload.cursor, binding, datetime, str),
        limit=payload.limit + 1,
    )
    return page_of(
        found,
        limit=payload.limit,
        binding=binding,
        key=lambda entry: (entry.created_at, entry.entry_id),
        view=lambda entry: entry,
    )


def get_audit(ctx: OperationContext, payload: EntryPath) -> AuditEntryDetail:
    """Return one ledger entry with its states; refuse ENTRY_NOT_FOUND."""
    return run_log.get_entry(ctx.connection, tenant_id=ctx.tenant_id, entry_id=payload.entry_id)


def list_dispatches(ctx: OperationContext, payload: ListRunDispatches) -> DispatchList:
    """Return the tenant's newest dispatch records."""
    records = ctx.services.caches["audit_store"].get_dispatch_records(
        operation=payload.operation, tenant_id=ctx.tenant_id, limit=payload.limit
    )
    return DispatchList(items=records)


OPERATIONS = (
    Operation(
        "logs.run_governance",
        "logs",
        "read",
        "logs:read",
        RunLogInput,
        RunGovernanceLog,
        run_governance,
        snapshot=True,
    ),
    Operation("logs.audit_list", "logs", "read", "logs:read", ListAudit, Page[AuditEntry], list_audit),
    Operation("logs.audit_get", "logs", "read", "logs:read", EntryPath, AuditEntryDetail, get_audit),
    Operation(
        "logs.dispatches", "logs", "read", "logs:read", ListRunDispatches, DispatchList, list_dispatches
    ),
)
