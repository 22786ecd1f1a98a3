"""Connectors: typed parameters of templates and endpoints; values are coerced, never screened."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final, TypeVar
from uuid import UUID

from app.connectors.values import ConnectorRefusedError

MAX_TEXT: Final = 65_536
MAX_ITEMS: Final = 1000
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
T = TypeVar("T")
Value = str | int | float | bool | date | datetime | UUID | list[str] | list[int] | None


def read_params(declared: Sequence[Mapping[str, Any]], given: object) -> dict[str, Value]:
    """Return every declared parameter by name, coerced; raise INVALID_PAYLOAD for what does not fit.

    An optional parameter without a value has its default, and without a default None.
    """
    if not isinstance(given, Mapping):
        raise _unfit("params", "is no object")
    known = {param["name"]: param for param in declared}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise _unfit("params", "holds an unknown parameter")
    return {name: _read_param(param, given) for name, param in known.items()}


def _read_param(param: Mapping[str, Any], given: Mapping[str, Any]) -> Value:
    name = param["name"]
    if name in given:
        return check_value(param, given[name])
    if param["required"]:
        raise _unfit(name, "is missing")
    return None if param["default"] is None else check_value(param, param["default"])


def check_value(param: Mapping[str, Any], value: object) -> Value:
    """Return a value of the parameter's type within its bounds; raise INVALID_PAYLOAD."""
    name = param["name"]
    if value is None and not param["required"]:
        return None
    coerced: Value = _COERCE[param["type"]](name, value)
    for item in coerced if isinstance(coerced, list) else [coerced]:
        _check_bounds(param, item)
    return coerced


def _check_bounds(param: Mapping[str, Any], value: Any) -> None:
    name, kind = param["name"], param["type"].removeprefix("list[").removesuffix("]")
    if isinstance(value, str) and len(value) > (param["max_length"] or MAX_TEXT):
        raise _unfit(name, "is too long")
    bounds = {side: param[side] for side in ("min", "max") if param[side] is not None}
    low, high = (None if side not in bounds else _COERCE[kind](name, bounds[side]) for side in ("min", "max"))
    try:
        outside = (low is not None and value < low) or (high is not None and value > high)
    except TypeError:
        # A moment with an offset has no order against one without.
        raise _unfit(name, "cannot be compared with its bounds") from None
    if outside:
        raise _unfit(name, "is out of bounds")
    if param["enum"] is not None and value not in [_COERCE[kind](name, item) for item in param["enum"]]:
        raise _unfit(name, "is none of the values that it may have")


def _unfit(name: str, why: str) -> ConnectorRefusedError:
    return ConnectorRefusedError("INVALID_PAYLOAD", f"{name} {why}")


def _text(name: str, value: object) -> str:
    # PostgreSQL has no text with U+0000, and no encoding has half a surrogate pair.
    if not isinstance(value, str) or "\x00" in value or not _is_encodable(value):
        raise _unfit(name, "is no text")
    return value


def _is_encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _integer(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not _LOWEST <= value <= _HIGHEST:
        raise _unfit(name, "is no integer of 64 bits")
    return value


def _float(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise _unfit(name, "is no finite number")
    return float(value)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _unfit(name, "is neither true nor false")
    return value


def _day(name: str, value: object) -> date:
    text = _text(name, value)
    if not _DATE.fullmatch(text):
        raise _unfit(name, "is no date")
    return _parsed(name, text, date.fromisoformat)


def _moment(name: str, value: object) -> datetime:
    return _parsed(name, _text(name, value), datetime.fromisoformat)


def _uuid(name: str, value: object) -> UUID:
    return _parsed(name, _text(name, value), UUID)


def _parsed(name: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except ValueError:
        raise _unfit(name, "does not have the form of its type") from None


def _list_of(read: Callable[[str, object], T]) -> Callable[[str, object], list[T]]:
    def read_all(name: str, value: object) -> list[T]:
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            raise _unfit(name, "is no list, or too long a one")
        return [read(name, item) for item in value]

    return read_all


_COERCE: Mapping[str, Callable[[str, object], Any]] = {
    "str": _text,
    "int": _integer,
    "float": _float,
    "bool": _flag,
    "date": _day,
    "timestamp": _moment,
    "uuid": _uuid,
    "list[str]": _list_of(_text),
    "list[int]": _list_of(_integer),
}
