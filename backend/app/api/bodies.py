"""L2 HTTP: reading a request body under a limit, and its strict JSON."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from starlette.types import Receive

from app.api.errors import ClientGoneError, HttpRefusal
from app.api.exchange import Headers
from app.kernel.canonical_json import CanonicalJsonError, loads
from app.kernel.errors import ErrorKind, HocError
from app.kernel.files import LocalFile

IDLE_SECONDS: Final = 30.0
MAX_DEPTH: Final = 100
SPOOL_BYTES: Final = 1 << 20
_CONTAINERS: Final = frozenset((dict, list))


def declared_length(headers: Headers) -> int | None:
    """Return the declared body length: 0 without a body, None when only the stream will tell."""
    if b"transfer-encoding" in headers:
        return None
    text = headers.single(b"content-length")
    if text is None:
        return None if b"content-length" in headers else 0
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def too_large(limit: int, actual: int | None = None) -> HocError:
    """Return the refusal of a body over the limit."""
    extra = {"limit": limit} if actual is None else {"limit": limit, "actual": actual}
    return HocError(
        ErrorKind.TOO_LARGE, "TOO_LARGE", f"The body is limited to {limit} bytes here.", extra=extra
    )


async def read_body(receive: Receive, *, limit: int, declared: int | None) -> bytes:
    """Return the whole body; refuse it as soon as it is over the limit, whatever its head declared."""
    return b"".join([chunk async for chunk in _chunks(receive, limit=limit, declared=declared)])


async def spool_body(receive: Receive, *, limit: int, declared: int | None) -> LocalFile:
    """Return the whole body as a file that goes with the value; refuse it as soon as it is over the limit."""
    file = await asyncio.to_thread(_new_file)
    buffer = bytearray()
    async for chunk in _chunks(receive, limit=limit, declared=declared):
        buffer += chunk
        if len(buffer) >= SPOOL_BYTES:
            await asyncio.to_thread(_append, file.path, bytes(buffer))
            buffer.clear()
    await asyncio.to_thread(_append, file.path, bytes(buffer))
    return file


def _new_file() -> LocalFile:
    folder = Path(tempfile.mkdtemp(prefix="hoc-upload-"))
    return LocalFile.spooled(folder / "body", folder=folder)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


async def _chunks(receive: Receive, *, limit: int, declared: int | None) -> AsyncIterator[bytes]:
    if declared is not None and declared > limit:
        raise too_large(limit, declared)
    size = 0
    while True:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                message = await receive()
        except TimeoutError:
            raise HttpRefusal(
                408, "REQUEST_TIMEOUT", "The rest of the body did not arrive in time."
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        yield chunk
        if not message.get("more_body", False):
            return


def read_json_object(raw: bytes, headers: Headers) -> dict[str, Any]:
    """Return the members of a JSON body; an absent body counts as an empty object.

    Refuses another media type (415), text that is not strict JSON (400) and a value that is no object (422).
    """
    if not raw:
        return {}
    _require_json(headers)
    try:
        value = loads(raw)
        if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
            _require_depth(value)
    except (CanonicalJsonError, RecursionError) as error:
        # The parser's words may quote the body; only its own small vocabulary leaves.
        detail = (
            str(error)
            if isinstance(error, CanonicalJsonError) and len(str(error)) < 200
            else "nested too deeply"
        )
        raise HocError(
            ErrorKind.MALFORMED, "MALFORMED_JSON", f"The body is not strict JSON: {detail}."
        ) from error
    if not isinstance(value, dict):
        raise HocError(
            ErrorKind.INVALID,
            "INVALID_INPUT",
            "The body must be a JSON object.",
            errors=[{"pointer": "", "code": "object_type", "detail": "must be an object"}],
        )
    return value


def _require_json(headers: Headers) -> None:
    media_type, _, parameters = (headers.single(b"content-type") or "").partition(";")
    media_type = media_type.strip().lower()
    is_json = media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )
    charset = parameters.replace(" ", "").replace('"', "").lower()
    coding = headers.single(b"content-encoding") if b"content-encoding" in headers else "identity"
    if not is_json or charset not in ("", "charset=utf-8") or coding != "identity":
        raise HttpRefusal(
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            "The body must be JSON in UTF-8, not encoded further, with Content-Type application/json.",
            headers=(("accept", "application/json"),),
        )


def _require_depth(value: Any) -> None:
    # Breadth first: the parser took it, but the code behind it recurses.
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(MAX_DEPTH + 1):
        level = [
            member
            for container in level
            for member in (container.values() if type(container) is dict else container)
            if type(member) in _CONTAINERS
        ]
        if not level:
            return
    raise CanonicalJsonError(f"nested more than {MAX_DEPTH} levels deep")
