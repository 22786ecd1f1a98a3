"""Logs L6: entries of the audit ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import bytewise
from app.db.newest import newest
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
    entry_id = bytewise(connection, audit_ledger.c.entry_id)
    statement = (
        sa.select(*_COLUMNS, audit_ledger.c.after_state)
        .where(
            audit_ledger.c.tenant_id == tenant_id,
            audit_ledger.c.run_id == run_id,
            audit_ledger.c.entity_type.in_(entity_types),
        )
        .order_by(audit_ledger.c.created_at, entry_id)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(
            sa.tuple_(audit_ledger.c.created_at, entry_id)
            > sa.tuple_(sa.literal(after[0], audit_ledger.c.created_at.type), after[1])
        )
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
    created_at = audit_ledger.c.created_at
    statement = sa.select(*_COLUMNS).where(audit_ledger.c.tenant_id == tenant_id)
    if created_after is not None:
        statement = statement.where(created_at >= created_after)
    if created_before is not None:
        statement = statement.where(created_at < created_before)
    entry_id = bytewise(connection, audit_ledger.c.entry_id)
    page = newest(statement, created_at, entry_id, equal=equal, before=before, limit=limit)
    return connection.execute(page).mappings().all()


def get_entry(connection: DriverConnection, *, tenant_id: str, entry_id: str) -> Row | None:
    """Return one entry with its states."""
    statement = sa.select(*_COLUMNS, audit_ledger.c.before_state, audit_ledger.c.after_state).where(
        audit_ledger.c.tenant_id == tenant_id, audit_ledger.c.entry_id == entry_id
    )
    return connection.execute(statement).mappings().one_or_none()
