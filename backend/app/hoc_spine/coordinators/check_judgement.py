"""Spine: what the switches, the rules and the limits say of one action of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from app.db.check_read import CheckFacts
from app.domains.controls.engines.judging import decide_finding, plan_reserving
from app.domains.controls.engines.reserving import clock_findings
from app.domains.controls.engines.windows import window_key
from app.domains.controls.models.limits import LimitRule
from app.domains.controls.models.usage import LimitFinding, LimitJudgement
from app.domains.controls.models.vocabulary import LimitEnforcement
from app.domains.decisions.models.vocabulary import DecisionOutcome
from app.domains.policies.engines import guards
from app.domains.policies.engines.guards import GuardMatch, GuardVerdict
from app.domains.policies.engines.snapshots import CompiledSnapshot
from app.domains.policies.errors import SnapshotInvalidError
from app.domains.policies.models.checks import CheckReason, Reason, Verdict
from app.domains.policies.models.vocabulary import Moment
from app.hoc_spine.coordinators import run_policies
from app.hoc_spine.coordinators.limit_use import reserve_estimate, run_standing
from app.hoc_spine.operation_context import OperationContext
from app.kernel.amounts import Metric, as_number
from app.kernel.clock import format_time


@dataclass(slots=True)
class PreparedCheck:
    """A check redacted and named before its transaction; `facts` are what its first statement read."""

    decision_id: str
    reservation_id: str
    idempotency_key: str
    inputs: Mapping[str, Any]
    facts: CheckFacts | None = None
    reads_counters: bool = True


@dataclass(slots=True)
class Judgement:
    """What is found for and against the action, in the order in which it is judged."""

    reasons: list[Reason] = field(default_factory=list)
    matches: tuple[GuardMatch, ...] = ()
    limits: LimitJudgement = field(default_factory=LimitJudgement)
    snapshot: CompiledSnapshot | None = None
    halting: GuardMatch | None = None
    blocked: bool = False
    warned: bool = False
    killed: bool = False
    judged_by: Mapping[str, Any] = field(default_factory=dict)

    def block(self, code: CheckReason, message: str) -> None:
        """Take a reason that forbids the action."""
        self.blocked = True
        self.reasons.append(Reason(code=code, message=message))

    @property
    def halts(self) -> bool:
        return self.halting is not None or self.limits.halting is not None

    @property
    def verdict(self) -> Verdict:
        if self.blocked:
            return Verdict.BLOCK
        return Verdict.WARN if self.warned else Verdict.ALLOW

    @property
    def outcome(self) -> DecisionOutcome:
        if self.killed:
            return DecisionOutcome.KILLED
        if self.blocked:
            return DecisionOutcome.STOPPED if self.halts else DecisionOutcome.BLOCKED
        if self.warned:
            return DecisionOutcome.WARNED
        return DecisionOutcome.AUDITED if self.matches else DecisionOutcome.ALLOWED


def judge_check(ctx: OperationContext, prepared: PreparedCheck, facts: CheckFacts) -> Judgement:
    found = Judgement()
    if ctx.standing.halted:
        found.killed = True
        found.block(CheckReason.KILL_SWITCH, "The kill switch is engaged.")
        return found
    if ctx.standing.degraded:
        found.warned = True
        found.reasons.append(
            Reason(code=CheckReason.DEGRADED_MODE, message="The system runs in degraded mode.")
        )
    try:
        snapshot = run_policies.load_snapshot(ctx, facts.run)
    except SnapshotInvalidError:
        found.block(CheckReason.SNAPSHOT_INVALID, "The run's policy snapshot does not have its hash.")
        return found
    found.snapshot = snapshot
    _judge_rules(ctx, found, prepared, facts, snapshot)
    if not found.blocked:
        _judge_limits(ctx, found, prepared, facts, snapshot)
    return found


def _judge_rules(
    ctx: OperationContext,
    found: Judgement,
    prepared: PreparedCheck,
    facts: CheckFacts,
    snapshot: CompiledSnapshot,
) -> None:
    inputs = {
        "run": run_policies.run_inputs(facts.run),
        "action": prepared.inputs["action"],
        "usage": run_policies.usage_inputs(facts.trace, now=ctx.now, estimate=prepared.inputs["estimate"]),
        "now": ctx.now,
    }
    # What the verdict can be judged by again: with the inputs, all that the conditions saw.
    found.judged_by = {"run": inputs["run"], "usage": inputs["usage"], "now": format_time(ctx.now)}
    rules = snapshot.guards_at(Moment.STEP, Moment.USAGE)
    verdict = guards.judge_rules(
        rules, Moment.STEP, inputs, revoked_rule_ids=run_policies.revoked_rules(ctx) if rules else ()
    )
    found.matches, found.halting = verdict.matches, verdict.halting
    found.blocked, found.warned = bool(verdict.blocking), found.warned or bool(verdict.warned)
    found.reasons += reasons_of(verdict)


def _judge_limits(
    ctx: OperationContext,
    found: Judgement,
    prepared: PreparedCheck,
    facts: CheckFacts,
    snapshot: CompiledSnapshot,
) -> None:
    inputs = prepared.inputs
    estimate = {Metric(name): amount for name, amount in inputs["estimate"].items()}
    looked = _look(ctx, facts, snapshot, estimate)
    found.limits = judged = looked or reserve_estimate(
        ctx,
        facts.run,
        snapshot.limits,
        estimate,
        decision_id=prepared.decision_id,
        reservation_id=prepared.reservation_id,
        expires_at=ctx.now + timedelta(seconds=inputs["ttl_seconds"]),
    )
    if judged.unavailable:
        found.block(CheckReason.LIMIT_UNAVAILABLE, "A limit could not be evaluated.")
    found.blocked = found.blocked or bool(judged.refused)
    found.warned = found.warned or bool(judged.warned)
    found.reasons += [limit_reason(finding) for finding in (*judged.refused, *judged.warned)]


def counters_of(snapshot: CompiledSnapshot, run_id: str, now: datetime) -> list[tuple[str, str]]:
    """Return the counters that the limits of a snapshot read at a moment of a run."""
    rules = [LimitRule.of(member) for member in snapshot.limits]
    return [
        (rule.limit_id, window_key(rule, now, run_id))
        for rule in rules
        if rule.metric is not Metric.RUN_TIME_MS
    ]


def _look(
    ctx: OperationContext,
    facts: CheckFacts,
    snapshot: CompiledSnapshot,
    estimate: Mapping[Metric, int],
) -> LimitJudgement | None:
    """Judge by the counters that the first statement has read; None where something is to be taken."""
    if not snapshot.limits:
        return LimitJudgement()
    if facts.counters is None:
        return None
    standing = run_standing(ctx, facts.run, snapshot.limits)
    planned = plan_reserving(standing, estimate)
    if any(item.amount for item in planned):
        return None
    findings = clock_findings(standing, estimate.get(Metric.RUN_TIME_MS, 0))
    for item in planned:
        if item.rule.limit_id in standing.judging:
            value = facts.counters.get((item.rule.limit_id, item.window_key), 0)
            cap = standing.cap(item.rule)
            refused = cap is not None and value > cap
            findings.append(decide_finding(standing, item.rule, value=value, refused=refused))
    return LimitJudgement(findings=tuple(sorted(findings, key=lambda finding: finding.limit_id)))


def limit_reason(finding: LimitFinding) -> Reason:
    """Return the reason that an exceeded limit gives: it blocks or it warns."""
    blocks = finding.enforcement is LimitEnforcement.BLOCK
    code = CheckReason.LIMIT_EXCEEDED if blocks else CheckReason.LIMIT_WARN
    value, most = as_number(finding.value), as_number(finding.max_value)
    message = f"{finding.name}: {finding.metric.value} would be {value:g} of {most:g}."
    return Reason(code=code, limit_id=finding.limit_id, message=message)


def reasons_of(verdict: GuardVerdict) -> list[Reason]:
    """Return one reason for each match, by rule_id."""
    return [
        Reason(
            code=CheckReason(match.code),
            rule_id=match.rule.rule_id,
            rule_version=match.rule.rule_version,
            message=match.message,
        )
        for match in verdict.matches
    ]
