"""Incidents L6: rows of what happened to incidents and of what they point at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.domains.incidents.tables import incident_events, incident_links

_E, _L = incident_events.c, incident_links.c


def insert_event(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> None:
    """Append one event to an incident."""
    connection.execute(incident_events.insert(), {**row, "tenant_id": tenant_id})


def get_event(connection: DriverConnection, *, tenant_id: str, incident_id: str, seq: int) -> Row | None:
    """Return the whole row of an event."""
    statement = sa.select(*incident_events.columns).where(
        _E.tenant_id == tenant_id, _E.incident_id == incident_id, _E.seq == seq
    )
    return connection.execute(statement).mappings().one_or_none()


def list_events(
    connection: DriverConnection, *, tenant_id: str, incident_id: str, after: int, limit: int
) -> Sequence[Row]:
    """Return whole rows of an incident's events beyond `after`, in order."""
    statement = (
        sa.select(*incident_events.columns)
        .where(_E.tenant_id == tenant_id, _E.incident_id == incident_id, _E.seq > after)
        .order_by(_E.seq)
        .limit(limit)
    )
    return connection.execute(statement).mappings().all()


def insert_links(connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append links to an incident, one statement for all."""
    connection.execute(incident_links.insert(), [{**row, "tenant_id": tenant_id} for row in rows])


def list_links(
    connection: DriverConnection,
    *,
    tenant_id: str,
    incident_id: str,
    after: tuple[str, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return whole rows of an incident's links, by kind and ref, after a (kind, ref)."""
    statement = sa.select(*incident_links.columns).where(
        _L.tenant_id == tenant_id, _L.incident_id == incident_id
    )
    if after is not None:
        last = sa.tuple_(sa.literal(after[0], sa.Text), sa.literal(after[1], sa.Text))
        statement = statement.where(sa.tuple_(_L.kind, _L.ref) > last)
    return connection.execute(statement.order_by(_L.kind, _L.ref).limit(limit)).mappings().all()
