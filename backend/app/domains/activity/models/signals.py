"""Activity: vocabulary, inputs and views of signals."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from app.domains.activity.models.runs import MAX_PLAN_BYTES, Short, bounded
from app.kernel.inputs import Identifier, Input, ListInput, LongText, Output, OutputTime, Text


class SignalStatus(StrEnum):
    """What became of a sighting in the discovery ledger."""

    OBSERVED = "OBSERVED"
    IGNORED = "IGNORED"
    PROMOTED = "PROMOTED"


class EmitSignal(Input):
    """Report something noticed; what is empty is refused by name."""

    artifact: Annotated[Text, StringConstraints(max_length=512)] = ""
    signal_type: Annotated[Text, StringConstraints(max_length=128)] = ""
    evidence: Annotated[dict[str, Any], bounded(MAX_PLAN_BYTES)] = Field(default_factory=dict)
    detected_by: Annotated[Text, StringConstraints(max_length=255)] = ""
    field: Short | None = None
    confidence: float | None = Field(None, ge=0, le=1)
    notes: LongText | None = None
    phase: Short | None = None
    environment: Short | None = None
    run_id: Identifier | None = None


class ListSignals(ListInput):
    """List signals, most often seen first, then newest."""

    artifact: Annotated[Text, StringConstraints(min_length=1, max_length=512)] | None = None
    signal_type: Annotated[Text, StringConstraints(min_length=1, max_length=128)] | None = None
    status: SignalStatus | None = None


class SignalPath(Input):
    """Name one signal."""

    signal_id: Identifier


class SuppressSignal(SignalPath):
    """Ignore a signal for a while; it is still counted."""

    minutes: int = Field(1440, ge=1, le=43_200)


class SignalView(Output):
    """Something that was noticed, how often, and what became of it."""

    signal_id: str
    artifact: str
    field: str | None
    signal_type: str
    detected_by: str
    phase: str | None
    environment: str | None
    first_seen_at: OutputTime
    notes: str | None
    evidence: dict[str, Any]
    confidence: float | None
    last_seen_at: OutputTime
    seen_count: int
    last_run_id: str | None
    status: SignalStatus
    acked_at: OutputTime | None
    acked_by: str | None
    suppressed_until: OutputTime | None
    incident_id: str | None
    version: int
