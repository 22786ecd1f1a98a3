"""Lessons: the closed words of lessons."""

from __future__ import annotations

from enum import StrEnum


class LessonType(StrEnum):
    """What a lesson was learned from."""

    FAILURE = "FAILURE"
    NEAR_THRESHOLD = "NEAR_THRESHOLD"
    CRITICAL_SUCCESS = "CRITICAL_SUCCESS"


class LessonSeverity(StrEnum):
    """How grave what it was learned from was; NONE for a success."""

    CRITICAL = "CRITICAL"
    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"
    NONE = "NONE"


class SourceEventType(StrEnum):
    """What kind of object the source event is."""

    RUN = "RUN"
    INCIDENT = "INCIDENT"
    LIMIT = "LIMIT"


class LessonStatus(StrEnum):
    """The life of a lesson."""

    PENDING = "PENDING"
    CONVERTED_TO_DRAFT = "CONVERTED_TO_DRAFT"
    DEFERRED = "DEFERRED"
    DISMISSED = "DISMISSED"
