"""Controls L6: entries of limits of runs that are deleted, and the sums that are kept of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among
from app.domains.controls.tables import limit_entries

_E = limit_entries.c
_COLUMNS = (_E.entry_id, _E.limit_id, _E.limit_version, _E.window_key, _E.kind, _E.amount)


def list_of_runs(
    connection: DriverConnection, run_ids: Sequence[str], *, tenant_id: str, limit: int
) -> Sequence[Row]:
    """Return entries of these runs, at most `limit`."""
    statement = sa.select(*_COLUMNS).where(_E.tenant_id == tenant_id, among(connection, _E.run_id, run_ids))
    return connection.execute(statement.limit(limit)).mappings().all()


def list_carried(
    connection: DriverConnection, limit_id: str, window_keys: Sequence[str], *, tenant_id: str
) -> Sequence[Row]:
    """Return the entries in these windows that are of no run: sums of earlier ones."""
    statement = sa.select(*_COLUMNS).where(
        _E.tenant_id == tenant_id,
        _E.limit_id == limit_id,
        among(connection, _E.window_key, window_keys),
        _E.run_id.is_(None),
    )
    return connection.execute(statement).mappings().all()


def delete_entries(connection: DriverConnection, entry_ids: Sequence[str], *, tenant_id: str) -> None:
    """Delete entries."""
    connection.execute(
        limit_entries.delete().where(_E.tenant_id == tenant_id, among(connection, _E.entry_id, entry_ids))
    )


def insert_entries(
    connection: DriverConnection, rows: Sequence[Mapping[str, Any]], *, tenant_id: str
) -> None:
    """Insert entries."""
    connection.execute(limit_entries.insert(), [{**row, "tenant_id": tenant_id} for row in rows])
