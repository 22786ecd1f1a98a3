"""L2 HTTP: raw ASGI middleware: identity of the request, log, metrics, refusals, the last resort."""

from __future__ import annotations

import re
from time import perf_counter
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import ClientGoneError, HttpRefusal, internal_problem, problem_of, refusal_problem
from app.api.exchange import SCOPE_KEY, Exchange, Headers
from app.api.metrics import HttpMetrics
from app.kernel.errors import HocError
from app.kernel.ids import ID_PATTERN, Uuid7Ids

MAX_TARGET_BYTES: Final = 16 * 1024
MAX_HEADER_BYTES: Final = 32 * 1024
MAX_HEADER_FIELDS: Final = 100
_ID: Final = re.compile(ID_PATTERN)
_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)
_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
# No answer was given, so no status is true; logs of web servers use this one.
CLIENT_GONE_STATUS: Final = 499
_QUIET: Final = frozenset(("/healthz", "/readyz", "/metrics"))
_log = structlog.get_logger("hoc.http")


class RequestMiddleware:
    """Name each request, count, time and log it, and turn refusals and bugs from below into problems."""

    def __init__(self, app: ASGIApp, *, metrics: HttpMetrics, slow_seconds: float) -> None:
        self.app = app
        self.metrics = metrics
        self.slow_seconds = slow_seconds
        # Request ids are HTTP's own, apart from the ids that operations give to what they make.
        self.ids = Uuid7Ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; anything but HTTP passes through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = scope[SCOPE_KEY] = self._exchange(scope)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=exchange.request_id)
        self.metrics.in_progress.inc()
        try:
            await self._serve(exchange, scope, receive, send)
        finally:
            self.metrics.in_progress.dec()
            self._record(exchange)

    async def _serve(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *exchange.identity_headers()]
            try:
                await send(message)
            except (OSError, RuntimeError) as error:
                # The servers differ in how they say that the connection is closed.
                raise ClientGoneError from error

        try:
            _check_head(scope)
            await self.app(scope, receive, send_named)
            return
        except ClientGoneError as gone:
            exchange.status, exchange.code = CLIENT_GONE_STATUS, "CLIENT_GONE"
            _log.info("client_gone", route=exchange.route, cause=str(gone.__cause__ or "within its body"))
            return
        except HttpRefusal as refusal:
            answer = refusal_problem(refusal, request_id=exchange.request_id, instance=exchange.instance)
        except HocError as error:
            answer = problem_of(error, request_id=exchange.request_id, instance=exchange.instance)
        except Exception:
            _log.exception("unhandled_exception", route=exchange.route, method=exchange.method)
            if exchange.status:
                # Half an answer is out; only a broken connection tells the client so.
                raise
            answer = internal_problem(request_id=exchange.request_id, instance=exchange.instance)
        exchange.code = answer.code
        if exchange.shape_refusal is not None:
            answer = exchange.shape_refusal(exchange, answer)
        try:
            await answer.send(send_named, head=exchange.method == "HEAD")
        except ClientGoneError:
            exchange.status = CLIENT_GONE_STATUS

    def _exchange(self, scope: Scope) -> Exchange:
        headers = Headers(scope["headers"])
        given = headers.single(b"x-request-id")
        run_id = headers.single(b"x-run-id")
        traceparent = headers.single(b"traceparent")
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        return Exchange(
            request_id=given if given is not None and is_id(given) else self.ids.new("req"),
            method=scope["method"],
            instance=raw_path.split(b"?", 1)[0].decode("latin-1")[:2048],
            client=str(scope["client"][0]) if scope.get("client") else "unknown",
            headers=headers,
            started=perf_counter(),
            traceparent=traceparent if traceparent is not None and _is_traceparent(traceparent) else None,
            run_id=run_id if run_id is not None and is_id(run_id) else None,
        )

    def _record(self, exchange: Exchange) -> None:
        seconds = perf_counter() - exchange.started
        # Strangers choose the method; only the known ones may become a label.
        method = exchange.method if exchange.method in _METHODS else "OTHER"
        self.metrics.record(method, exchange.route, exchange.status, seconds)
        if seconds > self.slow_seconds:
            write = _log.warning
        elif exchange.route in _QUIET:
            write = _log.debug
        else:
            write = _log.info
        write(
            "slow_request" if seconds > self.slow_seconds else "request",
            method=method,
            route=exchange.route,
            status=exchange.status,
            code=exchange.code,
            duration_ms=round(seconds * 1000, 3),
            tenant_id=exchange.tenant_id,
            key_id=exchange.key_id,
        )


def is_id(text: str) -> bool:
    """Tell whether a text is an identifier (fullmatch: `$` alone would admit a line feed)."""
    return _ID.fullmatch(text) is not None


def _is_traceparent(text: str) -> bool:
    # Version 00 has exactly four parts; later versions may append some (W3C Trace Context 3.2).
    return _TRACEPARENT.fullmatch(text) is not None and (len(text) == 55 or not text.startswith("00"))


def _check_head(scope: Scope) -> None:
    target = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
    if target > MAX_TARGET_BYTES:
        raise HttpRefusal(414, "URI_TOO_LONG", f"Path and query are limited to {MAX_TARGET_BYTES} bytes.")
    headers = scope["headers"]
    if len(headers) > MAX_HEADER_FIELDS or sum(len(n) + len(v) for n, v in headers) > MAX_HEADER_BYTES:
        raise HttpRefusal(
            431,
            "HEADERS_TOO_LARGE",
            f"A request has at most {MAX_HEADER_FIELDS} header fields of {MAX_HEADER_BYTES} bytes together.",
        )
