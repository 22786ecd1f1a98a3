"""Policies: find rules that disagree; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any, Final

from app.domains.policies.engines.versions import verdict_of
from app.domains.policies.models import (
    Conflict,
    ConflictSeverity,
    ConflictType,
    Effect,
    EnforcementMode,
    RuleScope,
    RuleVersion,
)

_OPPOSITE: Final = (
    {Effect.ALLOW.value, Effect.DENY.value},
    {EnforcementMode.BLOCK.value, EnforcementMode.DISABLED.value},
)


def compare_rules(one: RuleVersion, other: RuleVersion) -> Conflict | None:
    """Return how two rules disagree, or None: same kind, moments and condition, opposite effect.

    On the same scope they are a SCOPE_OVERLAP, which is BLOCKING; on scopes that one run can be in at
    once, a PRIORITY_OVERRIDE.
    """
    if one.rule_id == other.rule_id or _case(one) != _case(other) or not _are_opposite(one, other):
        return None
    first, second = sorted((one, other), key=lambda version: version.rule_id)
    words = f"{verdict_of(first)} and {verdict_of(second)} in the same case"
    if (one.scope, one.scope_id) == (other.scope, other.scope_id):
        return Conflict(
            ConflictType.SCOPE_OVERLAP,
            ConflictSeverity.BLOCKING,
            first.rule_id,
            second.rule_id,
            f"{words} on the same scope {_scope(first)}",
        )
    if one.scope is other.scope:
        return None
    return Conflict(
        ConflictType.PRIORITY_OVERRIDE,
        ConflictSeverity.WARNING,
        first.rule_id,
        second.rule_id,
        f"{words} on the overlapping scopes {_scope(first)} and {_scope(second)}",
    )


def find_conflicts(rules: Iterable[RuleVersion]) -> list[Conflict]:
    """Return every disagreement among the rules, BLOCKING first, then by the rules' ids."""
    cases: dict[tuple[Any, ...], list[RuleVersion]] = defaultdict(list)
    for rule in rules:
        cases[_case(rule)].append(rule)
    found = [
        conflict
        for alike in cases.values()
        for one, other in combinations(alike, 2)
        if (conflict := compare_rules(one, other)) is not None
    ]
    return sorted(found, key=lambda item: (item.severity.value, item.rule_id, item.other_rule_id))


def find_blocking(rule: RuleVersion, others: Iterable[RuleVersion]) -> list[Conflict]:
    """Return the disagreements with other rules that forbid this one to be ACTIVE beside them."""
    found = [conflict for other in others if (conflict := compare_rules(rule, other)) is not None]
    return [conflict for conflict in found if conflict.severity is ConflictSeverity.BLOCKING]


def as_errors(conflicts: Sequence[Conflict]) -> list[dict[str, Any]]:
    """Return conflicts as items of a refusal."""
    return [
        {
            "field": "/rule_id",
            "code": conflict.conflict_type.value,
            "detail": conflict.detail,
            "rule_id": conflict.rule_id,
            "other_rule_id": conflict.other_rule_id,
        }
        for conflict in conflicts
    ]


def _case(rule: RuleVersion) -> tuple[Any, ...]:
    return rule.kind, tuple(sorted(rule.moments)), rule.condition


def _are_opposite(one: RuleVersion, other: RuleVersion) -> bool:
    return {verdict_of(one), verdict_of(other)} in _OPPOSITE


def _scope(rule: RuleVersion) -> str:
    return rule.scope.value if rule.scope is RuleScope.TENANT else f"{rule.scope.value} {rule.scope_id}"
