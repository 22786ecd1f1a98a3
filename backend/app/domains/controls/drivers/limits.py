"""Controls L6: rows of limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import insert
from app.db.hot import HotStatement
from app.db.newest import newest
from app.domains.controls.tables import limits

_L = limits.c
_ALL = tuple(limits.columns)
_WHOLE = sa.select(*_ALL).where(_L.tenant_id == sa.bindparam("tenant"), _L.limit_id == sa.bindparam("limit"))
_ONE, _LOCKED = HotStatement(_WHOLE), HotStatement(_WHOLE.with_for_update(key_share=True))


def insert_limit(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> bool:
    """Insert a limit; False when its id, or its name among the ACTIVE ones, is taken."""
    statement = insert(connection, limits).on_conflict_do_nothing().returning(_L.limit_id)
    return connection.scalars(statement, {**row, "tenant_id": tenant_id}).one_or_none() is not None


def get_limit(
    connection: DriverConnection, *, tenant_id: str, limit_id: str, lock: bool = False
) -> Row | None:
    """Return one limit, held for a change if asked."""
    given = {"tenant": tenant_id, "limit": limit_id}
    return next(iter(connection.hot(_LOCKED if lock else _ONE, given)), None)


def list_system(
    connection: DriverConnection, *, limit_id: str
) -> Sequence[Row]:  # gate: DRV-006 - maintenance serves all tenants
    """Return tenant_id and max_value of the SYSTEM limit of this id, of every tenant that has it."""
    # Written out: the partial index serves no parameter.
    of_system = sa.and_(_L.source == sa.literal_column("'SYSTEM'"), _L.limit_id == limit_id)
    statement = sa.select(_L.tenant_id, _L.max_value).where(of_system)  # gate: SCOPE-001 - all tenants
    return connection.execute(statement).mappings().all()


def lock_shared(connection: DriverConnection, *, tenant_id: str, limit_ids: Sequence[str]) -> Sequence[Row]:
    """Return these limits, by id, and keep them from changing until the transaction ends."""
    statement = (
        sa.select(*_ALL)
        .where(_L.tenant_id == tenant_id, _L.limit_id.in_(limit_ids))
        .order_by(_L.limit_id)
        .with_for_update(read=True)
    )
    return connection.execute(statement).mappings().all()


def count_name(
    connection: DriverConnection, *, tenant_id: str, name: str, except_id: str | None = None
) -> int:
    """Return how many other ACTIVE limits bear this name: 0 or 1."""
    statement = sa.select(_L.limit_id).where(
        _L.tenant_id == tenant_id, _L.name == name, _L.status == "ACTIVE", _L.limit_id != (except_id or "")
    )
    return len(connection.execute(statement).all())


def set_limit(
    connection: DriverConnection, *, tenant_id: str, limit_id: str, version: int, values: Mapping[str, Any]
) -> bool:
    """Change the limit of this version; False when it has moved."""
    statement = (
        limits.update()
        .where(_L.tenant_id == tenant_id, _L.limit_id == limit_id, _L.version == version)
        .values({**values, "version": version + 1})
    )
    return connection.execute(statement).rowcount == 1


def list_limits(
    connection: DriverConnection,
    *,
    tenant_id: str,
    equal: Mapping[str, str],
    before: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return limits newest first, before a (created_at, limit_id)."""
    mine = sa.select(*_ALL).where(_L.tenant_id == tenant_id)
    page = newest(mine, _L.created_at, _L.limit_id, equal=equal, before=before, limit=limit)
    return connection.execute(page).mappings().all()


def list_active(connection: DriverConnection, *, tenant_id: str) -> Sequence[Row]:
    """Return every ACTIVE limit, by id."""
    statement = sa.select(*_ALL).where(_L.tenant_id == tenant_id, _L.status == "ACTIVE").order_by(_L.limit_id)
    return connection.execute(statement).mappings().all()
