"""Controls L6: rows of limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import insert
from app.domains.controls.tables import limits

_L = limits.c
_ALL = tuple(limits.columns)


def insert_limit(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> bool:
    """Insert a limit; False when its id, or its name among the ACTIVE ones, is taken."""
    statement = (
        insert(connection, limits)
        .values({**row, "tenant_id": tenant_id})
        .on_conflict_do_nothing()
        .returning(_L.limit_id)
    )
    return connection.scalars(statement).one_or_none() is not None


def get_limit(
    connection: DriverConnection, *, tenant_id: str, limit_id: str, lock: bool = False
) -> Row | None:
    """Return one limit, held for a change if asked."""
    statement = sa.select(*_ALL).where(_L.tenant_id == tenant_id, _L.limit_id == limit_id)
    if lock:
        statement = statement.with_for_update(key_share=True)
    return connection.execute(statement).mappings().one_or_none()


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
    statement = sa.select(*_ALL).where(_L.tenant_id == tenant_id)
    for name, value in equal.items():
        statement = statement.where(_L[name] == value)
    if before is not None:
        last = sa.tuple_(sa.literal(before[0], _L.created_at.type), sa.literal(before[1], _L.limit_id.type))
        statement = statement.where(sa.tuple_(_L.created_at, _L.limit_id) < last)
    statement = statement.order_by(_L.created_at.desc(), _L.limit_id.desc()).limit(limit)
    return connection.execute(statement).mappings().all()


def list_active(connection: DriverConnection, *, tenant_id: str) -> Sequence[Row]:
    """Return every ACTIVE limit, by id."""
    statement = sa.select(*_ALL).where(_L.tenant_id == tenant_id, _L.status == "ACTIVE").order_by(_L.limit_id)
    return connection.execute(statement).mappings().all()
