"""L2 HTTP: the only table from error kinds to HTTP statuses, and the RFC 9457 problem body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.api.answers import Answer, HeaderLines
from app.kernel.errors import ErrorKind, HocError

STATUS_OF_KIND: Final[Mapping[ErrorKind, int]] = {
    ErrorKind.MALFORMED: 400,
    ErrorKind.UNAUTHENTICATED: 401,
    ErrorKind.FORBIDDEN: 403,
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.CONFLICT: 409,
    ErrorKind.GONE: 410,
    ErrorKind.PRECONDITION_FAILED: 412,
    ErrorKind.TOO_LARGE: 413,
    ErrorKind.INVALID: 422,
    ErrorKind.PRECONDITION_REQUIRED: 428,
    ErrorKind.LIMITED: 429,
    ErrorKind.INTERNAL: 500,
    ErrorKind.UPSTREAM_FAILED: 502,
    ErrorKind.UNAVAILABLE: 503,
    ErrorKind.UPSTREAM_TIMEOUT: 504,
}
PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
PROBLEM_TYPE_PREFIX: Final = "urn:hoc:problem:"
INTERNAL_DETAIL: Final = "The server failed to answer this request; the request id names it in the log."
_RESERVED: Final = frozenset(
    ("type", "title", "status", "detail", "instance", "code", "request_id", "errors")
)
_CHALLENGE: Final = ("www-authenticate", 'Bearer realm="hoc"')
_BUSY_SECONDS: Final = 1
_BUGS: Final = ("INTERNAL_ERROR", "HANDLER_EXCEPTION")


class HttpRefusal(Exception):
    """A refusal that only HTTP knows (no route, wrong method, wrong media type) with its own status."""

    def __init__(self, status: int, code: str, detail: str, *, headers: HeaderLines = ()) -> None:
        super().__init__(f"{code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = tuple(headers)


class ClientGoneError(Exception):
    """The client hung up: within its body, and nothing was dispatched, or before it had its answer."""


def status_of(error: HocError) -> int:
    """Return the HTTP status of an error, by its kind alone."""
    return STATUS_OF_KIND[error.kind]


def problem_of(error: HocError, *, request_id: str, instance: str) -> Answer:
    """Return the problem answer of a refusal, with Retry-After and the challenge where they belong."""
    status = status_of(error)
    if error.kind is ErrorKind.INTERNAL and error.code.startswith(_BUGS):
        return internal_problem(request_id=request_id, instance=instance)
    headers: list[tuple[str, str]] = []
    retry_after = error.retry_after
    if retry_after is None and status in (429, 503):
        retry_after = _BUSY_SECONDS
    if retry_after is not None:
        headers.append(("retry-after", str(max(0, retry_after))))
    if status == 401:
        headers.append(_CHALLENGE)
    return _problem(
        status,
        error.code,
        error.detail,
        request_id=request_id,
        instance=instance,
        errors=shape_errors(error.errors),
        extra=error.extra,
        headers=headers,
    )


def refusal_problem(refusal: HttpRefusal, *, request_id: str, instance: str) -> Answer:
    """Return the problem answer of a refusal that only HTTP knows."""
    return _problem(
        refusal.status,
        refusal.code,
        refusal.detail,
        request_id=request_id,
        instance=instance,
        headers=refusal.headers,
    )


def internal_problem(*, request_id: str, instance: str) -> Answer:
    """Return the one answer of every bug: it says nothing but where to look."""
    return _problem(500, "INTERNAL_ERROR", INTERNAL_DETAIL, request_id=request_id, instance=instance)


def shape_errors(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the items of `errors[]`; those of the validation library lose the input and gain a pointer."""
    return [_shape_item(item) for item in errors]


def field_of(item: Mapping[str, Any]) -> str | None:
    """Return the top-level input field that an item of `errors[]` is about, if it names one."""
    location = item.get("loc")
    if isinstance(location, list | tuple) and location:
        return str(location[0])
    for key in ("pointer", "field"):
        text = item.get(key)
        if isinstance(text, str) and text.startswith("/"):
            return text[1:].split("/", 1)[0].replace("~1", "/").replace("~0", "~")
        if isinstance(text, str) and text:
            return text.split(".", 1)[0]
    return None


def _shape_item(item: Mapping[str, Any]) -> dict[str, Any]:
    if "loc" not in item:
        return dict(item)
    steps = [str(step).replace("~", "~0").replace("/", "~1") for step in item["loc"]]
    return {
        "pointer": "".join(f"/{step}" for step in steps),
        "code": str(item.get("type", "invalid")),
        "detail": str(item.get("msg", "is not valid")),
    }


def _problem(
    status: int,
    code: str,
    detail: str,
    *,
    request_id: str,
    instance: str,
    errors: Sequence[Mapping[str, Any]] = (),
    extra: Mapping[str, Any] | None = None,
    headers: HeaderLines = (),
) -> Answer:
    body: dict[str, Any] = {
        "type": PROBLEM_TYPE_PREFIX + code,
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "instance": instance,
        "code": code,
        "request_id": request_id,
        "errors": list(errors),
    }
    # A domain's extra members never overwrite the standing ones.
    body.update((name, value) for name, value in (extra or {}).items() if name not in _RESERVED)
    return Answer.json(status, body, media_type=PROBLEM_MEDIA_TYPE, headers=headers, code=code)
