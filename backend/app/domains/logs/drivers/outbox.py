"""Logs L6: events to deliver, written in the transaction that makes them true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import different
from app.domains.logs.tables import outbox

_ALL = tuple(outbox.c)


def insert_events(connection: DriverConnection, rows: Sequence[Mapping[str, Any]], *, tenant_id: str) -> None:
    """Insert outbox events, all of one tenant, in one statement."""
    connection.execute(outbox.insert(), [{**row, "tenant_id": tenant_id} for row in rows])


def lock_due(
    connection: DriverConnection, *, tenant_id: str, now: datetime, max_attempts: int, limit: int
) -> Sequence[Row]:
    """Hold the oldest events that are due and not given up; what another worker holds is passed over."""
    statement = (
        sa.select(outbox.c.event_id, outbox.c.body, outbox.c.attempts)
        .where(outbox.c.tenant_id == tenant_id, _due(now, max_attempts))
        .order_by(outbox.c.event_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return connection.execute(statement).mappings().all()


def list_tenants_due(
    connection: DriverConnection, *, now: datetime, max_attempts: int
) -> Sequence[str]:  # gate: DRV-006 - maintenance serves all tenants
    """Return the tenants that have events that are due and not given up."""
    due = sa.select(outbox.c.tenant_id).where(_due(now, max_attempts))  # gate: SCOPE-001 - all tenants
    return connection.scalars(different(due)).all()


def _due(now: datetime, max_attempts: int) -> sa.ColumnElement[bool]:
    return sa.and_(outbox.c.delivered_at.is_(None), outbox.c.next_at <= now, outbox.c.attempts < max_attempts)


def set_claimed(
    connection: DriverConnection, *, tenant_id: str, event_ids: Sequence[str], next_at: datetime
) -> None:
    """Count an attempt at each event; until `next_at` nobody else tries it."""
    connection.execute(
        outbox.update()
        .where(outbox.c.tenant_id == tenant_id, outbox.c.event_id.in_(event_ids))
        .values(attempts=outbox.c.attempts + 1, next_at=next_at)
    )


def set_delivered(
    connection: DriverConnection, *, tenant_id: str, event_ids: Sequence[str], now: datetime
) -> None:
    """Note that events have arrived."""
    connection.execute(
        outbox.update()
        .where(outbox.c.tenant_id == tenant_id, outbox.c.event_id.in_(event_ids))
        .values(delivered_at=now, last_error=None)
    )


def set_failed(
    connection: DriverConnection, *, tenant_id: str, event_id: str, next_at: datetime, error: str
) -> None:
    """Note why an event has not arrived, and when to try again."""
    connection.execute(
        outbox.update()
        .where(outbox.c.tenant_id == tenant_id, outbox.c.event_id == event_id)
        .values(next_at=next_at, last_error=error)
    )


def set_due(connection: DriverConnection, *, tenant_id: str, event_id: str, now: datetime) -> bool:
    """Make an event due as if it were new; False when there is none of this id."""
    statement = (
        outbox.update()
        .where(outbox.c.tenant_id == tenant_id, outbox.c.event_id == event_id)
        .values(attempts=0, next_at=now, delivered_at=None, last_error=None)
        .returning(outbox.c.event_id)
    )
    return connection.scalars(statement).one_or_none() is not None


def list_events(
    connection: DriverConnection, *, tenant_id: str, delivered: bool | None, after: str | None, limit: int
) -> Sequence[Row]:
    """Return events newest first, of one kind of state if given, before the event `after`."""
    statement = sa.select(*_ALL).where(outbox.c.tenant_id == tenant_id)
    if delivered is not None:
        statement = statement.where(
            outbox.c.delivered_at.is_not(None) if delivered else outbox.c.delivered_at.is_(None)
        )
    if after is not None:
        statement = statement.where(outbox.c.event_id < after)
    return connection.execute(statement.order_by(outbox.c.event_id.desc()).limit(limit)).mappings().all()
