"""Controls: the refusals of limits and overrides, each with its stable code."""

from __future__ import annotations

from app.kernel.errors import ErrorKind, HocError


def limit_not_found() -> HocError:
    """A limit that this tenant does not have."""
    return HocError(ErrorKind.NOT_FOUND, "LIMIT_NOT_FOUND", "No such limit.")
