"""Kernel: pages and opaque cursors that are bound to the list they came from."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from app.kernel.canonical_json import CanonicalJsonError, dumps, loads
from app.kernel.clock import format_time, parse_time
from app.kernel.errors import ErrorKind, HocError
from app.kernel.hashing import text_hash

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
# The range of an SQL bigint: a number beyond it names no row, and no database takes it.
LOWEST_KEY, HIGHEST_KEY = -(2**63), 2**63 - 1
T = TypeVar("T")
R = TypeVar("R")


class Page(BaseModel, Generic[T]):
    """One page of a list; `next_cursor` is null on the last."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    items: list[T]
    next_cursor: str | None = None


def encode_cursor(binding: str, key: Sequence[Any]) -> str:
    """Return an opaque cursor after the row with this key, bound to tenant, operation and filter."""
    text = dumps([text_hash(binding)[:16], *key])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str, binding: str) -> list[Any]:
    """Return the key inside a cursor; refuse one that is damaged or of another list."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        value = loads(raw)
    except (binascii.Error, ValueError, CanonicalJsonError) as error:
        raise _invalid_cursor() from error
    if not isinstance(value, list) or not value or value[0] != text_hash(binding)[:16]:
        raise _invalid_cursor()
    return value[1:]


def read_cursor(
    cursor: str | None, binding: str, *kinds: type[str | int | datetime]
) -> tuple[Any, ...] | None:
    """Return the key of these kinds inside a cursor, None without a cursor; refuse INVALID_CURSOR.

    A cursor is no secret and may be forged; what it holds is input like any other.
    """
    if cursor is None:
        return None
    key = decode_cursor(cursor, binding)
    if len(key) != len(kinds):
        raise _invalid_cursor()
    return tuple(_read_part(part, kind) for part, kind in zip(key, kinds, strict=True))


def page_of(
    found: Sequence[R],
    *,
    limit: int,
    binding: str,
    key: Callable[[R], Sequence[str | int | datetime]],
    view: Callable[[R], T],
) -> Page[T]:
    """Return the page of rows that were asked for with `limit + 1`; the extra one tells that more follow."""
    shown = found[:limit]
    following = None
    if len(found) > limit:
        parts = [format_time(part) if isinstance(part, datetime) else part for part in key(shown[-1])]
        following = encode_cursor(binding, parts)
    return Page[Any](items=[view(row) for row in shown], next_cursor=following)


class ListQuery(Protocol):
    """What every list input has: a limit, a cursor, and filters beside them."""

    @property
    def limit(self) -> int: ...

    @property
    def cursor(self) -> str | None: ...

    def model_dump(self, *, mode: str, exclude: set[str]) -> dict[str, Any]:
        """Return the members as JSON values."""
        ...


def newest_first(
    query: ListQuery,
    *,
    tenant_id: str,
    operation: str,
    columns: tuple[str, str],
    fetch: Callable[[tuple[datetime, str] | None, int], Sequence[Mapping[str, Any]]],
    view: Callable[[Mapping[str, Any]], T],
) -> Page[T]:
    """Return a page of rows ordered by these two columns, a time and an id, both falling.

    `fetch` is given the last key of the page before, None for the first, and how many rows to read.
    """
    filters = query.model_dump(mode="json", exclude={"limit", "cursor"})
    binding = dumps([tenant_id, operation, filters])
    key = read_cursor(query.cursor, binding, datetime, str)
    found = fetch(None if key is None else (key[0], key[1]), query.limit + 1)
    return page_of(
        found,
        limit=query.limit,
        binding=binding,
        key=lambda row: [row[name] for name in columns],
        view=view,
    )


def _read_part(part: Any, kind: type) -> str | int | datetime:
    if kind is int:
        if type(part) is int and LOWEST_KEY <= part <= HIGHEST_KEY:
            return part
        raise _invalid_cursor()
    if not isinstance(part, str):
        raise _invalid_cursor()
    if kind is not datetime:
        return part
    try:
        return parse_time(part)
    except ValueError as error:
        raise _invalid_cursor() from error


def _invalid_cursor() -> HocError:
    return HocError(
        ErrorKind.MALFORMED, "INVALID_CURSOR", "The cursor does not belong to this list and filter."
    )
