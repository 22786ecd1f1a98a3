"""Logs: the vocabulary of the audit ledger, and what the spine hands over to be written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from app.kernel.inputs import AwareTime, Identifier, Input, ListInput, Output, OutputTime, Text
from app.kernel.pages import HIGHEST_KEY

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
    key: list[Any]
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
    """A ledger entry without its states."""

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


class AuditEntryDetail(AuditEntry):
    before_state: dict[str, Any] | None
    after_state: dict[str, Any] | None


class ListRunDispatches(Input):
    operation: Identifier | None = None
    limit: int = Field(100, ge=1, le=1000)


class LogState(StrEnum):
    """ACTIVE grows; HALTED queues on and signs nothing; CLOSED is final."""

    ACTIVE = "ACTIVE"
    HALTED = "HALTED"
    CLOSED = "CLOSED"


class HaltReason(StrEnum):
    """Why the sequencer or the verifier stopped a log."""

    LEAF_MISMATCH = "LEAF_MISMATCH"
    BAD_SIGNATURE = "BAD_SIGNATURE"
    ROLLED_BACK = "ROLLED_BACK"
    ROOT_MISMATCH = "ROOT_MISMATCH"
    INCONSISTENT = "INCONSISTENT"
    LOG_MISMATCH = "LOG_MISMATCH"


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction of the sequencer did: facts taken from the queue, the new size, why it halted."""

    taken: int = 0
    size: int = 0
    halted: HaltReason | None = None


class VerificationKind(StrEnum):
    INCREMENTAL = "INCREMENTAL"
    SWEEP = "SWEEP"
    ON_DEMAND = "ON_DEMAND"


class VerificationStatus(StrEnum):
    VERIFIED = "VERIFIED"
    FAILED = "FAILED"
    UNSUPPORTED = "UNSUPPORTED"


class VerificationFailure(Output):
    """One thing that is not as recorded: which check failed, and where."""

    code: str
    table: str | None = None
    key: str | None = None
    column: str | None = None
    fact_id: str | None = None
    index: int | None = None
    run_id: str | None = None


class VerificationView(Output):
    """What one verification of the log found; the range is that of the log's indices."""

    verification_id: str
    kind: VerificationKind
    from_idx: int | None
    to_idx: int | None
    size: int | None
    status: VerificationStatus
    counts: dict[str, int]
    failures: list[VerificationFailure]
    started_at: OutputTime
    finished_at: OutputTime


class VerificationAccepted(Output):
    """A verification of the whole log was asked for; its result appears under this id."""

    verification_id: str


class ResumeLog(Input):
    """Let a halted log grow again, by the verification that found all of it as recorded."""

    tenant_id: Identifier
    verification_id: Identifier
    reason: Text


class LogResumed(Output):
    tenant_id: str
    epoch: int
    state: LogState
    size: int


class LogIntegrity(Output):
    """How it stands with the log, from stored results only; UNSUPPORTED before the first one."""

    status: VerificationStatus
    last_verified_at: OutputTime | None
    last_verified_size: int
    size: int
    pending: int
    failures: list[VerificationFailure]


class NoLogInput(Input):
    pass


class LogStatus(Output):
    """The tenant's log; origin is null until its first fact is sequenced."""

    origin: str | None
    epoch: int
    state: LogState
    halted_reason: str | None
    size: int
    signed_size: int
    min_index: int
    pending: int
    vkeys: list[str]


class CheckpointPath(Input):
    size: int | None = Field(None, ge=0, le=HIGHEST_KEY)


class NoteText(Output):
    """Text of C2SP, with its media type."""

    content: str
    media_type: str = "text/plain; charset=utf-8"


class CheckpointView(Output):
    origin: str
    epoch: int
    size: int
    root: str
    key_ids: list[str]
    signed_at: OutputTime


class LogKey(Output):
    vkey: str
    key_id: str
    algorithm: Literal["Ed25519"] = "Ed25519"


class LogKeys(Output):
    items: list[LogKey]


class TilePath(Input):
    level: Text
    tile: Text


class TileBytes(Output):
    """Bytes of C2SP tlog-tiles."""

    content: bytes
    media_type: str = "application/octet-stream"


class FactPath(Input):
    fact_id: Identifier


class FactView(Output):
    """A fact's statement as it was hashed, and where it stands.

    status: PENDING it waits for the sequencer, INTEGRATED it is in the tree, INCLUDED a checkpoint covers it.
    """

    fact_id: str
    statement: str
    leaf_hash: str
    index: int | None
    status: Literal["PENDING", "INTEGRATED", "INCLUDED"]


class InclusionQuery(Input):
    fact_id: Identifier | None = None
    index: int | None = Field(None, ge=0, le=HIGHEST_KEY)
    size: int | None = Field(None, ge=0, le=HIGHEST_KEY)
    format: Literal["json", "tlog-proof"] = "json"


class InclusionProof(Output):
    """The audit path of a leaf in the tree of `size`, lowest first."""

    index: int
    size: int
    leaf_hash: str
    root: str
    hashes: list[str]


class ConsistencyQuery(Input):
    from_: int = Field(alias="from", ge=0, le=HIGHEST_KEY)
    to: int = Field(ge=0, le=HIGHEST_KEY)


class ConsistencyProof(Output):
    """The proof that the tree of `to` continues the tree of `from`."""

    from_: int = Field(serialization_alias="from")
    to: int
    hashes: list[str]


@dataclass(frozen=True, slots=True)
class ClaimedEvent:
    """An outbox event taken for one attempt: its CloudEvents text, and the number of the attempt."""

    event_id: str
    body: str
    attempts: int


class ClaimEvents(Input):
    """Take the oldest due events of the tenant for one attempt at each."""

    limit: int = Field(100, ge=1, le=500)


class ClaimedEvents(Output):
    """Events that this worker has to deliver."""

    events: list[ClaimedEvent]


class FailedDelivery(Input):
    """An event that has not arrived, after how many attempts, and why."""

    event_id: Identifier
    attempts: int
    error: Text


class SettleEvents(Input):
    """Note what became of claimed events."""

    delivered: list[Identifier] = Field(default_factory=list)
    failed: list[FailedDelivery] = Field(default_factory=list)


class SettledEvents(Output):
    """How many events have arrived, how many have not."""

    delivered: int
    failed: int


class ListEvents(ListInput):
    """List the outbox events of the tenant, newest first."""

    delivered: bool | None = None


class OutboxEventView(Output):
    """An event to deliver; one that was given up waits for its replay."""

    event_id: str
    type: str
    attempts: int
    given_up: bool
    next_at: OutputTime
    delivered_at: OutputTime | None
    last_error: str | None
    created_at: OutputTime


class ReplayEvent(Input):
    """Deliver an event again."""

    event_id: Identifier


class ReplayedEvent(Output):
    """The event that is due again."""

    event_id: str


class ForgetKeys(Input):
    """Forget the idempotency keys whose day is over."""

    limit: int = Field(500, ge=1, le=5000)


class ForgottenKeys(Output):
    """How many keys were forgotten; `more` when there may be others."""

    forgotten: int
    more: bool
