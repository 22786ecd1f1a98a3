"""Spine: how it stands with the logs of all tenants: readiness, metrics, and the limit of waiting facts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Final

import structlog
from prometheus_client import Gauge

from app.db.connection import DriverConnection
from app.domains.logs.errors import log_backlog
from app.hoc_spine.coordinators import log_overview
from app.hoc_spine.coordinators.log_files import LogFiles
from app.hoc_spine.coordinators.log_overview import LogOverview
from app.hoc_spine.readiness import Component
from app.kernel.clock import Clock
from app.kernel.errors import safe_trace
from app.settings import Settings

NAME: Final = "log_sequencer"
WATCH_SECONDS: Final = 2.0
STOP_SECONDS: Final = 10.0
MAX_LAG_SECONDS: Final = 30.0
PENDING = Gauge(
    "hoc_log_pending_entries",
    "Facts that wait to be sequenced, of all tenants.",
    multiprocess_mode="mostrecent",
)
LAG = Gauge(
    "hoc_log_lag_seconds",
    "Age of the fact that has waited longest to be sequenced.",
    multiprocess_mode="mostrecent",
)
CHECKPOINT_AGE = Gauge(
    "hoc_checkpoint_age_seconds",
    "Age of the oldest entry that no checkpoint covers yet; 0 when all are covered.",
    multiprocess_mode="mostrecent",
)
HALTED = Gauge("hoc_log_halted", "Logs that are halted.", multiprocess_mode="mostrecent")
_log = structlog.get_logger(__name__)


class LogWatch:
    """Looks at all logs every two seconds in a server process, and whenever readiness is asked for."""

    def __init__(
        self,
        read: Callable[[], AbstractContextManager[DriverConnection]],
        *,
        settings: Settings,
        files: LogFiles,
        clock: Clock,
    ) -> None:
        self._read = read
        self._settings = settings
        self._files = files
        self._clock = clock
        self._full = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hoc-log-watch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def require_room(self) -> None:
        """Refuse LOG_BACKLOG while more facts wait than HOC_LOG_MAX_PENDING, as of the last look."""
        if self._full:
            raise log_backlog()

    def observe(self) -> LogOverview:
        """Look now, and set the metrics."""
        limit = self._settings.log_max_pending
        with self._read() as connection:
            found = log_overview.read_overview(connection, limit=limit)
        now = self._clock.now()
        self._full = found.pending >= limit
        PENDING.set(found.pending)
        LAG.set(_age(found.oldest_at, now))
        CHECKPOINT_AGE.set(_age(found.unsigned_at, now))
        HALTED.set(found.halted)
        return found

    def component(self) -> Component:
        """Return whether the logs keep up; failed: one is halted, nobody can sign, or facts wait too long."""
        try:
            found = self.observe()
        except Exception as error:  # noqa: BLE001 - a probe reports every failure
            # Whether the database answers is another component's finding.
            _log.warning("log_watch.failed", trace=safe_trace(error))
            return Component(NAME, "degraded", "The logs could not be looked at.")
        lag = _age(found.oldest_at, self._clock.now())
        if found.halted:
            return Component(NAME, "failed", f"{found.halted} halted: see hoc log status.")
        if self._settings.log_sequencer == "off":
            return Component(NAME, "not_configured", "HOC_LOG_SEQUENCER is off; facts are queued.")
        if lag > MAX_LAG_SECONDS:
            return Component(NAME, "failed", f"A fact has waited for {lag:.0f} seconds.")
        if not self._files.can_sign():
            return Component(
                NAME, "failed", "NO_SIGNING_KEY: set HOC_LOG_KEY_FILE; hoc log keygen makes one."
            )
        return Component(NAME, "ok")

    def report(self) -> dict[str, Any]:
        """Return what an operator wants to know of all logs."""
        found, component = self.observe(), self.component()
        return {
            "status": component.status,
            "reason": component.reason,
            "pending": found.pending,
            "halted": found.halted,
        }

    def _run(self) -> None:
        while not self._stopping.wait(WATCH_SECONDS):
            try:
                self.observe()
            except Exception as error:  # noqa: BLE001 - the loop outlives whatever a look meets
                _log.warning("log_watch.failed", trace=safe_trace(error))


def _age(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())
