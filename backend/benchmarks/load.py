"""Benchmarks: a load of N clients, each a thread with a connection of its own, for a time."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.report import Round, percentile

Call = Callable[[], int]


def load(make_call: Callable[[int], Call], *, clients: int, seconds: float) -> Round:
    """Call in `clients` threads for `seconds`; a call returns how many units it did, or raises."""
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
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begun
    if failures:
        raise failures[0]
    return Round(sum(done) / elapsed, percentile(spent, 0.99), percentile(spent, 0.95))


class Http:
    """One keep-alive connection; light, so that the measuring does not outweigh the measured."""

    def __init__(self, port: int, headers: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = headers | {"Content-Type": "application/json"}

    def call(
        self, method: str, path: str, body: Any = None, *, expect: tuple[int, ...] = (200, 201)
    ) -> bytes:
        """Send one request and return the answer's body; raise for any other status."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        self._connection.request(method, path, data, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status not in expect:
            raise RuntimeError(f"{method} {path} gave {answer.status}: {content[:500]!r}")
        return content
