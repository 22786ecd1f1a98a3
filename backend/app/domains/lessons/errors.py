"""Lessons: the refusals of lessons, each with its stable code."""

from __future__ import annotations

from app.kernel.errors import ErrorKind, HocError


def lesson_not_found() -> HocError:
    """A lesson that this tenant does not have."""
    return HocError(ErrorKind.NOT_FOUND, "LESSON_NOT_FOUND", "No such lesson.")


def invalid_transition(status: str, operation: str) -> HocError:
    """An operation that the lesson's status does not permit."""
    return HocError(
        ErrorKind.CONFLICT,
        "INVALID_TRANSITION",
        f"A lesson that is {status} does not take {operation}.",
        extra={"status": status},
    )


def not_convertible() -> HocError:
    """A lesson that proposes nothing."""
    return HocError(
        ErrorKind.CONFLICT, "LESSON_NOT_CONVERTIBLE", "A lesson from a success proposes no policy."
    )


def invalid_until(detail: str) -> HocError:
    """A deferral to a time that is past, or too far away."""
    return HocError(
        ErrorKind.INVALID,
        "INVALID_INPUT",
        f"until: {detail}",
        errors=[{"field": "/until", "code": "invalid", "detail": detail}],
    )
