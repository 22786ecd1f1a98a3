"""Spine: the policy that a lesson proposes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.db.connection import Row
from app.domains.controls.models.vocabulary import LimitCategory, LimitEnforcement, ResetPeriod
from app.domains.lessons.errors import not_convertible
from app.domains.lessons.models.vocabulary import LessonSeverity, LessonType
from app.domains.policies.models.vocabulary import EnforcementMode, Moment, ProposalKind, RuleKind, RuleScope
from app.kernel.amounts import Metric, as_number
from app.kernel.canonical_json import dumps, loads
from app.kernel.ids import ID_PATTERN

MAX_NAME = 255
_GRAVE = (LessonSeverity.CRITICAL, LessonSeverity.HIGH)


@dataclass(frozen=True, slots=True)
class Proposed:
    """What a lesson proposes, as the create operation would take it."""

    kind: ProposalKind
    title: str
    rationale: str
    content: Mapping[str, Any]


def propose(lesson: Row) -> Proposed:
    """Return what a lesson proposes; refuse LESSON_NOT_CONVERTIBLE where there is nothing to propose."""
    pattern = loads(lesson["detected_pattern"])
    if lesson["lesson_type"] == LessonType.FAILURE:
        return _guard(lesson, pattern)
    if lesson["lesson_type"] == LessonType.NEAR_THRESHOLD and pattern["metric"] in tuple(Metric):
        return _limit(lesson, pattern)
    raise not_convertible()


def _guard(lesson: Row, pattern: Mapping[str, Any]) -> Proposed:
    """A rule that the same trouble of the same agent meets: blocked where it is grave, else warned of."""
    code, agent = pattern["error_code"], pattern["agent_id"]
    grave = lesson["severity"] in _GRAVE
    # A JSON string is a CEL string.
    tests = [f"incident.error_code == {dumps(code or '')}"]
    if code is None:
        tests.append(f"incident.category == {dumps(pattern['category'])}")
    scope: dict[str, Any] = {"scope": RuleScope.AGENT.value, "scope_id": agent}
    if re.fullmatch(ID_PATTERN, agent) is None:
        scope = {"scope": RuleScope.TENANT.value}
        tests.append(f"run.agent_id == {dumps(agent)}")
    said = code or "unknown errors"
    return Proposed(
        ProposalKind.RULE,
        title=f"Guard {agent} against {said}"[:MAX_NAME],
        rationale=f"Lesson {lesson['lesson_id']}: {lesson['description'] or said}",
        content={
            "kind": RuleKind.GUARD.value,
            "name": f"Learned from {lesson['lesson_id']}: {said}"[:MAX_NAME],
            "enforcement_mode": (EnforcementMode.BLOCK if grave else EnforcementMode.WARN).value,
            "moments": [Moment.INCIDENT.value],
            **scope,
            "condition": " && ".join(tests),
            "message": f"{said} of {agent} is known trouble."[:1024],
        },
    )


def _limit(lesson: Row, pattern: Mapping[str, Any]) -> Proposed:
    """A limit that warns at nine tenths of what was reached."""
    metric = pattern["metric"]
    scope = {name: pattern[name] for name in ("scope", "scope_id") if name in pattern}
    return Proposed(
        ProposalKind.LIMIT,
        title=f"Warn before {metric} runs out",
        rationale=f"Lesson {lesson['lesson_id']}: {lesson['description'] or metric}",
        content={
            "name": f"Learned from {lesson['lesson_id']}: {metric}"[:MAX_NAME],
            "category": LimitCategory.BUDGET.value,
            "metric": metric,
            "reset_period": pattern.get("reset_period", ResetPeriod.NONE.value),
            "max_value": as_number(pattern["current_value"] * 9 // 10),
            "enforcement": LimitEnforcement.WARN.value,
            **scope,
        },
    )
