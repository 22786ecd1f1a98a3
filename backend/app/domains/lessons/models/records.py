"""Lessons: what is handed over to be learned, the inputs of the operations, and what a caller sees."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from app.domains.lessons.models.vocabulary import (
    LessonSeverity,
    LessonStatus,
    LessonType,
    SourceEventType,
)
from app.kernel.amounts import Amount
from app.kernel.inputs import AwareTime, Identifier, Input, ListInput, Output, OutputTime, Reason, Text

Short = Annotated[Text, StringConstraints(min_length=1, max_length=255)]


@dataclass(frozen=True, slots=True)
class LessonDraft:
    """One lesson to learn; its pattern is redacted. With a debounce key it is learned once in 24 hours."""

    lesson_type: LessonType
    severity: LessonSeverity
    source_event_id: str
    source_event_type: SourceEventType
    title: str
    description: str
    detected_pattern: Mapping[str, Any]
    source_run_id: str | None = None
    attempt: int | None = None
    proposed_action: str | None = None
    threshold_band: str | None = None
    is_synthetic: bool = False
    debounce_key: str | None = None


class LessonOutcome(StrEnum):
    """What became of an attempt to learn."""

    CREATED = "CREATED"
    EXISTS = "EXISTS"
    DEBOUNCED = "DEBOUNCED"
    BELOW_THRESHOLD = "BELOW_THRESHOLD"


class LessonResult(Output):
    """What became of an attempt to learn, with the lesson that stands."""

    result: LessonOutcome
    lesson_id: str | None = None


class LearnNearThreshold(Input):
    """A use that came near its limit."""

    metric: Short
    utilization: float = Field(ge=0, le=1_000_000)
    threshold_value: Amount
    current_value: Amount
    source_event_id: Short
    limit_id: Identifier | None = None
    run_id: Identifier | None = None
    is_synthetic: bool = False


class LearnCriticalSuccess(Input):
    """A success that used little."""

    success_type: Short
    metrics: dict[str, Any]
    source_event_id: Short
    agent_id: Short | None = None
    run_id: Identifier | None = None
    is_synthetic: bool = False


class LessonRef(Input):
    """Name one lesson."""

    lesson_id: Identifier


class DeferLesson(Input):
    """Put a lesson off until a time in the next 90 days."""

    lesson_id: Identifier
    until: AwareTime


class DismissLesson(Input):
    """Put a lesson aside for good, with the reason."""

    lesson_id: Identifier
    reason: Reason


class ReactivateDue(Input):
    """Take up again the lessons whose deferral is over, at most `limit` of them."""

    limit: int = Field(500, ge=1, le=500)


class ReactivatedLessons(Output):
    """The lessons that are pending again; `more` when others wait."""

    reactivated: list[str]
    more: bool


class ListLessons(ListInput):
    """List the lessons of the tenant, newest first."""

    lesson_type: LessonType | None = None
    status: LessonStatus | None = None
    severity: LessonSeverity | None = None
    source_run_id: Identifier | None = None
    include_synthetic: bool = False


class LessonStatsInput(Input):
    """Ask how many lessons there are of each kind."""

    include_synthetic: bool = False


class LessonView(Output):
    """A lesson as it stands; its texts are null once erased."""

    lesson_id: str
    lesson_type: LessonType
    severity: LessonSeverity | None
    source_event_id: str
    source_event_type: SourceEventType
    source_run_id: str | None
    title: str | None
    description: str | None
    proposed_action: str | None
    detected_pattern: dict[str, Any]
    threshold_band: str | None
    is_synthetic: bool
    status: LessonStatus
    draft_proposal_id: str | None
    converted_at: OutputTime | None
    converted_by: str | None
    deferred_until: OutputTime | None
    dismissed_at: OutputTime | None
    dismissed_by: str | None
    dismissed_reason: str | None
    protected_state: Literal["INTACT", "ERASED"]
    created_at: OutputTime
    updated_at: OutputTime
    version: int


class LessonEffect(Output):
    """What came of a converted lesson: its proposal, the rule or limit, and what that prevented."""

    proposal_id: str
    proposal_status: str
    result_ref: str | None
    preventions: dict[str, int] = Field(default_factory=dict)
    latest_prevention_ids: list[str] = Field(default_factory=list)


class LessonDetail(LessonView):
    """A lesson with what was measured of it."""

    effect: LessonEffect | None = None


class LessonStats(Output):
    """How many lessons there are, in all and by type, status and severity."""

    total: int
    by_type: dict[str, int]
    by_status: dict[str, int]
    by_severity: dict[str, int]
