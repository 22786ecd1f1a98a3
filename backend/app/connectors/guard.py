"""Connectors: at most so many calls of a plane at once, and a pause after failures in a row."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from app.connectors.values import ConnectorFailedError

MAX_CALLS: Final = 8
FAILURES_IN_A_ROW: Final = 5
PAUSE_SECONDS: Final = 30.0
Key = tuple[str, str]


@dataclass(slots=True)
class _State:
    calls: int = 0
    failures: int = 0
    opened_at: float | None = None


class CallGuard:
    """Counts the calls of each plane of this process."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._states: dict[Key, _State] = {}
        self._lock = threading.Lock()

    @contextmanager
    def call(self, key: Key) -> Iterator[None]:
        """Count one call; raise CONNECTOR_BUSY over the bound, CONNECTOR_UNAVAILABLE during a pause."""
        self._enter(key)
        failures: int | None = 1
        try:
            yield
            failures = 0
        except ConnectorFailedError as failure:
            if failure.lasting:
                # A template that is wrong says nothing of the source, neither good nor bad.
                failures = None
            raise
        finally:
            self._leave(key, failures)

    def _enter(self, key: Key) -> None:
        with self._lock:
            state = self._states.setdefault(key, _State())
            paused = state.opened_at is not None and self._now() < state.opened_at + PAUSE_SECONDS
            if paused:
                raise ConnectorFailedError("CONNECTOR_UNAVAILABLE", "paused after failures in a row")
            if state.calls >= MAX_CALLS:
                raise ConnectorFailedError("CONNECTOR_BUSY", "too many calls of the plane at once")
            state.calls += 1

    def _leave(self, key: Key, failures: int | None) -> None:
        with self._lock:
            state = self._states[key]
            state.calls -= 1
            if failures is not None:
                state.failures = state.failures + failures if failures else 0
            # After a pause one more failure opens the next one.
            if failures and state.failures >= FAILURES_IN_A_ROW:
                state.opened_at = self._now()
            elif not state.failures:
                state.opened_at = None
            if not state.calls and not state.failures:
                del self._states[key]
