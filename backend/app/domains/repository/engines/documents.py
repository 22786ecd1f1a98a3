"""L5 rules of metadata objects: canonical text, limits, merge patch, pointers, differences, projection."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from app.domains.repository.errors import invalid_metadata
from app.domains.repository.models.selections import ScalarKey
from app.domains.repository.models.vocabulary import ScalarKind
from app.kernel.canonical_json import CanonicalJsonError, dumps, loads
from app.kernel.hashing import digest_of

MAX_METADATA_BYTES = 256 * 1024
MAX_PROVENANCE_BYTES = 16 * 1024
MAX_DEPTH = 32
MAX_LEAVES = 2000
MAX_POINTER_BYTES = 512
MAX_KEY_BYTES = 512
_MAX_INTEGER = 10**300
_EXPONENT_BIAS = 5000


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON object as it is kept: canonical text, its digest, and a detached value."""

    text: str
    digest: str
    value: dict[str, Any]


_EMPTY = digest_of(b"{}")


def escape(key: str) -> str:
    """Return a key as a reference token of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def read_document(value: Any, *, field: str, limit: int = MAX_METADATA_BYTES) -> Document:
    """Return a JSON object in canonical form; refuse INVALID_METADATA with the pointer of the first fault."""
    if not isinstance(value, dict):
        raise invalid_metadata("must be a JSON object", "", field)
    if not value:
        return Document("{}", _EMPTY, {})
    leaves = _check(value, "", 1, field)
    if leaves > MAX_LEAVES:
        raise invalid_metadata(f"has more than {MAX_LEAVES} values", "", field)
    try:
        text = dumps(value)
    except CanonicalJsonError as error:
        raise invalid_metadata(str(error), error.pointer, field) from error
    data = text.encode()
    if len(data) > limit:
        raise invalid_metadata(f"is longer than {limit} bytes", "", field)
    # The caller may change what it passed in; the text cannot change.
    return Document(text, digest_of(data), loads(text))


def stored_document(text: str | None) -> Document:
    """Return a document from its stored text; what a redaction destroyed reads as an empty object."""
    kept = text if text is not None else "{}"
    return Document(kept, digest_of(kept.encode()), loads(kept))


def _check(value: Any, pointer: str, depth: int, field: str) -> int:
    """Check a value and return its number of leaves."""
    if isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            raise invalid_metadata(f"is nested deeper than {MAX_DEPTH}", pointer, field)
        if not value:
            return 1
        if isinstance(value, list):
            return sum(
                _check(item, f"{pointer}/{index}", depth + 1, field) for index, item in enumerate(value)
            )
        for key in value:
            if not isinstance(key, str):
                raise invalid_metadata("has a key that is no string", pointer, field)
            _check_text(key, pointer, field)
        leaves = 0
        for key, item in value.items():
            # Most members are plain, and need no pointer.
            kind = type(item)
            if item is None or kind is bool or (kind is str and item.isascii() and "\0" not in item):
                leaves += 1
            else:
                leaves += _check(item, f"{pointer}/{escape(key)}", depth + 1, field)
        return leaves
    _check_scalar(value, pointer, field)
    return 1


def _check_scalar(value: Any, pointer: str, field: str) -> None:
    if isinstance(value, str):
        _check_text(value, pointer, field)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise invalid_metadata("holds a number that JSON does not have", pointer, field)
    elif isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= _MAX_INTEGER:
            raise invalid_metadata("holds an integer of more than 300 digits", pointer, field)
    elif value is not None and not isinstance(value, bool):
        raise invalid_metadata(f"holds a {type(value).__name__}, which is no JSON value", pointer, field)


def _check_text(text: str, pointer: str, field: str) -> None:
    if text.isascii():
        if "\x00" in text:
            raise invalid_metadata("holds U+0000", pointer, field)
        return
    if "\x00" in text:
        raise invalid_metadata("holds U+0000", pointer, field)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise invalid_metadata("holds a lone surrogate", pointer, field)


def merge_patch(target: Any, patch: Any) -> Any:
    """Return the target after an RFC 7396 merge patch; neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def check_patch(patch: Any, *, field: str) -> dict[str, Any]:
    """Return a merge patch that is an object of JSON values within the limits; refuse INVALID_METADATA."""
    return read_document(patch, field=field).value


def compare(old: Any, new: Any, pointer: str = "") -> Iterator[tuple[str, str]]:
    """Yield (added | removed | changed, pointer) for each difference; `1` and `1.0` differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(escape(key), key) for key in sorted(old.keys() | new.keys())]
        for token, key in pairs:
            yield from _compare_member(old, new, key, f"{pointer}/{token}", key in old, key in new)
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            yield from _compare_member(
                old, new, index, f"{pointer}/{index}", index < len(old), index < len(new)
            )
    elif dumps(old) != dumps(new):
        yield "changed", pointer


def _compare_member(
    old: Any, new: Any, key: Any, pointer: str, in_old: bool, in_new: bool
) -> Iterator[tuple[str, str]]:
    if in_old and in_new:
        yield from compare(old[key], new[key], pointer)
    else:
        yield ("removed" if in_old else "added"), pointer


def number_key(value: float) -> str:
    """Return a text that sorts bytewise as the decimal value of a number sorts; equal values, equal keys.

    `0` + complement for negatives, `1` for zero, `2` + exponent + digits for positives.
    """
    if isinstance(value, int):
        negative, text, exponent = value < 0, str(abs(value)).lstrip("0"), 0
    else:
        number = Decimal(repr(value)).as_tuple()
        negative, exponent = bool(number.sign), int(number.exponent)
        text = "".join(map(str, number.digits)).lstrip("0")
    if not text:
        return "1"
    magnitude = len(text) + exponent + _EXPONENT_BIAS
    text = text.rstrip("0")
    if not negative:
        return f"2{magnitude:04d}{text}"
    complement = text.translate(str.maketrans("0123456789", "9876543210"))
    # The closing mark sorts after every digit: a longer negative fraction is the smaller number.
    return f"0{9999 - magnitude:04d}{complement}~"


def cut(text: str) -> str:
    """Return the longest prefix of at most 512 bytes."""
    if len(text) * 4 <= MAX_KEY_BYTES:
        return text
    return text.encode()[:MAX_KEY_BYTES].decode(errors="ignore")


def scalar_key(value: Any) -> ScalarKey:
    """Return the projection of one value; containers have only a kind."""
    match value:
        case None:
            return ScalarKey(ScalarKind.NULL)
        case bool():
            return ScalarKey(ScalarKind.BOOL, "t" if value else "f")
        case int() | float():
            return ScalarKey(ScalarKind.NUMBER, number_key(value))
        case str():
            key = cut(value)
            return ScalarKey(ScalarKind.STRING, key, None if len(key) == len(value) else value)
        case list():
            return ScalarKey(ScalarKind.ARRAY)
        case _:
            return ScalarKey(ScalarKind.OBJECT)


def project(value: Any, pointer: str = "") -> Iterator[dict[str, Any]]:
    """Yield the projection rows of a document: one per value, and one per scalar element of an array."""
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for key, member in members:
        at = f"{pointer}/{escape(key) if isinstance(key, str) else key}"
        if len(at) * 4 > MAX_POINTER_BYTES and len(at.encode()) > MAX_POINTER_BYTES:
            continue
        scalar = scalar_key(member)
        row = {
            "ptr": at,
            "elem": False,
            "ord": 0,
            "vtype": scalar.kind,
            "vkey": scalar.key,
            "vfull": scalar.full,
        }
        yield row
        if isinstance(key, int) and not isinstance(member, dict | list):
            yield {**row, "ptr": pointer, "elem": True, "ord": key}
        if isinstance(member, dict | list):
            yield from project(member, at)
