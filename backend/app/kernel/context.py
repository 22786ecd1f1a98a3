"""Kernel: who asks, for which tenant, on behalf of which run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Door = Literal["tenant", "operator", "worker"]


@dataclass(frozen=True, slots=True)
class Actor:
    """The acting party of the credential: HUMAN, SYSTEM or AGENT, and its id."""

    type: str
    id: str


@dataclass(frozen=True, slots=True)
class Precondition:
    """An If-Match condition: the accepted row versions, or None for `*`."""

    versions: frozenset[int] | None

    def accepts(self, version: int) -> bool:
        """Tell whether a row of this version meets the condition."""
        return self.versions is None or version in self.versions


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request as the spine sees it; the tenant comes from the credential alone.

    degraded: the credential's look-up found the system in degraded mode; reads are flagged by it.
    operation_run_id: the workflow run of the repository that the library writes under, which is no
    governed run: change records name it, the log and the ledger do not.
    """

    tenant_id: str
    actor: Actor
    request_id: str
    scopes: frozenset[str] = frozenset()
    key_id: str | None = None
    run_id: str | None = None
    operation_run_id: str | None = None
    traceparent: str | None = None
    idempotency_key: str | None = None
    precondition: Precondition | None = None
    door: Door = "tenant"
    degraded: bool = False

    @property
    def trace_id(self) -> str | None:
        """The W3C trace id of `traceparent`, 32 hex digits."""
        return self.traceparent.split("-")[1] if self.traceparent else None

    @property
    def span_id(self) -> str | None:
        """The W3C parent span id of `traceparent`, 16 hex digits."""
        return self.traceparent.split("-")[2] if self.traceparent else None


def has_scope(scopes: frozenset[str], wanted: str) -> bool:
    """Tell whether exact, `area:*` or `*` scopes grant `area:verb`."""
    area = wanted.partition(":")[0]
    return wanted in scopes or f"{area}:*" in scopes or "*" in scopes
