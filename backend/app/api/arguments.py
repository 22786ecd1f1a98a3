"""L2 HTTP: from path segments and query strings to the JSON values of an operation's input fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from app.kernel.canonical_json import CanonicalJsonError, loads
from app.kernel.errors import ErrorKind, HocError

MAX_QUERY_FIELDS: Final = 200
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,30})")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,30})(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?")
_BOOLEANS: Final[Mapping[str, bool]] = {"true": True, "false": False}
Convert = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Argument:
    """One input field that arrives as text: wire name, how its text becomes a JSON value, if it repeats."""

    name: str
    convert: Convert
    repeats: bool


def arguments_of(schema: Mapping[str, Any], names: Sequence[str]) -> dict[str, Argument]:
    """Return the named fields of an input schema as arguments; KeyError for a name it does not have."""
    return {name: _argument(name, schema["properties"][name], schema.get("$defs", {})) for name in names}


def read_query(raw: bytes, arguments: Mapping[str, Argument]) -> dict[str, Any]:
    """Return the query's members as JSON values; refuse unknown and repeated names and ill-formed values."""
    if not raw:
        return {}
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS
        )
    except ValueError:
        raise invalid_query([{"code": "malformed", "detail": "the query string cannot be read"}]) from None
    members: dict[str, Any] = {}
    errors: list[dict[str, Any]] = []
    for name, text in pairs:
        argument = arguments.get(name)
        if argument is None:
            errors.append(_item(name, "unknown_parameter", "there is no such parameter here"))
        elif name in members and not argument.repeats:
            errors.append(_item(name, "repeated_parameter", "may be given only once"))
        else:
            try:
                value = argument.convert(text)
            except ValueError as error:
                errors.append(_item(name, "invalid_value", str(error)))
                continue
            if argument.repeats:
                members.setdefault(name, []).append(value)
            else:
                members[name] = value
    if errors:
        raise invalid_query(errors)
    return members


def invalid_query(errors: Sequence[Mapping[str, Any]]) -> HocError:
    """Return the refusal of a query string."""
    return HocError(
        ErrorKind.MALFORMED, "INVALID_QUERY", "The query string does not fit this route.", errors=errors[:100]
    )


def _item(name: str, code: str, detail: str) -> dict[str, Any]:
    return {"parameter": name[:128], "code": code, "detail": detail}


def _argument(name: str, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Argument:
    variants = list(_variants(schema, definitions))
    arrays = [variant for variant in variants if variant.get("type") == "array"]
    if arrays:
        return Argument(name, _converter(list(_variants(arrays[0].get("items", {}), definitions))), True)
    return Argument(name, _converter(variants), False)


def _variants(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "$ref" in schema:
        return _variants(definitions[str(schema["$ref"]).rsplit("/", 1)[1]], definitions)
    nested = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if nested:
        return [variant for part in nested for variant in _variants(part, definitions)]
    return [schema]


def _converter(variants: Sequence[Mapping[str, Any]]) -> Convert:
    types = {variant.get("type") for variant in variants}
    if "string" in types or any("const" in variant or "enum" in variant for variant in variants):
        return _text
    for name, convert in (
        ("boolean", _boolean),
        ("integer", _integer),
        ("number", _number),
        ("object", _json),
    ):
        if name in types:
            return convert
    return _text


def _text(text: str) -> str:
    if "\x00" in text:
        raise ValueError("U+0000 is not allowed")
    return text


def _boolean(text: str) -> bool:
    if text not in _BOOLEANS:
        raise ValueError("takes true or false")
    return _BOOLEANS[text]


def _integer(text: str) -> int:
    # No column is wider than 64 bits; a larger number names nothing that could be there.
    if not _INTEGER.fullmatch(text) or not -(2**63) <= int(text) < 2**63:
        raise ValueError("takes an integer of 64 bits")
    return int(text)


def _number(text: str) -> float | int:
    if _INTEGER.fullmatch(text):
        return int(text)
    if not _NUMBER.fullmatch(text):
        raise ValueError("takes a number")
    return float(text)


def _json(text: str) -> Any:
    try:
        return loads(text)
    except (CanonicalJsonError, RecursionError):
        raise ValueError("takes JSON") from None
