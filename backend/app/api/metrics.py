"""L2 HTTP: the Prometheus metrics of the HTTP door."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class HttpMetrics:
    """Requests by route template, refused credentials by reason, limiter refusals and outages."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "hoc_http_requests_total", "Requests answered.", ("method", "route", "status"), registry=registry
        )
        self.latency = Histogram(
            "hoc_http_request_seconds",
            "Time from the request's head to the end of its answer.",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=registry,
        )
        self.in_progress = Gauge(
            "hoc_http_requests_in_progress",
            "Requests now being served.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.refused_credentials = Counter(
            "hoc_http_refused_credentials_total",
            "Refused credentials by true reason.",
            ("reason",),
            registry=registry,
        )
        self.rate_limited = Counter(
            "hoc_http_rate_limited_total", "Requests refused by a rate limit.", ("policy",), registry=registry
        )
        self.limiter_outages = Counter(
            "hoc_http_rate_limit_store_errors_total",
            "Requests counted in memory because the shared limit store did not answer.",
            registry=registry,
        )
        # Label look-up hashes three strings and takes a lock; the bound children are reused instead.
        self._request_child = lru_cache(maxsize=4096)(self._bind_request)
        self._latency_child = lru_cache(maxsize=2048)(self._bind_latency)

    def record(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._request_child(method, route, status).inc()
        self._latency_child(method, route).observe(seconds)

    def _bind_request(self, method: str, route: str, status: int) -> Counter:
        return self.requests.labels(method, route, str(status))

    def _bind_latency(self, method: str, route: str) -> Histogram:
        return self.latency.labels(method, route)


@lru_cache(maxsize=1)
def http_metrics() -> HttpMetrics:
    """Return the one set of HTTP metrics of this process, in the default registry."""
    return HttpMetrics(REGISTRY)
