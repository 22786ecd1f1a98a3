"""L2 HTTP: the bounded thread pool in which whole requests are served."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from app.kernel.errors import ErrorKind, HocError

P = ParamSpec("P")
T = TypeVar("T")
WAITING_PER_THREAD = 64


class DispatchPool:
    """As many threads as the connection pool has connections, and a bounded queue before them.

    A job that has started always finishes, whether or not its client still listens; a job whose client
    went away before it started is dropped.
    """

    def __init__(self, size: int, *, waiting_per_thread: int = WAITING_PER_THREAD) -> None:
        self.size = size
        self._limit = size * (1 + waiting_per_thread)
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._pending = 0

    @property
    def pending(self) -> int:
        """Return how many jobs run or wait."""
        return self._pending

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the function's result from a pool thread; refuse with BUSY when the queue is full."""
        with self._lock:
            if self._pending >= self._limit:
                raise HocError(
                    ErrorKind.UNAVAILABLE, "BUSY", "Too many requests are waiting; try again.", retry_after=1
                )
            self._pending += 1
            if self._executor is None:
                self._executor = ThreadPoolExecutor(max_workers=self.size, thread_name_prefix="hoc-dispatch")
            executor = self._executor
        job = partial(contextvars.copy_context().run, function, *args, **kwargs)
        try:
            future: Future[T] = executor.submit(job)
        except BaseException:
            self._release(None)
            raise
        future.add_done_callback(self._release)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Wait for every started job, then stop the threads; a later job starts new ones."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)

    def _release(self, _: Future[Any] | None) -> None:
        with self._lock:
            self._pending -= 1
