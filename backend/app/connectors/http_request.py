"""Connectors: the request that an endpoint and its parameters make; the caller never sends a URL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from app.connectors.values import ConnectorFailedError, ConnectorRefusedError
from app.kernel.canonical_json import dumps

_OMITTED = object()
# What a path may hold as it is, escapes included (RFC 3986 section 3.3).
_PLAIN = "/%:@!$&'()*+,;=~-._"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a plane's service is: scheme, host, port and the path before every endpoint's own."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, base_url: str) -> Place:
        """Return the place of a checked base URL."""
        parts = urlsplit(base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            host = (parts.hostname or "").encode("idna").decode()
        except UnicodeError as error:
            raise ConnectorFailedError("HOST_NOT_ALLOWED", "the host is no name", lasting=True) from error
        return cls(parts.scheme, host, port, quote(parts.path.rstrip("/"), safe=_PLAIN))


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """Method, target and body of one call."""

    method: str
    target: str
    body: bytes | None = None


def make_request(place: Place, endpoint: Mapping[str, Any], params: Mapping[str, Any]) -> HttpRequest:
    """Return the request of an endpoint; raise INVALID_PAYLOAD for a value that is no path segment."""
    path = place.path + _path(endpoint["path"], params)
    pairs: list[tuple[str, str]] = []
    for name, wanted in (endpoint["query"] or {}).items():
        value = _filled(wanted, params)
        if value is not _OMITTED:
            pairs += [(name, _text(item)) for item in (value if isinstance(value, list) else [value])]
    target = f"{path}?{urlencode(pairs)}" if pairs else path
    body = None
    if endpoint["body"] is not None:
        body = dumps(_filled(endpoint["body"], params)).encode()
    return HttpRequest(endpoint["method"], target, body)


def _path(template: str, params: Mapping[str, Any]) -> str:
    segments = []
    for segment in template.split("/")[1:]:
        made = quote(segment, safe=_PLAIN)
        for name, value in params.items():
            hole = quote("{" + name + "}")
            if hole in made:
                text = "" if value is None else _text(value)
                if text in ("", ".", ".."):
                    raise ConnectorRefusedError("INVALID_PAYLOAD", f"{name} is no segment of a path")
                made = made.replace(hole, quote(text, safe=""))
        segments.append(made)
    return "/" + "/".join(segments)


def _filled(wanted: Any, params: Mapping[str, Any]) -> Any:
    """Return a value with its parameters for `{name}`; one without a value leaves its member out."""
    if isinstance(wanted, str) and wanted.startswith("{") and wanted.endswith("}"):
        value = params.get(wanted[1:-1], _OMITTED)
        if value is None or value is _OMITTED:
            return _OMITTED
        return value if isinstance(value, str | bool | int | float | list) else _text(value)
    if isinstance(wanted, dict):
        filled = {name: _filled(item, params) for name, item in wanted.items()}
        return {name: item for name, item in filled.items() if item is not _OMITTED}
    if isinstance(wanted, list):
        return [item for item in (_filled(item, params) for item in wanted) if item is not _OMITTED]
    return wanted


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, date | datetime) else str(value)
