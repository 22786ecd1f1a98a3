"""Retrieval L5: accesses whose source is being asked, kept until their evidence is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from app.db.connection import DriverConnection
from app.domains.retrieval.drivers import attempts as driver
from app.domains.retrieval.models import Outcome, Reason
from app.kernel.canonical_json import dumps, loads
from app.kernel.clock import format_time, parse_time

# After its deadline an access has this long to write its evidence itself.
GRACE: Final = timedelta(seconds=60)
_TIMES: Final = ("requested_at", "completed_at")


def keep(
    connection: DriverConnection, row: Mapping[str, Any], *, tenant_id: str, deadline_at: datetime
) -> None:
    """Keep an access's evidence as it will be if nobody hears of it again: failed, for a reason of ours."""
    lost = {
        **row,
        "outcome": Outcome.FAILED.value,
        "reason_code": Reason.INTERNAL_ERROR.value,
        **{name: format_time(row[name]) for name in _TIMES},
    }
    # When it is recorded, nobody knows yet.
    del lost["created_at"]
    driver.insert_attempt(
        connection,
        tenant_id=tenant_id,
        evidence_id=row["evidence_id"],
        evidence=dumps(lost),
        deadline_at=deadline_at,
    )


def forget(connection: DriverConnection, *, tenant_id: str, evidence_id: str) -> bool:
    """Forget an access whose evidence this transaction writes; False when it was given up already."""
    return driver.delete_attempt(connection, tenant_id=tenant_id, evidence_id=evidence_id)


def take_lost(
    connection: DriverConnection, *, tenant_id: str, now: datetime, limit: int
) -> list[dict[str, Any]]:
    """Forget the accesses that were given up, and return the evidence that is to be written of each."""
    found = driver.take_due(connection, tenant_id=tenant_id, until=now - GRACE, limit=limit)
    rows = []
    for kept in found:
        row = loads(kept["evidence"])
        rows.append({**row, **{name: parse_time(row[name]) for name in _TIMES}, "created_at": now})
    return rows


def list_tenants_due(connection: DriverConnection, *, now: datetime) -> Collection[str]:
    """Return the tenants with an access that was given up."""
    return driver.list_tenants_due(connection, until=now - GRACE)
