"""Tenants L5: standing of a credential, version counters, run quotas, the digest key."""

from __future__ import annotations

import threading
from datetime import datetime

from app.db.connection import DriverConnection, Row
from app.domains.tenants.drivers import state as driver
from app.domains.tenants.models import QUOTAS, Plan, RunSlot, Standing


def load_standing(
    connection: DriverConnection, *, tenant_id: str, key_id: str | None = None
) -> Standing | None:
    """Return the standing in one statement; None for an unknown tenant."""
    row = driver.get_standing(connection, tenant_id=tenant_id, key_id=key_id)
    return None if row is None else Standing(**row)


def bump_policy_version(connection: DriverConnection, *, tenant_id: str) -> int:
    """Raise policy_version: rules, plane bindings or limits changed; return the new one."""
    return int(_bump(connection, tenant_id=tenant_id, policy=1)["policy_version"])


def bump_live_epoch(connection: DriverConnection, *, tenant_id: str) -> int:
    """Raise policy_version and live_epoch: a revocation reaches running runs; return the new epoch."""
    return int(_bump(connection, tenant_id=tenant_id, policy=1, live=1)["live_epoch"])


def hold(connection: DriverConnection, *, tenant_id: str) -> None:
    """Hold the tenant's state row until the transaction ends: what others count here waits."""
    _bump(connection, tenant_id=tenant_id, policy=0)


def _bump(connection: DriverConnection, *, tenant_id: str, policy: int, live: int = 0) -> Row:
    row = driver.count_version(connection, tenant_id=tenant_id, policy=policy, live=live)
    if row is None:
        raise LookupError(f"tenant {tenant_id} has no state row")
    return row


def take_run(connection: DriverConnection, *, tenant_id: str, plan: str, now: datetime) -> RunSlot | None:
    """Take the next run number under the plan's quotas; None when a quota is used up."""
    quotas = QUOTAS[Plan(plan)]
    row = driver.count_run_start(
        connection,
        tenant_id=tenant_id,
        day=now.date().isoformat(),
        concurrent=quotas.concurrent_runs,
        per_day=quotas.runs_per_day,
    )
    return (
        None if row is None else RunSlot(run_no=row["next_run_no"] - 1, policy_version=row["policy_version"])
    )


def return_run(connection: DriverConnection, *, tenant_id: str) -> None:
    """Undo `take_run` in its own transaction, which still holds the state row: no number is lost."""
    driver.count_run_undone(connection, tenant_id=tenant_id)


def release_run(connection: DriverConnection, *, tenant_id: str) -> None:
    """Give the place of an ended run back."""
    driver.count_run_end(connection, tenant_id=tenant_id)


def spent_quota(connection: DriverConnection, *, tenant_id: str, plan: str) -> str:
    """Return which quota stops a start: `concurrent_runs` or `runs_per_day`."""
    row = driver.get_quota_use(connection, tenant_id=tenant_id)
    used_up = row is not None and row["running_runs"] >= QUOTAS[Plan(plan)].concurrent_runs
    return "concurrent_runs" if used_up else "runs_per_day"


class DigestKeys:
    """The tenants' digest keys, read once for each tenant and process; a key never changes."""

    def __init__(self) -> None:
        self._keys: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, connection: DriverConnection, *, tenant_id: str) -> bytes:
        """Return the tenant's 32-byte digest key; raise LookupError when there is none."""
        key = self._keys.get(tenant_id)
        if key is None:
            key = driver.get_digest_key(connection, tenant_id=tenant_id)
            if key is None:
                raise LookupError(f"tenant {tenant_id} has no digest key")
            with self._lock:
                self._keys[tenant_id] = bytes(key)
        return bytes(key)
