"""L2 HTTP: liveness, readiness and metrics; outside /api/v1, without credentials and without quotas."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.api.exchange import exchange_of
from app.hoc_spine.readiness import Component, examine
from app.hoc_spine.spine import Spine
from app.kernel.result_json import render

PROBE_SECONDS: Final = 3.0
FRESH_SECONDS: Final = 1.0


def health_routes(spine: Spine) -> list[Route]:
    """Return the three operator routes of this process."""
    probe = Probe(spine)

    async def healthz(request: Request) -> Response:
        exchange_of(request.scope).route = "/healthz"
        return _json(200, {"status": "ok"})

    async def readyz(request: Request) -> Response:
        exchange_of(request.scope).route = "/readyz"
        return _json(*_readiness(await probe.components()))

    async def metrics(request: Request) -> Response:
        exchange_of(request.scope).route = "/metrics"
        return Response(generate_latest(_registry()), media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


class Probe:
    """Examine the components at most once a second and one at a time, however often strangers ask."""

    def __init__(self, spine: Spine) -> None:
        self._settings = spine.services.settings
        self._log = spine.services.caches["log_watch"]
        # A thread of its own: a full dispatch pool is load, not a reason to be taken out of service.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hoc-probe")
        self._running: Future[list[Component]] | None = None
        self._asked_at = 0.0

    async def components(self) -> list[Component]:
        """Return the newest finding; a probe that does not come back counts as a dead database."""
        if self._running is None or (self._running.done() and monotonic() - self._asked_at >= FRESH_SECONDS):
            self._asked_at = monotonic()
            self._running = self._executor.submit(examine, self._settings, self._log.component)
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                return await asyncio.shield(asyncio.wrap_future(self._running))
        except TimeoutError:
            return [Component("database", "failed", "The database does not answer in time.")]


def _readiness(components: Sequence[Component]) -> tuple[int, dict[str, object]]:
    ready = all(component.status != "failed" for component in components)
    listed = [{"name": c.name, "status": c.status, "reason": c.reason} for c in components]
    return (200 if ready else 503), {"status": "ready" if ready else "not_ready", "components": listed}


def _registry() -> CollectorRegistry:
    # Several worker processes share their numbers through files in the directory of this variable.
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def _json(status: int, data: object) -> Response:
    return Response(
        render(data), status, media_type="application/json", headers={"cache-control": "no-store"}
    )
