"""Tenants L6: tenants and their own switch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import bytewise, insert
from app.db.hot import HotStatement
from app.domains.tenants.tables import tenant_state, tenants

_COLUMNS = (
    *tenants.columns,
    tenant_state.c.frozen,
    tenant_state.c.frozen_at,
    tenant_state.c.frozen_by,
    tenant_state.c.frozen_reason,
)
_JOINED = tenants.join(tenant_state, tenant_state.c.tenant_id == tenants.c.tenant_id)
_WHOLE = sa.select(*_COLUMNS).select_from(_JOINED).where(tenants.c.tenant_id == sa.bindparam("tenant"))
_ONE, _LOCKED = HotStatement(_WHOLE), HotStatement(_WHOLE.with_for_update(of=tenants))


def insert_tenant(connection: DriverConnection, row: Mapping[str, Any], *, tenant_id: str) -> bool:
    """Insert a tenant; return False when its id or slug is taken."""
    statement = insert(connection, tenants).on_conflict_do_nothing().returning(tenants.c.tenant_id)
    return connection.scalars(statement, {**row, "tenant_id": tenant_id}).one_or_none() is not None


def get_tenant(connection: DriverConnection, *, tenant_id: str, lock: bool = False) -> Row | None:
    """Return the tenant's row with its switch, locked for a change if asked."""
    return next(iter(connection.hot(_LOCKED if lock else _ONE, {"tenant": tenant_id})), None)


def list_tenants(
    connection: DriverConnection, *, after: str | None, status: str | None, limit: int
) -> Sequence[Row]:
    """Return tenants by id, after the given one; the system's own tenant is left out."""
    statement = (
        sa.select(*_COLUMNS)
        .select_from(_JOINED)  # gate: SCOPE-001 - operators list all tenants
        .where(tenants.c.tenant_id != "_system")
        .order_by(bytewise(connection, tenants.c.tenant_id))
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(bytewise(connection, tenants.c.tenant_id) > after)
    if status is not None:
        statement = statement.where(tenants.c.status == status)
    return connection.execute(statement).mappings().all()


def list_plans(connection: DriverConnection) -> Sequence[Row]:
    """Return tenant_id and plan of every tenant; the system's own is left out."""
    statement = sa.select(tenants.c.tenant_id, tenants.c.plan).where(tenants.c.tenant_id != "_system")
    return connection.execute(statement).mappings().all()


def set_tenant(
    connection: DriverConnection, values: Mapping[str, Any], *, tenant_id: str, version: int
) -> bool:
    """Change a tenant of this version and raise it; return False when the version has moved."""
    statement = (
        tenants.update()
        .where(tenants.c.tenant_id == tenant_id, tenants.c.version == version)
        .values(**values, version=version + 1)
    )
    return connection.execute(statement).rowcount == 1


def set_frozen(
    connection: DriverConnection,
    *,
    tenant_id: str,
    frozen: bool,
    at: datetime | None,
    by: str | None,
    reason: str | None,
) -> bool:
    """Set the tenant's switch if it stands the other way; return whether it changed."""
    statement = (
        tenant_state.update()
        .where(tenant_state.c.tenant_id == tenant_id, tenant_state.c.frozen.is_(not frozen))
        .values(frozen=frozen, frozen_at=at, frozen_by=by, frozen_reason=reason)
    )
    return connection.execute(statement).rowcount == 1
