"""Spine: maintenance, the due work of every tenant; one round at a time, safe in all workers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import structlog

from app.hoc_spine.spine import Spine
from app.hoc_spine.worker import PlaneWorker
from app.kernel.context import Actor, Door, RequestContext

ACTOR: Final = Actor("SYSTEM", "maintenance")
STOP_SECONDS: Final = 10.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What one round did."""

    tenants: int
    runs_expired: int


class Maintenance:
    """Expires the runs past their deadline, each inside its own tenant."""

    def __init__(self, spine: Spine) -> None:
        self._spine = spine

    def run_round(self) -> RoundReport:
        """Do what is due now; a tenant whose work is refused is logged and does not stop the others."""
        tenants = expired = 0
        for tenant_id in self._tenant_ids():
            tenants += 1
            more = True
            while more:
                context = self._context(tenant_id, "worker")
                result = self._spine.dispatch("runs.expire", context, {})
                if result.error is not None:
                    _log.warning("maintenance.refused", tenant_id=tenant_id, code=result.error_code)
                    break
                ended = result.unwrap()
                expired += len(ended.expired)
                more = ended.more
        return RoundReport(tenants, expired)

    def _tenant_ids(self) -> Iterator[str]:
        cursor: str | None = None
        while True:
            context = self._context("_system", "operator")
            payload = {"limit": 500, "cursor": cursor}
            page = self._spine.dispatch("ops.tenants.list", context, payload).unwrap()
            yield from (tenant.tenant_id for tenant in page.items)
            cursor = page.next_cursor
            if cursor is None:
                return

    def _context(self, tenant_id: str, door: Door) -> RequestContext:
        return RequestContext(
            tenant_id=tenant_id, actor=ACTOR, request_id=self._spine.services.ids.new("req"), door=door
        )


class MaintenanceLoop:
    """The thread of a server process that does a round every HOC_MAINTENANCE_INTERVAL_SECONDS."""

    def __init__(self, spine: Spine) -> None:
        self._maintenance = Maintenance(spine)
        self._interval = spine.services.settings.maintenance_interval_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hoc-maintenance", daemon=True)

    def start(self) -> None:
        """Start the thread; its first round comes after one interval."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the round at hand."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            try:
                self._maintenance.run_round()
            except Exception:  # noqa: BLE001 - the loop outlives whatever a round meets
                _log.exception("maintenance.round_failed")


def drain(spine: Spine) -> tuple[int, RoundReport]:
    """Work off all due plane jobs and do one round; return the jobs taken and the round's report."""
    return PlaneWorker(spine, name="hoc-maintenance").drain(), Maintenance(spine).run_round()
