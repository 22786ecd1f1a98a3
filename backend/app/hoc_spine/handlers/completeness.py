"""Spine L4: is the governance of runs complete, asked for one run and by maintenance for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from prometheus_client import Counter
from pydantic import Field, StringConstraints

from app.domains.activity.engines import reconciliation, runs, signals
from app.domains.traces.engines import attempt_times
from app.hoc_spine.coordinators.run_completeness import (
    GRACE,
    WINDOW,
    Completeness,
    CompletenessInput,
    RunCompleteness,
    acks_of,
    completeness_view,
    expectations_of,
    reconcile,
)
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation, OperationsOf
from app.kernel.clock import format_time
from app.kernel.inputs import Input, Output
from app.kernel.pages import encode_cursor, read_cursor

Row = Mapping[str, Any]
SIGNAL = "governance_incomplete"
INCOMPLETE = Counter("hoc_governance_incomplete", "Runs found with incomplete governance", ["status"])


class ReconcileRuns(Input):
    """Reconcile runs that ended within the last hour, and running ones past their deadline."""

    limit: int = Field(500, ge=1, le=500)
    cursor: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None


class ReconciledRuns(Output):
    """How many runs were looked at, and which of them are not COMPLETE."""

    checked: int
    incomplete: list[str]
    next_cursor: str | None


def get_completeness(ctx: OperationContext, payload: CompletenessInput) -> RunCompleteness:
    """Return whether all that was due for a run is committed; refuse RUN_NOT_FOUND."""
    run = runs.require_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=payload.run_id)
    (found,) = _reconcile(ctx, [run])
    return found


def reconcile_runs(ctx: OperationContext, payload: ReconcileRuns) -> ReconciledRuns:
    """Reconcile a page of runs and emit a signal for each that is not COMPLETE."""
    binding = f"{ctx.tenant_id}:runs.reconcile"
    after = read_cursor(payload.cursor, binding, datetime, str)
    until = ctx.now - GRACE
    ended = reconciliation.list_ended(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        since=ctx.now - WINDOW,
        until=until,
        after=after,
        limit=payload.limit,
    )
    overdue: Sequence[Row] = ()
    if after is None:
        overdue = reconciliation.list_overdue(
            ctx.connection, tenant_id=ctx.tenant_id, before=until, limit=payload.limit
        )
    found = _reconcile(ctx, [*overdue, *ended])
    incomplete = [view for view in found if view.status is not Completeness.COMPLETE]
    for view in incomplete:
        _signal(ctx, view)
    more = len(ended) == payload.limit
    last = (ended[-1]["completed_at"], ended[-1]["run_id"]) if more else None
    return ReconciledRuns(
        checked=len(found),
        incomplete=[view.run_id for view in incomplete],
        next_cursor=None if last is None else encode_cursor(binding, [format_time(last[0]), last[1]]),
    )


def _reconcile(ctx: OperationContext, rows: Sequence[Row]) -> list[RunCompleteness]:
    """Reconcile runs, with two statements for all of them."""
    if not rows:
        return []
    ids = [row["run_id"] for row in rows]
    traces = attempt_times.attempts_of(ctx.connection, ids, tenant_id=ctx.tenant_id)
    outcomes = reconciliation.outcomes_of(ctx.connection, ids, tenant_id=ctx.tenant_id)
    views = []
    for run in rows:
        mine = traces.get(run["run_id"], {})
        expected = expectations_of(run, mine)
        acks = acks_of(run, mine, outcomes.get(run["run_id"], ()))
        found = reconcile(expected, acks, ctx.now)
        views.append(completeness_view(run["run_id"], expected, found, now=ctx.now))
    return views


def _signal(ctx: OperationContext, view: RunCompleteness) -> None:
    lists = view.model_dump(
        mode="json", include={"status", "missing_actions", "drift_actions", "failed_actions"}
    )
    signals.emit_signal(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        artifact=f"run:{view.run_id}",
        signal_type=SIGNAL,
        evidence=lists,
        detected_by="runs.reconcile",
        now=ctx.now,
        signal_id=ctx.new_id("sig"),
        run_id=view.run_id,
    )
    ctx.after_commit(lambda: INCOMPLETE.labels(view.status.value).inc())


declare = OperationsOf("activity", "runs")
OPERATIONS = (
    declare.read("runs.completeness", CompletenessInput, RunCompleteness, get_completeness, snapshot=True),
    Operation(
        "runs.reconcile",
        "activity",
        "write",
        None,
        ReconcileRuns,
        ReconciledRuns,
        reconcile_runs,
        door="worker",
        gate="fact",
        no_audit="the signals say what was found; nothing else changes",
    ),
)
