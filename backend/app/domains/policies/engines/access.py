"""Policies: judge one access by the rules that a run's snapshot binds to a plane; pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.domains.policies.engines.conditions import Answer, ConditionInputs, judge
from app.domains.policies.engines.snapshots import CompiledRule, CompiledSnapshot
from app.domains.policies.engines.versions import verdict_of
from app.domains.policies.models.rules import AccessDecision, MatchedRule
from app.domains.policies.models.vocabulary import AccessReason, Effect


@dataclass(frozen=True, slots=True)
class _Finding:
    rule: CompiledRule
    answer: Answer
    speaks: bool

    @property
    def matches(self) -> bool:
        if not self.speaks:
            return False
        # A DENY that cannot be judged denies; an ALLOW that cannot be judged allows nothing.
        if self.rule.version.effect is Effect.DENY:
            return self.answer is not Answer.NO_MATCH
        return self.answer is Answer.MATCH


def decide_access(
    snapshot: CompiledSnapshot,
    *,
    plane_id: str,
    action: str,
    condition_inputs: Mapping[str, Any],
    revoked_rule_ids: Collection[str],
) -> AccessDecision:
    """Return whether the snapshot's rules allow the action on the plane, why, and under which caps.

    `condition_inputs` holds `run`, `plane`, `request` and `now`; absent members are completed. Every
    bound rule is judged. `revoked_rule_ids` are the rules revoked since: an ALLOW among them allows
    nothing, yet its caps still narrow, and a DENY among them still denies.
    """
    bound = snapshot.rules_bound_to(plane_id)
    if not bound:
        return AccessDecision(False, AccessReason.NO_POLICY_BOUND)
    inputs = ConditionInputs(condition_inputs)
    findings = [_find(rule, action, inputs) for rule in bound]
    matched = tuple(_name(finding.rule) for finding in findings if finding.matches)
    if any(finding.matches for finding in findings if finding.rule.version.effect is Effect.DENY):
        return AccessDecision(False, AccessReason.DENIED_BY_RULE, matched)
    allows = [finding for finding in findings if finding.rule.version.effect is Effect.ALLOW]
    matching = [finding.rule for finding in allows if finding.matches]
    if not matching:
        return AccessDecision(False, _why_none_matches(allows), matched)
    if all(rule.version.rule_id in revoked_rule_ids for rule in matching):
        return AccessDecision(False, AccessReason.POLICY_REVOKED, matched)
    return AccessDecision(
        True,
        AccessReason.OK,
        matched,
        max_documents=_smallest(matching, "max_documents"),
        max_tokens=_smallest(matching, "max_tokens"),
    )


def _find(rule: CompiledRule, action: str, inputs: ConditionInputs) -> _Finding:
    actions = rule.version.constraints.get("actions")
    return _Finding(rule, judge(rule.condition, inputs), speaks=actions is None or action in actions)


def _why_none_matches(allows: Sequence[_Finding]) -> AccessReason:
    if any(finding.answer is Answer.MATCH for finding in allows):
        return AccessReason.ACTION_NOT_ALLOWED
    if any(finding.answer is Answer.ERROR for finding in allows):
        return AccessReason.POLICY_CONDITION_ERROR
    return AccessReason.NO_MATCHING_RULE


def _smallest(rules: Sequence[CompiledRule], cap: str) -> int | None:
    caps = [rule.version.constraints[cap] for rule in rules if rule.version.constraints.get(cap) is not None]
    return min(caps, default=None)


def _name(rule: CompiledRule) -> MatchedRule:
    version = rule.version
    return MatchedRule(version.rule_id, version.rule_version, version.content_hash, verdict_of(version))
