"""Spine: maintenance, the due work of every tenant; one round at a time, safe in all workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from app.hoc_spine.outbox_delivery import OutboxDelivery
from app.hoc_spine.spine import Spine
from app.hoc_spine.worker import PlaneWorker
from app.kernel.clock import format_time
from app.kernel.context import Actor, Door, RequestContext

ACTOR: Final = Actor("SYSTEM", "maintenance")
STOP_SECONDS: Final = 10.0
_log = structlog.get_logger(__name__)


# What is due in a tenant, in this order, and how to count what was done of it. An operation that leaves
# more to do says so by `more`, or by a `next_cursor` from which it goes on.
TENANT_WORK: Mapping[str, Callable[[Any], int]] = {
    "runs.expire": lambda done: len(done.expired),
    "usage.expire_reservations": lambda done: done.count,
    "controls.overrides.expire": lambda done: done.count,
    "controls.limits.settle_plan": lambda done: done.count,
    "lessons.reactivate_due": lambda done: len(done.reactivated),
    "runs.reconcile": lambda done: len(done.incomplete),
    "knowledge.planes.tend": lambda done: len(done.refreshed),
    "retrieval.reconcile": lambda done: done.matched + done.bypasses,
    "idempotency.forget": lambda done: done.forgotten,
}


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What one round did, by operation."""

    tenants: int
    done: Mapping[str, int]
    events_delivered: int

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
        tenants, delivered, done = 0, 0, dict.fromkeys(TENANT_WORK, 0)
        self._note_used_keys()
        for tenant_id in self._tenant_ids():
            tenants += 1
            for operation, count in TENANT_WORK.items():
                done[operation] += sum(count(part) for part in self._work_off(tenant_id, operation))
            if self._delivery is not None:
                delivered += self._delivery.deliver_due(self._context(tenant_id, "worker"))
        return RoundReport(tenants, done, delivered)

    def _note_used_keys(self) -> None:
        for tenant_id, used in self._spine.authenticator.take_used().items():
            payload = {"used": {key_id: format_time(at) for key_id, at in used.items()}}
            self._spine.dispatch("keys.note_use", self._context(tenant_id, "worker"), payload)

    def _work_off(self, tenant_id: str, operation: str) -> Iterator[Any]:
        payload: dict[str, Any] = {}
        more = True
        while more:
            result = self._spine.dispatch(operation, self._context(tenant_id, "worker"), payload)
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
