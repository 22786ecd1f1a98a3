"""Database: what a mediated access is judged by: the caller's standing, the run and the plane, in one read.

It crosses slices, as `batch_read` and `gather` do, because an access reads all of it twice, before it
searches and when its evidence is written. It knows the tables by their names only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import sqlalchemy as sa

from app.db.batch_read import join_standing, parts_of, standing_columns
from app.db.connection import DriverConnection, Row
from app.db.hot import HotStatement
from app.db.metadata import metadata

_RUN = (
    "run_id",
    "agent_id",
    "project_id",
    "actor_type",
    "origin_system_id",
    "labels",
    "policy_snapshot_id",
    "status",
    "attempt",
)
_PLANE = (
    "plane_id",
    "plane_type",
    "plane_name",
    "lifecycle_state_value",
    "suspended_at",
    "version",
    "connector_type",
    "connector_id",
    "config",
    "config_digest",
    "sensitivity_level",
    "pii_detected",
    "passage_count",
    "token_total",
    "generation",
)


@dataclass(frozen=True, slots=True)
class AccessFacts:
    """The caller's standing, and run and plane as far as there are such; nothing is held."""

    standing: Row
    run: Row | None
    plane: Row | None


@cache
def _statement() -> HotStatement:
    runs, planes = metadata.tables["runs"], metadata.tables["knowledge_plane_registry"]
    tenant = sa.bindparam("tenant", type_=sa.Text)
    asked = (
        sa.select(sa.literal_column("1").label("one"))
        .subquery("asked")
        .outerjoin(runs, sa.and_(runs.c.tenant_id == tenant, runs.c.run_id == sa.bindparam("run")))
        .outerjoin(planes, sa.and_(planes.c.tenant_id == tenant, planes.c.plane_id == sa.bindparam("plane")))
    )
    return HotStatement(
        sa.select(
            *(runs.c[name].label(f"run_{name}") for name in _RUN),
            *(planes.c[name].label(f"plane_{name}") for name in _PLANE),
            *standing_columns(),
        ).select_from(join_standing(asked, tenant))
    )


def read_access(
    connection: DriverConnection, *, tenant_id: str, key_id: str | None, run_id: str, plane_id: str
) -> AccessFacts | None:
    """Return what an access to this plane by this run is judged by; None for an unknown tenant."""
    given = {"tenant": tenant_id, "key": key_id, "run": run_id, "plane": plane_id}
    rows = connection.hot(_statement(), given)
    if not rows:
        return None
    parts = parts_of(rows[0], "run", "plane", "standing")
    run, plane = parts["run"], parts["plane"]
    return AccessFacts(
        parts["standing"],
        None if run["run_id"] is None else run,
        None if plane["plane_id"] is None else plane,
    )
