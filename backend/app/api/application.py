"""L2 HTTP: the ASGI application put together from routes, middleware and one spine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from app.api.deps import Doorkeeper
from app.api.errors import HttpRefusal
from app.api.exchange import exchange_of
from app.api.metrics import http_metrics
from app.api.middleware import RequestMiddleware
from app.api.openapi import build_document
from app.api.operation_table import OperationTable
from app.api.rate_limits import RateLimiter
from app.api.routes.health import health_routes
from app.api.routing import Route
from app.api.table import ROUTES
from app.api.worker_pool import DispatchPool
from app.hoc_spine.operation_registry import OperationRegistry
from app.hoc_spine.spine import Spine
from app.kernel.result_json import render

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def build_application(
    spine: Spine, *, pool: DispatchPool, routes: Sequence[Route] = ROUTES, lifespan: Lifespan | None = None
) -> FastAPI:
    """Return the application over a spine; RuntimeError for a route that does not fit its operation."""
    metrics = http_metrics()
    settings = spine.services.settings
    limiter = RateLimiter(clock=spine.services.clock, metrics=metrics, redis_url=settings.redis_url)
    door = Doorkeeper(spine, limiter=limiter, metrics=metrics)
    table = OperationTable(routes, spine=spine, door=door, pool=pool)

    async def refuse(request: Request, error: Exception) -> Response:
        # The framework's own refusals (no such path, wrong method) become problems like all others.
        await pool.run(door.admit_stranger, exchange_of(request.scope))
        if isinstance(error, HTTPException) and error.status_code == 405:
            allow = sorted((error.headers or {}).get("Allow", "").split(", "))
            raise HttpRefusal(
                405,
                "METHOD_NOT_ALLOWED",
                "This path has no such method.",
                headers=(("allow", ", ".join(allow)),),
            )
        raise HttpRefusal(404, "ROUTE_NOT_FOUND", "There is no such path.")

    application = FastAPI(
        title="HOC Spine",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Metrics and logs are our own; the framework would ask three providers on every request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        lifespan=lifespan,
        exception_handlers={HTTPException: refuse},
        middleware=[
            Middleware(RequestMiddleware, metrics=metrics, slow_seconds=settings.slow_request_ms / 1000),
            # Before the framework's own routing: nearly every request is for an operation.
            Middleware(table.before),
        ],
    )
    application.router.routes[:0] = [*health_routes(spine), _document_route(routes, spine.registry)]
    return application


def _document_route(routes: Sequence[Route], registry: OperationRegistry) -> StarletteRoute:
    text: list[bytes] = []

    async def openapi(request: Request) -> Response:
        exchange_of(request.scope).route = "/openapi.json"
        if not text:
            text.append(render(build_document(routes, registry)))
        return Response(text[0], media_type="application/json")

    return StarletteRoute("/openapi.json", openapi)
