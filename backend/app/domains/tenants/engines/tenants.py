"""Tenants L5: life of a tenant and its own switch."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection, Row
from app.db.governed import row_image
from app.domains.tenants.drivers import keys as keys_driver
from app.domains.tenants.drivers import state as state_driver
from app.domains.tenants.drivers import tenants as driver
from app.domains.tenants.errors import tenant_closed, tenant_exists, tenant_id_reserved, tenant_not_found
from app.domains.tenants.models import QUOTAS, Plan, TenantStatus, TenantUsage, TenantView

RESERVED = frozenset({"default", "_system"})


def decide_status(current: TenantStatus, wanted: TenantStatus) -> bool:
    """Tell whether the change writes anything; refuse to reopen or suspend a closed tenant."""
    if current is wanted:
        return False
    if current is TenantStatus.CLOSED:
        raise tenant_closed()
    return True


def create(
    connection: DriverConnection, row: Mapping[str, Any], *, tenant_id: str, now: datetime
) -> dict[str, Any]:
    """Insert a tenant with its state and digest key; refuse a reserved or taken id."""
    if tenant_id in RESERVED:
        raise tenant_id_reserved(tenant_id)
    full = {**row, "tenant_id": tenant_id, "version": 1}
    if not driver.insert_tenant(connection, full, tenant_id=tenant_id):
        raise tenant_exists(tenant_id)
    state_driver.insert_state(
        connection,
        tenant_id=tenant_id,
        now=now,
        runs_day=now.date().isoformat(),
        digest_key=secrets.token_bytes(32),
    )
    return full


def require(connection: DriverConnection, *, tenant_id: str, lock: bool = False) -> Row:
    """Return the tenant's row, locked for a change if asked; refuse TENANT_NOT_FOUND."""
    row = driver.get_tenant(connection, tenant_id=tenant_id, lock=lock)
    if row is None or tenant_id == "_system":
        raise tenant_not_found()
    return row


def require_open(connection: DriverConnection, *, tenant_id: str) -> Row:
    """Return the tenant's row; refuse TENANT_NOT_FOUND and TENANT_CLOSED."""
    row = require(connection, tenant_id=tenant_id)
    if row["status"] == TenantStatus.CLOSED:
        raise tenant_closed()
    return row


def change(
    connection: DriverConnection, current: Mapping[str, Any], values: Mapping[str, Any], *, now: datetime
) -> dict[str, Any]:
    """Write changed columns under the version that was read; return the new row."""
    written = {**values, "updated_at": now}
    tenant_id, version = current["tenant_id"], current["version"]
    if not driver.set_tenant(connection, written, tenant_id=tenant_id, version=version):
        raise LookupError(f"tenant {tenant_id} changed under its own transaction")
    return {**current, **written, "version": version + 1}


def set_frozen(
    connection: DriverConnection,
    *,
    tenant_id: str,
    frozen: bool,
    now: datetime,
    by: str,
    reason: str,
) -> bool:
    """Engage or lift the tenant's own switch; return whether it changed."""
    return driver.set_frozen(
        connection,
        tenant_id=tenant_id,
        frozen=frozen,
        at=now if frozen else None,
        by=by if frozen else None,
        reason=reason if frozen else None,
    )


def list_page(
    connection: DriverConnection, *, status: str | None, after: str | None, limit: int
) -> Sequence[Row]:
    """Return tenants by id."""
    return driver.list_tenants(connection, after=after, status=status, limit=limit)


def plans(connection: DriverConnection) -> Mapping[str, Plan]:
    """Return the plan of every tenant."""
    return {row["tenant_id"]: Plan(row["plan"]) for row in driver.list_plans(connection)}


def usage(
    connection: DriverConnection, *, tenant_id: str, now: datetime, tokens_this_month: float
) -> TenantUsage:
    """Return the tenant's use against its plan."""
    plan = Plan(require(connection, tenant_id=tenant_id)["plan"])
    use = state_driver.get_quota_use(connection, tenant_id=tenant_id)
    quotas = QUOTAS[plan]
    today = use is not None and use["runs_day"] == now.date().isoformat()
    return TenantUsage(
        plan=plan,
        running_runs=use["running_runs"] if use else 0,
        concurrent_runs=quotas.concurrent_runs,
        runs_today=use["runs_today"] if use and today else 0,
        runs_per_day=quotas.runs_per_day,
        live_keys=keys_driver.count_live_keys(connection, tenant_id=tenant_id, now=now),
        max_live_keys=quotas.live_keys,
        requests_per_minute=quotas.requests_per_minute,
        tokens_this_month=tokens_this_month,
        tokens_per_month=quotas.tokens_per_month,
    )


def image(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the audit image of a tenant row."""
    return row_image("tenants", row)


def view(row: Mapping[str, Any]) -> TenantView:
    """Return the view of a joined row."""
    return TenantView.model_validate({name: row[name] for name in TenantView.model_fields})
