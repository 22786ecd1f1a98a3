"""Traces L5: the steps of a run around a moment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from app.db.connection import DriverConnection, Row
from app.domains.traces.drivers import step_windows as driver


def list_between(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    since: datetime,
    until: datetime,
    limit: int,
) -> Sequence[Row]:
    """Return index, skill, status and time of a run's steps in [since, until], oldest first."""
    return driver.list_between(
        connection, tenant_id=tenant_id, run_id=run_id, since=since, until=until, limit=limit
    )
