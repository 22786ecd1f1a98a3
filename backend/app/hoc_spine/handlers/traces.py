"""Spine: operations on traces: append steps, list them, show a trace."""

from __future__ import annotations

from app.domains.activity.engines import runs
from app.domains.tenants.models import Standing
from app.domains.traces.engines import steps, traces
from app.domains.traces.models import (
    AppendedSteps,
    AppendSteps,
    ListSteps,
    StepView,
    TraceRef,
    TraceView,
)
from app.hoc_spine.coordinators.step_batch import (
    PreparedBatch,
    append_batch,
    look_at_batch,
    prepare_batch,
)
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.canonical_json import dumps
from app.kernel.pages import Page, encode_cursor, read_cursor


def prepare_steps(ctx: PrepareContext, command: AppendSteps) -> PreparedBatch:
    """Redact, commit and hash a batch before the transaction; refuse one that is not contiguous."""
    return prepare_batch(ctx, command.run_id, command.steps)


def look_at_steps(ctx: OperationContext, command: AppendSteps) -> Standing | None:
    """Hold run and trace, and return the caller's standing, in one statement."""
    return look_at_batch(ctx, command.run_id, command.attempt)


def append_steps(ctx: OperationContext, command: AppendSteps) -> AppendedSteps:
    """Append a batch to the chain of a run's attempt (see `append_batch`)."""
    return append_batch(ctx, command.run_id, ctx.prepared, attempt=command.attempt)


def list_steps(ctx: OperationContext, query: ListSteps) -> Page[StepView]:
    """List the steps of an attempt in order; refuse RUN_NOT_FOUND and TRACE_NOT_FOUND."""
    run = runs.require_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=query.run_id)
    attempt = run["attempt"] if query.attempt is None else query.attempt
    trace = traces.require_trace(
        ctx.connection, tenant_id=ctx.tenant_id, run_id=query.run_id, attempt=attempt
    )
    binding = dumps([ctx.tenant_id, "traces.steps.list", trace["trace_id"], query.status])
    (after,) = read_cursor(query.cursor, binding, int) or (-1,)
    rows = steps.list_steps(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        trace_id=trace["trace_id"],
        status=query.status,
        after=after,
        limit=query.limit + 1,
    )
    shown = rows[: query.limit]
    cursor = encode_cursor(binding, [shown[-1]["step_index"]]) if len(rows) > query.limit else None
    return Page(items=[traces.step_view(row) for row in shown], next_cursor=cursor)


def get_trace(ctx: OperationContext, query: TraceRef) -> TraceView:
    """Show the trace of one attempt; refuse RUN_NOT_FOUND and TRACE_NOT_FOUND."""
    runs.require_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=query.run_id)
    return traces.trace_view(
        traces.require_trace(
            ctx.connection, tenant_id=ctx.tenant_id, run_id=query.run_id, attempt=query.attempt
        )
    )


declare = OperationsOf("traces", "runs")
OPERATIONS = (
    declare.write(
        "traces.steps.append",
        AppendSteps,
        AppendedSteps,
        append_steps,
        prepare=prepare_steps,
        look=look_at_steps,
        gate="fact",
        no_audit="the chain is the record",
    ),
    declare.read("traces.steps.list", ListSteps, Page[StepView], list_steps),
    declare.read("traces.get", TraceRef, TraceView, get_trace),
)
