"""Spine: operations on the use of a run: record it, show it, release what a check reserved."""

from __future__ import annotations

from collections.abc import Sequence

from app.db.connection import Row
from app.domains.activity.engines import runs
from app.domains.controls.engines import breaches, ledger, usage
from app.domains.controls.models.usage import (
    AttemptUsage,
    BreachView,
    FindingView,
    LimitFinding,
    RecordedUsage,
    RecordUsage,
    ReservationRef,
    ReservationView,
    RunUsage,
    Upkeep,
    UpkeepDone,
    UsageRef,
    Use,
)
from app.domains.controls.models.vocabulary import LimitEnforcement, ReservationStatus
from app.domains.policies.errors import SnapshotInvalidError
from app.domains.traces.engines import steps, traces
from app.domains.traces.models import Totals, TraceStatus
from app.hoc_spine.coordinators.limit_use import commit_use, look_at_limits
from app.hoc_spine.coordinators.run_policies import load_snapshot
from app.hoc_spine.coordinators.step_batch import hold_trace, moved_trace
from app.hoc_spine.coordinators.use_settling import settle_use
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation, OperationsOf
from app.kernel.amounts import Metric

SHOWN_RESERVATIONS = 500


def record_usage(ctx: OperationContext, given: RecordUsage) -> RecordedUsage:
    """Record use of a run in any state; refuse RUN_NOT_FOUND and USAGE_CONFLICT.

    The same record again changes nothing. Use beyond a limit is a breach, and a running run may be halted.
    """
    held = hold_trace(ctx, given.run_id, None)
    known = usage.find_record(ctx.connection, given, tenant_id=ctx.tenant_id)
    if known is not None:
        return _replayed(ctx, given, held.run, known)
    attempt = held.trace["attempt"]
    usage.insert_record(ctx, given, attempt=attempt)
    trace = _count(ctx, held.trace, given)
    use = Use(
        usage.source_ref(given.run_id, given.usage_id), given.usage, given.reservation_id, given.step_index
    )
    used = commit_use(ctx, held.run, trace, [use])
    settled = settle_use(ctx, held.run, trace, used)
    return RecordedUsage(
        run_id=given.run_id,
        usage_id=given.usage_id,
        attempt=attempt,
        limits=_views(used.findings),
        breaches=list(used.breaches),
        must_stop=settled.must_stop,
        run_status=settled.run_status,
        replayed=False,
    )


def _count(ctx: OperationContext, trace: Row, given: RecordUsage) -> Row:
    """Add the use to the totals of an open trace; those of a sealed one stay."""
    before = Totals(trace["input_tokens"], trace["output_tokens"], trace["cost_micro"])
    totals = steps.add_use(before, given.usage)
    if trace["status"] == TraceStatus.OPEN and totals != before:
        traces.extend_trace(
            ctx.connection,
            tenant_id=ctx.tenant_id,
            trace_id=trace["trace_id"],
            from_index=trace["step_count"],
            step_count=trace["step_count"],
            head_hash=trace["head_hash"],
            totals=totals,
            now=ctx.now,
        )
    return moved_trace(trace, totals)


def _replayed(ctx: OperationContext, given: RecordUsage, run: Row, known: Row) -> RecordedUsage:
    """Answer from what stands: the limits as they are now, the breaches that this very record was."""
    try:
        found = look_at_limits(ctx, run, load_snapshot(ctx, run).limits)
    except SnapshotInvalidError:
        # As the first time: nobody knows which limits count.
        found = None
    counted = {metric.value for metric in given.usage}
    if Metric.TOKENS_INPUT.value in counted or Metric.TOKENS_OUTPUT.value in counted:
        counted.add(Metric.TOKENS_TOTAL.value)
    limits = [finding for finding in found or () if finding.metric.value in counted]
    return RecordedUsage(
        run_id=given.run_id,
        usage_id=given.usage_id,
        attempt=known["attempt"],
        limits=_views(limits),
        breaches=_breaches_of(ctx, known, usage.source_ref(given.run_id, given.usage_id)),
        must_stop=found is None
        or any(finding.is_breach and finding.enforcement is LimitEnforcement.BLOCK for finding in limits),
        run_status=run["status"],
        replayed=True,
    )


def _breaches_of(ctx: OperationContext, known: Row, source_ref: str) -> list[BreachView]:
    rows = breaches.list_attempt(
        ctx.connection, tenant_id=ctx.tenant_id, run_id=known["run_id"], attempt=known["attempt"]
    )
    views = [breaches.view(row) for row in rows]
    return [view for view in views if (view.details or {}).get("source_ref") == source_ref]


def get_usage(ctx: OperationContext, query: UsageRef) -> RunUsage:
    """Show what a run has used, by attempt and in all, how its limits stand, and what is still reserved."""
    given = {"tenant_id": ctx.tenant_id, "run_id": query.run_id}
    run = runs.require_run(ctx.connection, **given)
    used = usage.totals_by_attempt(
        steps.usage_totals(ctx.connection, **given), usage.record_totals(ctx.connection, **given)
    )
    counts = {trace["attempt"]: trace["step_count"] for trace in traces.list_traces(ctx.connection, **given)}
    total: dict[str, int] = {}
    for amounts in used.values():
        for metric, amount in amounts.items():
            total[metric] = total.get(metric, 0) + amount
    held = usage.list_open(ctx.connection, **given, limit=SHOWN_RESERVATIONS)
    return RunUsage(
        run_id=query.run_id,
        attempts=[
            AttemptUsage(attempt=attempt, usage=usage.printed(used.get(attempt, {})), steps=count)
            for attempt, count in sorted(counts.items())
        ],
        total=usage.printed(total),
        limits=_views(look_at_limits(ctx, run, load_snapshot(ctx, run).limits)),
        reservations=[usage.reservation_view(row) for row in held],
    )


def release_reservation(ctx: OperationContext, given: ReservationRef) -> ReservationView:
    """Give back what a check reserved; a no-op once the reservation is closed.

    Refuses RUN_NOT_FOUND and RESERVATION_NOT_FOUND.
    """
    key = {"tenant_id": ctx.tenant_id, "run_id": given.run_id, "reservation_id": given.reservation_id}
    runs.lock_run_state(ctx.connection, tenant_id=ctx.tenant_id, run_id=given.run_id)
    ledger.release(ctx, usage.lock_reservation(ctx.connection, **key))
    return usage.reservation_view(usage.require_reservation(ctx.connection, **key))


def expire_reservations(ctx: OperationContext, given: Upkeep) -> UpkeepDone:
    """Give back what reservations that have run out held; those that others hold wait."""
    due = ledger.lock_due(ctx.connection, tenant_id=ctx.tenant_id, now=ctx.now, limit=given.limit)
    ledger.release(ctx, due, status=ReservationStatus.EXPIRED)
    return UpkeepDone(count=len(due), more=len(due) == given.limit)


def _views(findings: Sequence[LimitFinding]) -> list[FindingView]:
    return [FindingView.model_validate(finding.as_json()) for finding in findings]


declare = OperationsOf("controls", "runs")
OPERATIONS = (
    declare.write(
        "runs.usage.record",
        RecordUsage,
        RecordedUsage,
        record_usage,
        gate="fact",
        no_audit="the use is a governed fact itself (usage)",
    ),
    declare.read("usage.get", UsageRef, RunUsage, get_usage),
    declare.write(
        "reservations.release",
        ReservationRef,
        ReservationView,
        release_reservation,
        gate="fact",
        no_audit="the ledger's own entry says it (RELEASE)",
    ),
    Operation(
        name="usage.expire_reservations",
        owner="controls",
        mode="write",
        scope=None,
        door="worker",
        input=Upkeep,
        output=UpkeepDone,
        handler=expire_reservations,
        gate="fact",
        no_audit="the ledger's own entry says it (EXPIRE)",
    ),
)
