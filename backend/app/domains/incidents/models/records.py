"""Incidents: what is handed over to open one, the inputs of the operations, and what a caller sees."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from app.domains.incidents.models.vocabulary import (
    CauseType,
    ImpactScope,
    IncidentCategory,
    IncidentEventType,
    LifecycleState,
    LinkKind,
    ResolutionMethod,
    Severity,
    SourceType,
)
from app.kernel.ids import ID_PATTERN
from app.kernel.inputs import Identifier, Input, ListInput, LongText, Name, Output, OutputTime, Reason, Text

ErrorCode = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
Signature = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Short = Annotated[Text, StringConstraints(min_length=1, max_length=255)]


@dataclass(frozen=True, slots=True)
class IncidentDraft:
    """One incident to open, as it was noticed; its texts are redacted by the create path.

    `attempt` is the run's current one when left out, `impact_scope` the run alone (without a run the
    tenant). `suppressible=False` opens it whatever the INCIDENT rules say, as INTEGRITY and
    POLICY_VIOLATION always do.
    """

    title: str
    category: IncidentCategory
    cause_type: CauseType
    source_type: SourceType
    severity: Severity | None = None
    error_code: str | None = None
    description: str | None = None
    error_message: str | None = None
    trigger_ref: str | None = None
    impact_scope: ImpactScope | None = None
    dedupe_key: str | None = None
    incident_id: str | None = None
    attempt: int | None = None
    suppressible: bool = True

    @property
    def yields_to_rules(self) -> bool:
        """Whether a BLOCK rule may keep it from being opened."""
        unyielding = (IncidentCategory.INTEGRITY, IncidentCategory.POLICY_VIOLATION)
        return self.suppressible and self.category not in unyielding


class CreateIncident(Input):
    """Report an incident; an INCIDENT rule may say that it is none."""

    incident_id: Identifier | None = None
    title: Name
    description: LongText | None = None
    severity: Severity | None = None
    category: IncidentCategory = IncidentCategory.MANUAL
    error_code: ErrorCode | None = None
    source_run_id: Identifier | None = None
    impact_scope: ImpactScope | None = None


class OpenIntegrity(Input):
    """Report that stored rows are not what was recorded."""

    code: ErrorCode
    table: Identifier
    detail: Reason
    run_id: Identifier | None = None


class IncidentRef(Input):
    """Name one incident."""

    incident_id: Identifier


class EscalateIncident(Input):
    """Raise an incident's severity."""

    incident_id: Identifier
    severity: Severity
    reason: Reason


class ResolveIncident(Input):
    """Say how an incident came to its end."""

    incident_id: Identifier
    resolution_method: Literal["AUTO", "MANUAL", "ROLLBACK"]
    type: Short | None = None
    summary: LongText | None = None
    notes: LongText | None = None


class CloseIncident(Input):
    """Close an incident by hand, with the reason."""

    incident_id: Identifier
    reason: Reason


class ListIncidents(ListInput):
    """List the incidents of the tenant, newest first."""

    lifecycle_state: LifecycleState | None = None
    severity: Severity | None = None
    category: IncidentCategory | None = None
    source_run_id: Identifier | None = None
    signature: Signature | None = None


class ListIncidentParts(ListInput):
    """List the events or links of one incident, first first."""

    incident_id: Identifier


class ListSignatures(ListInput):
    """List what recurs, most often first."""

    days: int = Field(30, ge=1, le=90)
    min_count: int = Field(2, ge=2, le=1_000_000)


class IncidentView(Output):
    """An incident as it stands; its texts are null once erased."""

    incident_id: str
    source_run_id: str | None
    attempt: int | None
    cause_type: CauseType
    source_type: SourceType
    category: IncidentCategory
    title: str | None
    description: str | None
    error_code: str | None
    error_message: str | None
    trigger_ref: str | None
    impact_scope: ImpactScope
    affected_agent_id: str | None
    recurrence_signature: str
    signature_version: str
    recurrence_of: str | None
    recurrence_count: int
    dedupe_key: str | None
    is_synthetic: bool
    created_by: str
    severity: Severity
    lifecycle_state: LifecycleState
    acked_at: OutputTime | None
    acked_by: str | None
    escalated_at: OutputTime | None
    resolved_at: OutputTime | None
    resolved_by: str | None
    resolution_method: ResolutionMethod | None
    resolution_type: str | None
    resolution_summary: str | None
    resolution_notes: str | None
    protected_state: Literal["INTACT", "ERASED"]
    created_at: OutputTime
    updated_at: OutputTime
    version: int


class OpenedIncident(Output):
    """What became of a report: the incident, or the rule that kept it from being one."""

    result: Literal["CREATED", "PREVENTED"]
    incident: IncidentView | None = None
    prevention_id: str | None = None
    rule_id: str | None = None
    decision_id: str | None = None
    replayed: bool = False


class IncidentEventView(Output):
    """One thing that happened to an incident; description and data are null once erased."""

    incident_id: str
    seq: int
    event_type: IncidentEventType
    description: str | None
    data: dict[str, Any] | None
    actor_type: str
    actor_id: str | None
    protected_state: Literal["INTACT", "ERASED"]
    created_at: OutputTime


class IncidentLinkView(Output):
    """One thing that an incident points at."""

    incident_id: str
    kind: LinkKind
    ref: str
    created_at: OutputTime


class SignatureView(Output):
    """A kind of trouble that came back, with its latest incident."""

    recurrence_signature: str
    count: int
    first_at: OutputTime
    last_at: OutputTime
    latest_incident_id: str
    category: IncidentCategory
    error_code: str | None
    affected_agent_id: str | None
