"""Incidents L6: SQL of incidents by their recurrence signature."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.domains.incidents.tables import incidents

_I = incidents.c


def count_between(
    connection: DriverConnection, *, tenant_id: str, signature: str, since: datetime, until: datetime
) -> int:
    """Return how many incidents of a signature were opened in [since, until)."""
    statement = sa.select(sa.func.count()).where(
        _I.tenant_id == tenant_id,
        _I.recurrence_signature == signature,
        _I.created_at >= since,
        _I.created_at < until,
    )
    return int(connection.execute(statement).scalar_one())
