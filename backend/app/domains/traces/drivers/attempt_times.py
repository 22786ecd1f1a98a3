"""Traces L6: when the attempts of many runs ended."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among
from app.domains.traces.tables import aos_traces


def list_attempts(connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]) -> Sequence[Row]:
    """Return run_id, attempt and completed_at of the traces of these runs."""
    statement = sa.select(aos_traces.c.run_id, aos_traces.c.attempt, aos_traces.c.completed_at).where(
        aos_traces.c.tenant_id == tenant_id, among(connection, aos_traces.c.run_id, run_ids)
    )
    return connection.execute(statement).mappings().all()
