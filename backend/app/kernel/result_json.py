"""Kernel: the JSON text of operation results; canonical text inside is spliced in as it stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import Enum
from typing import Any

import orjson
from pydantic import BaseModel

from app.kernel.canonical_json import RawJson
from app.kernel.clock import format_time
from app.kernel.pages import Page

_LOWEST, _HIGHEST = -(2**63), 2**64 - 1
_OPTIONS = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATETIME


def render(data: Any) -> bytes:
    """Return the JSON text of a result; RawJson inside stands as it is, integers of any size are exact."""
    if isinstance(data, RawJson):
        return data.encode()
    if isinstance(data, Page):
        # Each item by the serializer of its own model: that of a page of anything looks at every value.
        data = {"items": data.items, "next_cursor": data.next_cursor}
    elif isinstance(data, BaseModel):
        data = data.model_dump(mode="python", by_alias=True)
    try:
        return orjson.dumps(data, default=_special, option=_OPTIONS)
    except TypeError:
        # orjson knows 64-bit integers only; larger ones are spliced in as text, which takes a walk.
        return orjson.dumps(_exact(data), default=_special, option=_OPTIONS)


def _special(value: Any) -> Any:
    if isinstance(value, RawJson):
        return orjson.Fragment(value.encode())
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="python", by_alias=True)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _exact(value: Any) -> Any:
    if type(value) is int:
        return value if _LOWEST <= value <= _HIGHEST else orjson.Fragment(str(value).encode())
    if isinstance(value, BaseModel):
        return _exact(_special(value))
    if isinstance(value, Mapping):
        return {key: _exact(member) for key, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_exact(item) for item in value]
    return value
