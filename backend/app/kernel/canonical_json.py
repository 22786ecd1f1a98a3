"""Kernel: kcj-1, the one text of a JSON value; strict reading, canonical writing.

kcj-1: UTF-8, no white space, object keys in code point order, strings escape only `"`, `\\` and
U+0000..001F (short forms `\\b \\t \\n \\f \\r`, else `\\u00xx`), integers exact, other numbers the
shortest digits that read back equal: fixed notation with at least one decimal for 1e-4 <= |x| < 1e16
and zero (`1.0`, `-0.0`), else `<digits>e<exponent>` without `+` or leading zeros (`1e16`, `1.5e-7`).
NaN, infinities, lone surrogates and, on reading, duplicate keys and U+0000 do not exist.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from json.encoder import c_make_encoder, encode_basestring  # type: ignore[attr-defined]
from typing import Any, Never

import orjson

# The C encoder writes 1e16 as `1e+16`; texts that may hold such a number take the slow path.
_EXPONENT = re.compile(r"[0-9]e[+-][0-9]")
_SUSPECT_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
# Of these orjson writes the same text: it differs in floats, and takes more types than JSON has.
_PLAIN = frozenset((str, int, bool, type(None)))
# Longer texts are not worth a second copy.
_SHORT = 65_536


def _refuse(value: object) -> Never:
    raise TypeError(f"{type(value).__name__} is no JSON value")


# The encoder behind json.dumps, made once: json.JSONEncoder.encode makes one for every call.
_CHUNKS = c_make_encoder(None, _refuse, encode_basestring, None, ":", ",", True, False, False)


def _encode(value: Any) -> str:
    return "".join(_CHUNKS(value, 0))


class CanonicalJsonError(ValueError):
    """A text or value that kcj-1 does not admit; `pointer` is its JSON pointer where known."""

    def __init__(self, message: str, pointer: str = "") -> None:
        super().__init__(message)
        self.pointer = pointer


class RawJson(str):
    """Canonical text that `dumps_object` splices in as a JSON value."""

    __slots__ = ()


def dumps(value: Any) -> str:
    """Return the canonical text of a JSON value; raise CanonicalJsonError for what has none."""
    try:
        if type(value) is str:
            # A text has no keys and no number; nearly every member of a statement is one.
            text = encode_basestring(value)
        elif value is None or type(value) is int:
            return "null" if value is None else repr(value)
        elif type(value) is dict and (plain := _plain(value)) is not None:
            return plain
        else:
            _require_text_keys(value)
            text = _encode(value)
            if _EXPONENT.search(text):
                text = _slow(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise CanonicalJsonError(str(error)) from error
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise CanonicalJsonError("a lone surrogate has no UTF-8 form") from error
    return text


def _plain(value: dict[Any, Any]) -> str | None:
    """Return the text of an object whose members are all plain, at a tenth of the cost; else None."""
    if not _PLAIN.issuperset(map(type, value.values())):
        return None
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # a key that is no text, an integer beyond 64 bits, a lone surrogate
        return None


def is_text_of(text: str, value: Any) -> bool:
    """Tell whether a text is the canonical text of a value that was read from a canonical text."""
    # Numbers of other forms than ours are the only other texts that orjson writes.
    if "e+" not in text and "0.0000" not in text:
        with suppress(TypeError, ValueError):
            if orjson.dumps(value) == text.encode():
                return True
    return dumps(value) == text


def dumps_object(members: Mapping[str, Any]) -> str:
    """Return the canonical text of an object whose values may be RawJson."""
    # One pass for all members; what has no plain text of its own is spliced in as the text that it has.
    parts = {
        key: value
        if type(value) in _PLAIN
        else orjson.Fragment(str(value) if isinstance(value, RawJson) else dumps(value))
        for key, value in members.items()
    }
    try:
        return orjson.dumps(parts, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # a key that is no text, an integer beyond 64 bits, a lone surrogate
        pass
    return (
        "{"
        + ",".join(
            f"{encode_basestring(key)}:{value if isinstance(value, RawJson) else dumps(value)}"
            for key, value in sorted(members.items())
        )
        + "}"
    )


def loads(text: str | bytes) -> Any:
    """Read one JSON value strictly; raise CanonicalJsonError for anything kcj-1 does not admit."""
    try:
        if isinstance(text, str) and len(text) <= _SHORT and "\\u" not in text:
            # Nearly all are canonical texts that we wrote. What comes out again as it went in had no key
            # twice and no number that lost a digit; all else is read slowly.
            given = text.encode()
            value = orjson.loads(given)
            if orjson.dumps(value) == given:
                return value
    except ValueError:
        pass  # said below, in our words
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(decoded, object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float)
    except CanonicalJsonError:
        raise
    except RecursionError as error:
        raise CanonicalJsonError("nested too deeply") from error
    except ValueError as error:
        # What Python says of a long integer is advice to its programmer.
        long = "integer string conversion" in str(error)
        raise CanonicalJsonError("an integer of more than 4300 digits" if long else str(error)) from error
    if _SUSPECT_ESCAPE.search(decoded) or not (isinstance(text, bytes) or decoded.isascii()):
        _check_strings(value, "")
    return value


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise CanonicalJsonError(f"duplicate key {key!r}")
            seen.add(key)
    return members


def _constant(name: str) -> Never:
    raise CanonicalJsonError(f"{name} is not a JSON number")


def _float(literal: str) -> float:
    number = float(literal)
    if math.isinf(number):
        raise CanonicalJsonError(f"{literal[:40]} is beyond the range of a number")
    return number


def _check_strings(value: Any, pointer: str) -> None:
    if isinstance(value, str):
        if "\x00" in value:
            raise CanonicalJsonError("U+0000 in a string", pointer)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise CanonicalJsonError("a lone surrogate in a string", pointer) from error
    elif isinstance(value, dict):
        for key, member in value.items():
            _check_strings(key, pointer)
            _check_strings(member, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list):
        for index, member in enumerate(value):
            _check_strings(member, f"{pointer}/{index}")


def _require_text_keys(value: Any) -> None:
    # The encoder would write number keys as text, in the order of the numbers. orjson refuses every key that
    # is not plain text, in a tenth of the time that a walk takes, and other things that are fine here.
    try:
        orjson.dumps(value)
    except TypeError:
        _walk_keys(value)


def _walk_keys(value: Any) -> None:
    if isinstance(value, dict):
        for key, member in value.items():
            if not isinstance(key, str):
                raise CanonicalJsonError(f"a key is text, not {type(key).__name__}")
            _walk_keys(member)
    elif isinstance(value, list | tuple):
        for member in value:
            _walk_keys(member)


def _number(value: float) -> str:
    text = repr(value)
    mantissa, sign, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if sign else text


def _slow(value: Any) -> str:
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{encode_basestring(k)}:{_slow(v)}" for k, v in sorted(value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_slow(item) for item in value) + "]"
    return _encode(value)
