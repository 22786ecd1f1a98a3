"""L5 engine of artifact queries: checks every condition, then asks for one page or one count."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import queries as driver
from app.domains.repository.engines import documents
from app.domains.repository.engines.search import check_query
from app.domains.repository.errors import invalid_filter, too_large
from app.domains.repository.models.inputs import ArtifactFilter, ArtifactQuery, MetadataFilter
from app.domains.repository.models.selections import MetadataCondition, Ordering, ScalarKey, Selection
from app.domains.repository.models.vocabulary import ScalarKind
from app.kernel.clock import format_time
from app.kernel.pages import read_cursor

MAX_IDS = 500
MAX_CONDITIONS = 20
MAX_IN_VALUES = 50_000
_MAX_INTEGER = 10**300
_HEX = re.compile(r"[0-9a-f]{8,64}")
_POINTER = re.compile(r"(/([^~/]|~[01])*)+")
_TIMES = ("created_from", "created_to", "updated_from", "updated_to")
_RANGES = ("lt", "lte", "gt", "gte")
_CURSOR_KINDS: dict[str, type[str | int | datetime]] = {"updated_at": datetime, "created_seq": int}
_ALWAYS, _NEVER = MetadataCondition("", "always"), MetadataCondition("", "never")


def read_selection(query: ArtifactFilter) -> Selection:
    """Return a checked filter; refuse INVALID_FILTER, EMPTY_QUERY, TOO_LARGE."""
    if query.ids is not None and len(query.ids) > MAX_IDS:
        raise too_large(MAX_IDS, len(query.ids), "The list of ids")
    if len(query.metadata) > MAX_CONDITIONS:
        raise invalid_filter(f"There are more than {MAX_CONDITIONS} metadata conditions.")
    equals = {name: getattr(query, name) for name in ("collection_id", "artifact_type")}
    equals["name_key"] = None if query.name is None else unicodedata.normalize("NFC", query.name)
    conditions = [read_condition(item, index) for index, item in enumerate(query.metadata)]
    return Selection(
        equals={name: value for name, value in equals.items() if value is not None},
        ids=None if query.ids is None else tuple(query.ids),
        name_range=None
        if query.name_prefix is None
        else _prefix(unicodedata.normalize("NFC", query.name_prefix)),
        digest_range=None if query.digest is None else _digest_range(query.digest),
        produced_by_run=query.produced_by_run,
        times={name: getattr(query, name) for name in _TIMES if getattr(query, name) is not None},
        metadata=tuple(condition for condition in conditions if condition not in (_ALWAYS, _NEVER)),
        tokens=() if query.text is None else tuple(check_query(query.text)),
        related=query.related_to,
        # What is asked of the projection, the index or the edges is never true of a tombstone.
        live_only=not query.include_deleted or bool(conditions) or query.related_to is not None,
        nothing=query.ids == [] or _NEVER in conditions or any(_is_empty_in(c) for c in conditions),
    )


def _is_empty_in(condition: MetadataCondition) -> bool:
    return condition.op == "in" and not condition.values


def _prefix(text: str) -> tuple[str, str | None]:
    return text, successor(text)


def successor(text: str) -> str | None:
    """Return the least text above every text with this prefix, by code point; null when there is none."""
    for at in range(len(text) - 1, -1, -1):
        point = ord(text[at])
        if point < 0x10FFFF:
            following = 0xE000 if point == 0xD7FF else point + 1
            return text[:at] + chr(following)
    return None


def _digest_range(text: str) -> tuple[str, str]:
    digits = text.removeprefix("sha256:")
    if not _HEX.fullmatch(digits):
        raise invalid_filter("A digest is given whole, or as at least 8 lowercase hex digits.")
    # `g` follows every hex digit in every collation, so the index of any database serves the range.
    return f"sha256:{digits}", f"sha256:{digits}g"


def read_condition(item: MetadataFilter, index: int) -> MetadataCondition:
    """Return a checked metadata condition; refuse INVALID_FILTER with its index."""
    if len(item.pointer.encode(errors="replace")) > documents.MAX_POINTER_BYTES:
        raise invalid_filter("The pointer is longer than 512 bytes.", index)
    if (item.pointer and not _POINTER.fullmatch(item.pointer)) or _unstorable(item.pointer):
        raise invalid_filter("The pointer is no JSON pointer.", index)
    if item.op == "exists":
        if not isinstance(item.value, bool):
            raise invalid_filter("exists takes true or false.", index)
        condition = MetadataCondition(item.pointer, "exists" if item.value else "missing")
    elif item.op == "in":
        condition = MetadataCondition(item.pointer, "in", _in_values(item.value, index))
    elif item.op in ("eq", "ne", "contains", "prefix", *_RANGES):
        condition = _with_value(item, index)
    else:
        raise invalid_filter(f"There is no operator {item.op[:40]}.", index)
    if item.pointer == "":
        # The whole document is an object: there, and equal to no scalar.
        return _ALWAYS if condition.op in ("exists", "ne") else _NEVER
    return condition


def _with_value(item: MetadataFilter, index: int) -> MetadataCondition:
    value = _scalar(item.value, index)
    if item.op in _RANGES and value.kind not in (ScalarKind.NUMBER, ScalarKind.STRING):
        raise invalid_filter(f"{item.op} takes a number or a string.", index)
    if item.op != "prefix":
        return MetadataCondition(item.pointer, item.op, (value,))
    if value.kind is not ScalarKind.STRING:
        raise invalid_filter("prefix takes a string.", index)
    return MetadataCondition(item.pointer, "prefix", (value,), successor(str(value.key)))


def _in_values(values: Any, index: int) -> tuple[ScalarKey, ...]:
    if not isinstance(values, list):
        raise invalid_filter("in takes an array.", index)
    if len(values) > MAX_IN_VALUES:
        raise invalid_filter(f"in takes at most {MAX_IN_VALUES} values.", index)
    return tuple(dict.fromkeys(_scalar(value, index) for value in values))


def _scalar(value: Any, index: int) -> ScalarKey:
    if isinstance(value, dict | list):
        raise invalid_filter("The value is no scalar.", index)
    if isinstance(value, str) and _unstorable(value):
        raise invalid_filter("The value holds a character that no metadata holds.", index)
    beyond = isinstance(value, int) and abs(value) >= _MAX_INTEGER
    if beyond or (isinstance(value, float) and not math.isfinite(value)):
        raise invalid_filter("The value is no number that metadata holds.", index)
    return documents.scalar_key(value)


def _unstorable(text: str) -> bool:
    return "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text)


def read_order(query: ArtifactQuery, binding: str) -> Ordering:
    """Return the order of a page and one row more; refuse INVALID_CURSOR."""
    key = read_cursor(query.cursor, binding, _CURSOR_KINDS.get(query.order_by, str), str)
    after = None if key is None else (key[0], str(key[1]))
    return Ordering(query.order_by, query.direction == "desc", query.limit + 1, after)


def cursor_key(row: Mapping[str, Any], column: str) -> list[Any]:
    """Return the cursor key of a row: the value it is ordered by, and its id."""
    value = row[column]
    return [format_time(value) if isinstance(value, datetime) else value, row["id"]]


def list_matching(
    connection: DriverConnection, *, tenant_id: str, selection: Selection, order: Ordering
) -> Sequence[Mapping[str, Any]]:
    """Return a page of artifacts with their heads, one row more where more follow."""
    if selection.nothing:
        return []
    return driver.list_matching(connection, tenant_id=tenant_id, selection=selection, order=order)


def count_matching(connection: DriverConnection, *, tenant_id: str, selection: Selection) -> int:
    """Return how many artifacts match."""
    if selection.nothing:
        return 0
    return driver.count_matching(connection, tenant_id=tenant_id, selection=selection)
