"""Logs L6: records of archives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import bytewise
from app.domains.logs.tables import log_archives, log_purge_permits

_A = log_archives.c
_ARCHIVE = tuple(column for column in log_archives.columns if column.name != "tenant_id")


def insert_archive(connection: DriverConnection, row: Mapping[str, Any], *, tenant_id: str) -> None:
    """Insert the record of an archive."""
    connection.execute(log_archives.insert(), {**row, "tenant_id": tenant_id})


def list_archives(
    connection: DriverConnection, *, tenant_id: str, before: tuple[datetime, str] | None, limit: int
) -> Sequence[Row]:
    """Return archives with the moment at which their purge was done, newest first."""
    name = bytewise(connection, _A.archive_id)
    purge = sa.and_(
        log_purge_permits.c.tenant_id == tenant_id, log_purge_permits.c.archive_id == _A.archive_id
    )
    statement = (
        sa.select(*_ARCHIVE, log_purge_permits.c.closed_at.label("purged_at"))
        .select_from(log_archives.outerjoin(log_purge_permits, purge))
        .where(_A.tenant_id == tenant_id)
        .order_by(_A.created_at.desc(), name.desc())
        .limit(limit)
    )
    if before is not None:
        at, archive_id = before
        statement = statement.where(
            sa.or_(_A.created_at < at, sa.and_(_A.created_at == at, name < archive_id))
        )
    return connection.execute(statement).mappings().all()
