"""L2 HTTP: what is known about the request in hand, shared by middleware and routes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from starlette.types import Scope

from app.api.answers import Answer

SCOPE_KEY: Final = "hoc.exchange"
UNMATCHED: Final = "unmatched"


class Headers:
    """The header fields of one request, by lower-case name, repeated fields kept apart."""

    __slots__ = ("_values",)

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._values: dict[bytes, list[bytes]] = {}
        for name, value in raw:
            self._values.setdefault(name.lower(), []).append(value)

    def every(self, name: bytes) -> list[str]:
        """Return every field of this name as text."""
        return [value.decode("latin-1") for value in self._values.get(name, ())]

    def single(self, name: bytes) -> str | None:
        """Return the field when it is there exactly once, else None."""
        values = self._values.get(name)
        return values[0].decode("latin-1") if values and len(values) == 1 else None

    def __contains__(self, name: bytes) -> bool:
        """Tell whether a field of this name is there at all."""
        return name in self._values


@dataclass(slots=True)
class Exchange:
    """One request on its way: identity, headers, and what the log and the metrics will say about it."""

    request_id: str
    method: str
    instance: str
    client: str
    headers: Headers
    started: float
    traceparent: str | None = None
    run_id: str | None = None
    route: str = UNMATCHED
    status: int = 0
    code: str | None = None
    tenant_id: str | None = None
    key_id: str | None = None
    answer_headers: list[tuple[str, str]] = field(default_factory=list)
    shape_refusal: Callable[[Exchange, Answer], Answer] | None = None

    def identity_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that every answer carries: the accepted identities, echoed."""
        lines = [(b"x-request-id", self.request_id.encode())]
        if self.run_id is not None:
            lines.append((b"x-run-id", self.run_id.encode()))
        if self.traceparent is not None:
            lines.append((b"traceparent", self.traceparent.encode("latin-1")))
        lines.extend((name.encode(), value.encode("latin-1")) for name, value in self.answer_headers)
        return lines


def exchange_of(scope: Scope) -> Exchange:
    """Return the exchange that the outermost middleware put into the scope."""
    exchange: Exchange = scope[SCOPE_KEY]
    return exchange
