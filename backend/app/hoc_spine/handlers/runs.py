"""Spine: operations that start runs and show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, time, timedelta
from typing import Any

from app.domains.activity.engines import evaluation as evaluations
from app.domains.activity.engines import runs
from app.domains.activity.engines.attribution import check_attribution
from app.domains.activity.errors import parent_not_found, quota_exceeded, run_validation_failure
from app.domains.activity.models.facts import Attribution
from app.domains.activity.models.runs import (
    AttemptView,
    EvaluationView,
    ListAttempts,
    ListRuns,
    RunKey,
    RunRef,
    RunView,
    StartedRun,
    StartRun,
)
from app.domains.decisions.engines.recording import link_pre_run
from app.domains.logs.engines import purge
from app.domains.policies.errors import run_not_authorized
from app.domains.tenants.engines import state as tenant_state
from app.domains.tenants.models import RunSlot
from app.domains.traces.engines import chain, traces
from app.hoc_spine.coordinators.policy_integrity import record_broken_policy
from app.hoc_spine.coordinators.run_authorization import (
    Authorization,
    judge_known,
    judge_start,
    naming,
    record_blocked,
    record_granted,
    record_quota_stop,
)
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf, Refusal
from app.kernel.canonical_json import dumps
from app.kernel.clock import format_time
from app.kernel.errors import HocError
from app.kernel.hashing import text_hash
from app.kernel.pages import Page, encode_cursor, read_cursor
from app.kernel.redaction import redact_text

Row = Mapping[str, Any]
# A place in the concurrent runs comes free when some run ends; nobody knows when.
CONCURRENT_RETRY_SECONDS = 30


def start_run(ctx: OperationContext, command: StartRun) -> StartedRun | Refusal:
    """Start a run under the policy snapshot of this moment.

    Refuses RUN_VALIDATION_FAILURE (rules R1-R5), RUN_EXISTS, RUN_PURGED, REFERENCE_NOT_FOUND for the parent,
    and, with a decision on record, RUN_NOT_AUTHORIZED and QUOTA_EXCEEDED; the same start again gives the same
    run.
    """
    broken = check_attribution(
        Attribution(command.agent_id, command.origin_system_id, command.actor_type, command.actor_id)
    )
    if broken:
        raise run_validation_failure([item.as_error() for item in broken])
    digest = runs.start_digest(command, ctx.digest_key())
    # A known id shows when the run cannot be inserted; only a parent has to be looked for before.
    known = _find_start(ctx, command, digest) if command.parent_run_id is not None else None
    if known is not None:
        return _started(known, replayed=True)
    before = judge_known(ctx, command)
    if before is not None and before.blocked:
        return _stopped(ctx, command, digest, before)
    slot = tenant_state.take_run(ctx.connection, tenant_id=ctx.tenant_id, plan=ctx.standing.plan, now=ctx.now)
    if slot is None:
        return _stopped(ctx, command, digest, None)
    try:
        given = judge_start(ctx, command, slot.policy_version, before)
    except HocError as refusal:
        if refusal.code != "POLICY_INTEGRITY":
            raise
        tenant_state.return_run(ctx.connection, tenant_id=ctx.tenant_id)
        return record_broken_policy(ctx, refusal)
    if given.blocked:
        tenant_state.return_run(ctx.connection, tenant_id=ctx.tenant_id)
        return _stopped(ctx, command, digest, given)
    return _start(ctx, command, digest, slot, given)


def _start(
    ctx: OperationContext, command: StartRun, digest: str, slot: RunSlot, given: Authorization
) -> StartedRun:
    row = runs.start_row(
        command,
        run_id=command.run_id or ctx.new_id("run"),
        run_no=slot.run_no,
        protected=ctx.protect({"goal": redact_text(command.goal)[0], "error_message": None}),
        policy_snapshot_id=given.snapshot.snapshot_id,
        authorization=given.granted(),
        digest=digest,
        created_by_key=ctx.request.key_id or ctx.actor.id,
        request_id=ctx.request.request_id,
        traceparent=ctx.request.traceparent,
        now=ctx.now,
    )
    if not runs.insert_run(ctx.connection, tenant_id=ctx.tenant_id, row=row):
        # The id is taken: by this very start, or by another one.
        tenant_state.return_run(ctx.connection, tenant_id=ctx.tenant_id)
        known = _find_start(ctx, command, digest)
        if known is None:
            purge.refuse_purged(ctx.connection, tenant_id=ctx.tenant_id, run_id=row["run_id"])
            raise RuntimeError(f"run {row['run_id']} is neither insertable nor there")
        return _started(known, replayed=True)
    parents = [] if command.parent_run_id is None else [command.parent_run_id]
    if purge.purged_among(ctx.connection, parents, tenant_id=ctx.tenant_id):
        raise parent_not_found()
    trace = traces.open_trace(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        run_id=row["run_id"],
        attempt=1,
        policy_snapshot_id=row["policy_snapshot_id"],
        plan_hash=None if command.plan is None else text_hash(dumps(command.plan)),
        seed=command.seed,
        now=ctx.now,
    )
    ctx.facts.add(
        "run.started",
        row,
        run_id=row["run_id"],
        attempt=1,
        extra={"trace": traces.genesis_claim(trace)},
        starts_run=True,
    )
    link_pre_run(ctx, row["run_id"], ctx.request.request_id)
    record_granted(ctx, command, row["run_id"], given)
    return _started(row, replayed=False, warnings=given.warnings())


def _stopped(
    ctx: OperationContext, command: StartRun, digest: str, given: Authorization | None
) -> StartedRun | Refusal:
    """Record why a run may not start, by the rules or, without them, by the plan; a known start replays."""
    known = _find_start(ctx, command, digest)
    if known is not None:
        return _started(known, replayed=True)
    if given is None:
        refusal = _quota_refusal(ctx)
        return Refusal(naming(refusal, record_quota_stop(ctx, command, refusal)))
    refusal = run_not_authorized([match.as_error() for match in given.verdict.blocking])
    return Refusal(naming(refusal, record_blocked(ctx, command, given)))


def get_run(ctx: OperationContext, query: RunRef) -> RunView:
    """Show one run; refuse RUN_NOT_FOUND."""
    return runs.run_view(runs.require_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=query.run_id))


def list_runs(ctx: OperationContext, query: ListRuns) -> Page[RunView]:
    """List runs, newest first."""
    filters = query.model_dump(mode="json", exclude={"limit", "cursor"})
    binding = dumps([ctx.tenant_id, "runs.list", filters])
    key = read_cursor(query.cursor, binding, datetime, str)
    after = None if key is None else RunKey(*key)
    rows = runs.list_runs(ctx.connection, tenant_id=ctx.tenant_id, query=query, after=after)
    shown = rows[: query.limit]
    cursor = None
    if len(rows) > query.limit:
        cursor = encode_cursor(binding, [format_time(shown[-1]["started_at"]), shown[-1]["run_id"]])
    return Page(items=[runs.run_view(row) for row in shown], next_cursor=cursor)


def list_attempts(ctx: OperationContext, query: ListAttempts) -> Page[AttemptView]:
    """List the attempts of a run with their evaluations, first attempt first; refuse RUN_NOT_FOUND."""
    runs.require_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=query.run_id)
    binding = dumps([ctx.tenant_id, "attempts.list", query.run_id])
    (after,) = read_cursor(query.cursor, binding, int) or (0,)
    rows = traces.list_attempts(
        ctx.connection, tenant_id=ctx.tenant_id, run_id=query.run_id, after=after, limit=query.limit + 1
    )
    judged = {
        view.attempt: view
        for view in evaluations.list_evaluations(ctx.connection, tenant_id=ctx.tenant_id, run_id=query.run_id)
    }
    shown = rows[: query.limit]
    cursor = encode_cursor(binding, [shown[-1]["attempt"]]) if len(rows) > query.limit else None
    return Page(items=[_attempt_view(row, judged.get(row["attempt"])) for row in shown], next_cursor=cursor)


def _find_start(ctx: OperationContext, command: StartRun, digest: str) -> Row | None:
    return runs.find_start(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        run_id=command.run_id,
        digest=digest,
        parent_run_id=command.parent_run_id,
    )


def _quota_refusal(ctx: OperationContext) -> HocError:
    quota = tenant_state.spent_quota(ctx.connection, tenant_id=ctx.tenant_id, plan=ctx.standing.plan)
    if quota == "concurrent_runs":
        return quota_exceeded(quota, retry_after=CONCURRENT_RETRY_SECONDS)
    tomorrow = datetime.combine(ctx.now.date() + timedelta(days=1), time.min, tzinfo=ctx.now.tzinfo)
    return quota_exceeded(quota, retry_after=math.ceil((tomorrow - ctx.now).total_seconds()))


def _started(row: Row, *, replayed: bool, warnings: Sequence[Mapping[str, Any]] = ()) -> StartedRun:
    return StartedRun(
        **runs.view_members(row),
        trace_id=chain.trace_id_of(row["run_id"], row["attempt"]),
        warnings=[dict(warning) for warning in warnings],
        replayed=replayed,
    )


def _attempt_view(trace: Row, evaluation: EvaluationView | None) -> AttemptView:
    plain = {name: trace[name] for name in AttemptView.model_fields if name != "evaluation"}
    return AttemptView(**plain, evaluation=evaluation)


declare = OperationsOf("activity", "runs")
OPERATIONS = (
    declare.write(
        "runs.start",
        StartRun,
        StartedRun,
        start_run,
        gate="guarded",
        creates=True,
        no_audit="the run is a governed fact itself (run.started)",
    ),
    declare.read("runs.list", ListRuns, Page[RunView], list_runs),
    declare.read("runs.get", RunRef, RunView, get_run),
    declare.read("attempts.list", ListAttempts, Page[AttemptView], list_attempts),
)
