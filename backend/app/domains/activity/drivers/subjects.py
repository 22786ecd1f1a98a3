"""Activity L6: whom runs are about."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among
from app.domains.activity.tables import runs


def list_subjects(connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]) -> Sequence[Row]:
    """Return run_id and subject_ref of those of the runs that are about a subject."""
    statement = sa.select(runs.c.run_id, runs.c.subject_ref).where(
        runs.c.tenant_id == tenant_id,
        among(connection, runs.c.run_id, run_ids),
        runs.c.subject_ref.is_not(None),
    )
    return connection.execute(statement).mappings().all()


def get_any_run(connection: DriverConnection, *, tenant_id: str, subject_ref: str) -> str | None:
    """Return a run about the subject; None when there is none."""
    statement = (
        sa.select(runs.c.run_id)
        .where(runs.c.tenant_id == tenant_id, runs.c.subject_ref == subject_ref)
        .limit(1)
    )
    found: str | None = connection.scalars(statement).one_or_none()
    return found
