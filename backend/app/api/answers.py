"""L2 HTTP: one finished answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import Send

from app.kernel.files import LocalFile
from app.kernel.result_json import render

HeaderLines = Sequence[tuple[str, str]]
_BODILESS = frozenset((204, 304))
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and whole body of one response, or the file that is it; `code` is the problem's."""

    status: int
    headers: HeaderLines
    body: bytes
    code: str | None = None
    file: LocalFile | None = None

    @classmethod
    def json(
        cls,
        status: int,
        data: Any,
        *,
        media_type: str = "application/json",
        headers: HeaderLines = (),
        code: str | None = None,
    ) -> Answer:
        """Return an answer whose body is the JSON text of `data`."""
        return cls(status, (("content-type", media_type), *headers), render(data), code)

    def with_headers(self, headers: HeaderLines) -> Answer:
        """Return the same answer with further headers."""
        return Answer(self.status, (*self.headers, *headers), self.body, self.code, self.file)

    async def send(self, send: Send, *, head: bool = False) -> None:
        """Send the answer; HEAD, 204 and 304 send no body."""
        lines = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers]
        if self.status not in _BODILESS:
            size = len(self.body) if self.file is None else self.file.path.stat().st_size
            lines.append((b"content-length", str(size).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": lines})
        silent = head or self.status in _BODILESS
        if self.file is not None and not silent:
            await _send_file(self.file, send)
            return
        await send({"type": "http.response.body", "body": b"" if silent else self.body})


async def _send_file(file: LocalFile, send: Send) -> None:
    with await asyncio.to_thread(file.path.open, "rb") as source:
        while chunk := await asyncio.to_thread(source.read, _CHUNK_BYTES):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
