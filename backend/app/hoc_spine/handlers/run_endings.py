"""Spine: operations that end an attempt or a run: retry, complete, halt, cancel, expire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.domains.activity.engines import evaluation as evaluations
from app.domains.activity.engines import runs
from app.domains.activity.errors import evaluation_conflict, run_not_terminal, run_terminal
from app.domains.activity.models.facts import Ending
from app.domains.activity.models.runs import (
    CompletedRun,
    CompleteRun,
    EvaluationView,
    ExpiredRuns,
    ExpireRuns,
    RequireEvaluation,
    RetriedRun,
    RetryRun,
    StopRun,
)
from app.domains.activity.models.vocabulary import RunStatus, TerminationReason
from app.domains.lessons.engines import lessons
from app.domains.traces.engines import chain, traces
from app.hoc_spine.coordinators.run_completion import (
    EndRequest,
    end_attempt,
    end_run,
    end_runs,
    protect_message,
)
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation, OperationsOf

Row = Mapping[str, Any]
_IS_FACT = "the ending is a governed fact itself (run.completed)"


def retry_run(ctx: OperationContext, command: RetryRun) -> RetriedRun:
    """End the current attempt as failed and open the next under the same snapshot.

    Refuses RUN_NOT_RUNNING, ATTEMPT_MISMATCH and MAX_ATTEMPTS_REACHED; a retry from the attempt before the
    current one was done before and changes nothing.
    """
    run = runs.lock_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=command.run_id)
    if not runs.decide_retry(run, command.from_attempt):
        return _retried(run, replayed=True)
    ended = end_attempt(ctx, run, status=RunStatus.FAILED)
    trace = ended.trace
    # The row has one place for what went wrong: the reason stands in when there is no message.
    message = command.error_message or command.reason
    values = runs.attempt_values(
        run, error_code=command.error_code, protected=protect_message(ctx, run, message), now=ctx.now
    )
    retried = runs.set_run(
        ctx.connection, tenant_id=ctx.tenant_id, run=run, values=values, raised=ended.raised
    )
    opened = traces.open_trace(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        run_id=run["run_id"],
        attempt=retried["attempt"],
        policy_snapshot_id=run["policy_snapshot_id"],
        plan_hash=trace["plan_hash"],
        seed=trace["seed"],
        now=ctx.now,
    )
    ctx.facts.add(
        "run.attempt",
        retried,
        run_id=run["run_id"],
        attempt=retried["attempt"],
        extra={"trace": traces.genesis_claim(opened)},
    )
    return _retried(retried, replayed=False)


def complete_run(ctx: OperationContext, command: CompleteRun) -> CompletedRun:
    """End a run as the caller says; refuse INVALID_TERMINATION, RUN_TERMINAL, STEP_COUNT_MISMATCH."""
    status = RunStatus(command.status)
    ending = Ending(
        status=status,
        termination_reason=evaluations.settle_termination(status, command.termination_reason),
        error_code=command.error_code,
        error_message=command.error_message,
    )
    content = command.model_dump(mode="json") | {"termination_reason": ending.termination_reason.value}
    return _end(
        ctx, command.run_id, ending, kind="complete", content=content, expected_steps=command.expected_steps
    )


def halt_run(ctx: OperationContext, command: StopRun) -> CompletedRun:
    """Halt a run by its caller's decision, which the ledger records; refuse RUN_TERMINAL."""
    ending = Ending(RunStatus.HALTED, TerminationReason.USER_ABORT)
    return _end(
        ctx,
        command.run_id,
        ending,
        kind="halt",
        content=command.model_dump(mode="json"),
        reason=command.reason,
    )


def cancel_run(ctx: OperationContext, command: StopRun) -> CompletedRun:
    """Cancel a run by its caller's decision, which the ledger records; refuse RUN_TERMINAL."""
    ending = Ending(RunStatus.CANCELLED, TerminationReason.USER_ABORT)
    return _end(
        ctx,
        command.run_id,
        ending,
        kind="cancel",
        content=command.model_dump(mode="json"),
        reason=command.reason,
    )


def expire_runs(ctx: OperationContext, command: ExpireRuns) -> ExpiredRuns:
    """End the tenant's runs past their deadline as failed by timeout; those that others hold wait."""
    due = runs.lock_due(ctx.connection, tenant_id=ctx.tenant_id, now=ctx.now, limit=command.limit)
    ending = Ending(RunStatus.FAILED, TerminationReason.TIMEOUT, error_code="EXECUTION_TIMEOUT")
    key = ctx.digest_key()
    requests = [
        EndRequest(run, ending, runs.end_digest("expire", {"run_id": run["run_id"]}, key)) for run in due
    ]
    end_runs(ctx, requests)
    return ExpiredRuns(expired=[run["run_id"] for run in due], more=len(due) == command.limit)


def require_evaluation(ctx: OperationContext, query: RequireEvaluation) -> EvaluationView:
    """Show the evaluation of a run's last attempt.

    Refuses RUN_NOT_FOUND, RUN_NOT_TERMINAL, and EVALUATION_CONFLICT when the run ended otherwise.
    """
    run = runs.require_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=query.run_id)
    if run["status"] == RunStatus.RUNNING:
        raise run_not_terminal(query.run_id)
    if query.run_status.lower() != run["status"]:
        raise evaluation_conflict(query.run_id, run["status"])
    return _evaluation_of(ctx, run)


def _evaluation_of(ctx: OperationContext, run: Row) -> EvaluationView:
    known = evaluations.get_evaluation(
        ctx.connection, tenant_id=ctx.tenant_id, run_id=run["run_id"], attempt=run["attempt"]
    )
    if known is None:
        raise LookupError(f"the ended attempt {run['attempt']} of run {run['run_id']} has no evaluation")
    return known


def _end(
    ctx: OperationContext,
    run_id: str,
    ending: Ending,
    *,
    kind: str,
    content: Mapping[str, Any],
    expected_steps: int | None = None,
    reason: str | None = None,
) -> CompletedRun:
    digest = runs.end_digest(kind, content, ctx.digest_key())
    run = runs.lock_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id)
    if run["status"] != RunStatus.RUNNING:
        if run["complete_digest"] != digest:
            raise run_terminal(run_id, run["status"])
        return _replayed(ctx, run)
    ended = end_run(ctx, EndRequest(run, ending, digest, reason=reason, expected_steps=expected_steps))
    return _completed(ended.run, ended.attempt.trace, ended.attempt.evaluation, ended.lessons, replayed=False)


def _replayed(ctx: OperationContext, run: Row) -> CompletedRun:
    known = _evaluation_of(ctx, run)
    trace = traces.require_trace(
        ctx.connection, tenant_id=ctx.tenant_id, run_id=run["run_id"], attempt=run["attempt"]
    )
    learned = lessons.list_learned(
        ctx.connection, tenant_id=ctx.tenant_id, run_id=run["run_id"], at=run["completed_at"]
    )
    return _completed(run, trace, known, learned, replayed=True)


def _completed(
    run: Row, trace: Row, evaluation: EvaluationView, learned: Sequence[Row], *, replayed: bool
) -> CompletedRun:
    return CompletedRun(
        **runs.view_members(run),
        trace_id=trace["trace_id"],
        root_hash=trace["root_hash"],
        step_count=trace["step_count"],
        evaluation=evaluation,
        lessons=[
            {name: lesson[name] for name in ("lesson_id", "lesson_type", "severity", "title")}
            for lesson in sorted(learned, key=lambda row: str(row["lesson_id"]))
        ],
        replayed=replayed,
    )


def _retried(run: Row, *, replayed: bool) -> RetriedRun:
    return RetriedRun(
        **runs.view_members(run),
        trace_id=chain.trace_id_of(run["run_id"], run["attempt"]),
        replayed=replayed,
    )


declare = OperationsOf("activity", "runs")
OPERATIONS = (
    declare.write(
        "runs.retry",
        RetryRun,
        RetriedRun,
        retry_run,
        gate="guarded",
        no_audit="the attempt is a governed fact itself (run.attempt)",
    ),
    declare.write("runs.complete", CompleteRun, CompletedRun, complete_run, gate="fact", no_audit=_IS_FACT),
    declare.write("runs.halt", StopRun, CompletedRun, halt_run, gate="fact"),
    declare.write("runs.cancel", StopRun, CompletedRun, cancel_run, gate="fact"),
    Operation(
        name="runs.require_evaluation",
        owner="activity",
        mode="read",
        scope=None,
        door="worker",
        input=RequireEvaluation,
        output=EvaluationView,
        handler=require_evaluation,
    ),
    Operation(
        name="runs.expire",
        owner="activity",
        mode="write",
        scope=None,
        door="worker",
        input=ExpireRuns,
        output=ExpiredRuns,
        handler=expire_runs,
        gate="fact",
        no_audit=_IS_FACT,
    ),
)
