"""Spine: the end of an attempt or a run: seal, evaluation, run row, facts, in the order of the locks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.db.governed import row_image
from app.domains.activity.engines import evaluation as evaluations
from app.domains.activity.engines import runs
from app.domains.activity.engines.evaluation import Findings
from app.domains.activity.models import Ending, EvaluationView, RunStatus
from app.domains.tenants.engines import state as tenant_state
from app.domains.traces.engines import traces
from app.domains.traces.models import TraceOutcome
from app.hoc_spine.coordinators.repository_runs import end_operation_run
from app.hoc_spine.operation_context import OperationContext
from app.kernel.clock import format_time
from app.kernel.redaction import redact_text

Row = Mapping[str, Any]
TRACE_OUTCOMES: Mapping[RunStatus, TraceOutcome] = {
    RunStatus.SUCCEEDED: TraceOutcome.SUCCESS,
    RunStatus.FAILED: TraceOutcome.FAILURE,
    RunStatus.HALTED: TraceOutcome.ABORTED,
    RunStatus.CANCELLED: TraceOutcome.ABORTED,
}
AUDIT_EVENTS: Mapping[RunStatus, str] = {
    RunStatus.HALTED: "RunHalted",
    RunStatus.CANCELLED: "RunCancelled",
}


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """The sealed trace and the evaluation of an attempt that ended."""

    trace: Row
    evaluation: EvaluationView


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run that ended, with its last attempt."""

    run: Row
    attempt: EndedAttempt


def end_attempt(ctx: OperationContext, run: Row, trace: Row, *, status: RunStatus) -> EndedAttempt:
    """Seal the current attempt's trace and write its one evaluation, with their facts."""
    run_id, attempt = run["run_id"], run["attempt"]
    evaluation = evaluations.evaluation_row(
        evaluations.decide_evaluation(status, Findings()),
        evaluation_id=ctx.new_id("eval"),
        run_id=run_id,
        attempt=attempt,
        run_status=status,
        snapshot_id=run["policy_snapshot_id"],
        now=ctx.now,
    )
    evaluation["fact_id"] = ctx.facts.add("evaluation", evaluation, run_id=run_id, attempt=attempt)
    evaluations.insert_evaluation(ctx.connection, tenant_id=ctx.tenant_id, row=evaluation)
    sealed = traces.seal_trace(
        ctx.connection, tenant_id=ctx.tenant_id, trace=trace, outcome=TRACE_OUTCOMES[status], now=ctx.now
    )
    ctx.facts.add("trace.sealed", sealed, run_id=run_id, attempt=attempt, body=traces.seal_body(sealed))
    view = evaluations.evaluation_view(evaluation)
    ctx.outbox("PolicyEvaluated", _evaluated_event(view))
    return EndedAttempt(trace=sealed, evaluation=view)


def end_run(
    ctx: OperationContext, run: Row, trace: Row, ending: Ending, *, digest: str, reason: str | None = None
) -> EndedRun:
    """End a locked running run; `reason` is given by runs.halt and runs.cancel, which the ledger records."""
    attempt = end_attempt(ctx, run, trace, status=ending.status)
    values = runs.end_values(
        ending,
        digest=digest,
        step_count=attempt.trace["step_count"],
        protected=protect_message(ctx, run, ending.error_message),
        now=ctx.now,
    )
    ended = runs.set_run(ctx.connection, tenant_id=ctx.tenant_id, run=run, values=values)
    if reason is not None:
        ctx.audit(
            AUDIT_EVENTS[ending.status],
            "RUN",
            run["run_id"],
            before=row_image("runs", run),
            after=row_image("runs", ended),
            reason=redact_text(reason)[0],
            run_id=run["run_id"],
        )
    ctx.outbox("RunCompleted", _completed_event(ended))
    sealed = _all_traces(ctx, ended, attempt.trace)
    tenant_state.release_run(ctx.connection, tenant_id=ctx.tenant_id)
    end_operation_run(ctx, ended["run_id"], ending.status)
    ctx.facts.add(
        "run.completed",
        ended,
        run_id=ended["run_id"],
        attempt=ended["attempt"],
        extra={"closure": traces.closure_of(sealed)},
        closes_run=True,
    )
    return EndedRun(run=ended, attempt=attempt)


def protect_message(ctx: OperationContext, run: Row, error_message: str | None) -> dict[str, Any]:
    """Return the run's protected members with a new error message; nothing when it stays as it is."""
    message = None if error_message is None else redact_text(error_message)[0]
    # An erased run takes no new values: its commitment is the one that the erasure fact lists.
    if message == run["error_message"] or run["erased_fact_id"] is not None:
        return {}
    return ctx.protect({"goal": run["goal"], "error_message": message})


def _all_traces(ctx: OperationContext, run: Row, last: Row) -> Sequence[Row]:
    if run["attempt"] == 1:
        return [last]
    return traces.list_traces(ctx.connection, tenant_id=ctx.tenant_id, run_id=run["run_id"])


def _evaluated_event(view: EvaluationView) -> dict[str, Any]:
    return {
        "evaluation_id": view.evaluation_id,
        "run_id": view.run_id,
        "attempt": view.attempt,
        "run_status": view.run_status.value,
        "outcome": view.outcome.value,
    }


def _completed_event(run: Row) -> dict[str, Any]:
    return {
        "run_id": run["run_id"],
        "status": run["status"],
        "attempt": run["attempt"],
        "termination_reason": run["termination_reason"],
        "completed_at": format_time(run["completed_at"]),
    }
