"""Spine: what governs a run that ends, and what its COMPLETION rules say of the ending."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.db.connection import Row
from app.domains.activity.models.facts import Ending
from app.domains.activity.models.vocabulary import OutcomeKind, RunStatus, TerminationReason
from app.domains.decisions.models.vocabulary import CausalRole
from app.domains.policies.engines.guards import GuardMatch, judge
from app.domains.policies.engines.snapshots import CompiledSnapshot
from app.domains.policies.errors import SnapshotInvalidError
from app.domains.policies.models.vocabulary import EnforcementMode, Moment, PreventionOutcome
from app.hoc_spine.coordinators.rule_records import record_matches
from app.hoc_spine.coordinators.run_policies import load_snapshot, revoked_rules, run_inputs
from app.hoc_spine.operation_context import OperationContext


@dataclass(frozen=True, slots=True)
class Governing:
    """A run's verified snapshot; None when its text has lost its hash, and then nothing succeeds."""

    snapshot: CompiledSnapshot | None

    @property
    def limits(self) -> Sequence[Mapping[str, Any]]:
        return () if self.snapshot is None else self.snapshot.limits


@dataclass(frozen=True, slots=True)
class Judged:
    """An ending as the rules leave it, and what was recorded of them.

    `outcome` is the record of the rule that turned a success into a halt.
    """

    ending: Ending
    governing: Governing
    recorded: Sequence[str] = ()
    outcome: tuple[OutcomeKind, str | None] | None = None
    blocking_decisions: Sequence[str] = ()


def load_governing(ctx: OperationContext, run: Row) -> Governing:
    """Return what governs a run."""
    try:
        return Governing(load_snapshot(ctx, run))
    except SnapshotInvalidError:
        return Governing(None)


def judge_completion(
    ctx: OperationContext, run: Row, ending: Ending, governing: Governing, *, step_count: int
) -> Judged:
    """Judge an ending by the COMPLETION rules and record every match.

    A BLOCK match, or a snapshot that cannot be trusted, turns a requested success into halted by
    policy_block; of any other ending a BLOCK match is recorded AUDITED.
    """
    snapshot = governing.snapshot
    if snapshot is None:
        return Judged(_halted(ending, None) if ending.status is RunStatus.SUCCEEDED else ending, governing)
    if not snapshot.guards_at(Moment.COMPLETION):
        return Judged(ending, governing)
    inputs = {
        "run": run_inputs(run),
        "outcome": {
            "status": ending.status.value,
            "termination_reason": ending.termination_reason.value,
            "error_code": ending.error_code or "",
            "duration_ms": int((ctx.now - run["started_at"]).total_seconds() * 1000),
            "step_count": step_count,
        },
    }
    verdict = judge(
        snapshot, Moment.COMPLETION, {**inputs, "now": ctx.now}, revoked_rule_ids=revoked_rules(ctx)
    )
    if not verdict.matches:
        return Judged(ending, governing)
    stops = verdict.blocking[0] if verdict.blocking and ending.status is RunStatus.SUCCEEDED else None
    outcomes = [_outcome(match, stops) for match in verdict.matches]
    decision_id, ids = record_matches(
        ctx,
        run,
        snapshot,
        Moment.COMPLETION,
        inputs,
        verdict.matches,
        outcomes,
        role=CausalRole.POST_RUN,
    )
    recorded = tuple(outcome.value for outcome in outcomes)
    if stops is None:
        return Judged(ending, governing, recorded)
    stopping = ids[verdict.matches.index(stops)]
    return Judged(
        _halted(ending, stops.rule.rule_id),
        governing,
        recorded,
        outcome=(OutcomeKind.PREVENTION, stopping),
        blocking_decisions=(decision_id,),
    )


def _halted(ending: Ending, rule_id: str | None) -> Ending:
    return replace(
        ending,
        status=RunStatus.HALTED,
        termination_reason=TerminationReason.POLICY_BLOCK,
        violation_rule_id=rule_id,
    )


def _outcome(match: GuardMatch, stops: GuardMatch | None) -> PreventionOutcome:
    if match.mode is EnforcementMode.BLOCK:
        # Blocked and halted is STOPPED; an ending that is no success is a fact that nothing blocks.
        return PreventionOutcome.AUDITED if stops is None else PreventionOutcome.STOPPED
    return PreventionOutcome.WARNED if match.mode is EnforcementMode.WARN else PreventionOutcome.AUDITED
