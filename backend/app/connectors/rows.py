"""Connectors: rows of foreign sources as documents: canonical values, digests, references by key."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any, Final
from uuid import UUID

from app.connectors.values import ConnectorDocument, ConnectorFailedError
from app.kernel.canonical_json import CanonicalJsonError, dumps
from app.kernel.clock import format_time
from app.kernel.hashing import digest_of, sha256_hex

MAX_KEY: Final = 200
_ADDRESSES = (IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network)


def make_document(source_id: str, keys: Sequence[str], row: Mapping[str, Any]) -> ConnectorDocument:
    """Return a row as a document of its template or endpoint; raise RESPONSE_INVALID.

    The reference is `<source>:<canonical array of the key values>`, or its hash when that is long.
    """
    plain = {name: plain_value(value) for name, value in row.items()}
    key = [_key_value(plain, name) for name in keys]
    try:
        reference, text = f"{source_id}:{dumps(key)}", dumps(plain)
    except (CanonicalJsonError, RecursionError) as error:
        raise invalid("a row has no canonical form") from error
    if len(reference) > MAX_KEY:
        reference = sha256_hex(reference.encode())
    return ConnectorDocument(doc_ref=reference, digest=digest_of(text.encode()), row=plain)


def plain_value(value: Any) -> Any:
    """Return a column's value as JSON; raise RESPONSE_INVALID for what has no form there."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: plain_value(item) for name, item in value.items()}
    for kinds, write in _FORMS:
        if isinstance(value, kinds):
            return write(value)
    raise invalid(f"a value of type {type(value).__name__} has no form")


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise invalid("a number is not finite")
    return value


def _decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise invalid("a number is not finite")
    return format(value, "f")


def _moment(value: datetime) -> str:
    return value.isoformat() if value.tzinfo is None else format_time(value)


# In this order: a moment is a date too.
_FORMS: Final[tuple[tuple[tuple[type, ...], Callable[[Any], Any]], ...]] = (
    ((float,), _finite),
    ((Decimal,), _decimal),
    ((bytes, bytearray, memoryview), lambda value: base64.b64encode(bytes(value)).decode()),
    ((datetime,), _moment),
    ((date, time), lambda value: value.isoformat()),
    ((timedelta,), lambda value: f"PT{value / timedelta(seconds=1):f}S"),
    ((UUID, *_ADDRESSES), str),
)


def invalid(detail: str) -> ConnectorFailedError:
    """Return the failure of an answer that is not what was agreed on."""
    return ConnectorFailedError("RESPONSE_INVALID", detail, lasting=True)


def _key_value(row: Mapping[str, Any], name: str) -> str | int | float | bool:
    value = row.get(name)
    if value is None or not isinstance(value, str | int | float | bool):
        raise invalid("a key column is missing, null or no plain value")
    return value
