"""L6 SQL of the consents to purge a plane; rows are only ever added."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import bytewise
from app.domains.knowledge.tables import plane_lifecycle_events, plane_purge_approvals

_approvals = plane_purge_approvals
_events = plane_lifecycle_events


def append_approval(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> None:
    """Add a consent."""
    connection.execute(sa.insert(_approvals), {**row, "tenant_id": tenant_id})


def list_approvals(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> list[Row]:
    """Return every consent that was given for a plane, by id."""
    statement = (
        sa.select(*_approvals.c)
        .where(_approvals.c.tenant_id == tenant_id, _approvals.c.plane_id == plane_id)
        .order_by(bytewise(connection, _approvals.c.approval_id))
    )
    return list(connection.execute(statement).mappings())


def list_open_approvals(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, now: datetime
) -> list[Row]:
    """Return the consents of a plane that have neither expired nor been used, newest first."""
    # Written out, so that the partial index of used consents is seen to fit.
    used = sa.exists().where(
        _events.c.tenant_id == tenant_id,
        _events.c.approval_id == _approvals.c.approval_id,
        _events.c.to_state_value == sa.literal_column("400"),
        _events.c.decision == sa.literal_column("'ALLOWED'"),
    )
    statement = (
        sa.select(_approvals.c.approval_id, _approvals.c.approved_by, _approvals.c.expires_at)
        .where(
            _approvals.c.tenant_id == tenant_id,
            _approvals.c.plane_id == plane_id,
            _approvals.c.expires_at > now,
            ~used,
        )
        .order_by(_approvals.c.approved_at.desc(), _approvals.c.approval_id.desc())
    )
    return list(connection.execute(statement).mappings())
