"""Incidents L5: how often an incident of one signature came about."""

from __future__ import annotations

from datetime import datetime

from app.db.connection import DriverConnection
from app.domains.incidents.drivers import signatures as driver


def count_between(
    connection: DriverConnection, *, tenant_id: str, signature: str, since: datetime, until: datetime
) -> int:
    """Return how many incidents of a signature were opened in [since, until)."""
    return driver.count_between(
        connection, tenant_id=tenant_id, signature=signature, since=since, until=until
    )
