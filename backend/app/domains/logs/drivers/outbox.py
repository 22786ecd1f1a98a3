"""Logs L6: events to deliver, written in the transaction that makes them true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.db.connection import DriverConnection
from app.domains.logs.tables import outbox


def insert_events(connection: DriverConnection, rows: Sequence[Mapping[str, Any]], *, tenant_id: str) -> None:
    """Insert outbox events, all of one tenant, in one statement."""
    connection.execute(outbox.insert(), [{**row, "tenant_id": tenant_id} for row in rows])
