"""L6 SQL of the lifecycle events of planes; rows are only ever added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.domains.knowledge.tables import plane_lifecycle_events

_events = plane_lifecycle_events


def append_events(connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add the events of one transaction in one statement."""
    connection.execute(sa.insert(_events), [{"tenant_id": tenant_id, **row} for row in rows])


def list_events(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    event_type: str | None,
    decision: str | None,
    after: int,
    limit: int,
) -> list[Row]:
    """Return the events of a plane by seq, after the given one."""
    statement = (
        sa.select(*_events.c)
        .where(_events.c.tenant_id == tenant_id, _events.c.plane_id == plane_id, _events.c.seq > after)
        .order_by(_events.c.seq)
        .limit(limit)
    )
    if event_type is not None:
        statement = statement.where(_events.c.event_type == event_type)
    if decision is not None:
        statement = statement.where(_events.c.decision == decision)
    return list(connection.execute(statement).mappings())
