"""L2 HTTP: requests a minute per key, tenant and anonymous address, in memory or shared through Redis."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address, ip_network
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from app.api.metrics import HttpMetrics
from app.kernel.clock import Clock
from app.kernel.errors import ErrorKind, HocError

if TYPE_CHECKING:
    from limits.storage import RedisStorage

WINDOW_SECONDS: Final = 60
REDIS_TIMEOUT_SECONDS: Final = 0.25
REDIS_PAUSE_SECONDS: Final = 5.0
_log = structlog.get_logger("hoc.http")


@dataclass(frozen=True, slots=True)
class Quota:
    """One rate limit policy as applied to one subject: so many requests in each minute."""

    policy: str
    subject: str
    requests: int


class CounterStore(Protocol):
    """Counts per key; a key is forgotten after its expiry."""

    def incr(self, key: str, expiry: float, amount: int = 1) -> int: ...


class MemoryCounters:
    """Counters of the current window in this process.

    The `limits` library's own memory storage starts a sweeper thread and walks every key several times a
    second; with one key per client address that walk is what an attacker would aim at.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._window = ""
        self._counts: dict[str, int] = {}

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:  # noqa: ARG002 - the window expires
        """Return the count of `<window>/<subject>` after adding; a new window forgets the old one."""
        window = key.partition("/")[0]
        with self._lock:
            if window != self._window:
                self._window = window
                self._counts = {}
            count = self._counts.get(key, 0) + amount
            self._counts[key] = count
            return count


@dataclass(frozen=True, slots=True)
class Spending:
    """What counting one request came to: header lines for the answer, and the used-up quota, if any."""

    headers: list[tuple[str, str]]
    reset_seconds: int
    exceeded: Quota | None = None

    def require(self) -> None:
        """Refuse with RATE_LIMITED when a quota is used up."""
        if self.exceeded is not None:
            raise HocError(
                ErrorKind.LIMITED,
                "RATE_LIMITED",
                f"The {self.exceeded.policy} limit of {self.exceeded.requests} requests a minute is used up.",
                retry_after=self.reset_seconds,
            )


class RateLimiter:
    """Count requests in fixed minutes and tell what is left of each quota."""

    def __init__(self, *, clock: Clock, metrics: HttpMetrics, redis_url: str | None = None) -> None:
        self._clock = clock
        self._metrics = metrics
        self._memory = MemoryCounters()
        self._redis = None if redis_url is None else _redis_storage(redis_url)
        self._redis_pause_until = 0.0

    def spend(self, quotas: Sequence[Quota]) -> Spending:
        """Count one request against each quota, up to the first that is used up.

        The quotas behind that one are not charged, so a runaway key does not use up its tenant's share.
        """
        now = self._clock.now().timestamp()
        window = int(now // WINDOW_SECONDS)
        reset = max(1, ceil((window + 1) * WINDOW_SECONDS - now))
        left: list[tuple[Quota, int]] = []
        exceeded = None
        for quota in quotas:
            count = self._count(f"{window}/{quota.policy}/{quota.subject}")
            left.append((quota, max(0, quota.requests - count)))
            if count > quota.requests:
                self._metrics.rate_limited.labels(quota.policy).inc()
                exceeded = quota
                break
        return Spending(_lines(quotas, left, reset), reset, exceeded)

    def _count(self, key: str) -> int:
        if self._redis is None:
            return self._memory.incr(key, WINDOW_SECONDS)
        if monotonic() >= self._redis_pause_until:
            from limits.errors import StorageError

            try:
                return int(self._redis.incr(f"hoc/{key}", 2 * WINDOW_SECONDS))
            except (StorageError, OSError) as error:
                # A dead limit store costs precision, never an answer; it is asked again after a pause.
                self._redis_pause_until = monotonic() + REDIS_PAUSE_SECONDS
                _log.warning("rate_limit_store_unavailable", error=type(error).__name__)
        self._metrics.limiter_outages.inc()
        return self._memory.incr(key, WINDOW_SECONDS)


def address_subject(host: str) -> str:
    """Return what anonymous limits count by: an IPv4 address, or the /64 that one IPv6 client owns."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((address, 64), strict=False))


def _lines(quotas: Sequence[Quota], left: Sequence[tuple[Quota, int]], reset: int) -> list[tuple[str, str]]:
    # Structured fields of the IETF draft: a list of strings, q = quota, w = window, r = remaining, t = reset.
    policies = ", ".join(f'"{quota.policy}";q={quota.requests};w={WINDOW_SECONDS}' for quota in quotas)
    states = ", ".join(f'"{quota.policy}";r={remaining};t={reset}' for quota, remaining in left)
    return [("ratelimit-policy", policies), ("ratelimit", states)]


def _redis_storage(url: str) -> RedisStorage:
    # Loaded by whoever has one, as are its errors.
    from limits.storage import RedisStorage

    return RedisStorage(
        url,
        wrap_exceptions=True,
        socket_timeout=REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
    )
