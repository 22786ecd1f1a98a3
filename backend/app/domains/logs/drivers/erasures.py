"""Logs L6: records of erasures, and legal holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import bytewise
from app.db.newest import newest
from app.domains.logs.tables import erasures, legal_holds

_E, _H = erasures.c, legal_holds.c
_HOLD = tuple(column for column in legal_holds.columns if column.name != "tenant_id")


def insert_erasure(connection: DriverConnection, row: Mapping[str, Any], *, tenant_id: str) -> None:
    """Insert the record of an erasure."""
    connection.execute(erasures.insert(), {**row, "tenant_id": tenant_id})


def list_erasures(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return erasures, newest first; of one run if asked."""
    columns = (column for column in erasures.columns if column.name != "tenant_id")
    statement = sa.select(*columns).where(_E.tenant_id == tenant_id)
    name, equal = bytewise(connection, _E.erasure_id), {"run_id": run_id}
    page = newest(statement, _E.created_at, name, equal=equal, before=before, limit=limit)
    return connection.execute(page).mappings().all()


def insert_hold(connection: DriverConnection, row: Mapping[str, Any], *, tenant_id: str) -> None:
    """Insert a hold."""
    connection.execute(legal_holds.insert(), {**row, "tenant_id": tenant_id})


def lock_hold(connection: DriverConnection, *, tenant_id: str, hold_id: str) -> Row | None:
    """Return a hold and keep it until the transaction ends."""
    statement = sa.select(*_HOLD).where(_H.tenant_id == tenant_id, _H.hold_id == hold_id).with_for_update()
    return connection.execute(statement).mappings().one_or_none()


def set_released(
    connection: DriverConnection, *, tenant_id: str, hold_id: str, values: Mapping[str, Any]
) -> None:
    """Store who released a hold, and when."""
    connection.execute(
        legal_holds.update().where(_H.tenant_id == tenant_id, _H.hold_id == hold_id).values(**values)
    )


def list_active(connection: DriverConnection, *, tenant_id: str) -> Sequence[Row]:
    """Return hold_id, scope and scope_id of the holds that are not released, by id."""
    statement = (
        sa.select(_H.hold_id, _H.scope, _H.scope_id)
        .where(_H.tenant_id == tenant_id, _H.released_at.is_(None))
        .order_by(bytewise(connection, _H.hold_id))
    )
    return connection.execute(statement).mappings().all()


def list_holds(
    connection: DriverConnection,
    *,
    tenant_id: str,
    released: bool | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return holds, newest first; the released ones or the others if asked."""
    statement = sa.select(*_HOLD).where(_H.tenant_id == tenant_id)
    if released is not None:
        statement = statement.where(_H.released_at.is_not(None) if released else _H.released_at.is_(None))
    name = bytewise(connection, _H.hold_id)
    page = newest(statement, _H.placed_at, name, equal={}, before=before, limit=limit)
    return connection.execute(page).mappings().all()
