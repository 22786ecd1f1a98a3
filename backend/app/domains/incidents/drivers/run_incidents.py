"""Incidents L6: which incidents runs have, and how many."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among
from app.domains.incidents.tables import incidents


def count_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> int:
    """Return how many incidents a run caused."""
    statement = (
        sa.select(sa.func.count())
        .select_from(incidents)
        .where(incidents.c.tenant_id == tenant_id, incidents.c.source_run_id == run_id)
    )
    return int(connection.scalars(statement).one())


def list_ids(connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]) -> Sequence[Row]:
    """Return source_run_id and incident_id of the incidents of these runs, oldest first."""
    statement = (
        sa.select(incidents.c.source_run_id, incidents.c.incident_id)
        .where(incidents.c.tenant_id == tenant_id, incidents.c.source_run_id.in_(run_ids))
        .order_by(incidents.c.source_run_id, incidents.c.created_at, incidents.c.incident_id)
    )
    return connection.execute(statement).mappings().all()


def count_by_run(
    connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str], violation: str
) -> Sequence[Row]:
    """Return, by run, how many incidents it has, and how many of them are of the category `violation`."""
    run_id = incidents.c.source_run_id
    statement = (
        sa.select(
            run_id.label("run_id"),
            sa.func.count().label("incidents"),
            sa.func.sum(sa.case((incidents.c.category == violation, 1), else_=0)).label("violations"),
        )
        .where(incidents.c.tenant_id == tenant_id, among(connection, run_id, run_ids))
        .group_by(run_id)
    )
    return connection.execute(statement).mappings().all()


def list_runs_besides(connection: DriverConnection, *, tenant_id: str, state: str) -> Sequence[str]:
    """Return the runs with an incident in another state than this."""
    statement = (
        sa.select(incidents.c.source_run_id)
        .where(
            incidents.c.tenant_id == tenant_id,
            incidents.c.source_run_id.is_not(None),
            incidents.c.lifecycle_state != state,
        )
        .distinct()
    )
    return connection.scalars(statement).all()
