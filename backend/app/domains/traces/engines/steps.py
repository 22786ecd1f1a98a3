"""Traces L5: steps of an attempt: preparing a batch, judging it against the chain, appending it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.traces.drivers import steps as driver
from app.domains.traces.engines import chain
from app.domains.traces.errors import (
    attempt_closed,
    batch_not_contiguous,
    decision_not_found,
    duplicate_external_id,
    payload_refused,
    step_conflict,
    step_gap,
    trace_sealed,
)
from app.domains.traces.models import (
    MAX_BIGINT,
    MAX_PAYLOAD_BYTES,
    MICRO,
    Head,
    PreparedStep,
    StepInput,
    Totals,
    TraceStatus,
)
from app.kernel.amounts import Metric
from app.kernel.canonical_json import CanonicalJsonError, dumps
from app.kernel.clock import format_time
from app.kernel.hashing import keyed_digest
from app.kernel.redaction import VERSION, redact_json

# What the caller says of a step beside usage and payloads; their order is part of the content hash.
_CLEAR = tuple(
    name
    for name in chain.STEP_MEMBERS
    if name
    not in ("recorded_at", "occurred_at", "protected_commit", "usage", "redactions", "redaction_version")
)


@dataclass(frozen=True, slots=True)
class Overlap:
    """The head of a trace, and what a batch meets there: content hashes by index, indices by external id."""

    trace_id: str
    status: TraceStatus
    head: Head
    stored: Mapping[int, str]
    external: Mapping[str, int]


def check_batch(steps: Sequence[StepInput]) -> None:
    """Refuse a batch whose indices do not rise by one or that names an external id twice."""
    seen: set[str] = set()
    for position, step in enumerate(steps):
        expected = steps[0].step_index + position
        if step.step_index != expected:
            raise batch_not_contiguous(position, expected, step.step_index)
        if step.external_id is not None:
            if step.external_id in seen:
                raise duplicate_external_id(position, step.external_id)
            seen.add(step.external_id)


def prepare_step(step: StepInput, *, position: int, salt_hex: str, recorded_at: datetime) -> PreparedStep:
    """Return a step redacted, in canonical text, committed and with its statement hashed.

    `position` in the batch names the place when a payload is refused with INVALID_INPUT.
    """
    params_text, in_params = _payload_text(step.params, position, "params")
    outcome_text, in_outcome = None, 0
    if step.outcome_data is not None:
        outcome_text, in_outcome = _payload_text(step.outcome_data, position, "outcome_data")
    row: dict[str, Any] = {
        "step_index": step.step_index,
        "skill_id": step.skill_id,
        "skill_name": step.skill_name,
        "params": params_text,
        "status": step.status.value,
        "outcome_category": step.outcome_category,
        "outcome_code": step.outcome_code,
        "outcome_data": outcome_text,
        "cost_micro": step.cost_cents,
        "duration_us": step.duration_ms,
        "retry_count": step.retry_count,
        "input_hash": step.input_hash,
        "output_hash": step.output_hash,
        "rng_state_before": step.rng_state_before,
        "replay_behavior": step.replay_behavior.value,
        "level": step.level.value,
        "side_effect": step.side_effect,
        "decision_id": step.decision_id,
        "reservation_id": step.reservation_id,
        "usage": dumps({metric.value: amount for metric, amount in step.usage.items()})
        if step.usage
        else "{}",
        "external_id": step.external_id,
        "redactions": in_params + in_outcome,
        "redaction_version": VERSION,
        "occurred_at": step.occurred_at or recorded_at,
        "recorded_at": recorded_at,
        "protected_salt": salt_hex,
        "protected_commit": chain.step_commitment(salt_hex, params=params_text, outcome_data=outcome_text),
        "erased_fact_id": None,
    }
    return PreparedStep(
        row=row,
        statement_hash=chain.statement_hash(chain.step_statement(row)),
        content=content_text(row, step.occurred_at),
        used=step.usage,
    )


def content_text(row: Mapping[str, Any], occurred_at: datetime | None) -> str:
    """Return what the caller said, for replay detection: not when we heard it, not under which salt."""
    said = [row[name] for name in _CLEAR]
    said.append(None if occurred_at is None else format_time(occurred_at))
    return f"[{dumps(said)},{row['usage']},{row['params']},{row['outcome_data'] or 'null'}]"


def _payload_text(value: Any, position: int, member: str) -> tuple[str, int]:
    redacted, count = redact_json(value)
    try:
        text = dumps(redacted)
    except CanonicalJsonError as error:
        raise payload_refused(position, member, str(error)) from error
    if len(text) > MAX_PAYLOAD_BYTES or len(text.encode()) > MAX_PAYLOAD_BYTES:
        raise payload_refused(position, member, f"longer than {MAX_PAYLOAD_BYTES} bytes as canonical JSON")
    return text, count


def content_hashes(steps: Sequence[PreparedStep], key: bytes) -> list[str]:
    """Return the keyed digest of each step's content."""
    return [keyed_digest(key, step.content) for step in steps]


def external_ids(steps: Sequence[PreparedStep]) -> list[str]:
    """Return the ids that the steps of a batch bear elsewhere."""
    return [str(step.row["external_id"]) for step in steps if step.row["external_id"] is not None]


def find_met(
    connection: DriverConnection,
    steps: Sequence[PreparedStep],
    trace: Mapping[str, Any],
    *,
    tenant_id: str,
    met: Sequence[Mapping[str, Any]] | None = None,
) -> Overlap:
    """Return where a held trace stands and which of its steps a batch meets.

    Without `met`, read with the trace, the database is asked, and only where the batch can meet any.
    """
    first, last, named = steps[0].step_index, steps[-1].step_index, external_ids(steps)
    if met is None:
        met = ()
        if first < trace["step_count"] or named:
            met = driver.list_met(
                connection,
                tenant_id=tenant_id,
                trace_id=trace["trace_id"],
                indices=(first, last) if first < trace["step_count"] else None,
                external_ids=named,
            )
    totals = Totals(trace["input_tokens"], trace["output_tokens"], trace["cost_micro"])
    return Overlap(
        trace_id=trace["trace_id"],
        status=TraceStatus(trace["status"]),
        head=Head(trace["head_hash"], trace["step_count"], totals),
        stored={row["step_index"]: row["content_hash"] for row in met},
        external={row["external_id"]: row["step_index"] for row in met if row["external_id"] is not None},
    )


def decide_batch(
    steps: Sequence[PreparedStep],
    hashes: Sequence[str],
    overlap: Overlap,
    *,
    run_id: str,
    attempt: int,
    current_attempt: int,
) -> int:
    """Return how many leading steps are replays; the rest is new and may be appended.

    A sealed trace takes identical steps only: else ATTEMPT_CLOSED for an older attempt, TRACE_SEALED for
    the last one. An open one refuses STEP_GAP and STEP_CONFLICT.
    """
    count = overlap.head.step_count
    differs = next(
        (
            step.step_index
            for step, digest in zip(steps, hashes, strict=True)
            if step.step_index < count and overlap.stored.get(step.step_index) != digest
        ),
        None,
    )
    first, last = steps[0].step_index, steps[-1].step_index
    if overlap.status is TraceStatus.SEALED and (differs is not None or last >= count):
        raise attempt_closed(attempt, current_attempt) if attempt < current_attempt else trace_sealed(run_id)
    if differs is not None:
        raise step_conflict(differs, f"Step {differs} is recorded with other content.")
    if first > count:
        raise step_gap(count, first)
    return min(len(steps), count - first)


def check_external_ids(steps: Sequence[PreparedStep], overlap: Overlap) -> None:
    """Refuse STEP_CONFLICT when another step of the trace bears one of these steps' external ids."""
    for step in steps:
        place = overlap.external.get(step.row["external_id"])
        if place is not None:
            raise step_conflict(place, f"Step {place} has the same external_id.")


def link_steps(
    steps: Sequence[PreparedStep], hashes: Sequence[str], *, trace_id: str, head_hash: str
) -> list[dict[str, Any]]:
    """Return whole rows chained after `head_hash`, one hash for each step."""
    rows = []
    link = head_hash
    for step, content_hash in zip(steps, hashes, strict=True):
        following = chain.next_link(link, step.statement_hash)
        rows.append(
            {
                **step.row,
                "trace_id": trace_id,
                "content_hash": content_hash,
                "prev_hash": link,
                "step_hash": following,
            }
        )
        link = following
    return rows


def add_totals(totals: Totals, steps: Sequence[PreparedStep]) -> Totals:
    """Return the totals with these steps: tokens as reported, cost by usage, else by the step's own cost."""
    cost = totals.cost_micro + sum(step.used.get(Metric.COST_USD, step.row["cost_micro"]) for step in steps)
    return Totals(
        input_tokens=_added(totals.input_tokens, steps, Metric.TOKENS_INPUT),
        output_tokens=_added(totals.output_tokens, steps, Metric.TOKENS_OUTPUT),
        cost_micro=min(cost, MAX_BIGINT),
    )


def add_use(totals: Totals, used: Mapping[Metric, int]) -> Totals:
    """Return the totals with use that was recorded beside the steps."""
    return Totals(
        input_tokens=_raised(totals.input_tokens, used, Metric.TOKENS_INPUT),
        output_tokens=_raised(totals.output_tokens, used, Metric.TOKENS_OUTPUT),
        cost_micro=min(totals.cost_micro + used.get(Metric.COST_USD, 0), MAX_BIGINT),
    )


def _raised(total: int | None, used: Mapping[Metric, int], metric: Metric) -> int | None:
    return total if metric not in used else min((total or 0) + used[metric] // MICRO, MAX_BIGINT)


def check_cited(steps: Sequence[PreparedStep], known: Collection[str]) -> None:
    """Refuse REFERENCE_NOT_FOUND for a step that cites a decision which is not of its run."""
    for position, step in enumerate(steps):
        if step.row["decision_id"] is not None and step.row["decision_id"] not in known:
            raise decision_not_found(position)


def _added(total: int | None, steps: Sequence[PreparedStep], metric: Metric) -> int | None:
    used = [step.used[metric] // MICRO for step in steps if metric in step.used]
    return total if not used else min((total or 0) + sum(used), MAX_BIGINT)


def usage_totals(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Sequence[Mapping[str, Any]]:
    """Return by attempt and metric what a run's steps have used, and how much of it lacks a TOKENS_TOTAL."""
    return driver.sum_usage(connection, tenant_id=tenant_id, run_id=run_id)


def insert_steps(connection: DriverConnection, rows: Sequence[Mapping[str, Any]], *, tenant_id: str) -> None:
    """Insert chained rows in one statement; the database checks the chain once more."""
    driver.insert_steps(connection, rows, tenant_id=tenant_id)


def list_steps(
    connection: DriverConnection, *, tenant_id: str, trace_id: str, status: str | None, after: int, limit: int
) -> Sequence[Mapping[str, Any]]:
    """Return steps beyond index `after`, in order."""
    return driver.list_steps(
        connection, tenant_id=tenant_id, trace_id=trace_id, status=status, after=after, limit=limit
    )


def list_run_steps(
    connection: DriverConnection, *, tenant_id: str, run_id: str
) -> Sequence[Mapping[str, Any]]:
    """Return all steps of a run, by attempt and index, for its proof; damaged values come as they are."""
    try:
        return driver.list_run_steps(connection, tenant_id=tenant_id, run_id=run_id)
    except Exception:  # noqa: BLE001 - a value that its column cannot hold, or an outage: that fails again
        return driver.list_run_steps(connection, tenant_id=tenant_id, run_id=run_id, raw=True)
