"""Spine: the store of dispatch records, bounded memory and a Redis list when configured."""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import Any

import orjson
import redis
import structlog
from prometheus_client import Counter

from app.hoc_spine.dispatch_audit import DispatchRecord

CAPACITY = 10_000
MAX_LIMIT = 1000
REDIS_KEY = "hoc:dispatches"
LOST = Counter("hoc_dispatch_records_lost", "Dispatch records that reached memory only")
_log = structlog.get_logger(__name__)


class AuditStore:
    """Keeps the newest dispatch records; a full queue or a dead Redis loses telemetry, never work."""

    def __init__(self, redis_url: str | None = None, *, queue_size: int = 2000) -> None:
        self._ring: deque[DispatchRecord] = deque(maxlen=CAPACITY)
        self._queue: queue.Queue[DispatchRecord | None] | None = None
        if redis_url is not None:
            self._redis = redis.Redis.from_url(redis_url, socket_timeout=2, socket_connect_timeout=2)
            self._queue = queue.Queue(queue_size)
            self._thread = threading.Thread(target=self._drain, args=(self._queue,), name="hoc-dispatch-records", daemon=True)
            self._thread.start()

    def record_dispatch(self, record: DispatchRecord) -> None:
        """Keep a record in memory and hand it to the background writer; never raise."""
        self._ring.append(record)
        if self._queue is not None:
            try:
                self._queue.put_nowait(record)
            except queue.Full:
                LOST.inc()

    def get_dispatch_records(
        self, operation: str | None = None, tenant_id: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Return records newest first, at most `limit` (1..1000), from Redis when it answers."""
        found = []
        for record in self._newest_first():
            if operation is not None and record["operation"] != operation:
                continue
            if tenant_id is not None and record["tenant_id"] != tenant_id:
                continue
            found.append(record)
            if len(found) >= min(limit, MAX_LIMIT):
                break
        return found

    def flush(self) -> None:
        """Wait until the background writer has taken every record handed over so far."""
        if self._queue is not None:
            self._queue.join()

    def close(self) -> None:
        """Stop the background writer after what it was handed."""
        if self._queue is not None:
            self._queue.put(None)
            self._thread.join(timeout=5)
            self._queue = None

    def _newest_first(self) -> list[dict[str, Any]]:
        if self._queue is not None:
            try:
                return [orjson.loads(item) for item in self._redis.lrange(REDIS_KEY, 0, CAPACITY - 1)]
            except redis.RedisError as error:
                _log.warning("dispatch_records.redis_unreadable", error=type(error).__name__)
        return [record.to_dict() for record in reversed(list(self._ring))]

    def _drain(self, source: queue.Queue[DispatchRecord | None]) -> None:
        while (record := source.get()) is not None:
            try:
                pipeline = self._redis.pipeline(transaction=False)
                pipeline.lpush(REDIS_KEY, orjson.dumps(record.to_dict()))
                pipeline.ltrim(REDIS_KEY, 0, CAPACITY - 1)
                pipeline.execute()
            except redis.RedisError as error:
                LOST.inc()
                _log.warning("dispatch_records.lost", error=type(error).__name__)
            finally:
                source.task_done()
        source.task_done()
