"""Incidents L5: the incidents that a run caused, for its evidence."""

from __future__ import annotations

from collections.abc import Sequence

from app.db.connection import DriverConnection, Row
from app.domains.incidents.drivers import incidents as driver
from app.domains.incidents.drivers import run_incidents as counts
from app.domains.incidents.models.vocabulary import IncidentCategory, LifecycleState


def list_run(connection: DriverConnection, *, tenant_id: str, run_id: str, limit: int) -> Sequence[Row]:
    """Return the rows of the incidents that a run caused, newest first."""
    return driver.list_incidents(
        connection, tenant_id=tenant_id, equal={"source_run_id": run_id}, before=None, limit=limit
    )


def count_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> int:
    """Return how many incidents a run caused."""
    return counts.count_run(connection, tenant_id=tenant_id, run_id=run_id)


def list_ids(connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the ids of the incidents that each of these runs caused, oldest first."""
    found: dict[str, list[str]] = {}
    for row in counts.list_ids(connection, tenant_id=tenant_id, run_ids=run_ids):
        found.setdefault(row["source_run_id"], []).append(row["incident_id"])
    return found


def count_by_run(
    connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]
) -> dict[str, tuple[int, bool]]:
    """Return, by run, how many incidents it caused, and whether one of them is a violation of policy."""
    rows = counts.count_by_run(
        connection, tenant_id=tenant_id, run_ids=run_ids, violation=IncidentCategory.POLICY_VIOLATION.value
    )
    return {row["run_id"]: (row["incidents"], row["violations"] > 0) for row in rows}


def list_open_runs(connection: DriverConnection, *, tenant_id: str) -> Sequence[str]:
    """Return the runs with an incident that is not resolved."""
    return counts.list_runs_besides(connection, tenant_id=tenant_id, state=LifecycleState.RESOLVED.value)
