"""Logs L5: records of archives, and for how long a tenant keeps evidence and the values in it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection, Row
from app.db.governed import GOVERNED, body_of, row_image
from app.domains.logs.drivers import archives as driver
from app.domains.logs.drivers import retention_settings as settings_driver
from app.domains.logs.errors import retention_below_floor
from app.domains.logs.models.archives import Archive, ArchiveView, RetentionView, SetRetention
from app.domains.logs.models.retention import DEFAULT_DAYS, FEWEST_DAYS
from app.kernel.canonical_json import dumps, loads


def record(archive: Archive, *, now: datetime) -> dict[str, Any]:
    """Return the row of an archive."""
    return {**archive.model_dump(), "counts": dumps(archive.counts.model_dump()), "created_at": now}


def stated(archive: Archive, *, now: datetime) -> dict[str, Any]:
    """Return what a fact without a row says of an archive: what the fact of its row says."""
    return body_of(GOVERNED["log_archives"], record(archive, now=now))


def insert(connection: DriverConnection, row: Row, *, tenant_id: str) -> None:
    """Store the record of an archive."""
    driver.insert_archive(connection, row, tenant_id=tenant_id)


def list_page(
    connection: DriverConnection, *, tenant_id: str, before: tuple[datetime, str] | None, limit: int
) -> Sequence[Row]:
    """Return archives, newest first."""
    return driver.list_archives(connection, tenant_id=tenant_id, before=before, limit=limit)


def view(row: Row) -> ArchiveView:
    """Return what a caller sees of an archive."""
    return ArchiveView.model_validate({**row, "counts": loads(row["counts"])})


def get_retention(connection: DriverConnection, *, tenant_id: str) -> RetentionView:
    """Return for how long a tenant keeps evidence and values."""
    row = settings_driver.get_settings(connection, tenant_id=tenant_id)
    return RetentionView() if row is None else retention_view(row)


def retention_view(row: Row) -> RetentionView:
    """Return what a caller sees of the row."""
    return RetentionView.model_validate({name: row[name] for name in RetentionView.model_fields})


def set_retention(
    connection: DriverConnection, wish: SetRetention, *, tenant_id: str, now: datetime
) -> tuple[Row | None, dict[str, Any]]:
    """Make or change a tenant's row; return it as it was and as it is. Refuse RETENTION_BELOW_FLOOR."""
    given = {"retention_days": wish.days, "value_retention_days": wish.value_days}
    wanted = {name: days for name, days in given.items() if days is not None}
    if min(wanted.values()) < FEWEST_DAYS:
        raise retention_below_floor(FEWEST_DAYS)
    first = {
        "retention_days": DEFAULT_DAYS,
        "value_retention_days": DEFAULT_DAYS,
        **wanted,
        "created_at": now,
        "updated_at": now,
        "version": 1,
    }
    if settings_driver.insert_settings(connection, first, tenant_id=tenant_id):
        return None, {"tenant_id": tenant_id, **first}
    before = settings_driver.lock_settings(connection, tenant_id=tenant_id)
    if before is None:
        raise LookupError(f"tenant {tenant_id} has no row of its retention")
    values = {**wanted, "updated_at": now, "version": before["version"] + 1}
    settings_driver.set_settings(connection, values, tenant_id=tenant_id)
    return before, {**before, **values}


def retention_image(row: Row) -> dict[str, Any]:
    """Return the audit image of the row."""
    return row_image("tenant_retention", row)
