"""Spine: operations on traces: append steps, list them, show a trace."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from app.domains.activity.engines import runs
from app.domains.traces.engines import steps, traces
from app.domains.traces.engines.steps import Overlap
from app.domains.traces.errors import trace_not_found
from app.domains.traces.models import (
    AppendedSteps,
    AppendSteps,
    ListSteps,
    PreparedStep,
    StepView,
    TraceRef,
    TraceView,
)
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.hoc_spine.operation_registry import Operation
from app.kernel.canonical_json import dumps
from app.kernel.pages import Page, encode_cursor, read_cursor


def prepare_steps(ctx: PrepareContext, command: AppendSteps) -> list[PreparedStep]:
    """Redact, commit and hash a batch before the transaction; refuse one that is not contiguous."""
    steps.check_batch(command.steps)
    salts = secrets.token_hex(32 * len(command.steps))
    return [
        steps.prepare_step(
            step, position=place, salt_hex=salts[64 * place : 64 * place + 64], recorded_at=ctx.now
        )
        for place, step in enumerate(command.steps)
    ]


def append_steps(ctx: OperationContext, command: AppendSteps) -> AppendedSteps:
    """Append a batch to the chain of a run's attempt; a refusal writes nothing of it.

    Refuses STEP_GAP, STEP_CONFLICT, ATTEMPT_CLOSED and TRACE_SEALED; steps recorded already with the same
    content are counted as replayed.
    """
    batch: list[PreparedStep] = ctx.prepared
    hashes = steps.content_hashes(batch, ctx.digest_key())
    _, current = runs.lock_run_state(ctx.connection, tenant_id=ctx.tenant_id, run_id=command.run_id)
    attempt = current if command.attempt is None else command.attempt
    overlap = steps.get_overlap(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        run_id=command.run_id,
        attempt=attempt,
        first=batch[0].step_index,
        last=batch[-1].step_index,
    )
    if overlap is None:
        raise trace_not_found()
    replayed = steps.decide_batch(
        batch, hashes, overlap, run_id=command.run_id, attempt=attempt, current_attempt=current
    )
    head_hash = overlap.head.head_hash
    if replayed < len(batch):
        head_hash = _extend(ctx, command.run_id, attempt, overlap, batch[replayed:], hashes[replayed:])
    appended = len(batch) - replayed
    return AppendedSteps(
        trace_id=overlap.trace_id,
        attempt=attempt,
        appended=appended,
        replayed=replayed,
        step_count=overlap.head.step_count + appended,
        head_hash=head_hash,
        breaches=[],
        must_stop=False,
    )


def _extend(
    ctx: OperationContext,
    run_id: str,
    attempt: int,
    overlap: Overlap,
    new: Sequence[PreparedStep],
    hashes: Sequence[str],
) -> str:
    """Write the new steps, the trace's head and one fact; return the new head."""
    trace_id, head = overlap.trace_id, overlap.head
    steps.require_new_external_ids(ctx.connection, new, tenant_id=ctx.tenant_id, trace_id=trace_id)
    rows = steps.link_steps(new, hashes, trace_id=trace_id, head_hash=head.head_hash)
    steps.insert_steps(ctx.connection, rows, tenant_id=ctx.tenant_id)
    head_hash, step_count = rows[-1]["step_hash"], head.step_count + len(rows)
    traces.extend_trace(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        trace_id=trace_id,
        from_index=head.step_count,
        step_count=step_count,
        head_hash=head_hash,
        totals=steps.add_totals(head.totals, new),
        now=ctx.now,
    )
    body = {
        "trace_id": trace_id,
        "attempt": attempt,
        "from_index": head.step_count,
        "to_index": step_count - 1,
        "head_hash": head_hash,
    }
    ctx.facts.add("trace.extended", body, run_id=run_id, attempt=attempt, body=body)
    return str(head_hash)


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


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        name="traces.steps.append",
        owner="traces",
        mode="write",
        scope="runs:write",
        input=AppendSteps,
        output=AppendedSteps,
        handler=append_steps,
        prepare=prepare_steps,
        gate="fact",
        no_audit="the chain is the record",
    ),
    Operation(
        name="traces.steps.list",
        owner="traces",
        mode="read",
        scope="runs:read",
        input=ListSteps,
        output=Page[StepView],
        handler=list_steps,
    ),
    Operation(
        name="traces.get",
        owner="traces",
        mode="read",
        scope="runs:read",
        input=TraceRef,
        output=TraceView,
        handler=get_trace,
    ),
)
