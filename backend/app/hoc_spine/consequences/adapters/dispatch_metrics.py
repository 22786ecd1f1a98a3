"""Spine: counts and latencies of each operation, in process and for Prometheus."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from prometheus_client import Counter, Histogram

from app.hoc_spine.dispatch_audit import DispatchRecord

DISPATCHES = Counter(
    "hoc_dispatches", "Dispatches by operation and outcome", ["operation", "outcome", "success"]
)
SECONDS = Histogram("hoc_dispatch_seconds", "Duration of a dispatch", ["operation"])


# Looking a child up by its labels takes a lock; the bound children are reused instead.
@lru_cache(maxsize=4096)
def _counter(operation: str, outcome: str, success: bool) -> Counter:
    return DISPATCHES.labels(operation, outcome, str(success).lower())


@lru_cache(maxsize=2048)
def _timer(operation: str) -> Histogram:
    return SECONDS.labels(operation)


@dataclass(slots=True)
class _Tally:
    total: int = 0
    success: int = 0
    sum_ms: float = 0.0
    min_ms: float = float("inf")
    max_ms: float = 0.0


class DispatchMetricsAdapter:
    """Sees every dispatch, refused and rolled back ones too."""

    name = "dispatch_metrics"
    committed_only = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[str, _Tally] = {}

    def handle(self, record: DispatchRecord) -> None:
        """Count one dispatch."""
        _counter(record.operation, record.outcome, record.success).inc()
        _timer(record.operation).observe(record.duration_ms / 1000)
        with self._lock:
            tally = self._tallies.setdefault(record.operation, _Tally())
            tally.total += 1
            tally.success += record.success
            tally.sum_ms += record.duration_ms
            tally.min_ms = min(tally.min_ms, record.duration_ms)
            tally.max_ms = max(tally.max_ms, record.duration_ms)

    def snapshot(self) -> list[dict[str, Any]]:
        """Return per operation total, success, failure, latencies in ms and the error rate."""
        with self._lock:
            return [
                {
                    "operation": name,
                    "total": tally.total,
                    "success": tally.success,
                    "failure": tally.total - tally.success,
                    "avg_latency_ms": round(tally.sum_ms / tally.total, 2),
                    "min_latency_ms": round(tally.min_ms, 2),
                    "max_latency_ms": round(tally.max_ms, 2),
                    "error_rate": round(1 - tally.success / tally.total, 4),
                }
                for name, tally in sorted(self._tallies.items())
            ]
