"""Spine: the job loop: claims due plane jobs of every tenant and works them off, step by step."""

from __future__ import annotations

import os
import threading
from typing import Final

import structlog

from app.hoc_spine.coordinators import plane_jobs
from app.hoc_spine.coordinators.plane_wake import WAKE
from app.hoc_spine.operation_registry import OperationResult
from app.hoc_spine.spine import Spine
from app.kernel.context import Actor, RequestContext
from app.kernel.errors import HocError

POLL_SECONDS: Final = 1.0
STOP_SECONDS: Final = 10.0
DUE_AT_ONCE: Final = 100
MISSES_IN_A_ROW: Final = 5
MISS_SECONDS: Final = 0.2
ACTOR: Final = Actor("SYSTEM", "plane-worker")
SYSTEM_TENANT: Final = "_system"

_log = structlog.get_logger(__name__)


class PlaneWorker:
    """Works off plane jobs, one at a time; any number of them in any number of processes is safe."""

    def __init__(self, spine: Spine, *, name: str = "plane-worker") -> None:
        self._spine = spine
        self._name = name
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Stop after the step at hand; another worker goes on with the job when its lease runs out."""
        self._stopped.set()

    def drain(self) -> int:
        """Work off every job that is due and return how many were taken."""
        taken = 0
        while not self._stopped.is_set():
            worked = [self.work(tenant_id, job_id) for tenant_id, job_id in self._due()]
            if not any(worked):
                break
            taken += sum(worked)
        return taken

    def work(self, tenant_id: str, job_id: str) -> bool:
        """Take one job and do all its steps; False when somebody else has it or nothing may be claimed."""
        claimed = self._dispatch(
            tenant_id, "knowledge.jobs.claim", {"job_id": job_id, "lease_owner": self._name}
        )
        if claimed.error is not None:
            _log.warning("plane_job.claim_failed", job_id=job_id, code=claimed.error_code)
            return False
        claim = claimed.unwrap()
        if claim.lease_token is None:
            return False
        held = {"job_id": job_id, "lease_token": claim.lease_token}
        if claim.attempt > claim.max_attempts:
            self._fail(tenant_id, held, "LEASE_LOST", "The last try ended without a word.", retryable=True)
            return True
        error = self._steps(tenant_id, held)
        if error is not None and error.code != "JOB_NOT_ACTIVE":
            code, message, retryable = plane_jobs.failure_of(error)
            self._fail(tenant_id, held, code, message, retryable=retryable)
        return True

    def _steps(self, tenant_id: str, held: dict[str, str]) -> HocError | None:
        """Do step after step; a lock that somebody holds for a moment is no failed try of the whole job."""
        misses = 0
        while not self._stopped.is_set():
            step = self._dispatch(tenant_id, "knowledge.jobs.progress", held)
            if step.error is None:
                if step.unwrap().done:
                    return self._dispatch(tenant_id, "knowledge.jobs.complete", held).error
                misses = 0
            elif step.error_code in plane_jobs.PASSING and misses < MISSES_IN_A_ROW:
                misses += 1
                self._stopped.wait(MISS_SECONDS * misses)
            else:
                return step.error
        return None

    def _fail(
        self, tenant_id: str, held: dict[str, str], code: str, message: str, *, retryable: bool
    ) -> None:
        _log.warning("plane_job.failed", job_id=held["job_id"], code=code, retryable=retryable)
        payload = {**held, "error_code": code, "message": message, "retryable": retryable}
        failed = self._dispatch(tenant_id, "knowledge.jobs.fail", payload)
        if failed.error is not None:
            # The lease runs out, and the next claim counts as the next try.
            _log.warning("plane_job.fail_not_recorded", job_id=held["job_id"], code=failed.error_code)

    def _due(self) -> list[tuple[str, str]]:
        now = self._spine.services.clock.now()
        with self._spine.transactions.read(SYSTEM_TENANT, role="hoc_maintenance") as connection:
            return plane_jobs.list_due(connection, now=now, limit=DUE_AT_ONCE)

    def _dispatch(
        self, tenant_id: str, name: str, payload: dict[str, object] | dict[str, str]
    ) -> OperationResult:
        context = RequestContext(
            tenant_id=tenant_id,
            actor=ACTOR,
            request_id=self._spine.services.ids.new("req"),
            door="worker",
        )
        return self._spine.dispatch(name, context, payload)


class PlaneWorkers:
    """The worker threads of a server process: woken by the commit that queues a job, polling each second."""

    def __init__(self, spine: Spine) -> None:
        self._wake: threading.Event = spine.services.caches.get(WAKE) or threading.Event()
        self._stopping = threading.Event()
        count = spine.services.settings.plane_workers
        self._workers = [
            PlaneWorker(spine, name=f"plane-worker-{os.getpid()}-{number}") for number in range(1, count + 1)
        ]
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads."""
        for worker in self._workers:
            thread = threading.Thread(target=self._run, args=(worker,), name="hoc-plane-worker", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop the threads after the steps at hand."""
        self._stopping.set()
        for worker in self._workers:
            worker.stop()
        self._wake.set()
        for thread in self._threads:
            thread.join(STOP_SECONDS)
        self._threads.clear()

    def _run(self, worker: PlaneWorker) -> None:
        while not self._stopping.is_set():
            try:
                worker.drain()
            except Exception:  # noqa: BLE001 - the loop outlives whatever a round meets
                # The database is away; the next round finds everything as it was.
                _log.exception("plane_worker.round_failed")
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()
