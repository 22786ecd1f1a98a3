"""Lessons L5: debounce, the state table, the storing of lessons, and their views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from app.db.connection import DriverConnection, Row
from app.db.governed import row_image
from app.db.unit import GovernedUnit
from app.domains.lessons.drivers import lessons as lesson_rows
from app.domains.lessons.errors import invalid_transition, invalid_until, lesson_not_found
from app.domains.lessons.models.records import (
    LessonDraft,
    LessonOutcome,
    LessonResult,
    LessonStats,
    LessonView,
    ListLessons,
)
from app.domains.lessons.models.vocabulary import LessonStatus, LessonType
from app.kernel.canonical_json import dumps, loads
from app.kernel.pages import Page, newest_first
from app.kernel.redaction import redact_text

DEBOUNCE_HOURS: Final = 24
MAX_DEFERRAL_DAYS: Final = 90
_PROTECTED: Final = ("title", "description", "dismissed_reason")
_PLAIN = tuple(
    name for name in LessonView.model_fields if name not in ("detected_pattern", "protected_state")
)


class LessonOperation(StrEnum):
    """What a caller may do with a lesson."""

    CONVERT = "convert"
    DEFER = "defer"
    DISMISS = "dismiss"
    REACTIVATE = "reactivate"


def check_transition(status: LessonStatus, operation: LessonOperation) -> None:
    """Refuse INVALID_TRANSITION unless the status takes the operation."""
    wanted = LessonStatus.DEFERRED if operation is LessonOperation.REACTIVATE else LessonStatus.PENDING
    if status is not wanted:
        raise invalid_transition(status, operation)


def check_until(until: datetime, now: datetime) -> None:
    """Refuse INVALID_INPUT unless a deferral ends in the future and within 90 days."""
    if until <= now:
        raise invalid_until("lies in the future")
    if until > now + timedelta(days=MAX_DEFERRAL_DAYS):
        raise invalid_until(f"lies within {MAX_DEFERRAL_DAYS} days")


def learn(unit: GovernedUnit, drafts: Sequence[LessonDraft]) -> list[tuple[LessonOutcome, Row | None]]:
    """Store lessons with their facts, in two statements at most; tell for each what became of it.

    One debounced within 24 hours, or whose event taught the same kind before, is not stored again.
    """
    keys = [draft.debounce_key for draft in drafts if draft.debounce_key is not None]
    free: set[str] = set()
    if keys:
        free.update(
            lesson_rows.count_debounced(
                unit.connection,
                tenant_id=unit.tenant_id,
                keys=sorted(set(keys)),
                now=unit.now,
                since=unit.now - timedelta(hours=DEBOUNCE_HOURS),
            )
        )
    passing = [draft for draft in drafts if draft.debounce_key is None or draft.debounce_key in free]
    rows = {id(draft): _row(unit, draft) for draft in passing}
    stored: set[str] = set()
    if rows:
        stored.update(
            lesson_rows.insert_lessons(unit.connection, tenant_id=unit.tenant_id, rows=list(rows.values()))
        )
    results: list[tuple[LessonOutcome, Row | None]] = []
    for draft in drafts:
        row = rows.get(id(draft))
        if row is None:
            results.append((LessonOutcome.DEBOUNCED, None))
        elif row["lesson_id"] not in stored:
            results.append((LessonOutcome.EXISTS, None))
        else:
            unit.facts.add("lesson", row, run_id=draft.source_run_id, attempt=draft.attempt)
            results.append((LessonOutcome.CREATED, row))
    return results


def learn_one(unit: GovernedUnit, draft: LessonDraft | None) -> LessonResult:
    """Store one lesson and return what became of it, with the lesson that stands where there is one."""
    if draft is None:
        return LessonResult(result=LessonOutcome.BELOW_THRESHOLD)
    ((outcome, row),) = learn(unit, [draft])
    if outcome is LessonOutcome.EXISTS:
        row = lesson_rows.get_by_source(
            unit.connection,
            tenant_id=unit.tenant_id,
            source_event_id=draft.source_event_id,
            lesson_type=draft.lesson_type,
        )
    return LessonResult(result=outcome, lesson_id=None if row is None else row["lesson_id"])


def _row(unit: GovernedUnit, draft: LessonDraft) -> dict[str, Any]:
    return {
        "lesson_id": unit.new_id("les"),
        "lesson_type": draft.lesson_type.value,
        "severity": draft.severity.value,
        "source_event_id": draft.source_event_id,
        "source_event_type": draft.source_event_type.value,
        "source_run_id": draft.source_run_id,
        "proposed_action": draft.proposed_action,
        "detected_pattern": dumps(dict(draft.detected_pattern)),
        "threshold_band": draft.threshold_band,
        "is_synthetic": draft.is_synthetic,
        "status": LessonStatus.PENDING.value,
        "draft_proposal_id": None,
        "converted_at": None,
        "converted_by": None,
        "deferred_until": None,
        "dismissed_at": None,
        "dismissed_by": None,
        "created_at": unit.now,
        "updated_at": unit.now,
        "version": 1,
        **unit.protect(
            {
                "title": redact_text(draft.title)[0],
                "description": redact_text(draft.description)[0],
                "dismissed_reason": None,
            }
        ),
    }


def require(connection: DriverConnection, *, tenant_id: str, lesson_id: str) -> Row:
    """Return a lesson's row; refuse LESSON_NOT_FOUND."""
    row = lesson_rows.get_lesson(connection, tenant_id=tenant_id, lesson_id=lesson_id)
    if row is None:
        raise lesson_not_found()
    return row


def lock(connection: DriverConnection, *, tenant_id: str, lesson_id: str) -> Row:
    """Return a lesson and hold it until the transaction ends; refuse LESSON_NOT_FOUND."""
    row = lesson_rows.lock_lesson(connection, tenant_id=tenant_id, lesson_id=lesson_id)
    if row is None:
        raise lesson_not_found()
    return row


def lock_due(connection: DriverConnection, *, tenant_id: str, now: datetime, limit: int) -> Sequence[Row]:
    """Lock and return deferred lessons that are due and that nobody else holds."""
    return lesson_rows.list_due(connection, tenant_id=tenant_id, now=now, limit=limit)


def list_tenants_due(connection: DriverConnection, *, now: datetime) -> Sequence[str]:
    """Return the tenants that have deferred lessons that are due."""
    return lesson_rows.list_tenants_due(connection, now=now)


def change(
    unit: GovernedUnit, row: Row, values: Mapping[str, Any], *, dismissed_reason: str | None = None
) -> Row:
    """Store a change of a locked lesson and return it as it now is."""
    protected: dict[str, Any] = {}
    # An erased lesson takes no new text: its commitment is the one that the erasure fact lists.
    if dismissed_reason is not None and row["erased_fact_id"] is None:
        texts = {name: row[name] for name in _PROTECTED}
        protected = unit.protect({**texts, "dismissed_reason": redact_text(dismissed_reason)[0]})
    changed = lesson_rows.set_lesson(
        unit.connection,
        tenant_id=unit.tenant_id,
        lesson_id=row["lesson_id"],
        version=row["version"],
        values={**values, **protected, "updated_at": unit.now},
    )
    if changed is None:
        raise RuntimeError(f"lesson {row['lesson_id']} moved under its own lock")
    return changed


def image(row: Row) -> dict[str, Any]:
    """Return the audit image of a lesson."""
    return row_image("lessons_learned", row)


def view_members(row: Row) -> dict[str, Any]:
    """Return the members of a lesson's view."""
    return {
        **{name: row[name] for name in _PLAIN},
        "detected_pattern": loads(row["detected_pattern"]),
        "protected_state": "INTACT" if row["erased_fact_id"] is None else "ERASED",
    }


def view(row: Row) -> LessonView:
    """Return what a caller sees of a lesson."""
    return LessonView.model_validate(view_members(row))


def list_page(connection: DriverConnection, query: ListLessons, *, tenant_id: str) -> Page[LessonView]:
    """Return one page of lessons, newest first; synthetic ones only when asked for."""
    equal = query.model_dump(mode="json", exclude={"limit", "cursor", "include_synthetic"})
    equal["is_synthetic"] = None if query.include_synthetic else False
    return newest_first(
        query,
        tenant_id=tenant_id,
        operation="lessons.list",
        columns=("created_at", "lesson_id"),
        fetch=lambda before, count: lesson_rows.list_lessons(
            connection, tenant_id=tenant_id, equal=equal, before=before, limit=count
        ),
        view=view,
    )


def list_learned(connection: DriverConnection, *, tenant_id: str, run_id: str, at: datetime) -> Sequence[Row]:
    """Return the rows of what a run taught at one moment."""
    equal = {"source_run_id": run_id, "created_at": at}
    return lesson_rows.list_lessons(connection, tenant_id=tenant_id, equal=equal, before=None, limit=100)


def stats(connection: DriverConnection, *, tenant_id: str, include_synthetic: bool) -> LessonStats:
    """Return how many lessons there are, in all and by type, status and severity."""
    rows = lesson_rows.count_lessons(connection, tenant_id=tenant_id, include_synthetic=include_synthetic)
    by: dict[str, Counter[str]] = {name: Counter() for name in ("lesson_type", "status", "severity")}
    for row in rows:
        for name, counter in by.items():
            counter[row[name]] += row["count"]
    return LessonStats(
        total=sum(row["count"] for row in rows),
        by_type={word.value: by["lesson_type"][word] for word in LessonType},
        by_status={word.value: by["status"][word] for word in LessonStatus},
        by_severity=dict(sorted(by["severity"].items())),
    )


def count_drafts(connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]) -> dict[str, int]:
    """Return, by run, how many of its lessons were made proposals."""
    rows = lesson_rows.count_drafts(connection, tenant_id=tenant_id, run_ids=run_ids)
    return {row["run_id"]: row["drafts"] for row in rows}


def list_open_runs(connection: DriverConnection, *, tenant_id: str) -> Sequence[str]:
    """Return the runs with a lesson that somebody may still take up."""
    states = (LessonStatus.PENDING.value, LessonStatus.DEFERRED.value)
    return lesson_rows.list_runs_in(connection, tenant_id=tenant_id, states=states)
