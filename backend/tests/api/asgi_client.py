"""A client of the ASGI interface itself: it can send what well-behaved HTTP clients refuse to send."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.kernel.canonical_json import dumps

HeaderLines = Mapping[str, str] | Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return a header; None when absent; fail when it is there twice."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, f"{name} twice"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        """Return the body as JSON."""
        return orjson.loads(self.body)

    @property
    def code(self) -> str:
        """Return the code of a problem, checked for its standing members."""
        assert self.header("content-type") == "application/problem+json"
        problem = self.json
        assert problem["status"] == self.status
        assert problem["request_id"] == self.header("x-request-id")
        assert {"type", "title", "detail", "instance", "code", "errors"} <= set(problem)
        return str(problem["code"])


class AsgiClient:
    """Sends one request at a time; `headers` go with every one."""

    def __init__(
        self, app: Any, *, headers: Mapping[str, str] | None = None, address: str = "192.0.2.1"
    ) -> None:
        self.app = app
        self.headers = dict(headers or {})
        self.address = address

    def request(
        self,
        method: str,
        target: str | bytes,
        *,
        headers: HeaderLines = (),
        json: Any = None,
        body: bytes | Iterable[bytes] | None = None,
        vanish: bool = False,
    ) -> Reply:
        """Send a request; a list as body is sent in chunks without a length; `vanish` hangs up after it."""
        lines = [*self.headers.items(), *(headers.items() if isinstance(headers, Mapping) else headers)]
        if json is not None:
            body = dumps(json).encode()
            lines.append(("content-type", "application/json"))
        chunks = [body] if isinstance(body, bytes) else list(body or ())
        if isinstance(body, bytes):
            lines.append(("content-length", str(len(body))))
        elif chunks:
            lines.append(("transfer-encoding", "chunked"))
        return asyncio.run(self._run(method, target, lines, chunks, vanish))

    def get(self, target: str | bytes, **more: Any) -> Reply:
        """Send GET."""
        return self.request("GET", target, **more)

    def post(self, target: str, json: Any = None, **more: Any) -> Reply:
        """Send POST."""
        return self.request("POST", target, json=json, **more)

    async def _run(
        self,
        method: str,
        target: str | bytes,
        lines: list[tuple[str, str]],
        chunks: list[bytes],
        vanish: bool,
    ) -> Reply:
        raw = target.encode("ascii") if isinstance(target, str) else target
        path, _, query = raw.partition(b"?")
        messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": chunk, "more_body": vanish or index + 1 < len(chunks)}
            for index, chunk in enumerate(chunks or [b""])
        ]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.app(self._scope(method, path, query, lines), receive, send)
        if not sent:
            return Reply(0, [], b"")
        headers = [(name.decode(), value.decode("latin-1")) for name, value in sent[0]["headers"]]
        return Reply(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))

    def _scope(self, method: str, path: bytes, query: bytes, lines: list[tuple[str, str]]) -> dict[str, Any]:
        from urllib.parse import unquote

        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            # As uvicorn makes it: percent-decoded, with replacement characters for what is no UTF-8.
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in lines],
            "client": (self.address, 50000),
            "server": ("127.0.0.1", 80),
        }
