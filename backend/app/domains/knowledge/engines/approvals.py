"""L5 consents to purge a plane: who may give one, and which still count."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from app.db.connection import DriverConnection
from app.domains.knowledge.drivers import purge_approvals as driver
from app.domains.knowledge.engines.gates import Approval
from app.domains.knowledge.errors import conflict, forbidden
from app.domains.knowledge.models.vocabulary import (
    EventActorType,
    KnowledgePlaneLifecycleState,
)
from app.kernel.errors import HocError


def check_approval(state: KnowledgePlaneLifecycleState, *, actor_type: str) -> HocError | None:
    """Return HUMAN_REQUIRED for any other actor, PLANE_NOT_ARCHIVED outside ARCHIVED."""
    if actor_type != EventActorType.HUMAN:
        return forbidden("HUMAN_REQUIRED", "Only a person consents to a purge.")
    if state is not KnowledgePlaneLifecycleState.ARCHIVED:
        return conflict("PLANE_NOT_ARCHIVED", f"A purge is approved in ARCHIVED, not in {state.name}.")
    return None


def new_approval(
    *, approval_id: str, plane_id: str, approved_by: str, event_id: str, now: datetime, valid_days: int
) -> dict[str, Any]:
    """Return the row of a consent that counts for so many days."""
    return {
        "approval_id": approval_id,
        "plane_id": plane_id,
        "approved_by": approved_by,
        "approved_at": now,
        "expires_at": now + timedelta(days=valid_days),
        "event_id": event_id,
    }


def append_approval(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> None:
    """Add a consent."""
    driver.append_approval(connection, tenant_id=tenant_id, row=row)


def list_open(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, now: datetime
) -> tuple[Approval, ...]:
    """Return the consents that have neither expired nor been used, newest first."""
    rows = driver.list_open_approvals(connection, tenant_id=tenant_id, plane_id=plane_id, now=now)
    return tuple(Approval(row["approval_id"], row["approved_by"], row["expires_at"]) for row in rows)
