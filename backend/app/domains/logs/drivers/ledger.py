"""Logs L6: entries of the audit ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import bytewise
from app.domains.logs.tables import audit_ledger


def insert_entries(
    connection: DriverConnection, rows: Sequence[Mapping[str, Any]], *, tenant_id: str
) -> None:
    """Insert ledger entries, all of one tenant, in one statement."""
    connection.execute(audit_ledger.insert(), [{**row, "tenant_id": tenant_id} for row in rows])


_COLUMNS = tuple(
    column
    for column in audit_ledger.columns
    if column.name not in ("tenant_id", "fact_id", "before_state", "after_state")
)


def list_run_entries(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    entity_types: Sequence[str],
    after: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return a run's entries of these entity types with their after_state, oldest first."""
    statement = (
        sa.select(*_COLUMNS, audit_ledger.c.after_state)
        .where(
            audit_ledger.c.tenant_id == tenant_id,
            audit_ledger.c.run_id == run_id,
            audit_ledger.c.entity_type.in_(entity_types),
        )
        .order_by(audit_ledger.c.created_at, bytewise(connection, audit_ledger.c.entry_id))
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(_beyond(connection, after, newer=True))
    return connection.execute(statement).mappings().all()


def count_run_entries(
    connection: DriverConnection, *, tenant_id: str, run_id: str, entity_types: Sequence[str]
) -> int:
    """Return how many entries of these entity types a run has."""
    statement = (
        sa.select(sa.func.count())
        .select_from(audit_ledger)
        .where(
            audit_ledger.c.tenant_id == tenant_id,
            audit_ledger.c.run_id == run_id,
            audit_ledger.c.entity_type.in_(entity_types),
        )
    )
    return int(connection.scalars(statement).one())


def list_entries(
    connection: DriverConnection,
    *,
    tenant_id: str,
    equal: Mapping[str, Any],
    created_after: datetime | None,
    created_before: datetime | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return entries newest first, without their states."""
    statement = (
        sa.select(*_COLUMNS)
        .where(audit_ledger.c.tenant_id == tenant_id)
        .order_by(audit_ledger.c.created_at.desc(), bytewise(connection, audit_ledger.c.entry_id).desc())
        .limit(limit)
    )
    for name, value in equal.items():
        statement = statement.where(audit_ledger.c[name] == value)
    if created_after is not None:
        statement = statement.where(audit_ledger.c.created_at >= created_after)
    if created_before is not None:
        statement = statement.where(audit_ledger.c.created_at < created_before)
    if before is not None:
        statement = statement.where(_beyond(connection, before, newer=False))
    return connection.execute(statement).mappings().all()


def get_entry(connection: DriverConnection, *, tenant_id: str, entry_id: str) -> Row | None:
    """Return one entry with its states."""
    statement = sa.select(*_COLUMNS, audit_ledger.c.before_state, audit_ledger.c.after_state).where(
        audit_ledger.c.tenant_id == tenant_id, audit_ledger.c.entry_id == entry_id
    )
    return connection.execute(statement).mappings().one_or_none()


def _beyond(
    connection: DriverConnection, key: tuple[datetime, str], *, newer: bool
) -> sa.ColumnElement[bool]:
    at, entry_id = key
    name = bytewise(connection, audit_ledger.c.entry_id)
    if newer:
        return sa.or_(
            audit_ledger.c.created_at > at, sa.and_(audit_ledger.c.created_at == at, name > entry_id)
        )
    return sa.or_(audit_ledger.c.created_at < at, sa.and_(audit_ledger.c.created_at == at, name < entry_id))
