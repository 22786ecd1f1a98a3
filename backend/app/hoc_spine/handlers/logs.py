"""Spine L4: the logs of a run and of the tenant."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import Field

from app.domains.activity.engines import runs
from app.domains.decisions.engines import decisions
from app.domains.incidents.engines import run_incidents
from app.domains.logs.engines import audit_integrity, run_log
from app.domains.logs.models.ledger import (
    AuditEntry,
    AuditEntryDetail,
    EntryPath,
    ListAudit,
    ListRunDispatches,
    LogMetadata,
    RunGovernanceLog,
    RunLogInput,
)
from app.domains.logs.models.tree import (
    VerificationStatus,
)
from app.domains.policies.engines import preventions
from app.domains.tenants.models import DispatchList
from app.domains.traces.engines import chain, step_windows, steps, traces
from app.hoc_spine.coordinators.log_files import LogFiles
from app.hoc_spine.coordinators.run_logs import (
    MAX_EVENTS,
    EnvelopeInput,
    ReplayInput,
    ReplaySpan,
    ReplayWindow,
    RunEnvelope,
    RunTraceLog,
    TraceLogInput,
    envelope_of,
    inflection_of,
    logged_step,
    replay_events,
    span_around,
)
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.inputs import AwareTime, Input, Output
from app.kernel.pages import Page, page_of, read_cursor

Row = Mapping[str, Any]
MAX_NAMED = 1000


class IntegrityInput(Input):
    from_: AwareTime | None = Field(None, alias="from")
    to: AwareTime | None = None


class LedgerFailure(Output):
    """The first entry that is not as recorded; without an entry it is the log itself."""

    entry_id: str | None
    reason: str


class LedgerCheckpoint(Output):
    size: int
    root: str
    age_seconds: int


class AuditIntegrity(Output):
    """Whether the ledger is as its facts say, computed for this answer."""

    status: VerificationStatus
    checked: int
    first_failure: LedgerFailure | None
    unsequenced: int
    checkpoint: LedgerCheckpoint | None
    metadata: LogMetadata


def run_governance(ctx: OperationContext, payload: RunLogInput) -> RunGovernanceLog:
    """Return a run's governance events, oldest first; refuse RUN_NOT_FOUND, never answer null."""
    run = _require_run(ctx, payload.run_id)
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
    recorded_at = page.items[-1].timestamp if page.items else None
    return RunGovernanceLog(
        run_id=payload.run_id,
        events=page.items,
        total_events=run_log.count_events(ctx.connection, **key),
        next_cursor=page.next_cursor,
        metadata=_metadata(ctx, run, "AuditLedger", recorded_at=recorded_at),
    )


def run_envelope(ctx: OperationContext, payload: EnvelopeInput) -> RunEnvelope:
    """Return a run from outside: its model, its cost, how it ended; refuse RUN_NOT_FOUND."""
    run = _require_run(ctx, payload.run_id)
    found = traces.list_traces(ctx.connection, tenant_id=ctx.tenant_id, run_id=payload.run_id)
    return envelope_of(run, found, _metadata(ctx, run, "RunEnvelope", recorded_at=run["updated_at"]))


def run_trace(ctx: OperationContext, payload: TraceLogInput) -> RunTraceLog:
    """Return a page of an attempt's steps, in order; refuse RUN_NOT_FOUND and TRACE_NOT_FOUND."""
    run = _require_run(ctx, payload.run_id)
    attempt = payload.attempt or run["attempt"]
    trace = traces.require_trace(
        ctx.connection, tenant_id=ctx.tenant_id, run_id=payload.run_id, attempt=attempt
    )
    binding = f"{ctx.tenant_id}:logs.run_trace:{trace['trace_id']}"
    (after,) = read_cursor(payload.cursor, binding, int) or (-1,)
    found = steps.list_steps(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        trace_id=trace["trace_id"],
        status=None,
        after=after,
        limit=payload.limit + 1,
    )
    page = page_of(
        found,
        limit=payload.limit,
        binding=binding,
        key=lambda row: (row["step_index"],),
        view=logged_step,
    )
    return RunTraceLog(
        run_id=payload.run_id,
        trace_id=trace["trace_id"],
        steps=page.items,
        total_steps=trace["step_count"],
        next_cursor=page.next_cursor,
        metadata=_metadata(ctx, run, "TraceStore", recorded_at=trace["updated_at"], trace=trace),
    )


def run_replay(ctx: OperationContext, payload: ReplayInput) -> ReplayWindow:
    """Return what happened around the moment at which a run took its turn; refuse RUN_NOT_FOUND."""
    run = _require_run(ctx, payload.run_id)
    key = {"tenant_id": ctx.tenant_id, "run_id": payload.run_id}
    moment = inflection_of(run, decisions.first_block(ctx.connection, **key))
    span = since, until = span_around(moment, payload.window_seconds)
    parts = {
        name: reader(ctx.connection, **key, since=since, until=until, limit=MAX_EVENTS)
        for name, reader in (
            ("steps", step_windows.list_between),
            ("decisions", decisions.list_between),
            ("entries", run_log.list_between),
        )
    }
    return ReplayWindow(
        run_id=payload.run_id,
        inflection_timestamp=moment,
        window=ReplaySpan(since=since, until=until),
        events=replay_events(run, span, **parts),
        truncated=any(len(part) == MAX_EVENTS for part in parts.values()),
        metadata=_metadata(ctx, run, "ReplayWindow", recorded_at=run["updated_at"]),
    )


def _require_run(ctx: OperationContext, run_id: str) -> Row:
    return runs.require_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id)


def _metadata(
    ctx: OperationContext,
    run: Row,
    component: str,
    *,
    recorded_at: datetime | None,
    trace: Row | None = None,
) -> LogMetadata:
    """Return where an answer about a run comes from, with the policies and incidents of the whole run."""
    key = {"tenant_id": ctx.tenant_id, "run_id": run["run_id"]}
    judged = preventions.list_run(ctx.connection, **key, limit=MAX_NAMED)
    caused = run_incidents.list_run(ctx.connection, **key, limit=MAX_NAMED)
    trace_id = chain.trace_id_of(run["run_id"], run["attempt"]) if trace is None else trace["trace_id"]
    return LogMetadata(
        tenant_id=ctx.tenant_id,
        run_id=run["run_id"],
        occurred_at=run["started_at"],
        recorded_at=recorded_at,
        trace_id=trace_id,
        policy_ids=sorted({row["rule_id"] for row in judged}),
        incident_ids=sorted(row["incident_id"] for row in caused),
        correlation_id=run["traceparent"],
        source_component=component,
    )


def list_audit(ctx: OperationContext, payload: ListAudit) -> Page[AuditEntry]:
    """Return ledger entries newest first, without their states."""
    return run_log.list_entries(ctx.connection, payload, tenant_id=ctx.tenant_id)


def get_audit(ctx: OperationContext, payload: EntryPath) -> AuditEntryDetail:
    """Return one ledger entry with its states; refuse ENTRY_NOT_FOUND."""
    return run_log.get_entry(ctx.connection, tenant_id=ctx.tenant_id, entry_id=payload.entry_id)


def verify_audit(ctx: OperationContext, payload: IntegrityInput) -> AuditIntegrity:
    """Recompute the newest 10 000 entries of a span against their facts and the signed log."""
    files: LogFiles = ctx.services.caches["log_files"]
    facts = audit_integrity.read_ledger(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        since=payload.from_,
        until=payload.to,
        keys=files.keys(),
    )
    found = audit_integrity.judge_ledger(facts, tenant_id=ctx.tenant_id)
    signed = found.checkpoint
    checkpoint = None
    if signed is not None:
        age = int((ctx.now - signed["signed_at"]).total_seconds())
        checkpoint = LedgerCheckpoint(size=signed["size"], root=signed["root"], age_seconds=max(0, age))
    return AuditIntegrity(
        status=found.status,
        checked=found.checked,
        first_failure=None
        if found.reason is None
        else LedgerFailure(entry_id=found.entry_id, reason=found.reason),
        unsequenced=found.unsequenced,
        checkpoint=checkpoint,
        metadata=LogMetadata(
            tenant_id=ctx.tenant_id,
            run_id=None,
            occurred_at=ctx.now,
            recorded_at=None,
            trace_id=None,
            policy_ids=[],
            incident_ids=[],
            correlation_id=ctx.request.trace_id,
            source_component="AuditLedger",
        ),
    )


def list_dispatches(ctx: OperationContext, payload: ListRunDispatches) -> DispatchList:
    """Return the tenant's newest dispatch records."""
    records = ctx.services.caches["audit_store"].get_dispatch_records(
        operation=payload.operation, tenant_id=ctx.tenant_id, limit=payload.limit
    )
    return DispatchList(items=records)


declare = OperationsOf("logs")
OPERATIONS = (
    declare.read("logs.run_governance", RunLogInput, RunGovernanceLog, run_governance, snapshot=True),
    declare.read("logs.run_envelope", EnvelopeInput, RunEnvelope, run_envelope, snapshot=True),
    declare.read("logs.run_trace", TraceLogInput, RunTraceLog, run_trace, snapshot=True),
    declare.read("logs.run_replay", ReplayInput, ReplayWindow, run_replay, snapshot=True),
    declare.read("logs.audit_list", ListAudit, Page[AuditEntry], list_audit),
    declare.read("logs.audit_get", EntryPath, AuditEntryDetail, get_audit),
    declare.read("logs.audit_integrity", IntegrityInput, AuditIntegrity, verify_audit, snapshot=True),
    declare.read("logs.dispatches", ListRunDispatches, DispatchList, list_dispatches),
)
