"""Kernel: one error class with a kind and a stable code; HTTP status is the API's business."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from app.kernel.redaction import redact_text


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


def safe_trace(error: BaseException) -> str:
    """Return where an error and its causes came from, for a log: no row values, parameters or inputs.

    Database drivers and the validation library put those behind the first line of their messages.
    """
    parts = []
    for each in _chain(error):
        first = redact_text(str(each).partition("\n")[0][:300])[0]
        parts.append("".join(traceback.format_tb(each.__traceback__)) + f"{type(each).__name__}: {first}")
    return "\nwhich led to\n".join(reversed(parts))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        hidden = following.__suppress_context__
        following = following.__cause__ or (None if hidden else following.__context__)
