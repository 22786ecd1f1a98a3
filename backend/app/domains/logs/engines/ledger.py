"""Logs L5: the audit ledger and the outbox, written in the transaction of the change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.logs.drivers import ledger, outbox
from app.kernel.canonical_json import dumps
from app.kernel.clock import format_time


def append_entries(
    connection: DriverConnection, rows: Sequence[Mapping[str, Any]], *, tenant_id: str
) -> None:
    """Append ledger entries; if one fails, the change fails."""
    if rows:
        ledger.insert_entries(connection, rows, tenant_id=tenant_id)


def append_events(
    connection: DriverConnection,
    events: Sequence[tuple[str, str, Mapping[str, Any]]],
    *,
    tenant_id: str,
    now: datetime,
) -> None:
    """Queue (event_id, type, data) as CloudEvents 1.0 for delivery after the commit."""
    if not events:
        return
    rows = []
    for event_id, kind, data in events:
        body = {
            "specversion": "1.0",
            "id": event_id,
            "source": f"urn:hoc-spine:{tenant_id}",
            "type": f"hoc.{kind}",
            "time": format_time(now),
            "datacontenttype": "application/json",
            "data": dict(data),
        }
        rows.append(
            {"event_id": event_id, "type": kind, "body": dumps(body), "next_at": now, "created_at": now}
        )
    outbox.insert_events(connection, [{**row, "attempts": 0} for row in rows], tenant_id=tenant_id)
