"""Policies: what a rule relies on and what relies on it; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app.domains.policies.engines.conditions import reads_usage
from app.domains.policies.models.rules import DependencyView, PlaneBinding, RuleVersion
from app.domains.policies.models.vocabulary import DependencyType, RuleScope, RuleStatus


@dataclass(frozen=True, slots=True)
class OpenRule:
    """A rule that is not retired, with what it says now."""

    version: RuleVersion
    status: RuleStatus


def find_cycle(rule_id: str, depends_on: Mapping[str, Sequence[str]]) -> list[str] | None:
    """Return the rules of a circle through this one, from it to it, or None."""
    came_from: dict[str, str] = {}
    waiting = [rule_id]
    while waiting:
        current = waiting.pop()
        for target in depends_on.get(current, ()):
            if target == rule_id:
                return _path(rule_id, current, came_from)
            if target not in came_from:
                came_from[target] = current
                waiting.append(target)
    return None


def _path(rule_id: str, last: str, came_from: Mapping[str, str]) -> list[str]:
    path = [rule_id]
    while last != rule_id:
        path.append(last)
        last = came_from[last]
    return [rule_id, *reversed(path)]


def find_dependents(
    rule_id: str, rules: Iterable[OpenRule], bindings: Iterable[PlaneBinding], *, revoke: bool
) -> list[dict[str, Any]]:
    """Return what forbids to retire the rule: ACTIVE rules, and bound planes unless it is revoked."""
    found = [
        _dependent("RULE", rule.version.rule_id, "an ACTIVE rule depends on it")
        for rule in rules
        if rule.status is RuleStatus.ACTIVE and rule_id in rule.version.depends_on
    ]
    if not revoke:
        planes = sorted({plane_id for plane_id, bound_id in bindings if bound_id == rule_id})
        found.extend(_dependent("PLANE", plane_id, "the plane is bound to it") for plane_id in planes)
    return found


def _dependent(entity_type: str, entity_id: str, message: str) -> dict[str, Any]:
    return {
        "field": "/rule_id",
        "code": "dependent",
        "detail": message,
        "entity_type": entity_type,
        "entity_id": entity_id,
    }


def list_dependencies(
    rule: RuleVersion,
    others: Iterable[OpenRule],
    bindings: Iterable[PlaneBinding],
    limits: Iterable[Mapping[str, Any]] = (),
) -> list[DependencyView]:
    """Return the ties of a rule, to rules, planes and the ACTIVE limits.

    EXPLICIT by depends_on and plane binding, IMPLICIT_SCOPE by one scope_id, IMPLICIT_LIMIT where the
    condition reads the use of a metric that has a limit.
    """
    known = {other.version.rule_id: other for other in others if other.version.rule_id != rule.rule_id}
    ties = [
        _rule_tie(DependencyType.EXPLICIT, "DEPENDS_ON", target, known.get(target))
        for target in rule.depends_on
    ]
    for rule_id, other in sorted(known.items()):
        if rule.rule_id in other.version.depends_on:
            ties.append(_rule_tie(DependencyType.EXPLICIT, "REQUIRED_BY", rule_id, other))
    planes = sorted({plane_id for plane_id, bound_id in bindings if bound_id == rule.rule_id})
    ties.extend(_tie(DependencyType.EXPLICIT, "REQUIRED_BY", "PLANE", plane_id) for plane_id in planes)
    if rule.scope is not RuleScope.TENANT:
        for rule_id, other in sorted(known.items()):
            if (other.version.scope, other.version.scope_id) == (rule.scope, rule.scope_id):
                ties.append(_rule_tie(DependencyType.IMPLICIT_SCOPE, "RELATED", rule_id, other))
    metrics = reads_usage(rule.condition)
    for limit in limits:
        if limit["metric"] in metrics:
            tie = _tie(DependencyType.IMPLICIT_LIMIT, "RELATED", "LIMIT", limit["limit_id"])
            ties.append(tie.model_copy(update={"name": limit["name"], "status": RuleStatus.ACTIVE}))
    return ties


Direction = Literal["DEPENDS_ON", "REQUIRED_BY", "RELATED"]


def _rule_tie(
    kind: DependencyType, direction: Direction, rule_id: str, other: OpenRule | None
) -> DependencyView:
    tie = _tie(kind, direction, "RULE", rule_id)
    return (
        tie if other is None else tie.model_copy(update={"name": other.version.name, "status": other.status})
    )


def _tie(kind: DependencyType, direction: Direction, entity_type: str, entity_id: str) -> DependencyView:
    return DependencyView(
        dependency_type=kind,
        direction=direction,
        entity_type=entity_type,
        entity_id=entity_id,
        name=None,
        status=None,
    )
