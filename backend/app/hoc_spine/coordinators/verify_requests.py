"""Spine: verifications that were asked for, on their way to the thread that does them."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """A verification of a tenant's whole log, and the id under which its result will appear."""

    tenant_id: str
    verification_id: str


class VerifyRequests:
    """At most one request of a tenant waits or runs in this process; `asked` wakes who does them."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._lock = threading.Lock()
        self._open: dict[str, VerifyRequest] = {}
        self._waiting: list[VerifyRequest] = []

    def accept(self, request: VerifyRequest) -> bool:
        """Put a request in line; return False while one of the same tenant waits or runs."""
        with self._lock:
            if request.tenant_id in self._open:
                return False
            self._open[request.tenant_id] = request
            self._waiting.append(request)
        self.asked.set()
        return True

    def take(self) -> VerifyRequest | None:
        """Return the next request, which runs until `end` is told."""
        with self._lock:
            if not self._waiting:
                self.asked.clear()
                return None
            return self._waiting.pop(0)

    def end(self, request: VerifyRequest) -> None:
        """Let the tenant ask again."""
        with self._lock:
            self._open.pop(request.tenant_id, None)
