"""Kernel: pages and opaque cursors that are bound to the list they came from."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from app.kernel.canonical_json import CanonicalJsonError, dumps, loads
from app.kernel.errors import ErrorKind, HocError
from app.kernel.hashing import text_hash

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """One page of a list; `next_cursor` is null on the last."""

    model_config = ConfigDict(frozen=True)

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


def _invalid_cursor() -> HocError:
    return HocError(
        ErrorKind.MALFORMED, "INVALID_CURSOR", "The cursor does not belong to this list and filter."
    )
