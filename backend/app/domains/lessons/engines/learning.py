"""Lessons L5: what there is to learn from incidents, near limits and successes; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from app.domains.lessons.models.records import LessonDraft
from app.domains.lessons.models.vocabulary import LessonSeverity, LessonType, SourceEventType

NEAR_PERCENT: Final = 85.0
SUCCESS_PERCENT: Final = 30.0
SUCCESS_MS: Final = 5000
# Lower bounds, highest first; above 100 % is a breach, no lesson.
_BANDS: Final = ((95.0, "95-100"), (90.0, "90-95"), (85.0, "85-90"))
_NEAR_SEVERITY: Final = {
    "95-100": LessonSeverity.HIGH,
    "90-95": LessonSeverity.MEDIUM,
    "85-90": LessonSeverity.LOW,
}


def band_of(percent: float) -> str | None:
    """Return the band of a utilization in percent; None below 85 % and above 100 %."""
    if percent > 100.0:
        return None
    return next((name for lower, name in _BANDS if percent >= lower), None)


def failure_lesson(
    *,
    incident_id: str,
    run_id: str,
    attempt: int | None,
    agent_id: str | None,
    category: str,
    error_code: str | None,
    severity: str,
    signature: str,
    is_synthetic: bool,
) -> LessonDraft:
    """Return the lesson of an incident of a run."""
    code = error_code or "Unknown Error"
    return LessonDraft(
        lesson_type=LessonType.FAILURE,
        severity=LessonSeverity(severity),
        source_event_id=incident_id,
        source_event_type=SourceEventType.INCIDENT,
        source_run_id=run_id,
        attempt=attempt,
        title=f"Failure: {code}",
        description=f"A run of agent {agent_id} ended in an incident of category {category}: {code}.",
        proposed_action="Guard the runs of this agent against incidents with this error code.",
        detected_pattern={
            "error_code": error_code,
            "severity": severity,
            "signature": signature,
            "agent_id": agent_id,
            "category": category,
        },
        is_synthetic=is_synthetic,
    )


def near_lesson(
    *,
    metric: str,
    percent: float,
    threshold_value: int,
    current_value: int,
    source_event_id: str,
    limit_id: str | None = None,
    limit: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    attempt: int | None = None,
    is_synthetic: bool = False,
) -> LessonDraft | None:
    """Return the lesson of a budget that is nearly used up, None outside 85 to 100 percent.

    `limit` holds the members that a proposed limit takes over; amounts are in millionths.
    """
    band = band_of(percent)
    if band is None:
        return None
    return LessonDraft(
        lesson_type=LessonType.NEAR_THRESHOLD,
        severity=_NEAR_SEVERITY[band],
        source_event_id=source_event_id,
        source_event_type=SourceEventType.RUN if limit_id is None else SourceEventType.LIMIT,
        source_run_id=run_id,
        attempt=attempt,
        title=f"Near threshold: {metric} at {band} %",
        description=f"The use of {metric} stands at {percent:.1f} % of its limit.",
        proposed_action="Warn at nine tenths of the value that was reached.",
        detected_pattern={
            "limit_id": limit_id,
            "metric": metric,
            "threshold_value": threshold_value,
            "current_value": current_value,
            "utilization_pct": round(percent, 2),
            **{name: value for name, value in (limit or {}).items() if value is not None},
        },
        threshold_band=band,
        is_synthetic=is_synthetic,
        debounce_key=f"near:{limit_id or metric}:{band}",
    )


def success_lesson(
    *,
    success_type: str,
    metrics: Mapping[str, Any],
    source_event_id: str,
    agent_id: str | None,
    run_id: str | None = None,
    attempt: int | None = None,
    is_synthetic: bool = False,
) -> LessonDraft:
    """Return the lesson of a run that succeeded at little cost."""
    return LessonDraft(
        lesson_type=LessonType.CRITICAL_SUCCESS,
        severity=LessonSeverity.NONE,
        source_event_id=source_event_id,
        source_event_type=SourceEventType.RUN,
        source_run_id=run_id,
        attempt=attempt,
        title=f"Critical success: {success_type}",
        description=f"Agent {agent_id} succeeded well within its budgets.",
        detected_pattern={"success_type": success_type, "metrics": dict(metrics)},
        is_synthetic=is_synthetic,
        debounce_key=f"success:{agent_id or ''}:{success_type}",
    )


def is_critical_success(*, succeeded: bool, tightest_percent: float | None, duration_ms: float) -> bool:
    """Tell whether a run succeeded fast and with its tightest budget below 30 percent."""
    if not succeeded or tightest_percent is None:
        return False
    return tightest_percent < SUCCESS_PERCENT and duration_ms < SUCCESS_MS
