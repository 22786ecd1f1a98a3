"""Policies: find rules, and limits, that disagree; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Final

from app.domains.policies.engines.versions import verdict_of
from app.domains.policies.models.rules import Conflict, ConflictView, RuleVersion
from app.domains.policies.models.vocabulary import (
    ConflictSeverity,
    ConflictType,
    Effect,
    EnforcementMode,
    RuleScope,
)

_OPPOSITE: Final = (
    {Effect.ALLOW.value, Effect.DENY.value},
    {EnforcementMode.BLOCK.value, EnforcementMode.DISABLED.value},
)
_DAY: Final = 86_400
# Only their order counts here; a budget that never resets is longer than any other.
_PERIODS: Final = {"DAILY": _DAY, "WEEKLY": 7 * _DAY, "MONTHLY": 28 * _DAY, "NONE": 10**9}


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
    return sorted(found, key=lambda item: (item.severity.value, item.one_id, item.other_id))


def find_blocking(rule: RuleVersion, others: Iterable[RuleVersion]) -> list[Conflict]:
    """Return the disagreements with other rules that forbid this one to be ACTIVE beside them."""
    found = [conflict for other in others if (conflict := compare_rules(rule, other)) is not None]
    return [conflict for conflict in found if conflict.severity is ConflictSeverity.BLOCKING]


def find_limit_conflicts(limits: Iterable[Mapping[str, Any]]) -> list[Conflict]:
    """Return the ACTIVE limits that contradict each other, by their ids; all of it is a WARNING.

    Over one window, values more than half of the larger apart are a THRESHOLD_CONTRADICTION; a shorter
    window that allows more than a longer one is a TEMPORAL_CONFLICT. A limit on one run has no window
    that ends.
    """
    alike: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for limit in sorted(limits, key=lambda limit: str(limit["limit_id"])):
        alike[limit["metric"], limit["scope"], limit["scope_id"]].append(limit)
    found = [
        conflict
        for group in alike.values()
        for one, other in combinations(group, 2)
        if (conflict := _compare_limits(one, other)) is not None
    ]
    return sorted(found, key=lambda item: (item.one_id, item.other_id))


def _compare_limits(one: Mapping[str, Any], other: Mapping[str, Any]) -> Conflict | None:
    small, large = sorted((one, other), key=lambda limit: int(limit["max_value"]))
    least, most = int(small["max_value"]), int(large["max_value"])
    if _window(one) == _window(other):
        if 2 * (most - least) <= most:
            return None
        kind, words = ConflictType.THRESHOLD_CONTRADICTION, "over one window, and more than 50% apart"
    else:
        of_small, of_large = _seconds(small), _seconds(large)
        if of_small is None or of_large is None or least == most or of_large >= of_small:
            return None
        kind, words = (
            ConflictType.TEMPORAL_CONFLICT,
            f"and the shorter window of {large['limit_id']} allows more",
        )
    detail = f"{least / 1_000_000:g} and {most / 1_000_000:g} {one['metric']}, {words}"
    return Conflict(
        kind, ConflictSeverity.WARNING, one["limit_id"], other["limit_id"], detail, entity_type="LIMIT"
    )


def _window(limit: Mapping[str, Any]) -> tuple[Any, ...]:
    return limit["category"], limit["reset_period"], limit["window_seconds"]


def _seconds(limit: Mapping[str, Any]) -> int | None:
    if limit["window_seconds"] is not None:
        return int(limit["window_seconds"])
    return _PERIODS.get(limit["reset_period"] or "")


def conflict_view(conflict: Conflict) -> ConflictView:
    """Return what a caller sees of a conflict."""
    of_rules = conflict.entity_type == "RULE"
    return ConflictView(
        conflict_type=conflict.conflict_type,
        severity=conflict.severity,
        rule_id=conflict.one_id if of_rules else None,
        other_rule_id=conflict.other_id if of_rules else None,
        limit_id=None if of_rules else conflict.one_id,
        other_limit_id=None if of_rules else conflict.other_id,
        detail=conflict.detail,
    )


def as_errors(conflicts: Sequence[Conflict]) -> list[dict[str, Any]]:
    """Return conflicts as items of a refusal."""
    return [
        {
            "field": "/rule_id",
            "code": conflict.conflict_type.value,
            "detail": conflict.detail,
            "rule_id": conflict.one_id,
            "other_rule_id": conflict.other_id,
        }
        for conflict in conflicts
    ]


def _case(rule: RuleVersion) -> tuple[Any, ...]:
    return rule.kind, tuple(sorted(rule.moments)), rule.condition


def _are_opposite(one: RuleVersion, other: RuleVersion) -> bool:
    return {verdict_of(one), verdict_of(other)} in _OPPOSITE


def _scope(rule: RuleVersion) -> str:
    return rule.scope.value if rule.scope is RuleScope.TENANT else f"{rule.scope.value} {rule.scope_id}"
