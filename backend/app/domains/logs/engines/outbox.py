"""Logs L5: delivery of outbox events: at least once, later and later after each failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from app.db.connection import DriverConnection
from app.domains.logs.drivers import outbox as driver
from app.domains.logs.errors import event_not_found
from app.domains.logs.models.delivery import (
    ClaimedEvent,
    OutboxEventView,
)

# After these attempts, some two days, an event waits for its operator.
MAX_ATTEMPTS = 60
# Longer than a batch of deliveries can take: a worker that died loses its claim then.
CLAIM = timedelta(minutes=10)
_FIRST_DELAY = timedelta(seconds=10)
_LONGEST_DELAY = timedelta(hours=1)
_ERROR_LENGTH = 500


def decide_delay(attempts: int) -> timedelta:
    """Return how long to wait after this many failed attempts: doubled each time, an hour at most."""
    return min(_FIRST_DELAY * (1 << min(attempts - 1, 10)), _LONGEST_DELAY)


def claim_due(
    connection: DriverConnection, *, tenant_id: str, now: datetime, limit: int
) -> list[ClaimedEvent]:
    """Take the oldest due events of a tenant for one attempt at each."""
    rows = driver.lock_due(connection, tenant_id=tenant_id, now=now, max_attempts=MAX_ATTEMPTS, limit=limit)
    claimed = [ClaimedEvent(row["event_id"], row["body"], row["attempts"] + 1) for row in rows]
    if claimed:
        driver.set_claimed(
            connection,
            tenant_id=tenant_id,
            event_ids=[event.event_id for event in claimed],
            next_at=now + CLAIM,
        )
    return claimed


def list_tenants_due(connection: DriverConnection, *, now: datetime) -> Sequence[str]:
    """Return the tenants that have due events."""
    return driver.list_tenants_due(connection, now=now, max_attempts=MAX_ATTEMPTS)


def settle(
    connection: DriverConnection,
    *,
    tenant_id: str,
    delivered: Sequence[str],
    failed: Mapping[str, tuple[int, str]],
    now: datetime,
) -> None:
    """Note which events have arrived; `failed` is attempts and reason of each that has not."""
    if delivered:
        driver.set_delivered(connection, tenant_id=tenant_id, event_ids=delivered, now=now)
    for event_id, (attempts, error) in failed.items():
        driver.set_failed(
            connection,
            tenant_id=tenant_id,
            event_id=event_id,
            next_at=now + decide_delay(attempts),
            error=error[:_ERROR_LENGTH],
        )


def replay(connection: DriverConnection, *, tenant_id: str, event_id: str, now: datetime) -> None:
    """Deliver an event again as if it were new; refuse EVENT_NOT_FOUND."""
    if not driver.set_due(connection, tenant_id=tenant_id, event_id=event_id, now=now):
        raise event_not_found()


def list_page(
    connection: DriverConnection, *, tenant_id: str, delivered: bool | None, after: str | None, limit: int
) -> list[OutboxEventView]:
    """Return events newest first, without their bodies."""
    rows = driver.list_events(connection, tenant_id=tenant_id, delivered=delivered, after=after, limit=limit)
    return [
        OutboxEventView(
            **{name: row[name] for name in OutboxEventView.model_fields if name != "given_up"},
            given_up=row["delivered_at"] is None and row["attempts"] >= MAX_ATTEMPTS,
        )
        for row in rows
    ]
