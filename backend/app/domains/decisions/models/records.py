"""Decisions: what is handed over to be recorded, and how a record is asked for and shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from app.domains.decisions.models.vocabulary import (
    CausalRole,
    DecisionOutcome,
    DecisionSource,
    DecisionTrigger,
    DecisionType,
)
from app.kernel.inputs import AwareTime, Identifier, Input, ListInput, Output, OutputTime


@dataclass(frozen=True, slots=True)
class DecisionDraft:
    """One decision to record; its inputs, reason and details are redacted already."""

    decision_type: DecisionType
    decision_source: DecisionSource
    decision_trigger: DecisionTrigger
    causal_role: CausalRole
    decision_outcome: DecisionOutcome
    decision_reason: str
    decision_inputs: Mapping[str, Any]
    run_id: str | None = None
    attempt: int | None = None
    workflow_id: str | None = None
    request_id: str | None = None
    snapshot_id: str | None = None
    matched: Sequence[Mapping[str, Any]] = ()
    reservation_id: str | None = None
    idempotency_key: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    decision_id: str | None = None


class DecisionView(Output):
    """A decision as it was recorded; inputs, reason and details are null once erased."""

    decision_id: str
    decision_type: DecisionType
    decision_source: DecisionSource
    decision_trigger: DecisionTrigger
    causal_role: CausalRole
    decision_outcome: DecisionOutcome
    decision_reason: str | None
    decision_inputs: dict[str, Any] | None
    run_id: str | None
    attempt: int | None
    workflow_id: str | None
    request_id: str | None
    snapshot_id: str | None
    matched: list[dict[str, Any]]
    reservation_id: str | None
    idempotency_key: str | None
    details: dict[str, Any] | None
    protected_state: Literal["INTACT", "ERASED"]
    decided_at: OutputTime


class DecisionPath(Input):
    """Name one decision."""

    decision_id: Identifier


class ListDecisions(ListInput):
    """List decisions, newest first; `run_id` finds those that led to the run, too."""

    run_id: Identifier | None = None
    decision_type: DecisionType | None = None
    outcome: DecisionOutcome | None = None
    causal_role: CausalRole | None = None
    request_id: Identifier | None = None
    since: AwareTime | None = None
