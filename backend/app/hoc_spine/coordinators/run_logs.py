"""Spine: what the logs say of a run: envelope, trace, replay window; pure, facts in, a result out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import Field

from app.domains.activity.models.vocabulary import RunStatus, TerminationReason
from app.domains.logs.models.ledger import (
    LogMetadata,
)
from app.kernel.inputs import Identifier, Input, ListInput, Output, OutputTime

Row = Mapping[str, Any]
# So many events of one source stand in a replay window.
MAX_EVENTS = 1000
ExecutionStatus = Literal["RUNNING", "SUCCEEDED", "FAILED", "TIMEOUT", "ABORTED"]


class EnvelopeInput(Input):
    run_id: Identifier


class TraceLogInput(ListInput):
    run_id: Identifier
    attempt: int | None = Field(None, ge=1, le=2_147_483_647)


class ReplayInput(Input):
    run_id: Identifier
    window_seconds: int = Field(30, ge=1, le=86_400)


class RunEnvelope(Output):
    """A run from outside; tokens and cost are those of all its attempts, the trace is the newest one's."""

    run_id: str
    trace_id: str | None
    provider: str | None
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_cents: float
    execution_status: ExecutionStatus
    source: str
    is_synthetic: bool
    started_at: OutputTime
    completed_at: OutputTime | None
    metadata: LogMetadata


class LoggedStep(Output):
    step_index: int
    timestamp: OutputTime
    skill_name: str
    status: str
    outcome_category: str
    cost_cents: float
    duration_ms: float


class RunTraceLog(Output):
    """A page of the steps of an attempt; `total_steps` counts them all."""

    run_id: str
    trace_id: str
    steps: list[LoggedStep]
    total_steps: int
    next_cursor: str | None
    metadata: LogMetadata


class ReplayEvent(Output):
    source: Literal["LLM", "POLICY", "SYSTEM"]
    timestamp: OutputTime
    step_index: int | None
    action: str
    outcome: str
    ref: str


class ReplaySpan(Output):
    since: OutputTime
    until: OutputTime


class ReplayWindow(Output):
    """What happened around the moment at which the run took its turn."""

    run_id: str
    inflection_timestamp: OutputTime
    window: ReplaySpan
    events: list[ReplayEvent]
    truncated: bool
    metadata: LogMetadata


def envelope_of(run: Row, traces: Sequence[Row], metadata: LogMetadata) -> RunEnvelope:
    """Return the envelope of a run from its row and its traces."""
    return RunEnvelope(
        run_id=run["run_id"],
        trace_id=traces[-1]["trace_id"] if traces else None,
        provider=run["provider_type"],
        model=run["model"],
        input_tokens=_sum(trace["input_tokens"] for trace in traces),
        output_tokens=_sum(trace["output_tokens"] for trace in traces),
        cost_cents=sum(trace["cost_micro"] for trace in traces) / 10_000,
        execution_status=execution_status(run["status"], run["termination_reason"]),
        source=run["source"],
        is_synthetic=bool(run["is_synthetic"]),
        started_at=run["started_at"],
        completed_at=run["completed_at"],
        metadata=metadata,
    )


def _sum(counts: Any) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def execution_status(status: str, termination_reason: str | None) -> ExecutionStatus:
    """Return the word by which the logs call the state of a run."""
    if status == RunStatus.RUNNING:
        return "RUNNING"
    if status == RunStatus.SUCCEEDED:
        return "SUCCEEDED"
    if status == RunStatus.FAILED:
        return "TIMEOUT" if termination_reason == TerminationReason.TIMEOUT else "FAILED"
    return "ABORTED"


def logged_step(row: Row) -> LoggedStep:
    """Return what the logs show of a step: never its payloads."""
    return LoggedStep(
        step_index=row["step_index"],
        timestamp=row["occurred_at"],
        skill_name=row["skill_name"],
        status=row["status"],
        outcome_category=row["outcome_category"],
        cost_cents=row["cost_micro"] / 10_000,
        duration_ms=row["duration_us"] / 1_000,
    )


def inflection_of(run: Row, first_block: datetime | None) -> datetime:
    """Return when the run took its turn: its first block, else its end, else its start."""
    moment: datetime = first_block or run["completed_at"] or run["started_at"]
    return moment


def span_around(moment: datetime, seconds: int) -> tuple[datetime, datetime]:
    """Return the span of so many seconds to each side."""
    return moment - timedelta(seconds=seconds), moment + timedelta(seconds=seconds)


def replay_events(
    run: Row,
    span: tuple[datetime, datetime],
    *,
    steps: Sequence[Row],
    decisions: Sequence[Row],
    entries: Sequence[Row],
) -> list[ReplayEvent]:
    """Merge what the run did, what was decided and what the system did, by time, source and id."""
    events = [
        ReplayEvent(
            source="LLM",
            timestamp=row["occurred_at"],
            step_index=row["step_index"],
            action=row["skill_name"],
            outcome=row["status"],
            # Padded, so that the steps of one moment stand in the order of the chain.
            ref=f"{row['trace_id']}#{row['step_index']:010}",
        )
        for row in steps
    ]
    events += [
        _event("POLICY", row["decided_at"], row["decision_type"], row["decision_outcome"], row["decision_id"])
        for row in decisions
    ]
    events += [
        _event("SYSTEM", row["created_at"], row["event_type"], row["entity_id"], row["entry_id"])
        for row in entries
    ]
    own = [
        ("run.started", run["started_at"], "running"),
        ("run.completed", run["completed_at"], run["status"]),
    ]
    events += [
        _event("SYSTEM", moment, action, outcome, run["run_id"])
        for action, moment, outcome in own
        if moment is not None and span[0] <= moment <= span[1]
    ]
    return sorted(events, key=lambda event: (event.timestamp, event.source, event.ref))


def _event(
    source: Literal["POLICY", "SYSTEM"], moment: datetime, action: str, outcome: str, ref: str
) -> ReplayEvent:
    return ReplayEvent(
        source=source, timestamp=moment, step_index=None, action=action, outcome=outcome, ref=ref
    )
