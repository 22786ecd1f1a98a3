"""Spine: resolve an API key to its tenant, actor and scopes; a freeze is obeyed within a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.domains.tenants.models import QUOTAS, Plan
from app.hoc_spine.ports import CredentialPort
from app.hoc_spine.transactions import Transactions
from app.kernel.canonical_json import loads
from app.kernel.clock import Clock
from app.kernel.context import Actor
from app.kernel.hashing import sha256_hex

# Below the promised second, so that the promise holds with the request's own duration.
CACHE_SECONDS = 0.5
CACHE_SIZE = 10_000


@dataclass(frozen=True, slots=True)
class Credential:
    """A working key: whose it is and what it may do."""

    tenant_id: str
    key_id: str
    actor: Actor
    scopes: frozenset[str]
    plan: str
    rate_limit_rpm: int | None
    expires_at: datetime | None
    degraded: bool = False

    @property
    def requests_per_minute(self) -> int:
        """The plan's requests a minute: the tenant's quota, and a key's unless it has its own."""
        return QUOTAS[Plan(self.plan)].requests_per_minute


@dataclass(frozen=True, slots=True)
class AuthFailure:
    """Why a key does not work; for the log alone."""

    reason: str


class Authenticator:
    """Looks keys up across tenants under the maintenance role, with a short cache."""

    def __init__(
        self,
        transactions: Transactions,
        find: CredentialPort,
        clock: Clock,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transactions = transactions
        self._find = find
        self._clock = clock
        self._monotonic = monotonic
        self._cache: dict[str, tuple[float, Credential | AuthFailure]] = {}
        self._used: dict[tuple[str, str], datetime] = {}
        self._lock = threading.Lock()

    def authenticate(self, api_key: str) -> Credential | AuthFailure:
        """Return the credential of a key, or the reason that it does not work."""
        key_hash = sha256_hex(api_key.encode("utf-8", "surrogatepass"))
        looked_at = self._monotonic()
        cached = self._cache.get(key_hash)
        if cached is not None and looked_at - cached[0] < CACHE_SECONDS:
            found = cached[1]
        else:
            with self._transactions.read("_system", role="hoc_maintenance") as connection:
                row = self._find(connection, key_hash=key_hash)
            found = AuthFailure("KEY_UNKNOWN") if row is None else _judge(dict(row))
            self._remember(key_hash, looked_at, found)
        if (
            isinstance(found, Credential)
            and found.expires_at is not None
            and found.expires_at <= self._clock.now()
        ):
            return AuthFailure("KEY_EXPIRED")
        if isinstance(found, Credential):
            self._used[found.tenant_id, found.key_id] = self._clock.now()
        return found

    def take_used(self) -> dict[str, dict[str, datetime]]:
        """Return when each key was last used since the last call, by tenant."""
        used, self._used = self._used, {}
        by_tenant: dict[str, dict[str, datetime]] = {}
        for (tenant_id, key_id), at in used.items():
            by_tenant.setdefault(tenant_id, {})[key_id] = at
        return by_tenant

    def _remember(self, key_hash: str, looked_at: float, found: Credential | AuthFailure) -> None:
        # Dated by the moment before the look-up: an answer that was long on its way is old when it arrives.
        with self._lock:
            known = self._cache.get(key_hash)
            if known is not None and known[0] > looked_at:
                return
            if known is None and len(self._cache) >= CACHE_SIZE:
                self._make_room(looked_at)
            self._cache[key_hash] = (looked_at, found)

    def _make_room(self, now: float) -> None:
        fresh = {key: entry for key, entry in self._cache.items() if now - entry[0] < CACHE_SECONDS}
        # A flood of invented keys must not push out every working one.
        working = {key: entry for key, entry in fresh.items() if isinstance(entry[1], Credential)}
        self._cache = working if len(working) < CACHE_SIZE else {}


def _judge(row: dict[str, Any]) -> Credential | AuthFailure:
    if row["key_status"] != "ACTIVE":
        return AuthFailure(f"KEY_{row['key_status']}")
    if row["tenant_status"] != "ACTIVE":
        return AuthFailure(f"TENANT_{row['tenant_status']}")
    return Credential(
        tenant_id=row["tenant_id"],
        key_id=row["key_id"],
        actor=Actor(row["actor_type"], row["actor_id"]),
        scopes=frozenset(loads(row["scopes"])),
        plan=row["plan"],
        rate_limit_rpm=row["rate_limit_rpm"],
        expires_at=row["expires_at"],
        degraded=row["degraded"],
    )
