"""Decisions: the refusals of decision records, each with its stable code."""

from __future__ import annotations

from app.kernel.errors import ErrorKind, HocError


def decision_not_found() -> HocError:
    """A decision that this tenant does not have."""
    return HocError(ErrorKind.NOT_FOUND, "DECISION_NOT_FOUND", "No such decision.")
