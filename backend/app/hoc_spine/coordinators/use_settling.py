"""Spine: what follows from recorded use: limits, USAGE rules, and the halt that either asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from app.db.connection import Row
from app.domains.activity.engines import runs
from app.domains.activity.models.vocabulary import OutcomeKind, RunStatus, TerminationReason
from app.domains.controls.models.vocabulary import LimitCategory
from app.domains.decisions.models.vocabulary import CausalRole
from app.domains.policies.engines import guards
from app.domains.policies.engines.guards import GuardMatch, GuardVerdict
from app.domains.policies.errors import SnapshotInvalidError
from app.domains.policies.models.vocabulary import EnforcementMode, Moment, PreventionOutcome
from app.hoc_spine.coordinators import run_policies
from app.hoc_spine.coordinators.limit_use import UseResult
from app.hoc_spine.coordinators.rule_records import record_matches
from app.hoc_spine.coordinators.run_completion import halt_by_rule
from app.hoc_spine.operation_context import OperationContext

_REASONS: Final[Mapping[LimitCategory, TerminationReason]] = {
    LimitCategory.BUDGET: TerminationReason.BUDGET_EXCEEDED,
    LimitCategory.RATE: TerminationReason.RATE_LIMITED,
    LimitCategory.THRESHOLD: TerminationReason.POLICY_BLOCK,
}
_OUTCOMES: Final[Mapping[EnforcementMode, PreventionOutcome]] = {
    EnforcementMode.AUDIT: PreventionOutcome.AUDITED,
    EnforcementMode.WARN: PreventionOutcome.WARNED,
    EnforcementMode.BLOCK: PreventionOutcome.BLOCKED,
}


@dataclass(frozen=True, slots=True)
class Settled:
    """Whether the caller must stop, and what the run is now."""

    must_stop: bool
    run_status: RunStatus


def settle_use(ctx: OperationContext, run: Row, trace: Row, used: UseResult) -> Settled:
    """Judge a held run by its USAGE rules after use was committed, and halt it where they or a limit say so.

    `trace` has the totals of its attempt with that use in them. A run that has ended is not judged.
    """
    status = RunStatus(run["status"])
    if status is not RunStatus.RUNNING or trace["attempt"] != run["attempt"]:
        return Settled(used.must_stop, status)
    verdict, record = _judge_rules(ctx, run, trace)
    stops = verdict.halting
    if stops is not None:
        _halt(ctx, run, trace, TerminationReason.POLICY_BLOCK, rule_id=stops.rule.rule_id, outcome=record)
        status = RunStatus.HALTED
    elif used.halting is not None:
        _halt(ctx, run, trace, _REASONS[used.halting.rule.category], outcome=used.outcome)
        status = RunStatus.HALTED
    return Settled(used.must_stop or bool(verdict.blocking), status)


def _halt(
    ctx: OperationContext,
    run: Row,
    trace: Row,
    reason: TerminationReason,
    *,
    outcome: tuple[OutcomeKind, str | None] | None,
    rule_id: str | None = None,
) -> None:
    # The whole row, as it is after what this transaction has raised on it.
    whole = runs.lock_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=run["run_id"])
    halt_by_rule(
        ctx,
        whole,
        reason=reason,
        stopped_at_step=trace["step_count"],
        violation_rule_id=rule_id,
        outcome=outcome,
    )


def _judge_rules(
    ctx: OperationContext, run: Row, trace: Row
) -> tuple[GuardVerdict, tuple[OutcomeKind, str] | None]:
    """Return what the USAGE rules say of an attempt's totals, and the record of the one that halts."""
    try:
        snapshot = run_policies.load_snapshot(ctx, run)
    except SnapshotInvalidError:
        # commit_use has told the caller to stop.
        return GuardVerdict(), None
    if not snapshot.guards_at(Moment.USAGE):
        return GuardVerdict(), None
    inputs = {
        "run": run_policies.run_inputs(run),
        "usage": run_policies.usage_inputs(trace, now=ctx.now),
    }
    verdict = guards.judge(
        snapshot,
        Moment.USAGE,
        {**inputs, "now": ctx.now},
        revoked_rule_ids=run_policies.revoked_rules(ctx),
    )
    if not verdict.matches:
        return verdict, None
    outcomes = [_outcome(match, verdict.halting) for match in verdict.matches]
    _, ids = record_matches(
        ctx, run, snapshot, Moment.USAGE, inputs, verdict.matches, outcomes, role=CausalRole.IN_RUN
    )
    if verdict.halting is None:
        return verdict, None
    return verdict, (OutcomeKind.PREVENTION, ids[verdict.matches.index(verdict.halting)])


def _outcome(match: GuardMatch, halting: GuardMatch | None) -> PreventionOutcome:
    return PreventionOutcome.STOPPED if match is halting else _OUTCOMES[match.mode]
