"""L5 lifecycle events: what one says, and how it is shown again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.db.connection import DriverConnection
from app.domains.knowledge.drivers import plane_events as driver
from app.domains.knowledge.models.planes import (
    ListPlaneEvents,
    PlaneEventView,
)
from app.domains.knowledge.models.vocabulary import (
    GateDecision,
    KnowledgePlaneLifecycleState,
    LifecycleAction,
    LifecycleEventType,
)
from app.kernel.canonical_json import dumps, loads

State = KnowledgePlaneLifecycleState


@dataclass(frozen=True, slots=True)
class EventDraft:
    """One event before it is numbered, committed to and written."""

    event_type: LifecycleEventType
    from_state: State | None
    to_state: State | None
    action: LifecycleAction | None = None
    decision: GateDecision = GateDecision.ALLOWED
    error_code: str | None = None
    required_action: str | None = None
    gate: Mapping[str, Any] | None = None
    job_id: str | None = None
    approval_id: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None


def event_columns(draft: EventDraft) -> dict[str, Any]:
    """Return the columns of an event that its draft decides; the reason is protected apart."""
    return {
        "event_type": draft.event_type.value,
        "from_state_value": None if draft.from_state is None else int(draft.from_state),
        "to_state_value": None if draft.to_state is None else int(draft.to_state),
        "action": None if draft.action is None else draft.action.value,
        "decision": draft.decision.value,
        "error_code": draft.error_code,
        "required_action": draft.required_action,
        "gate": None if draft.gate is None else dumps(dict(draft.gate)),
        "job_id": draft.job_id,
        "approval_id": draft.approval_id,
        "details": dumps(dict(draft.details)),
    }


def append_events(connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add numbered events to their plane's history."""
    driver.append_events(connection, tenant_id=tenant_id, rows=rows)


def list_events(
    connection: DriverConnection, *, tenant_id: str, wanted: ListPlaneEvents, after: int, limit: int
) -> list[PlaneEventView]:
    """Return the events of a plane by seq, after the given one."""
    rows = driver.list_events(
        connection,
        tenant_id=tenant_id,
        plane_id=wanted.plane_id,
        event_type=None if wanted.event_type is None else wanted.event_type.value,
        decision=None if wanted.decision is None else wanted.decision.value,
        after=after,
        limit=limit,
    )
    return [_view(row) for row in rows]


def _view(row: Mapping[str, Any]) -> PlaneEventView:
    members = {name: row[name] for name in PlaneEventView.model_fields if name in row}
    return PlaneEventView(
        **{
            **members,
            "from_state": _state_name(row["from_state_value"]),
            "to_state": _state_name(row["to_state_value"]),
            "gate": None if row["gate"] is None else loads(row["gate"]),
            "details": loads(row["details"]),
            "protected_state": "INTACT" if row["erased_fact_id"] is None else "ERASED",
        }
    )


def _state_name(value: int | None) -> str | None:
    return None if value is None else State(value).name
