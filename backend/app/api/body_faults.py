"""L2 HTTP: where in a body that is not strict JSON the fault lies, for bodies that carry documents."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from app.kernel.errors import ErrorKind, HocError

MAX_INTEGER_DIGITS: Final = 300
MAX_DEPTH: Final = 100
# A document lies in the body, in a member of it, in an item of a list, or in an item of a member's list.
MAX_DOCUMENT_DEPTH: Final = 4
_REPEATED: Final = "is there more than once"


class _Fault:
    """Stands where a value was that strict JSON does not have."""

    __slots__ = ("detail",)

    def __init__(self, detail: str) -> None:
        self.detail = detail


class _Members(list[tuple[str, Any]]):
    """The members of an object as written, repeated ones included."""


def document_refusal(raw: bytes, documents: Sequence[str], *, whole: str | None = None) -> HocError | None:
    """Return INVALID_METADATA when the first fault of a body lies inside one of its documents.

    `documents` are members of the body, or of objects and lists of objects in it; `whole` names the document
    that the body itself is.
    None: the fault lies elsewhere, or the text is no JSON at all.
    """
    try:
        value = json.loads(
            raw.decode(),
            object_pairs_hook=_Members,
            parse_constant=lambda name: _Fault(f"holds {name}, which JSON does not have"),
            parse_float=_float,
            parse_int=_integer,
        )
    except (ValueError, RecursionError):
        return None
    for path, detail in _faults(value):
        field, inside = _document_of(path, documents, whole)
        # A repeated `metadata` member is a fault of the body; one inside the document is the document's.
        if field is None or (detail is _REPEATED and not inside):
            return None
        pointer = "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in inside)
        return HocError(
            ErrorKind.INVALID,
            "INVALID_METADATA",
            f"{field}: {detail}",
            errors=[{"field": field, "pointer": pointer, "detail": detail}],
            extra={"field": field, "pointer": pointer},
        )
    return None


def _float(literal: str) -> Any:
    number = float(literal)
    return _Fault("holds a number beyond the range of numbers") if math.isinf(number) else number


def _integer(literal: str) -> Any:
    return _Fault("holds an integer of more than 300 digits") if len(literal) > MAX_INTEGER_DIGITS + 1 else 0


def _faults(root: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield path and detail of each fault, in the order of the text."""
    stack: list[tuple[tuple[str, ...], Any]] = [((), root)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, _Fault):
            yield path, value.detail
        elif isinstance(value, str):
            detail = _text_fault(value)
            if detail is not None:
                yield path, detail
        elif isinstance(value, list):
            if len(path) > MAX_DEPTH:
                yield path, "is nested too deeply"
                continue
            members = [(str(at), each) for at, each in enumerate(value)]
            if isinstance(value, _Members):
                members = list(value)
                yield from _key_faults(path, members)
            stack.extend(((*path, key), member) for key, member in reversed(members))


def _key_faults(
    path: tuple[str, ...], members: list[tuple[str, Any]]
) -> Iterator[tuple[tuple[str, ...], str]]:
    seen: set[str] = set()
    for key, _ in members:
        if key in seen:
            yield (*path, key), _REPEATED
        seen.add(key)
        detail = _text_fault(key)
        if detail is not None:
            yield path, detail


def _text_fault(text: str) -> str | None:
    if "\x00" in text:
        return "holds U+0000"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds a lone surrogate"
    return None


def _document_of(
    path: tuple[str, ...], documents: Sequence[str], whole: str | None
) -> tuple[str | None, tuple[str, ...]]:
    if whole is not None:
        return whole, path
    for at, part in enumerate(path[:MAX_DOCUMENT_DEPTH]):
        if part in documents:
            return part, path[at + 1 :]
    return None, ()
