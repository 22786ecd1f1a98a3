"""Benchmarks: a load of N clients, each a thread with a connection of its own, for a time."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.processes import processor_seconds
from benchmarks.report import Round, percentile

Call = Callable[[], int]


def load(
    make_call: Callable[[int], Call], *, clients: int, seconds: float, spent_by: Sequence[int] = ()
) -> Round:
    """Call in `clients` threads for `seconds`; a call returns how many units it did, or raises.

    `spent_by` are the processes that do the work, for their processor time of a unit.
    """
    calls = [make_call(number) for number in range(clients)]
    for call in calls:
        call()
    start = threading.Barrier(clients + 1)
    done: list[int] = []
    spent: list[float] = []
    failures: list[BaseException] = []

    def work(call: Call) -> None:
        units, times = 0, []
        start.wait()
        until = time.perf_counter() + seconds
        try:
            while (begun := time.perf_counter()) < until:
                units += call()
                times.append(time.perf_counter() - begun)
        except Exception as error:  # noqa: BLE001 - told to the caller below
            failures.append(error)
        done.append(units)
        spent.extend(times)

    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    start.wait()
    begun, used = time.perf_counter(), processor_seconds(spent_by)
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begun
    if failures:
        raise failures[0]
    used = processor_seconds(spent_by) - used
    return Round(
        sum(done) / elapsed,
        percentile(spent, 0.99),
        percentile(spent, 0.95),
        cpu_ms=used * 1000 / max(sum(done), 1),
    )


class Http:
    """One keep-alive connection; a client that took its share of the processors would measure itself."""

    def __init__(self, port: int, headers: dict[str, str]) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = {"Host": "127.0.0.1", "Content-Type": "application/json", **headers}
        self._lines = "".join(f"{name}: {value}\r\n" for name, value in lines.items())

    def call(
        self, method: str, path: str, body: Any = None, *, expect: tuple[int, ...] = (200, 201)
    ) -> bytes:
        """Send one request and return the answer's body; raise for any other status."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        length = f"Content-Length: {len(data)}\r\n" if data else ""
        self._socket.sendall(f"{method} {path} HTTP/1.1\r\n{self._lines}{length}\r\n".encode() + data)
        answer = self._receive(b"")
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer = self._receive(answer)
        # The server writes its header names in lower case.
        _, _, after = answer[:end].partition(b"content-length: ")
        size = end + 4 + int(after.partition(b"\r\n")[0] or 0)
        while len(answer) < size:
            answer = self._receive(answer)
        status, content = int(answer[9:12]), answer[end + 4 :]
        if status not in expect:
            raise RuntimeError(f"{method} {path} gave {status}: {content[:500]!r}")
        return content

    def _receive(self, before: bytes) -> bytes:
        more = self._socket.recv(1 << 20)
        if not more:
            raise RuntimeError("the server closed the connection")
        return before + more
