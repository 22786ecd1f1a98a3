"""L2 HTTP: all operation routes in one table: find path and method, then serve in the pool."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.answers import Answer
from app.api.bodies import declared_length, read_body, spool_body
from app.api.deps import Doorkeeper
from app.api.endpoint import Call, Endpoint
from app.api.errors import HttpRefusal
from app.api.exchange import exchange_of
from app.api.otlp import OtlpEndpoint
from app.api.path_table import PathTable
from app.api.routing import Route
from app.api.worker_pool import DispatchPool
from app.hoc_spine.spine import Spine
from app.kernel.errors import ErrorKind, HocError

# A body up to this size is read before the caller is proven: one visit to the pool instead of two.
EAGER_BODY_BYTES: Final = 64 * 1024
_PARAMETER: Final = re.compile(r"\{[^}]*\}")


@dataclass(slots=True)
class _Path:
    template: str
    endpoints: dict[str, Endpoint] = field(default_factory=dict)

    @property
    def allow(self) -> str:
        methods = set(self.endpoints)
        return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


class OperationTable:
    """Serve all operation routes; RuntimeError at start-up for a route that does not fit its operation."""

    def __init__(
        self, routes: Iterable[Route], *, spine: Spine, door: Doorkeeper, pool: DispatchPool
    ) -> None:
        self._door = door
        self._pool = pool
        self._paths: PathTable[_Path] = PathTable()
        by_shape: dict[str, _Path] = {}
        for route in routes:
            path = by_shape.setdefault(_PARAMETER.sub("{}", route.path), _Path(route.path))
            if route.method in path.endpoints:
                raise RuntimeError(f"two routes for {route.method} {route.path}")
            made = OtlpEndpoint if route.protocol == "otlp" else Endpoint
            path.endpoints[route.method] = made(route, spine=spine, door=door)
        for path in by_shape.values():
            self._paths.put(path.template, path)

    def before(self, app: ASGIApp) -> ASGIApp:
        """Return an application that serves every path of the table, and leaves all others to `app`."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            found = self._paths.find(scope["path"]) if scope["type"] == "http" else None
            if found is None:
                await app(scope, receive, send)
            else:
                await self._serve(*found, scope, receive, send)

        return serve

    async def _serve(
        self, path: _Path, values: tuple[str, ...], scope: Scope, receive: Receive, send: Send
    ) -> None:
        exchange = exchange_of(scope)
        exchange.route = path.template
        head = scope["method"] == "HEAD"
        endpoint = path.endpoints.get("GET" if head else scope["method"])
        if endpoint is None:
            await self._pool.run(self._door.admit_stranger, exchange)
            raise HttpRefusal(
                405, "METHOD_NOT_ALLOWED", "This path has no such method.", headers=(("allow", path.allow),)
            )
        exchange.shape_refusal = endpoint.refusal
        call = Call(exchange, values, scope.get("query_string", b""))
        try:
            await self._take_body(endpoint, call, receive)
        except (HocError, HttpRefusal):
            # What is wrong with a body is told to a proven caller only; a stranger gets the one 401.
            await self._pool.run(endpoint.admit, call)
            raise
        answer: Answer = await self._pool.run(endpoint.serve, call)
        await answer.send(send, head=head)

    async def _take_body(self, endpoint: Endpoint, call: Call, receive: Receive) -> None:
        declared = declared_length(call.exchange.headers)
        if not endpoint.takes_body:
            if declared != 0:
                raise HocError(ErrorKind.MALFORMED, "BODY_NOT_ALLOWED", "This method takes no body.")
            return
        if declared is None or declared > EAGER_BODY_BYTES:
            # Nobody fills our memory before we know who it is.
            await self._pool.run(endpoint.admit, call)
        if endpoint.route.spool_body:
            call.file = await spool_body(receive, limit=endpoint.max_body_bytes, declared=declared)
        elif declared != 0:
            call.body = await read_body(receive, limit=endpoint.max_body_bytes, declared=declared)
