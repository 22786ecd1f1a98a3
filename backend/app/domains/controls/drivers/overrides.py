"""Controls L6: rows of overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import different
from app.db.newest import newest
from app.domains.controls.tables import limit_overrides

_O = limit_overrides.c
_ALL = tuple(limit_overrides.columns)
# Written out: the partial index of what is due serves no parameter.
_LIVE = _O.status.in_((sa.literal_column("'PENDING'"), sa.literal_column("'APPROVED'")))


def insert_override(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> None:
    """Insert an override."""
    connection.execute(limit_overrides.insert(), {**row, "tenant_id": tenant_id})


def get_override(
    connection: DriverConnection, *, tenant_id: str, override_id: str, lock: bool = False
) -> Row | None:
    """Return one override, held for a change if asked."""
    statement = sa.select(*_ALL).where(_O.tenant_id == tenant_id, _O.override_id == override_id)
    if lock:
        statement = statement.with_for_update()
    return connection.execute(statement).mappings().one_or_none()


def list_live(connection: DriverConnection, *, tenant_id: str) -> Sequence[Row]:
    """Return the overrides that are pending or approved, by id."""
    statement = sa.select(*_ALL).where(_O.tenant_id == tenant_id, _LIVE).order_by(_O.override_id)
    return connection.execute(statement).mappings().all()


def list_overrides(
    connection: DriverConnection,
    *,
    tenant_id: str,
    equal: Mapping[str, str],
    before: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return overrides newest first, before a (created_at, override_id)."""
    mine = sa.select(*_ALL).where(_O.tenant_id == tenant_id)
    page = newest(mine, _O.created_at, _O.override_id, equal=equal, before=before, limit=limit)
    return connection.execute(page).mappings().all()


def lock_due(connection: DriverConnection, *, tenant_id: str, now: datetime, limit: int) -> Sequence[Row]:
    """Return live overrides that have run out, and hold them; those that others hold are left out."""
    statement = (
        sa.select(*_ALL)
        .where(_O.tenant_id == tenant_id, _LIVE, _O.expires_at <= now)
        .order_by(_O.expires_at, _O.override_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return connection.execute(statement).mappings().all()


def list_tenants_due(
    connection: DriverConnection, *, now: datetime
) -> Sequence[str]:  # gate: DRV-006 - maintenance serves all tenants
    """Return the tenants that have live overrides that have run out."""
    due = sa.select(_O.tenant_id).where(_LIVE, _O.expires_at <= now)  # gate: SCOPE-001 - all tenants
    return connection.scalars(different(due)).all()


def set_override(
    connection: DriverConnection, *, tenant_id: str, override_id: str, version: int, values: Mapping[str, Any]
) -> bool:
    """Change the override of this version; False when it has moved."""
    statement = (
        limit_overrides.update()
        .where(_O.tenant_id == tenant_id, _O.override_id == override_id, _O.version == version)
        .values({**values, "version": version + 1})
    )
    return connection.execute(statement).rowcount == 1
