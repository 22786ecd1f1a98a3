"""Logs L6: for how long tenants keep their evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import insert
from app.domains.logs.tables import tenant_retention

_R = tenant_retention.c


def get_settings(connection: DriverConnection, *, tenant_id: str) -> Row | None:
    """Return what a tenant's own row says; None for a tenant without one."""
    return connection.execute(_settings(tenant_id)).mappings().one_or_none()


def lock_settings(connection: DriverConnection, *, tenant_id: str) -> Row | None:
    """Return the row and keep it until the transaction ends."""
    return connection.execute(_settings(tenant_id).with_for_update()).mappings().one_or_none()


def _settings(tenant_id: str) -> sa.Select[Any]:
    return sa.select(*tenant_retention.columns).where(_R.tenant_id == tenant_id)


def insert_settings(connection: DriverConnection, row: Mapping[str, Any], *, tenant_id: str) -> bool:
    """Insert the row; False when another transaction was first."""
    statement = (
        insert(connection, tenant_retention)
        .values(**row, tenant_id=tenant_id)
        .on_conflict_do_nothing()
        .returning(_R.version)
    )
    return connection.scalars(statement).one_or_none() is not None


def set_settings(connection: DriverConnection, values: Mapping[str, Any], *, tenant_id: str) -> None:
    """Change the row."""
    connection.execute(tenant_retention.update().where(_R.tenant_id == tenant_id).values(**values))
