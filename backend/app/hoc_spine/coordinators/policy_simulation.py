"""Spine: judge a moment of a run as it would be judged, and stored decisions again; writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.db.connection import Row
from app.domains.controls.engines import judging, limits
from app.domains.controls.models.usage import LimitFinding
from app.domains.controls.models.vocabulary import LimitEnforcement
from app.domains.decisions.engines import decisions
from app.domains.decisions.models.records import ListDecisions
from app.domains.decisions.models.vocabulary import DecisionType
from app.domains.policies.engines import guards, rules, snapshots
from app.domains.policies.engines.guards import GuardVerdict
from app.domains.policies.engines.snapshots import CompiledRule
from app.domains.policies.errors import snapshot_not_found
from app.domains.policies.models.checks import Verdict
from app.domains.policies.models.judgements import Replay, ReplayCounts, Simulate, Simulated
from app.domains.policies.models.rules import CreateRule
from app.domains.policies.models.vocabulary import Moment, RuleKind
from app.hoc_spine.coordinators.check_judgement import limit_reason, reasons_of
from app.hoc_spine.coordinators.limit_use import look_at_limits, run_standing
from app.hoc_spine.coordinators.run_check import limit_stand
from app.hoc_spine.operation_context import OperationContext
from app.kernel.amounts import MICRO, Metric
from app.kernel.canonical_json import loads
from app.kernel.clock import parse_time
from app.kernel.redaction import redact_json


@dataclass(frozen=True, slots=True)
class _Governing:
    """The rules that are tried out, of every scope, and the limits of the simulated run."""

    rules: Sequence[CompiledRule]
    limits: Sequence[Mapping[str, Any]]
    snapshot_id: str | None


@dataclass(frozen=True, slots=True)
class _Case:
    """One stored decision: what it was judged over, and what the rules said then."""

    inputs: Mapping[str, Any]
    verdict: Verdict


def simulate(ctx: OperationContext, given: Simulate) -> Simulated:
    """Return what the rules and limits would say of a moment of a run.

    Refuses SNAPSHOT_NOT_FOUND, SNAPSHOT_INVALID and, for a candidate, what its making would be refused for.
    """
    governing = _governing(ctx, given)
    verdict = _judge(governing.rules, given.moment, _inputs(ctx, given))
    findings = _findings(ctx, given, governing) if given.moment is Moment.STEP else []
    exceeded = [finding for finding in findings if finding.is_breach]
    stopping = [finding for finding in exceeded if finding.enforcement is LimitEnforcement.BLOCK]
    warning = [finding for finding in exceeded if finding.enforcement is LimitEnforcement.WARN]
    return Simulated(
        verdict=_worst(
            _verdict_of(verdict), Verdict.BLOCK if stopping else Verdict.WARN if warning else Verdict.ALLOW
        ),
        matched=[*reasons_of(verdict), *(limit_reason(finding) for finding in (*stopping, *warning))],
        rules_judged=verdict.judged,
        limits=[limit_stand(finding) for finding in findings],
        snapshot_id=governing.snapshot_id,
        replay=None if given.replay is None else _replay(ctx, given.moment, given.replay, governing),
    )


def _governing(ctx: OperationContext, given: Simulate) -> _Governing:
    cache = ctx.services.caches["snapshots"]
    if given.snapshot_id is not None:
        snapshot = snapshots.load_verified(
            ctx.connection, tenant_id=ctx.tenant_id, snapshot_id=given.snapshot_id, cache=cache
        )
        if snapshot is None:
            raise snapshot_not_found()
        standing, found = snapshot.rules, snapshot.limits
    else:
        standing = snapshots.list_active(ctx.connection, tenant_id=ctx.tenant_id, programs=cache)
        found = tuple(
            limits.snapshot_limits(
                ctx.connection,
                tenant_id=ctx.tenant_id,
                project_id=given.run.project_id,
                agent_id=given.run.agent_id,
            )
        )
    candidates = [_candidate(ctx, given, place) for place in range(len(given.candidates))]
    replaced = {rule.version.rule_id for rule in candidates}
    kept = [rule for rule in standing if rule.version.rule_id not in replaced]
    everything = sorted([*kept, *candidates], key=lambda rule: rule.version.rule_id)
    return _Governing(everything, found, given.snapshot_id)


def _candidate(ctx: OperationContext, given: Simulate, place: int) -> CompiledRule:
    said = given.candidates[place]
    members = said.model_dump(mode="json", exclude={"rule_id"})
    made = CreateRule.model_validate({**members, "kind": RuleKind.GUARD.value})
    version = rules.draft_version(ctx.tenant_id, made, rule_id=said.rule_id or f"candidate-{place + 1}")
    return snapshots.compile_rule(version)


def _inputs(ctx: OperationContext, given: Simulate) -> dict[str, Any]:
    inputs: dict[str, Any] = {"run": given.run.model_dump(mode="json"), "now": ctx.now}
    if given.moment in (Moment.STEP, Moment.USAGE):
        inputs["usage"] = {metric: amount / MICRO for metric, amount in given.usage.items()}
    for name, moment in (
        ("action", Moment.STEP),
        ("outcome", Moment.COMPLETION),
        ("incident", Moment.INCIDENT),
    ):
        said = getattr(given, name)
        if given.moment is moment:
            # What is judged in earnest is redacted first.
            inputs[name] = {} if said is None else redact_json(said.model_dump(mode="json"))[0]
    return inputs


def _judge(standing: Iterable[CompiledRule], moment: Moment, inputs: Mapping[str, Any]) -> GuardVerdict:
    run = inputs["run"]
    moments = (Moment.STEP, Moment.USAGE) if moment is Moment.STEP else (moment,)
    by_moment = snapshots.guards_by_moment(
        rule
        for rule in standing
        if snapshots.is_applicable(
            rule.version, project_id=run.get("project_id") or None, agent_id=run.get("agent_id") or ""
        )
    )
    judged = {rule.version.rule_id: rule for name in moments for rule in by_moment.get(name, ())}
    return guards.judge_rules([judged[rule_id] for rule_id in sorted(judged)], moment, inputs)


def _verdict_of(verdict: GuardVerdict) -> Verdict:
    if verdict.blocking:
        return Verdict.BLOCK
    return Verdict.WARN if verdict.warned else Verdict.ALLOW


def _worst(*verdicts: Verdict) -> Verdict:
    return max(verdicts, key=list(Verdict).index)


def _findings(ctx: OperationContext, given: Simulate, governing: _Governing) -> list[LimitFinding]:
    run = {"run_id": given.run.run_id or "simulation", "started_at": ctx.now}
    asked = judging.complete_use({Metric(name): amount for name, amount in given.usage.items()})
    standing = run_standing(ctx, run, governing.limits)
    return [
        judging.decide_finding(
            standing,
            found.rule,
            value=found.value + asked.get(found.metric, 0),
            window=found.window_key,
        )
        for found in look_at_limits(ctx, run, governing.limits)
    ]


def _replay(ctx: OperationContext, moment: Moment, replay: Replay, governing: _Governing) -> ReplayCounts:
    rows = _stored(ctx, moment, replay)
    shown = rows[: replay.limit]
    changes: Counter[str] = Counter()
    kept = unreadable = 0
    for row in shown:
        case = _case(row, moment)
        if case is None:
            unreadable += 1
            continue
        now = _verdict_of(_judge(governing.rules, moment, case.inputs))
        if now is case.verdict:
            kept += 1
        else:
            changes[f"{case.verdict}->{now}"] += 1
    return ReplayCounts(
        judged=kept + changes.total(),
        kept=kept,
        changed=changes.total(),
        unreadable=unreadable,
        changes=dict(sorted(changes.items())),
        truncated=len(rows) > replay.limit,
    )


def _stored(ctx: OperationContext, moment: Moment, replay: Replay) -> list[Row]:
    """Return stored decisions of the moment, newest first, one more than asked for."""
    types = [DecisionType.POLICY_EVALUATION]
    if moment is Moment.START:
        types.append(DecisionType.POLICY_PRE_CHECK)
    found: list[Row] = []
    for decision_type in types:
        found += decisions.list_page(
            ctx.connection,
            ListDecisions(decision_type=decision_type, since=replay.since),
            tenant_id=ctx.tenant_id,
            before=None,
            limit=replay.limit + 1,
        )
    mine = [row for row in found if _moment_of(row) in (None, moment.value)]
    return sorted(mine, key=lambda row: (row["decided_at"], row["decision_id"]), reverse=True)


def _moment_of(row: Row) -> str | None:
    """Return the moment of a stored decision; None once its inputs are erased."""
    if row["decision_inputs"] is None:
        return None
    said = loads(row["decision_inputs"])
    return str(said.get("moment", Moment.STEP.value))


def _case(row: Row, moment: Moment) -> _Case | None:
    """Return what a stored decision was judged over; None where that is erased or was never judged."""
    if row["decision_inputs"] is None:
        return None
    inputs = dict(loads(row["decision_inputs"]))
    if moment is Moment.STEP:
        judged_by = loads(row["details"] or "{}").get("judged_by")
        if not judged_by:
            return None
        action, now = inputs["action"], parse_time(judged_by["now"])
        inputs = {"run": judged_by["run"], "usage": judged_by["usage"], "action": action, "now": now}
    else:
        inputs = {name: value for name, value in inputs.items() if name != "moment"}
        inputs = {"run": {}, **inputs, "now": row["decided_at"]}
    effects = {match["effect"] for match in loads(row["matched"])}
    if effects & {"BLOCK", guards.RULE_ERROR}:
        return _Case(inputs, Verdict.BLOCK)
    return _Case(inputs, Verdict.WARN if "WARN" in effects else Verdict.ALLOW)
