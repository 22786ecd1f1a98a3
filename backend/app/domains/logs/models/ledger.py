"""Logs: the vocabulary of the audit ledger, what the spine hands over to be written, and how it is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from app.kernel.inputs import AwareTime, Identifier, Input, ListInput, Output, OutputTime, Text

# One place for every event of the ledger.
AUDIT_EVENTS: dict[str, tuple[str, ...]] = {
    "TENANT": (
        "TenantCreated", "TenantUpdated", "TenantSuspended", "TenantActivated", "TenantClosed",
        "EmergencyOverrideActivated", "EmergencyOverrideDeactivated",
    ),
    "SYSTEM": (
        "EmergencyOverrideActivated", "EmergencyOverrideDeactivated", "DegradedModeEntered",
        "DegradedModeExited",
    ),
    "API_KEY": ("ApiKeyCreated", "ApiKeyFrozen", "ApiKeyUnfrozen", "ApiKeyRevoked"),
    "RUN": ("RunHalted", "RunCancelled"),
    "POLICY_RULE": ("PolicyRuleCreated", "PolicyRuleModified", "PolicyRuleRetired"),
    "POLICY_PROPOSAL": (
        "PolicyProposalCreated", "PolicyProposalModified", "PolicyProposalApproved",
        "PolicyProposalRejected",
    ),
    "LIMIT": ("LimitCreated", "LimitUpdated", "LimitBreached"),
    "LIMIT_OVERRIDE": (
        "LimitOverrideRequested", "LimitOverrideGranted", "LimitOverrideRejected", "LimitOverrideRevoked",
        "LimitOverrideExpired",
    ),
    "INCIDENT": (
        "IncidentCreated", "IncidentAcknowledged", "IncidentEscalated", "IncidentResolved",
        "IncidentManuallyClosed",
    ),
    "LESSON": ("LessonConverted", "LessonDeferred", "LessonDismissed", "LessonReactivated"),
    "SIGNAL": ("SignalAcknowledged", "SignalSuppressed", "SignalEscalated"),
    "PLANE": (
        "PlaneRegistered", "PlaneConfigUpdated", "PlaneTransitioned", "PlanePolicyBound",
        "PlanePolicyUnbound", "PlanePurgeApproved", "PlaneSuspended", "PlaneResumed",
        "PlaneRefreshRequested", "PlaneJobRetried", "PlaneJobCancelled",
    ),
    "REPOSITORY": (
        "RepositoryCollectionChanged", "RepositoryArtifactChanged", "RepositoryRelationshipChanged",
        "RepositoryRunChanged", "RepositoryContextPackageChanged", "RepositoryBundleCreated",
        "RepositoryRedacted", "RepositoryCollected", "RepositoryExported", "RepositoryImported",
        "RepositoryVerified",
    ),
    "EVIDENCE": ("EvidenceErased", "EvidenceArchived", "EvidencePurged"),
    "LEGAL_HOLD": ("LegalHoldPlaced", "LegalHoldReleased"),
    "RETENTION": ("RetentionChanged",),
    "LOG": ("LogKeyRotated", "LogEpochOpened", "LogResumed"),
}  # fmt: skip


ENTITY_TYPES = tuple(AUDIT_EVENTS)


EVENT_TYPES = tuple(dict.fromkeys(name for names in AUDIT_EVENTS.values() for name in names))


class IdempotencyState(StrEnum):
    """PENDING lives only inside the transaction that does the work."""

    PENDING = "PENDING"
    DONE = "DONE"


# Facts of these types belong to a running run alone.
LIVE_ONLY = frozenset({"run.attempt", "trace.extended", "trace.sealed", "evaluation", "run.output"})


@dataclass(slots=True)
class Fact:
    """One governed write on its way into the log."""

    fact_id: str
    type: str
    table: str | None
    key: list[Any] | None
    body: Mapping[str, Any]
    run_id: str | None = None
    attempt: int | None = None
    version: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    live_only: bool = False
    starts_run: bool = False
    closes_run: bool = False


# The entity types that a run's governance log shows.
GOVERNANCE_ENTITIES = (
    "POLICY_RULE",
    "POLICY_PROPOSAL",
    "LIMIT",
    "LIMIT_OVERRIDE",
    "INCIDENT",
    "SIGNAL",
    "RUN",
)


class RunLogInput(ListInput):
    run_id: Identifier


class LogMetadata(Output):
    """Where an answer of the logs comes from; the record behind it never changes."""

    tenant_id: str
    run_id: str | None
    occurred_at: OutputTime
    recorded_at: OutputTime | None
    timezone: Literal["UTC"] = "UTC"
    trace_id: str | None
    policy_ids: list[str]
    incident_ids: list[str]
    correlation_id: str | None
    source_domain: Literal["LOGS"] = "LOGS"
    source_component: str
    immutable: Literal[True] = True


class GovernanceEvent(Output):
    timestamp: OutputTime
    event_type: str
    policy_id: str | None
    rule_id: str
    decision: str | None
    entity_type: str
    entity_id: str
    run_id: str
    entry_id: str


class RunGovernanceLog(Output):
    """The governance events of a run, oldest first; never null."""

    run_id: str
    events: list[GovernanceEvent]
    total_events: int
    next_cursor: str | None
    metadata: LogMetadata


class ListAudit(ListInput):
    event_type: Identifier | None = None
    entity_type: Identifier | None = None
    entity_id: Text | None = None
    actor_type: Literal["HUMAN", "SYSTEM", "AGENT"] | None = None
    actor_id: Identifier | None = None
    run_id: Identifier | None = None
    created_after: AwareTime | None = None
    created_before: AwareTime | None = None


class EntryPath(Input):
    entry_id: Identifier


class AuditEntry(Output):
    """A ledger entry without its states; the state of its reason is null where it never had one."""

    entry_id: str
    event_type: str
    entity_type: str
    entity_id: str
    actor_type: str
    actor_id: str
    actor_key_id: str | None
    action_reason: str | None
    run_id: str | None
    operation: str
    request_id: str
    correlation_id: str | None
    created_at: OutputTime
    protected_state: Literal["INTACT", "ERASED"] | None


class AuditEntryDetail(AuditEntry):
    before_state: dict[str, Any] | None
    after_state: dict[str, Any] | None


class ListRunDispatches(Input):
    operation: Identifier | None = None
    limit: int = Field(100, ge=1, le=1000)
