"""Tenants L6: API keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import bytewise
from app.domains.tenants.tables import api_keys, tenant_state


def lock_state(connection: DriverConnection, *, tenant_id: str) -> None:
    """Lock the tenant's state row, so that counting and inserting keys is one step."""
    connection.execute(
        sa.select(tenant_state.c.tenant_id).where(tenant_state.c.tenant_id == tenant_id).with_for_update()
    )


def count_live_keys(connection: DriverConnection, *, tenant_id: str, now: datetime) -> int:
    """Return how many keys are neither revoked nor expired."""
    return int(
        connection.scalars(
            sa.select(sa.func.count())
            .select_from(api_keys)
            .where(
                api_keys.c.tenant_id == tenant_id,
                api_keys.c.status != "REVOKED",
                sa.or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now),
            )
        ).one()
    )


def insert_key(connection: DriverConnection, row: Mapping[str, Any], *, tenant_id: str) -> None:
    """Insert a key."""
    connection.execute(api_keys.insert(), {**row, "tenant_id": tenant_id})


def get_key(connection: DriverConnection, *, tenant_id: str, key_id: str, lock: bool = False) -> Row | None:
    """Return one key, locked for a change if asked."""
    statement = sa.select(*api_keys.columns).where(
        api_keys.c.tenant_id == tenant_id, api_keys.c.key_id == key_id
    )
    if lock:
        statement = statement.with_for_update()
    return connection.execute(statement).mappings().one_or_none()


def list_keys(
    connection: DriverConnection, *, tenant_id: str, status: str | None, after: str | None, limit: int
) -> Sequence[Row]:
    """Return keys newest first (ids sort by time), before the given one."""
    key_id = bytewise(connection, api_keys.c.key_id)
    statement = (
        sa.select(*api_keys.columns)
        .where(api_keys.c.tenant_id == tenant_id)
        .order_by(key_id.desc())
        .limit(limit)
    )
    if status is not None:
        statement = statement.where(api_keys.c.status == status)
    if after is not None:
        statement = statement.where(key_id < after)
    return connection.execute(statement).mappings().all()


def set_key(
    connection: DriverConnection, values: Mapping[str, Any], *, tenant_id: str, key_id: str, version: int
) -> bool:
    """Change a key of this version and raise it; return False when the version has moved."""
    statement = (
        api_keys.update()
        .where(api_keys.c.tenant_id == tenant_id, api_keys.c.key_id == key_id, api_keys.c.version == version)
        .values(**values, version=version + 1)
    )
    return connection.execute(statement).rowcount == 1


def set_used(connection: DriverConnection, *, tenant_id: str, key_id: str, at: datetime) -> None:
    """Note when a key was last used; an older use than the one known changes nothing."""
    connection.execute(
        api_keys.update()
        .where(
            api_keys.c.tenant_id == tenant_id,
            api_keys.c.key_id == key_id,
            sa.or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < at),
        )
        .values(last_used_at=at)
    )
