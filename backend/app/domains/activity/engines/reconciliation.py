"""Activity L5: what reconciliation asks of runs: which ended or should have, and how they were judged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime

from app.db.connection import DriverConnection, Row
from app.domains.activity.drivers import run_endings as driver


def list_tenants_due(connection: DriverConnection, *, since: datetime, until: datetime) -> Sequence[str]:
    """Return the tenants with runs that ended in [since, until), or should have before `until`."""
    return driver.list_tenants_due(connection, since=since, until=until)


def list_overdue(
    connection: DriverConnection, *, tenant_id: str, before: datetime, limit: int
) -> Sequence[Row]:
    """Return running runs whose deadline was before a moment."""
    return driver.list_overdue(connection, tenant_id=tenant_id, before=before, limit=limit)


def list_ended(
    connection: DriverConnection,
    *,
    tenant_id: str,
    since: datetime,
    until: datetime,
    after: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return runs that ended in [since, until), oldest end first."""
    return driver.list_ended(
        connection, tenant_id=tenant_id, since=since, until=until, after=after, limit=limit
    )


def outcomes_of(
    connection: DriverConnection, run_ids: Sequence[str], *, tenant_id: str
) -> Mapping[str, Sequence[Row]]:
    """Return attempt and outcome_kind of each run's evaluations, by attempt."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in driver.list_outcomes(connection, tenant_id=tenant_id, run_ids=run_ids):
        found[row["run_id"]].append(row)
    return found
