"""Lessons: the refusals of lessons, each with its stable code."""

from __future__ import annotations

from app.kernel.errors import ErrorKind, HocError


def lesson_not_found() -> HocError:
    """A lesson that this tenant does not have."""
    return HocError(ErrorKind.NOT_FOUND, "LESSON_NOT_FOUND", "No such lesson.")
