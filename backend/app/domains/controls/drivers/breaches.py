"""Controls L6: rows of breaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among
from app.db.newest import newest
from app.domains.controls.tables import limit_breaches, limits

_B = limit_breaches.c
_COLUMNS = (*limit_breaches.columns, limits.c.name.label("limit_name"))
_NAMED = limit_breaches.join(
    limits, sa.and_(limits.c.tenant_id == _B.tenant_id, limits.c.limit_id == _B.limit_id)
)


def insert_breaches(
    connection: DriverConnection, rows: Sequence[Mapping[str, Any]], *, tenant_id: str
) -> None:
    """Insert breaches in one statement."""
    connection.execute(limit_breaches.insert(), [{**row, "tenant_id": tenant_id} for row in rows])


def list_known(
    connection: DriverConnection, *, tenant_id: str, run_key: str, limit_ids: Sequence[str]
) -> Sequence[Row]:
    """Return limit_id and window_key of the breaches of these limits that a run has already."""
    statement = sa.select(_B.limit_id, _B.window_key).where(
        _B.tenant_id == tenant_id, _B.run_key == run_key, _B.limit_id.in_(limit_ids)
    )
    return connection.execute(statement).mappings().all()


def list_breaches(
    connection: DriverConnection,
    *,
    tenant_id: str,
    equal: Mapping[str, Any],
    limit: int,
    since: datetime | None = None,
    before: tuple[datetime, str] | None = None,
) -> Sequence[Row]:
    """Return breaches with the names of their limits, newest first, before a (breached_at, breach_id)."""
    statement = sa.select(*_COLUMNS).select_from(_NAMED).where(_B.tenant_id == tenant_id)
    if since is not None:
        statement = statement.where(_B.breached_at >= since)
    page = newest(statement, _B.breached_at, _B.breach_id, equal=equal, before=before, limit=limit)
    return connection.execute(page).mappings().all()


def count_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> int:
    """Return how many breaches a run has."""
    statement = sa.select(sa.func.count()).where(_B.tenant_id == tenant_id, _B.run_id == run_id)
    return int(connection.scalars(statement).one())


def count_by_run(connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]) -> Sequence[Row]:
    """Return, by run, how many breaches it has."""
    statement = (
        sa.select(_B.run_id, sa.func.count().label("breaches"))
        .where(_B.tenant_id == tenant_id, among(connection, _B.run_id, run_ids))
        .group_by(_B.run_id)
    )
    return connection.execute(statement).mappings().all()
