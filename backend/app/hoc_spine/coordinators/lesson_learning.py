"""Spine: what incidents and endings teach, and the proposals that lessons become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.db.connection import Row
from app.domains.activity.models.vocabulary import RunStatus
from app.domains.lessons.engines import learning
from app.domains.lessons.models.records import LessonDraft
from app.hoc_spine.coordinators.attempt_findings import JudgingLimit


def lesson_of_incident(incident: Row) -> LessonDraft | None:
    """Return what an incident of a run teaches; one without a run teaches nothing."""
    if incident["source_run_id"] is None:
        return None
    return learning.failure_lesson(
        incident_id=incident["incident_id"],
        run_id=incident["source_run_id"],
        attempt=incident["attempt"],
        agent_id=incident["affected_agent_id"],
        category=incident["category"],
        error_code=incident["error_code"],
        severity=incident["severity"],
        signature=incident["recurrence_signature"],
        is_synthetic=bool(incident["is_synthetic"]),
    )


def lessons_of_limits(
    run: Row, limits: Sequence[JudgingLimit], *, status: RunStatus, now: datetime
) -> list[LessonDraft]:
    """Return what the judging budgets teach at a run's end: that they run out, or that it used little."""
    budgets = [limit for limit in limits if limit.is_budget]
    about = {"run_id": run["run_id"], "attempt": run["attempt"], "is_synthetic": bool(run["is_synthetic"])}
    drafts = [_near(limit, about) for limit in budgets]
    found = [draft for draft in drafts if draft is not None]
    tightest = max(budgets, key=lambda limit: limit.percent, default=None)
    duration_ms = (now - run["started_at"]).total_seconds() * 1000
    if tightest is not None and learning.is_critical_success(
        succeeded=status is RunStatus.SUCCEEDED,
        tightest_percent=tightest.percent,
        duration_ms=duration_ms,
    ):
        found.append(
            learning.success_lesson(
                success_type="cost_efficiency",
                metrics={
                    "duration_ms": int(duration_ms),
                    "tightest_limit_id": tightest.rule.limit_id,
                    "utilization_pct": round(tightest.percent, 2),
                },
                source_event_id=run["run_id"],
                agent_id=run["agent_id"],
                **about,
            )
        )
    return found


def _near(limit: JudgingLimit, about: Mapping[str, Any]) -> LessonDraft | None:
    rule = limit.rule
    return learning.near_lesson(
        metric=rule.metric.value,
        percent=limit.percent,
        threshold_value=limit.most,
        current_value=limit.value,
        source_event_id=f"{about['run_id']}:{rule.limit_id}",
        limit_id=rule.limit_id,
        limit={
            "category": rule.category.value,
            "scope": rule.scope.value,
            "scope_id": rule.scope_id,
            "reset_period": None if rule.reset_period is None else rule.reset_period.value,
        },
        **about,
    )
