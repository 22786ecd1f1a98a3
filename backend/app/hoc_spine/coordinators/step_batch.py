"""Spine: a batch of steps: chained, counted against the limits, and held to the decisions that it cites."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from app.db.batch_read import HeldTrace, Meeting, lock_trace
from app.db.connection import Row
from app.domains.activity.engines import runs, signals
from app.domains.activity.models.vocabulary import RunStatus
from app.domains.controls.models.usage import Use
from app.domains.decisions.engines import decisions
from app.domains.decisions.models.vocabulary import DecisionOutcome
from app.domains.incidents.engines import incidents
from app.domains.incidents.models.records import IncidentDraft
from app.domains.incidents.models.vocabulary import (
    CauseType,
    IncidentCategory,
    LinkKind,
    Severity,
    SourceType,
)
from app.domains.policies.errors import SnapshotInvalidError
from app.domains.retrieval.engines import observations
from app.domains.tenants.engines import state
from app.domains.tenants.models import Standing
from app.domains.traces.engines import spans, steps, traces
from app.domains.traces.engines.steps import Overlap
from app.domains.traces.errors import trace_not_found
from app.domains.traces.models import AppendedSteps, PreparedStep, StepInput, Totals
from app.hoc_spine.coordinators.incident_opening import open_incident
from app.hoc_spine.coordinators.limit_use import UseResult, commit_use
from app.hoc_spine.coordinators.run_policies import load_snapshot
from app.hoc_spine.coordinators.use_settling import settle_use
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.kernel.amounts import MICRO, Metric

FORBIDDEN: Final = frozenset({DecisionOutcome.BLOCKED, DecisionOutcome.STOPPED, DecisionOutcome.KILLED})
SHOWN_STEPS: Final = 20


@dataclass(slots=True)
class PreparedBatch:
    """Steps ready to be linked, the outcomes of decisions that they cite, what they tell of retrievals.

    `held` is what the transaction's first statement took hold of, where that read the standing too.
    """

    steps: Sequence[PreparedStep]
    cited: Mapping[str, DecisionOutcome]
    retrievals: Sequence[tuple[StepInput, Mapping[str, Any]]] = ()
    held: HeldTrace | None = None


def prepare_batch(ctx: PrepareContext, run_id: str, given: Sequence[StepInput]) -> PreparedBatch:
    """Redact, commit and hash a batch before the transaction; refuse one that is not contiguous."""
    named = sorted({step.decision_id for step in given if step.decision_id is not None})
    if not named:
        return _observed(make_batch(given, {}, now=ctx.now), given)
    # A decision never changes and never goes, so what is read before the transaction holds in it.
    with ctx.read_unit() as connection:
        cited = decisions.outcomes_of_run(
            connection, tenant_id=ctx.tenant_id, run_id=run_id, decision_ids=named
        )
    return _observed(make_batch(given, cited, now=ctx.now), given)


def _observed(batch: PreparedBatch, given: Sequence[StepInput]) -> PreparedBatch:
    """Return the batch with what its steps tell of retrievals, in the attributes that spans have for it."""
    told = [(step, found) for step in given if (found := spans.read_retrieval(step.params)) is not None]
    return replace(batch, retrievals=told)


def make_batch(
    given: Sequence[StepInput], cited: Mapping[str, DecisionOutcome], *, now: datetime
) -> PreparedBatch:
    """Return steps redacted, committed and hashed; refuse a batch that is not contiguous."""
    steps.check_batch(given)
    salts = secrets.token_hex(32 * len(given))
    prepared = [
        steps.prepare_step(
            step, position=place, salt_hex=salts[64 * place : 64 * place + 64], recorded_at=now
        )
        for place, step in enumerate(given)
    ]
    return PreparedBatch(prepared, cited)


def look_at_batch(ctx: OperationContext, run_id: str, attempt: int | None) -> Standing | None:
    """Hold the run and the trace of a prepared batch, and return the caller's standing."""
    batch: PreparedBatch = ctx.prepared
    held = batch.held = _lock(ctx, run_id, attempt, batch.steps)
    if held is None:
        return state.load_standing(ctx.connection, tenant_id=ctx.tenant_id, key_id=ctx.request.key_id)
    return Standing(**held.standing)


def append_batch(
    ctx: OperationContext, run_id: str, batch: PreparedBatch, *, attempt: int | None
) -> AppendedSteps:
    """Append a batch to the chain of a run's attempt; a refusal writes nothing of it.

    Refuses STEP_GAP, STEP_CONFLICT, ATTEMPT_CLOSED, TRACE_SEALED, and REFERENCE_NOT_FOUND for a decision of
    another run; steps recorded already with the same content are counted as replayed.
    """
    hashes = steps.content_hashes(batch.steps, ctx.digest_key())
    held = batch.held or hold_trace(ctx, run_id, attempt, batch.steps)
    steps.check_cited(batch.steps, batch.cited)
    overlap = steps.find_met(ctx.connection, batch.steps, held.trace, tenant_id=ctx.tenant_id, met=held.met)
    number = held.trace["attempt"]
    replayed = steps.decide_batch(
        batch.steps, hashes, overlap, run_id=run_id, attempt=number, current_attempt=held.run["attempt"]
    )
    new = batch.steps[replayed:]
    if not new:
        return _answer(overlap, number, replayed, UseResult(), overlap.head.head_hash, must_stop=False)
    steps.check_external_ids(new, overlap)
    trace = _extend(ctx, held, overlap, new, hashes[replayed:])
    used = commit_use(ctx, held.run, trace, _uses(overlap.trace_id, new))
    _mark_unchecked(ctx, held.run, trace, new)
    _observe(ctx, held.run, trace, batch.retrievals, first=new[0].step_index)
    _open_violations(ctx, held.run, new, batch.cited)
    settled = settle_use(ctx, held.run, trace, used)
    return _answer(
        overlap, number, replayed, used, trace["head_hash"], added=len(new), must_stop=settled.must_stop
    )


def hold_trace(
    ctx: OperationContext, run_id: str, attempt: int | None, batch: Sequence[PreparedStep] = ()
) -> HeldTrace:
    """Hold a run and the trace of an attempt; refuse RUN_NOT_FOUND and TRACE_NOT_FOUND."""
    # The second look is for a run that a retry has moved on while the first one waited for it.
    for _ in range(2):
        held = _lock(ctx, run_id, attempt, batch)
        if held is not None:
            return held
    runs.require_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id)
    raise trace_not_found()


def _lock(
    ctx: OperationContext, run_id: str, attempt: int | None, batch: Sequence[PreparedStep]
) -> HeldTrace | None:
    return lock_trace(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        run_id=run_id,
        attempt=attempt,
        key_id=ctx.request.key_id,
        meeting=Meeting(batch[0].step_index, batch[-1].step_index, steps.external_ids(batch))
        if batch
        else None,
    )


def _answer(
    overlap: Overlap,
    attempt: int,
    replayed: int,
    used: UseResult,
    head_hash: str,
    *,
    must_stop: bool,
    added: int = 0,
) -> AppendedSteps:
    return AppendedSteps(
        trace_id=overlap.trace_id,
        attempt=attempt,
        appended=added,
        replayed=replayed,
        step_count=overlap.head.step_count + added,
        head_hash=head_hash,
        breaches=[breach.model_dump(mode="json") for breach in used.breaches],
        must_stop=must_stop,
    )


def _extend(
    ctx: OperationContext,
    held: HeldTrace,
    overlap: Overlap,
    new: Sequence[PreparedStep],
    hashes: Sequence[str],
) -> dict[str, Any]:
    """Write the new steps, the trace's head and one fact; return the trace as it is now."""
    trace_id, head = overlap.trace_id, overlap.head
    rows = steps.link_steps(new, hashes, trace_id=trace_id, head_hash=head.head_hash)
    steps.insert_steps(ctx.connection, rows, tenant_id=ctx.tenant_id)
    head_hash, step_count = rows[-1]["step_hash"], head.step_count + len(rows)
    totals = steps.add_totals(head.totals, new)
    traces.extend_trace(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        trace_id=trace_id,
        from_index=head.step_count,
        step_count=step_count,
        head_hash=head_hash,
        totals=totals,
        now=ctx.now,
    )
    body = {
        "trace_id": trace_id,
        "attempt": held.trace["attempt"],
        "from_index": head.step_count,
        "to_index": step_count - 1,
        "head_hash": head_hash,
    }
    ctx.facts.add("trace.extended", body, run_id=held.run["run_id"], attempt=held.trace["attempt"], body=body)
    return moved_trace(held.trace, totals, head_hash=head_hash, step_count=step_count)


def moved_trace(trace: Row, totals: Totals, **changed: Any) -> dict[str, Any]:
    """Return a trace's row with these totals."""
    return {
        **trace,
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "cost_micro": totals.cost_micro,
        **changed,
    }


def _uses(trace_id: str, new: Sequence[PreparedStep]) -> list[Use]:
    return [
        Use(
            source_ref=f"step:{trace_id}:{step.step_index}",
            # Each new step is one of STEPS, whatever it says.
            usage={**step.used, Metric.STEPS: MICRO},
            # A step that reports no use leaves its reservation to the one that does.
            reservation_id=step.row["reservation_id"] if step.used else None,
            step_index=step.step_index,
        )
        for step in new
    ]


def _mark_unchecked(ctx: OperationContext, run: Row, trace: Row, new: Sequence[PreparedStep]) -> None:
    """Note side effects that no decision permitted: one signal for a batch."""
    unchecked = [step for step in new if step.row["side_effect"] and step.row["decision_id"] is None]
    if not unchecked:
        return
    signals.emit_signal(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        artifact=f"agent:{run['agent_id']}",
        signal_type="unchecked_side_effect",
        evidence={
            "run_id": run["run_id"],
            "trace_id": trace["trace_id"],
            "count": len(unchecked),
            "steps": [
                {"step_index": step.step_index, "skill_id": step.row["skill_id"]}
                for step in unchecked[:SHOWN_STEPS]
            ],
        },
        detected_by="step-batch",
        now=ctx.now,
        signal_id=ctx.new_id("sig"),
        run_id=run["run_id"],
    )


def _observe(
    ctx: OperationContext,
    run: Row,
    trace: Row,
    told: Sequence[tuple[StepInput, Mapping[str, Any]]],
    *,
    first: int,
) -> None:
    """Record the retrievals that new steps tell of, to be matched with evidence like those of spans.

    A step that does not say when it happened may have happened at any time since the run began.
    """
    rows = []
    for step, found in told:
        if step.step_index < first:
            continue
        began = step.occurred_at
        ended = ctx.now if began is None else began + timedelta(microseconds=step.duration_ms)
        rows.append(
            {
                **found,
                "trace_id": trace["trace_id"],
                "span_id": str(step.step_index),
                "run_id": run["run_id"],
                "started_at": run["started_at"] if began is None else began,
                "ended_at": ended,
            }
        )
    if rows:
        observations.record_observations(ctx.connection, tenant_id=ctx.tenant_id, rows=rows)


def _open_violations(
    ctx: OperationContext, run: Row, new: Sequence[PreparedStep], cited: Mapping[str, DecisionOutcome]
) -> None:
    """Open an incident for each decision that forbade what a step says was done."""
    forbidden: dict[str, PreparedStep] = {}
    for step in new:
        decision_id = step.row["decision_id"]
        if decision_id is not None and cited[decision_id] in FORBIDDEN:
            forbidden.setdefault(decision_id, step)
    if not forbidden or run["status"] != RunStatus.RUNNING:
        return
    try:
        snapshot = load_snapshot(ctx, run)
    except SnapshotInvalidError:
        snapshot = None
    for decision_id, step in forbidden.items():
        draft = IncidentDraft(
            title="An action was carried out that a decision forbids",
            category=IncidentCategory.POLICY_VIOLATION,
            cause_type=CauseType.LLM_RUN,
            source_type=SourceType.POLICY,
            severity=Severity.HIGH,
            error_code="POLICY_VIOLATION",
            description=(
                f"Step {step.step_index} ({step.row['skill_name']}) cites a decision that is"
                f" {cited[decision_id].value}."
            ),
            trigger_ref=decision_id,
            dedupe_key=f"{run['run_id']}:{run['attempt']}:{decision_id}",
        )
        opened = open_incident(ctx, draft, run=run, snapshot=snapshot)
        if opened.created and opened.incident is not None:
            incidents.link(ctx, opened.incident, [(LinkKind.DECISION, decision_id)])
