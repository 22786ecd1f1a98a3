"""Spine: the store of dispatch records, bounded memory and a Redis list when configured."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import orjson
import structlog
from prometheus_client import Counter

from app.hoc_spine.dispatch_audit import DispatchRecord

CAPACITY = 10_000
MAX_LIMIT = 1000
REDIS_KEY = "hoc:dispatches"
# Records read from Redis in one round trip; a question is mostly answered by the newest few.
CHUNK = 500
CLOSE_SECONDS = 5.0
LOST = Counter("hoc_dispatch_records_lost", "Dispatch records that reached memory only")
_log = structlog.get_logger(__name__)


class AuditStore:
    """Keeps the newest dispatch records; a full queue or a dead Redis loses telemetry, never work."""

    def __init__(self, redis_url: str | None = None, *, queue_size: int = 2000) -> None:
        self._ring: deque[DispatchRecord] = deque(maxlen=CAPACITY)
        self._queue: queue.Queue[DispatchRecord | None] | None = None
        self._closing = False
        if redis_url is not None:
            # Loaded by whoever has one: it takes a tenth of a second and 8 MB.
            import redis

            self._redis = redis.Redis.from_url(redis_url, socket_timeout=2, socket_connect_timeout=2)
            self._queue = queue.Queue(queue_size)
            self._thread = threading.Thread(
                target=self._drain, args=(self._queue,), name="hoc-dispatch-records", daemon=True
            )
            self._thread.start()

    def record_dispatch(self, record: DispatchRecord) -> None:
        """Keep a record in memory and hand it to the background writer; never raise."""
        self._ring.append(record)
        waiting = self._queue
        if waiting is not None:
            try:
                waiting.put_nowait(record)
            except queue.Full:
                LOST.inc()

    def get_dispatch_records(
        self, operation: str | None = None, tenant_id: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Return records newest first, at most `limit` (1..1000), from Redis when it answers."""
        wanted = max(1, min(limit, MAX_LIMIT))

        def matches(record: dict[str, Any]) -> bool:
            return (operation is None or record["operation"] == operation) and (
                tenant_id is None or record["tenant_id"] == tenant_id
            )

        if self._queue is not None:
            from redis import RedisError

            try:
                return list(islice(filter(matches, self._shared()), wanted))
            except RedisError as error:
                _log.warning("dispatch_records.redis_unreadable", error=type(error).__name__)
        mine = (record.to_dict() for record in reversed(list(self._ring)))
        return list(islice(filter(matches, mine), wanted))

    def flush(self) -> None:
        """Wait until the background writer has taken every record handed over so far."""
        waiting = self._queue
        if waiting is not None:
            waiting.join()

    def close(self) -> None:
        """Stop the background writer; what it cannot write within seconds is lost and counted."""
        waiting, self._queue = self._queue, None
        if waiting is None:
            return
        timer = threading.Timer(CLOSE_SECONDS, self._give_up)
        timer.start()
        waiting.put(None)
        self._thread.join()
        timer.cancel()
        self._redis.close()

    def _give_up(self) -> None:
        self._closing = True

    def _shared(self) -> Iterator[dict[str, Any]]:
        for start in range(0, CAPACITY, CHUNK):
            items = self._redis.lrange(REDIS_KEY, start, start + CHUNK - 1)
            yield from map(orjson.loads, items)
            if len(items) < CHUNK:
                return

    def _drain(self, source: queue.Queue[DispatchRecord | None]) -> None:
        while (record := source.get()) is not None:
            try:
                if self._closing:
                    LOST.inc()
                else:
                    self._write(record)
            except Exception as error:  # noqa: BLE001 - telemetry is lost one by one, the writer goes on
                LOST.inc()
                _log.warning("dispatch_records.lost", error=type(error).__name__)
            finally:
                source.task_done()
        source.task_done()

    def _write(self, record: DispatchRecord) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.lpush(REDIS_KEY, orjson.dumps(record.to_dict()))
        pipeline.ltrim(REDIS_KEY, 0, CAPACITY - 1)
        pipeline.execute()
