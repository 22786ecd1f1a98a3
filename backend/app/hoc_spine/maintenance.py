"""Spine: maintenance, the due work of all tenants; one round at a time, safe in all workers."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from app.hoc_spine.coordinators.due_work import TENANT_WORK, FindTenants, find_unanchored, find_undelivered
from app.hoc_spine.outbox_delivery import OutboxDelivery
from app.hoc_spine.spine import Spine
from app.hoc_spine.worker import PlaneWorker
from app.kernel.clock import format_time
from app.kernel.context import Actor, Door, RequestContext

ACTOR: Final = Actor("SYSTEM", "maintenance")
SYSTEM_TENANT: Final = "_system"
STOP_SECONDS: Final = 10.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What one round did, by operation; `asked` is how often a tenant was asked for work."""

    asked: int
    done: Mapping[str, int]
    events_delivered: int
    logs_anchored: int

    @property
    def runs_expired(self) -> int:
        """How many runs were ended."""
        return self.done["runs.expire"]


class Maintenance:
    """Does what is due, each work inside its own tenant."""

    def __init__(self, spine: Spine) -> None:
        self._spine = spine
        sink = spine.services.caches["event_sink"]
        self._delivery = None if sink is None else OutboxDelivery(spine, sink)

    def run_round(self) -> RoundReport:
        """Do what is due now; a tenant whose work is refused is logged and does not stop the others."""
        asked, delivered, done = 0, 0, dict.fromkeys(TENANT_WORK, 0)
        self._note_used_keys()
        for operation, work in TENANT_WORK.items():
            for tenant_id in self._tenants(work.find):
                asked += 1
                done[operation] += sum(work.count(part) for part in self._work_off(tenant_id, operation))
        if self._delivery is not None:
            for tenant_id in self._tenants(find_undelivered):
                asked += 1
                delivered += self._delivery.deliver_due(self._context(tenant_id))
        return RoundReport(asked, done, delivered, self._anchor())

    def _anchor(self) -> int:
        """Have the log of the system tell the heads of those that changed, once an hour."""
        with self._spine.transactions.read(SYSTEM_TENANT, role="hoc_maintenance") as connection:
            if not find_unanchored(connection, self._spine.services):
                return 0
        context = self._context(SYSTEM_TENANT, door="operator")
        return int(self._spine.dispatch("ops.log.anchor", context, {}).unwrap().count)

    def _note_used_keys(self) -> None:
        for tenant_id, used in self._spine.authenticator.take_used().items():
            payload = {"used": {key_id: format_time(at) for key_id, at in used.items()}}
            self._spine.dispatch("keys.note_use", self._context(tenant_id), payload)

    def _work_off(self, tenant_id: str, operation: str) -> Iterator[Any]:
        payload: dict[str, Any] = {}
        more = True
        while more:
            result = self._spine.dispatch(operation, self._context(tenant_id), payload)
            if result.error is not None:
                _log.warning(
                    "maintenance.refused", tenant_id=tenant_id, operation=operation, code=result.error_code
                )
                return
            part = result.unwrap()
            yield part
            cursor = getattr(part, "next_cursor", None)
            payload = {} if cursor is None else {"cursor": cursor}
            more = cursor is not None or getattr(part, "more", False)

    def _tenants(self, find: FindTenants) -> Collection[str]:
        with self._spine.transactions.read(SYSTEM_TENANT, role="hoc_maintenance") as connection:
            return find(connection, self._spine.services)

    def _context(self, tenant_id: str, *, door: Door = "worker") -> RequestContext:
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
