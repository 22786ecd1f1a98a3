"""Test limits: made by the product's operations, and rows as the database holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from tests.factories.tenants import Tenant

BUDGET: Mapping[str, Any] = {
    "name": "Budget",
    "category": "BUDGET",
    "metric": "COST_USD",
    "reset_period": "NONE",
    "max_value": 100,
}
START: Mapping[str, Any] = {
    "agent_id": "agent-1",
    "goal": "Summarise the contract",
    "actor_type": "SERVICE",
    "origin_system_id": "crm",
}


def limit(tenant: Tenant, **members: Any) -> Any:
    """Make a limit `l-1`: 100 USD in all, BLOCK; members replace what it says."""
    return tenant.call("controls.limits.create", {"limit_id": "l-1", **BUDGET, **members})


def start(tenant: Tenant, run_id: str, **members: Any) -> Any:
    """Start a run."""
    return tenant.call("runs.start", {"run_id": run_id, **START, **members})


def record(tenant: Tenant, usage_id: str, run_id: str = "r-1", **members: Any) -> Any:
    """Record use of a run; `usage={...}`."""
    return tenant.call("runs.usage.record", {"run_id": run_id, "usage_id": usage_id, **members})


def rows(connection: sa.Connection, tenant: Tenant, table: str, where: str = "1 = 1") -> list[dict[str, Any]]:
    """Return committed rows of a tenant, past the spine."""
    query = sa.text(f"SELECT * FROM {table} WHERE tenant_id = :t AND {where}")
    return [dict(row) for row in connection.execute(query, {"t": tenant.tenant_id}).mappings()]


def counters(connection: sa.Connection, tenant: Tenant) -> dict[str, tuple[int, int]]:
    """Return committed and reserved by limit."""
    found = rows(connection, tenant, "limit_counters")
    return {row["limit_id"]: (row["committed"], row["reserved"]) for row in found}


def without_triggers(connection: sa.Connection, table: str, statement: sa.TextClause, tenant_id: str) -> None:
    """Execute a statement over the tenant `:t` with the triggers of a table out of the way."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SET session_replication_role = replica"))
        connection.execute(statement, {"t": tenant_id})
        connection.execute(sa.text("SET session_replication_role = DEFAULT"))
        return
    query = sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :n")
    kept = connection.execute(query, {"n": table}).all()
    for name, _ in kept:
        connection.exec_driver_sql(f"DROP TRIGGER {name}")
    try:
        connection.execute(statement, {"t": tenant_id})
    finally:
        for _, definition in kept:
            connection.exec_driver_sql(definition)
