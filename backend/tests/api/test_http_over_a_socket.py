"""The server on a real socket: what no HTTP client would send, and what must never come back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from app.api.http_protocol import MAX_HEAD_BYTES, BoundedHttpProtocol

P = b"/api/v1/probe"


class Hasty(BoundedHttpProtocol):
    """The server's protocol with no patience."""

    head_seconds = 0.2


@pytest.fixture
def serve(make_app: Callable[..., Any]) -> Iterator[Callable[..., int]]:
    """Serve the application on a free port of the loopback and return the port."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(protocol: type[BoundedHttpProtocol] = BoundedHttpProtocol) -> int:
        config = uvicorn.Config(
            make_app(), host="127.0.0.1", port=0, http=protocol, ws="none", log_config=None, access_log=False
        )
        server = uvicorn.Server(config)
        listener = config.bind_socket()
        # Connections queue from now on, so that nobody has to wait for the server to start.
        listener.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        running.append((server, thread))
        return int(listener.getsockname()[1])

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


def _exchange(port: int, *parts: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
        return received


def _status(answer: bytes) -> int:
    return int(answer[9:12])


HEAD = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
UGLY = {
    "folded header": b"GET " + P + HEAD + b"X-Request-ID: a\r\n b\r\n\r\n",
    "bare line feed": b"GET " + P + b" HTTP/1.1\nHost: x\nConnection: close\n\n",
    "negative length": b"POST " + P + b"/echo" + HEAD + b"Content-Length: -5\r\n\r\n",
    "two lengths": b"POST " + P + b"/echo" + HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "length and chunks": b"POST "
    + P
    + b"/echo"
    + HEAD
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": b"POST " + P + b"/echo" + HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "path beyond ascii": b"GET /caf\xc3\xa9" + HEAD + b"\r\n",
    "nul in the path": b"GET /a\x00b" + HEAD + b"\r\n",
    "broken percent": b"GET " + P + b"/things/%zz%1" + HEAD + b"\r\n",
    "asterisk": b"OPTIONS *" + HEAD + b"\r\n",
    "connect": b"CONNECT x:80" + HEAD + b"\r\n",
    "unknown method": b"BREW /" + HEAD + b"\r\n",
    "no request": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "old version": b"GET " + P + b"/things/a HTTP/0.9\r\n\r\n",
    "upgrade": b"GET "
    + P
    + b"/things/a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n",
    "header value beyond ascii": b"GET "
    + P
    + b"/things/a"
    + HEAD
    + b"Authorization: Bearer \xff\xfe\r\n\r\n",
    "large target": b"GET /" + b"a" * 20_000 + HEAD + b"\r\n",
}


def test_nothing_that_is_no_request_makes_the_server_fail(serve: Callable[..., int]) -> None:
    port = serve()
    statuses = {name: _status(_exchange(port, request)) for name, request in UGLY.items()}
    assert {name: status for name, status in statuses.items() if not 400 <= status < 500} == {}
    assert b"200 OK" in _exchange(port, b"GET /healthz" + HEAD + b"\r\n")


def test_a_head_without_end_is_cut_off(serve: Callable[..., int]) -> None:
    endless = [b"GET / HTTP/1.1\r\nHost: x\r\nX: ", *[b"y" * 16_384] * (4 * MAX_HEAD_BYTES // 16_384)]
    answer = _exchange(serve(), *endless)
    # The server may close before it has read everything that was sent; then the answer is lost on the way.
    assert answer == b"" or _status(answer) == 431


def test_a_head_that_never_ends_runs_out_of_time(serve: Callable[..., int]) -> None:
    port = serve(Hasty)
    assert _status(_exchange(port, b"")) == 408
    assert _status(_exchange(port, b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")) == 408


def test_an_answer_carries_no_header_from_its_request(serve: Callable[..., int]) -> None:
    answer = _exchange(serve(), b"GET " + P + b"/things?from=%0d%0aX-Evil:%201" + HEAD + b"\r\n")
    assert b"x-evil" not in answer.split(b"\r\n\r\n")[0].lower()
