"""Spine: the proof of a run from its traces, steps and facts; pure, facts in, a result out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal, TypeVar

from pydantic import Field

from app.domains.repository.models.runs import RunLeavings
from app.domains.traces.engines.verification import summarise
from app.hoc_spine.coordinators.run_judgement import Judgement, ProofFacts, judge_run
from app.kernel.canonical_json import loads
from app.kernel.inputs import Identifier, Input, Output, OutputTime

Row = Mapping[str, Any]
Shown = TypeVar("Shown")


class ProofInput(Input):
    run_id: Identifier
    include_payloads: bool = False
    steps_limit: int = Field(1000, ge=0, le=5000)


class Integrity(Output):
    model: str
    root_hash: str | None
    chain_length: int
    verification_status: Literal["VERIFIED", "FAILED", "UNSUPPORTED"]
    failure_reason: str | None
    failure_code: str | None
    failed_trace_id: str | None
    failed_step_index: int | None
    legacy_digest: str


class ProofTrace(Output):
    trace_id: str
    run_id: str
    attempt: int
    status: str
    outcome: str | None
    step_count: int
    started_at: OutputTime
    completed_at: OutputTime | None
    root_hash: str | None


class ProofStep(Output):
    step_index: int
    skill_name: str
    status: str
    duration_ms: float
    cost_cents: float
    trace_id: str


class RawLog(Output):
    """A step's values; null once erased."""

    trace_id: str
    step_index: int
    state: Literal["INTACT", "ERASED"]
    params: Any
    outcome_data: Any


class FactsReport(Output):
    status: Literal["COMPLETE", "OPEN", "INCOMPLETE"]
    expected: int
    found: int
    late: int


class ValuesReport(Output):
    intact: int
    erased: int
    tampered: int


class LogReport(Output):
    """How far the newest checkpoint of the tenant's log covers the facts.

    INCLUDED: all of them, under its root. PENDING: not all yet. UNSIGNED: there is no checkpoint. FAILED: the
    tree, its root or its signature contradict the facts.
    """

    status: Literal["INCLUDED", "PENDING", "FAILED", "UNSIGNED"]
    origin: str | None
    size: int
    root: str | None


class RunProof(Output):
    run_id: str
    verified_at: OutputTime
    integrity: Integrity
    aos_traces: list[ProofTrace]
    aos_trace_steps: list[ProofStep]
    steps_truncated: bool
    raw_logs: list[RawLog] | None
    facts: FactsReport
    values: ValuesReport
    log: LogReport
    repository: RunLeavings


def prove_run(query: ProofInput, facts: ProofFacts, *, repository: RunLeavings, now: datetime) -> RunProof:
    """Verify all steps and facts, whatever is listed, and say VERIFIED, FAILED or UNSUPPORTED with why."""
    found = judge_run(facts)
    listed = facts.steps[: query.steps_limit]
    return RunProof(
        run_id=query.run_id,
        verified_at=now,
        integrity=_integrity(query.run_id, found, facts.steps),
        aos_traces=_showable(_trace, facts.traces),
        aos_trace_steps=_showable(_step, listed),
        steps_truncated=len(facts.steps) > len(listed),
        raw_logs=_showable(_raw, listed) if query.include_payloads else None,
        facts=FactsReport(
            status=found.facts.status,
            expected=found.facts.expected,
            found=found.facts.found,
            late=found.facts.late,
        ),
        values=ValuesReport(**found.values),
        log=_log(found),
        repository=repository,
    )


def _integrity(run_id: str, judged: Judgement, steps: Sequence[Row]) -> Integrity:
    found = summarise(run_id, judged.traces, steps)
    if judged.code is not None and found["verification_status"] != "FAILED":
        # FAILED beats UNSUPPORTED beats VERIFIED: rows that are not their facts prove nothing.
        found |= {
            "verification_status": "FAILED",
            "root_hash": None,
            "failure_reason": judged.code,
            "failure_code": judged.code,
        }
    return Integrity.model_validate(found)


def _log(judged: Judgement) -> LogReport:
    failed = judged.facts.code == "LOG_MISMATCH"
    return LogReport(
        status="FAILED" if failed else judged.log.status,
        origin=judged.log.origin,
        size=judged.log.size,
        root=judged.log.root,
    )


def _showable(view: Callable[[Row], Shown], rows: Sequence[Row]) -> list[Shown]:
    """Return the views of the rows, but of those whose values were damaged beyond showing."""
    shown = []
    for row in rows:
        with suppress(ValueError, TypeError):
            shown.append(view(row))
    return shown


def _trace(trace: Row) -> ProofTrace:
    return ProofTrace.model_validate({name: trace[name] for name in ProofTrace.model_fields})


def _step(step: Row) -> ProofStep:
    return ProofStep(
        step_index=step["step_index"],
        skill_name=step["skill_name"],
        status=step["status"],
        duration_ms=step["duration_us"] / 1000,
        cost_cents=step["cost_micro"] / 10_000,
        trace_id=step["trace_id"],
    )


def _raw(step: Row) -> RawLog:
    return RawLog(
        trace_id=step["trace_id"],
        step_index=step["step_index"],
        state="INTACT" if step["erased_fact_id"] is None else "ERASED",
        params=_readable(step["params"]),
        outcome_data=_readable(step["outcome_data"]),
    )


def _readable(text: str | bytes | None) -> Any:
    if text is None:
        return None
    try:
        return loads(text)
    except ValueError:
        # Damaged text is shown as it stands; the verdict already says that it does not open.
        return text.decode(errors="replace") if isinstance(text, bytes) else text
