"""Controls: overrides of limits: inputs and views."""

from __future__ import annotations

from app.domains.controls.models.limits import MaxValue
from app.domains.controls.models.vocabulary import OverrideStatus
from app.kernel.inputs import AwareTime, Identifier, Input, ListInput, Output, OutputTime, Reason


class RequestOverride(Input):
    """Ask for another value of a limit until `expires_at`; it acts once somebody else approves it."""

    limit_id: Identifier
    override_value: MaxValue
    starts_at: AwareTime | None = None
    expires_at: AwareTime
    reason: Reason


class DecideOverride(Input):
    """Approve, reject or cancel an override."""

    override_id: Identifier
    notes: Reason | None = None


class OverrideRef(Input):
    """Name an override."""

    override_id: Identifier


class ListOverrides(ListInput):
    """List overrides, newest first."""

    status: OverrideStatus | None = None
    limit_id: Identifier | None = None


class OverrideView(Output):
    """An override as it is now; reason and notes are null once erased."""

    override_id: str
    limit_id: str
    override_value: float
    starts_at: OutputTime
    expires_at: OutputTime
    reason: str | None
    requested_by: str
    status: OverrideStatus
    reviewed_at: OutputTime | None
    reviewed_by: str | None
    review_notes: str | None
    cancelled_at: OutputTime | None
    cancelled_by: str | None
    created_at: OutputTime
    updated_at: OutputTime
    version: int
    protected_state: str
