"""Traces L5: traces of a run's attempts: opening, extending, sealing, reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.db.gather import Question
from app.domains.traces.drivers import traces as driver
from app.domains.traces.engines import chain
from app.domains.traces.errors import trace_not_found
from app.domains.traces.models import (
    MICRO,
    SCHEMA_VERSION,
    StepView,
    Totals,
    TraceOutcome,
    TraceStatus,
    TraceView,
)
from app.kernel.canonical_json import loads
from app.kernel.clock import format_time

Row = Mapping[str, Any]
_SEALED_MEMBERS = (
    "trace_id",
    "attempt",
    "status",
    "outcome",
    "root_hash",
    "step_count",
    "input_tokens",
    "output_tokens",
    "cost_micro",
)
_STEP_VIEW_MEMBERS = tuple(
    name
    for name in StepView.model_fields
    if name not in ("params", "outcome_data", "cost_cents", "duration_ms", "usage", "protected_state")
)


def open_trace(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    attempt: int,
    policy_snapshot_id: str,
    plan_hash: str | None,
    seed: int | None,
    now: datetime,
) -> dict[str, Any]:
    """Insert and return the trace of an attempt that begins: OPEN, empty, its head at its genesis."""
    trace_id = chain.trace_id_of(run_id, attempt)
    statement = chain.genesis_statement(
        tenant_id=tenant_id,
        run_id=run_id,
        attempt=attempt,
        trace_id=trace_id,
        schema_version=SCHEMA_VERSION,
        policy_snapshot=policy_snapshot_id,
        plan_hash=plan_hash,
        seed=seed,
        started_at=now,
    )
    genesis = chain.genesis_hash(statement)
    row = {
        "trace_id": trace_id,
        "run_id": run_id,
        "attempt": attempt,
        "schema_version": SCHEMA_VERSION,
        "seed": seed,
        "plan_hash": plan_hash,
        "genesis_hash": genesis,
        "started_at": now,
        "status": TraceStatus.OPEN.value,
        "outcome": None,
        "head_hash": genesis,
        "root_hash": None,
        "step_count": 0,
        "input_tokens": None,
        "output_tokens": None,
        "cost_micro": 0,
        "completed_at": None,
        "sealed_at": None,
        "created_at": now,
        "updated_at": now,
        "version": 1,
    }
    driver.insert_trace(connection, tenant_id=tenant_id, row=row)
    return row


def genesis_claim(trace: Row) -> dict[str, Any]:
    """Return the `trace` member that run.started and run.attempt carry."""
    return {name: trace[name] for name in ("trace_id", "attempt", "genesis_hash")}


def lock_trace(connection: DriverConnection, *, tenant_id: str, run_id: str, attempt: int) -> Row:
    """Lock and return an attempt's trace, under its run's lock; LookupError when it is missing."""
    row = driver.lock_trace(connection, tenant_id=tenant_id, run_id=run_id, attempt=attempt)
    if row is None:
        raise LookupError(f"attempt {attempt} of run {run_id} has no trace")
    return row


def extend_trace(
    connection: DriverConnection,
    *,
    tenant_id: str,
    trace_id: str,
    from_index: int,
    step_count: int,
    head_hash: str,
    totals: Totals,
    now: datetime,
) -> None:
    """Move the head of an open trace forward; RuntimeError when it moved meanwhile (a lock is missing)."""
    values = {
        "head_hash": head_hash,
        "step_count": step_count,
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "cost_micro": totals.cost_micro,
    }
    if not driver.set_trace(
        connection,
        tenant_id=tenant_id,
        trace_id=trace_id,
        expected_step_count=from_index,
        values=values,
        now=now,
    ):
        raise RuntimeError(f"trace {trace_id} moved under its run's lock")


def seal_trace(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    attempt: int,
    outcome: TraceOutcome,
    now: datetime,
) -> Row:
    """Seal the open trace of a locked run's attempt at its head and return it as sealed."""
    sealed = driver.seal_trace(
        connection, tenant_id=tenant_id, run_id=run_id, attempt=attempt, outcome=outcome.value, now=now
    )
    if sealed is None:
        raise LookupError(f"attempt {attempt} of run {run_id} has no open trace")
    return sealed


def ask_traces(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Question:
    """Ask for a run's traces: ref the trace, word its root, text its attempt, number its steps."""
    return driver.ask_traces(connection, tenant_id=tenant_id, run_id=run_id)


def seal_body(trace: Row) -> dict[str, Any]:
    """Return the columns that the fact trace.sealed carries, in their hashed form."""
    times = {name: format_time(trace[name]) for name in ("completed_at", "sealed_at")}
    return {**{name: trace[name] for name in _SEALED_MEMBERS}, **times}


def closure_of(traces: Sequence[Row]) -> dict[str, Any]:
    """Return the traces' part of a run's closure: all steps, and each attempt with its root."""
    return {
        "step_count": sum(trace["step_count"] for trace in traces),
        "traces": [
            {name: trace[name] for name in ("trace_id", "attempt", "step_count", "root_hash")}
            for trace in traces
        ],
    }


def list_traces(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Sequence[Row]:
    """Return all traces of a run, by attempt."""
    return driver.list_traces(connection, tenant_id=tenant_id, run_id=run_id)


def list_proof_traces(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Sequence[Row]:
    """Return all traces of a run, by attempt, for its proof; damaged values come as they are."""
    try:
        return driver.list_traces(connection, tenant_id=tenant_id, run_id=run_id)
    except Exception:  # noqa: BLE001 - a value that its column cannot hold, or an outage: that fails again
        return driver.list_traces(connection, tenant_id=tenant_id, run_id=run_id, raw=True)


def list_attempts(
    connection: DriverConnection, *, tenant_id: str, run_id: str, after: int, limit: int
) -> Sequence[Row]:
    """Return the traces of a run beyond attempt `after`."""
    return driver.list_attempts(connection, tenant_id=tenant_id, run_id=run_id, after=after, limit=limit)


def require_trace(connection: DriverConnection, *, tenant_id: str, run_id: str, attempt: int) -> Row:
    """Return an attempt's trace, or refuse TRACE_NOT_FOUND."""
    row = driver.get_trace(connection, tenant_id=tenant_id, run_id=run_id, attempt=attempt)
    if row is None:
        raise trace_not_found()
    return row


def trace_view(row: Row) -> TraceView:
    """Return what a caller sees of a trace."""
    plain = {name: row[name] for name in TraceView.model_fields if name != "cost_cents"}
    return TraceView(**plain, cost_cents=row["cost_micro"] / 10_000)


def step_view(row: Row) -> StepView:
    """Return what a caller sees of a step; protected values that were erased are null."""
    plain = {name: row[name] for name in _STEP_VIEW_MEMBERS}
    return StepView(
        **plain,
        params=None if row["params"] is None else loads(row["params"]),
        outcome_data=None if row["outcome_data"] is None else loads(row["outcome_data"]),
        cost_cents=row["cost_micro"] / 10_000,
        duration_ms=row["duration_us"] / 1_000,
        usage={metric: amount / MICRO for metric, amount in loads(row["usage"]).items()},
        protected_state="INTACT" if row["erased_fact_id"] is None else "ERASED",
    )
