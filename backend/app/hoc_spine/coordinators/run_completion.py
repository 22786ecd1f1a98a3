"""Spine: the end of an attempt or a run, in the order of the locks: judged, explained, sealed, closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.db.connection import Row
from app.db.governed import row_image
from app.domains.activity.engines import evaluation as evaluations
from app.domains.activity.engines import runs
from app.domains.activity.engines.evaluation import Findings
from app.domains.activity.models.facts import Ending, Projections
from app.domains.activity.models.runs import EvaluationView
from app.domains.activity.models.vocabulary import OutcomeKind, RunStatus, TerminationReason
from app.domains.incidents.engines import incidents
from app.domains.incidents.models.vocabulary import IncidentCategory, LinkKind
from app.domains.lessons.engines import lessons
from app.domains.lessons.models.records import LessonDraft
from app.domains.policies.models.vocabulary import PreventionOutcome, RuleKind
from app.domains.tenants.engines import state as tenant_state
from app.domains.traces.engines import traces
from app.domains.traces.models import TraceOutcome
from app.hoc_spine.coordinators.attempt_findings import AttemptFindings, find_attempt
from app.hoc_spine.coordinators.completion_rules import Judged, judge_completion, load_governing
from app.hoc_spine.coordinators.ending_incident import incident_of_ending
from app.hoc_spine.coordinators.incident_opening import Opened, create_incident
from app.hoc_spine.coordinators.lesson_learning import lessons_of_limits
from app.hoc_spine.coordinators.limit_use import release_open, run_standing
from app.hoc_spine.coordinators.repository_runs import end_operation_run
from app.hoc_spine.operation_context import OperationContext
from app.kernel.clock import format_time
from app.kernel.redaction import redact_text

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
Outcome = tuple[OutcomeKind, str | None]
"""The one incident or prevention of an ending, or NONE."""


@dataclass(frozen=True, slots=True)
class EndRequest:
    """A locked running run that is to end; `outcome` is the record that the halting decision wrote."""

    run: Row
    ending: Ending
    digest: str
    reason: str | None = None
    expected_steps: int | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """The sealed trace and the evaluation of an attempt that ended, and what they raise on its run's row."""

    trace: Row
    evaluation: EvaluationView
    raised: Projections


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run that ended, with its last attempt and what it taught."""

    run: Row
    attempt: EndedAttempt
    lessons: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class _Begun:
    """An ending after its rules were judged and its reservations given back."""

    request: EndRequest
    found: AttemptFindings
    judged: Judged


def end_run(ctx: OperationContext, request: EndRequest) -> EndedRun:
    """End one run (see `end_runs`)."""
    return end_runs(ctx, [request])[0]


def end_runs(ctx: OperationContext, requests: Sequence[EndRequest]) -> list[EndedRun]:
    """End locked running runs, each exactly once; refuse STEP_COUNT_MISMATCH.

    Everybody takes locks in one order, so all runs go through each stage before any goes to the next:
    counters, then incidents and lessons, then the tenant's state, then the facts.
    """
    begun = [_begin(ctx, request, judges=True) for request in requests]
    ended = [_write(ctx, item) for item in begun]
    for item, run in zip(begun, ended, strict=True):
        _close(ctx, item, run)
    return ended


def halt_by_rule(
    ctx: OperationContext,
    run: Row,
    *,
    reason: TerminationReason,
    stopped_at_step: int,
    violation_rule_id: str | None,
    outcome: Outcome | None,
) -> EndedRun:
    """Halt a locked running run by the decision of a rule or limit, inside its transaction.

    `outcome` is the BLOCKED or STOPPED record or the breach's incident that the decision wrote; without
    one the halt opens an incident of its own.
    """
    ending = Ending(
        RunStatus.HALTED, reason, stopped_at_step=stopped_at_step, violation_rule_id=violation_rule_id
    )
    content = {"run_id": run["run_id"], "reason": reason.value, "rule_id": violation_rule_id}
    digest = runs.end_digest("rule", content, ctx.digest_key())
    return end_run(ctx, EndRequest(run, ending, digest, outcome=outcome))


def end_attempt(ctx: OperationContext, run: Row, *, status: RunStatus) -> EndedAttempt:
    """End the current attempt alone, for a retry: its reservations, evaluation and seal, and no incident.

    The run goes on, so there is no ending that COMPLETION rules could judge.
    """
    ending = Ending(status, TerminationReason.SYSTEM_FAILURE)
    begun = _begin(ctx, EndRequest(run, ending, digest=""), judges=False)
    return _end_attempt(ctx, begun, (OutcomeKind.NONE, None), opened=None)


def _begin(ctx: OperationContext, request: EndRequest, *, judges: bool) -> _Begun:
    run = request.run
    governing = load_governing(ctx, run)
    found = find_attempt(ctx, run, run_standing(ctx, run, governing.limits))
    runs.check_step_count(request.expected_steps, found.step_count(run["attempt"]))
    judged = Judged(request.ending, governing)
    if judges:
        steps = found.step_count(run["attempt"])
        judged = judge_completion(ctx, run, request.ending, governing, step_count=steps)
    if found.open_reservations:
        release_open(ctx, run, run["attempt"])
    return _Begun(request, found, judged)


def _write(ctx: OperationContext, begun: _Begun) -> EndedRun:
    request, ending, run = begun.request, begun.judged.ending, begun.request.run
    opened = None
    outcome: Outcome = (OutcomeKind.NONE, None)
    if ending.status in (RunStatus.FAILED, RunStatus.HALTED):
        outcome = request.outcome or begun.judged.outcome or outcome
        if outcome[1] is None:
            draft = incident_of_ending(run, ending, begun.judged.governing, reason=request.reason)
            snapshot = begun.judged.governing.snapshot
            # The run is held and still running: no ending has explained this attempt before.
            opened = create_incident(ctx, draft, run=run, snapshot=snapshot, is_first=True)
            outcome = _outcome_of(opened)
        _link(ctx, begun, outcome, opened)
    attempt = _end_attempt(ctx, begun, outcome, opened)
    learned = _learn(ctx, begun, opened)
    ended = runs.set_run(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        run=run,
        values=runs.end_values(
            ending,
            digest=request.digest,
            step_count=attempt.trace["step_count"],
            protected=protect_message(ctx, run, ending.error_message),
            now=ctx.now,
        ),
        raised=attempt.raised,
    )
    if request.reason is not None:
        ctx.audit(
            AUDIT_EVENTS[ending.status],
            "RUN",
            run["run_id"],
            before=row_image("runs", run),
            after=row_image("runs", ended),
            reason=request.reason,
            run_id=run["run_id"],
        )
    ctx.outbox("RunCompleted", _completed_event(ended))
    return EndedRun(ended, attempt, learned)


def _close(ctx: OperationContext, begun: _Begun, ended: EndedRun) -> None:
    run = ended.run
    tenant_state.release_run(ctx.connection, tenant_id=ctx.tenant_id)
    if begun.found.has_operation_run:
        end_operation_run(ctx, run["run_id"], RunStatus(run["status"]))
    ctx.facts.add(
        "run.completed",
        run,
        run_id=run["run_id"],
        attempt=run["attempt"],
        extra={"closure": traces.closure_of(_all_traces(begun, ended.attempt.trace))},
        closes_run=True,
    )


def _end_attempt(
    ctx: OperationContext, begun: _Begun, outcome: Outcome, opened: Opened | None
) -> EndedAttempt:
    """Write the attempt's one evaluation and seal its trace, with their facts."""
    run, status = begun.request.run, begun.judged.ending.status
    run_id, attempt = run["run_id"], run["attempt"]
    evaluation = evaluations.evaluation_row(
        evaluations.decide_evaluation(status, _findings(begun, outcome, opened)),
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
        ctx.connection,
        tenant_id=ctx.tenant_id,
        run_id=run_id,
        attempt=attempt,
        outcome=TRACE_OUTCOMES[status],
        now=ctx.now,
    )
    ctx.facts.add("trace.sealed", sealed, run_id=run_id, attempt=attempt, body=traces.seal_body(sealed))
    view = evaluations.evaluation_view(evaluation)
    ctx.outbox("PolicyEvaluated", _evaluated_event(view))
    return EndedAttempt(trace=sealed, evaluation=view, raised=_projections(begun, opened))


def _outcome_of(opened: Opened) -> Outcome:
    if opened.incident is None:
        return OutcomeKind.PREVENTION, opened.prevention_id
    return OutcomeKind.INCIDENT, opened.incident["incident_id"]


def _findings(begun: _Begun, outcome: Outcome, opened: Opened | None) -> Findings:
    """Count what was there before the ending and what the ending itself has added."""
    preventions = dict(begun.found.preventions)
    added = [*begun.judged.recorded, *(() if opened is None else opened.recorded)]
    for word in added:
        preventions[word] = preventions.get(word, 0) + 1
    made = 1 if opened is not None and opened.created else 0
    total = sum(preventions.values())
    return Findings(
        violation_incidents=begun.found.incidents.get(IncidentCategory.POLICY_VIOLATION, 0),
        incidents=sum(begun.found.incidents.values()) + made,
        preventions=total,
        advisory=total - preventions.get(PreventionOutcome.AUDITED, 0),
        breaches=len(begun.found.breaches),
        outcome_kind=outcome[0],
        outcome_ref=outcome[1],
        policies_checked=_policies_checked(begun),
    )


def _policies_checked(begun: _Begun) -> int:
    snapshot = begun.judged.governing.snapshot
    if snapshot is None:
        return 0
    return sum(rule.version.kind is RuleKind.GUARD for rule in snapshot.rules)


def _link(ctx: OperationContext, begun: _Begun, outcome: Outcome, opened: Opened | None) -> None:
    """Let the ending's incident point at the attempt's breaches and at the decisions that blocked."""
    if opened is None or not opened.created or opened.incident is None or outcome[1] is None:
        return
    decisions = dict.fromkeys((*begun.judged.blocking_decisions, *begun.found.blocking_decisions))
    targets = [*opened.links, *((LinkKind.BREACH, ref) for ref in begun.found.breaches)]
    targets += [(LinkKind.DECISION, ref) for ref in decisions]
    incidents.link(ctx, opened.incident, targets)


def _learn(ctx: OperationContext, begun: _Begun, opened: Opened | None) -> list[Row]:
    drafts: list[LessonDraft] = []
    if opened is not None and opened.lesson is not None:
        drafts.append(opened.lesson)
    status = begun.judged.ending.status
    drafts += lessons_of_limits(begun.request.run, begun.found.limits, status=status, now=ctx.now)
    return [row for _, row in lessons.learn(ctx, drafts) if row is not None] if drafts else []


def _projections(begun: _Begun, opened: Opened | None) -> Projections:
    stopped = PreventionOutcome.STOPPED in begun.judged.recorded
    found = begun.found
    if stopped:
        found = replace(found, preventions={**found.preventions, PreventionOutcome.STOPPED.value: 1})
    made = 1 if opened is not None and opened.created else 0
    violation = bool(found.incidents.get(IncidentCategory.POLICY_VIOLATION))
    return Projections(incidents=made, violation=violation, risk=found.risk)


def protect_message(ctx: OperationContext, run: Row, error_message: str | None) -> dict[str, Any]:
    """Return the run's protected members with a new error message; nothing when it stays as it is."""
    message = None if error_message is None else redact_text(error_message)[0]
    # An erased run takes no new values: its commitment is the one that the erasure fact lists.
    if message == run["error_message"] or run["erased_fact_id"] is not None:
        return {}
    return ctx.protect({"goal": run["goal"], "error_message": message})


def _all_traces(begun: _Begun, last: Row) -> list[Row]:
    """Return the run's traces by attempt; the last one as it was sealed just now."""
    earlier: list[tuple[int, Row]] = []
    for found in begun.found.traces:
        attempt = int(found.text or 0)
        if attempt != last["attempt"]:
            trace = {"trace_id": found.ref, "attempt": attempt, "root_hash": found.word}
            earlier.append((attempt, {**trace, "step_count": found.number or 0}))
    return [trace for _, trace in sorted(earlier, key=lambda item: item[0])] + [last]


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
