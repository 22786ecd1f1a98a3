"""Kernel: one error class with a kind and a stable code; HTTP status is the API's business."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any


class ErrorKind(StrEnum):
    """What went wrong, independent of any protocol."""

    MALFORMED = "malformed"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    GONE = "gone"
    PRECONDITION_FAILED = "precondition_failed"
    TOO_LARGE = "too_large"
    INVALID = "invalid"
    PRECONDITION_REQUIRED = "precondition_required"
    LIMITED = "limited"
    INTERNAL = "internal"
    UPSTREAM_FAILED = "upstream_failed"
    UNAVAILABLE = "unavailable"
    UPSTREAM_TIMEOUT = "upstream_timeout"


class HocError(Exception):
    """A refusal that the caller may read: kind, UPPER_SNAKE_CASE code, English detail.

    `errors` are the items of the problem's `errors[]`, `extra` further members of the problem
    body (`gate`, `evidence_id`, `current_version`), `retry_after` seconds.
    """

    def __init__(
        self,
        kind: ErrorKind,
        code: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        extra: Mapping[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.kind = kind
        self.code = code
        self.detail = detail
        self.errors = tuple(dict(item) for item in errors)
        self.extra = dict(extra or {})
        self.retry_after = retry_after
