"""Knowledge: inputs and views of plane operations."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints

from app.domains.knowledge.models.vocabulary import (
    ConnectorType,
    GateDecision,
    KnowledgePlaneLifecycleState,
    LifecycleEventType,
)
from app.kernel.ids import ID_PATTERN
from app.kernel.inputs import Identifier, Input, ListInput, Output, Reason, Text


def _plain_name(name: str) -> str:
    normal = unicodedata.normalize("NFC", name.strip())
    if not 1 <= len(normal) <= 128:
        raise ValueError("must have 1 to 128 characters")
    if any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in normal):
        raise ValueError("control characters are not allowed")
    return normal


def _state_name(name: str) -> str:
    if name.upper() not in KnowledgePlaneLifecycleState.__members__:
        raise ValueError("there is no such lifecycle state")
    return name.upper()


PlaneType = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


PlaneName = Annotated[Text, AfterValidator(_plain_name)]


ConnectorId = Annotated[str, StringConstraints(pattern=ID_PATTERN, max_length=64)]


Word = Annotated[Text, StringConstraints(min_length=1, max_length=128)]


class RegisterPlane(Input):
    """Input of knowledge.planes.register."""

    plane_type: PlaneType
    plane_name: PlaneName
    connector_type: Word
    connector_id: ConnectorId
    config: dict[str, Any] = Field(default_factory=dict)


class PlaneById(Input):
    """Input that names one plane."""

    plane_id: Identifier


class ListPlanes(ListInput):
    """Input of knowledge.planes.list."""

    plane_type: PlaneType | None = None
    plane_name: PlaneName | None = None
    connector_type: ConnectorType | None = None
    state: Annotated[Word, AfterValidator(_state_name)] | None = None


class UpdatePlaneConfig(PlaneById):
    """Input of knowledge.planes.update_config: the whole configuration."""

    config: dict[str, Any]


class TransitionPlane(PlaneById):
    """Input of knowledge.planes.transition: exactly one of action and to_state."""

    action: Word | None = None
    to_state: Word | None = None
    reason: Reason | None = None
    force: bool = False


class PlanePolicy(PlaneById):
    """Input that names one policy of one plane."""

    policy_id: Identifier


class ApprovePurge(PlaneById):
    """Input of knowledge.planes.approve_purge."""

    reason: Reason


class SetSuspension(PlaneById):
    """Input of knowledge.planes.set_suspension."""

    suspended: bool
    reason: Reason


class ListPlaneEvents(PlaneById, ListInput):
    """Input of knowledge.planes.events."""

    event_type: LifecycleEventType | None = None
    decision: GateDecision | None = None


class ListPlaneDocuments(PlaneById, ListInput):
    """Input of knowledge.planes.documents."""


class PlaneAllows(Output):
    """What the plane's state lets happen."""

    queries: bool
    policy_binding: bool
    modifications: bool


class PlaneView(Output):
    """A plane as answers show it; sealed credentials are masked."""

    plane_id: str
    plane_type: str
    plane_name: str
    lifecycle_state: str
    lifecycle_state_value: int
    connector_type: str
    connector_id: str
    config: dict[str, Any]
    config_digest: str
    created_by: str
    created_at: datetime
    updated_at: datetime
    version: int
    event_seq: int
    state_entered_at: datetime
    suspended: bool
    suspended_at: datetime | None
    suspended_by: str | None
    grace_until: datetime | None
    retention_until: datetime | None
    sensitivity_level: str | None
    pii_detected: bool | None
    pii_count: int | None
    classification: dict[str, Any] | None
    document_count: int
    passage_count: int
    token_total: int
    generation: int
    ingested_seq: int | None
    archive_key: str | None
    archive_digest: str | None
    archive_size_bytes: int | None
    archived_at: datetime | None
    purge_certificate: str | None
    fact_id: str
    bound_policy_ids: list[str]
    active_job_id: str | None
    purge_approved: bool
    allows: PlaneAllows


class PlaneChange(PlaneView):
    """A plane after a write that may have been a no-op; job_id names the work it queued."""

    changed: bool
    job_id: str | None = None


class GateView(Output):
    """A gate's decision with every check."""

    decision: GateDecision
    reason: str
    required_action: str | None
    not_before: str | None
    checks: list[dict[str, Any]]


class TransitionView(Output):
    """An accepted transition."""

    plane_id: str
    from_state: str
    from_state_value: int
    to_state: str
    to_state_value: int
    action: str
    gate: GateView | None
    event_id: str
    event_seq: int
    version: int
    job_id: str | None
    updated_at: datetime


class NextAction(Output):
    """One legal edge out of the plane's state."""

    action: str
    to_state: str
    to_state_value: int
    requires_async: bool
    requires_gate: bool
    gate: GateView | None
    open_job_id: str | None


class NextActions(Output):
    """Where a plane can go from here."""

    plane_id: str
    state: str
    state_value: int
    version: int
    actions: list[NextAction]


class PurgeApprovalView(Output):
    """A consent to purge a plane."""

    approval_id: str
    plane_id: str
    approved_by: str
    approved_at: datetime
    expires_at: datetime
    event_id: str
    version: int


class PlaneEventView(Output):
    """One lifecycle event; reason is null when it was erased or never given."""

    plane_id: str
    seq: int
    event_id: str
    event_type: str
    from_state: str | None
    from_state_value: int | None
    to_state: str | None
    to_state_value: int | None
    action: str | None
    actor_type: str
    actor_id: str
    decision: str
    error_code: str | None
    required_action: str | None
    gate: dict[str, Any] | None
    job_id: str | None
    approval_id: str | None
    plane_version: int
    config_digest: str
    details: dict[str, Any]
    request_id: str | None
    trace_id: str | None
    occurred_at: datetime
    reason: str | None
    protected_state: str
    fact_id: str


class PlaneDocumentView(Output):
    """One document that the plane serves, at its pinned revision."""

    artifact_id: str
    revision: int
    revision_digest: str
    content_digest: str
    name: str
    media_type: str | None
    size_bytes: int
    token_count: int
    passage_count: int
    sensitivity_level: str
    pii_counts: dict[str, Any]
    categories: list[str]
    pinned_at: datetime
