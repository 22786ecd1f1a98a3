"""Activity L6: the discovery ledger, one row for each thing that was noticed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import bytewise, insert
from app.domains.activity.tables import discovery_ledger as ledger

_ALL = tuple(column for column in ledger.columns if column.name != "tenant_id")


def insert_signal(connection: DriverConnection, row: Mapping[str, Any], *, tenant_id: str) -> bool:
    """Insert a first sighting; return False when the same was seen before."""
    # Without a target: one of two partial unique indexes catches it, by whether a field is named.
    statement = insert(connection, ledger).on_conflict_do_nothing().returning(ledger.c.signal_id)
    return connection.execute(statement, {**row, "tenant_id": tenant_id}).one_or_none() is not None


def lock_sighting(
    connection: DriverConnection, *, tenant_id: str, artifact: str, field: str | None, signal_type: str
) -> Row | None:
    """Return the row of what was seen before and hold it."""
    statement = (
        sa.select(*_ALL)
        .where(
            ledger.c.tenant_id == tenant_id,
            ledger.c.artifact == artifact,
            ledger.c.field.is_(None) if field is None else ledger.c.field == field,
            ledger.c.signal_type == signal_type,
        )
        .with_for_update()
    )
    return connection.execute(statement).mappings().one_or_none()


def get_signal(connection: DriverConnection, *, tenant_id: str, signal_id: str) -> Row | None:
    """Return one row."""
    statement = sa.select(*_ALL).where(ledger.c.tenant_id == tenant_id, ledger.c.signal_id == signal_id)
    return connection.execute(statement).mappings().one_or_none()


def lock_signal(connection: DriverConnection, *, tenant_id: str, signal_id: str) -> Row | None:
    """Return one row and hold it."""
    statement = (
        sa.select(*_ALL)
        .where(ledger.c.tenant_id == tenant_id, ledger.c.signal_id == signal_id)
        .with_for_update()
    )
    return connection.execute(statement).mappings().one_or_none()


def set_signal(
    connection: DriverConnection, values: Mapping[str, Any], *, tenant_id: str, signal_id: str
) -> None:
    """Change a row that is held."""
    statement = (
        sa.update(ledger)
        .where(ledger.c.tenant_id == tenant_id, ledger.c.signal_id == signal_id)
        .values({**values, "version": ledger.c.version + 1})
    )
    connection.execute(statement)


def list_signals(
    connection: DriverConnection,
    *,
    tenant_id: str,
    equal: Mapping[str, Any],
    after: tuple[int, datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return rows that equal these values, most often seen first, then newest."""
    signal_id = bytewise(connection, ledger.c.signal_id)
    statement = (
        sa.select(*_ALL)
        .where(ledger.c.tenant_id == tenant_id)
        .order_by(ledger.c.seen_count.desc(), ledger.c.last_seen_at.desc(), signal_id.desc())
        .limit(limit)
    )
    for name, value in equal.items():
        statement = statement.where(ledger.c[name] == value)
    if after is not None:
        count, at, last = after
        statement = statement.where(
            sa.tuple_(ledger.c.seen_count, ledger.c.last_seen_at, signal_id)
            < sa.tuple_(count, sa.literal(at, ledger.c.last_seen_at.type), last)
        )
    return connection.execute(statement).mappings().all()
