"""Retrieval: vocabulary, inputs and views of mediated access and its evidence."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from app.kernel.inputs import AwareTime, Identifier, Input, ListInput, Output, OutputTime, Text

Action = Literal["query", "retrieve", "search", "list"]
Purpose = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_.-]{1,64}$")]
QueryHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Outcome(StrEnum):
    ALLOWED = "ALLOWED"
    DENIED = "DENIED"
    FAILED = "FAILED"


class Reason(StrEnum):
    """Why an access was allowed, denied or failed."""

    OK = "OK"
    TENANT_INACTIVE = "TENANT_INACTIVE"
    KILL_SWITCH = "KILL_SWITCH"
    RUN_NOT_FOUND = "RUN_NOT_FOUND"
    RUN_NOT_RUNNING = "RUN_NOT_RUNNING"
    ATTEMPT_MISMATCH = "ATTEMPT_MISMATCH"
    PLANE_NOT_FOUND = "PLANE_NOT_FOUND"
    PLANE_NOT_ACTIVE = "PLANE_NOT_ACTIVE"
    PLANE_SUSPENDED = "PLANE_SUSPENDED"
    PLANE_CHANGED = "PLANE_CHANGED"
    SNAPSHOT_INVALID = "SNAPSHOT_INVALID"
    NO_POLICY_BOUND = "NO_POLICY_BOUND"
    DENIED_BY_RULE = "DENIED_BY_RULE"
    ACTION_NOT_ALLOWED = "ACTION_NOT_ALLOWED"
    POLICY_CONDITION_ERROR = "POLICY_CONDITION_ERROR"
    NO_MATCHING_RULE = "NO_MATCHING_RULE"
    POLICY_REVOKED = "POLICY_REVOKED"
    ACTION_NOT_SUPPORTED = "ACTION_NOT_SUPPORTED"
    INVALID_PAYLOAD = "INVALID_PAYLOAD"
    TEMPLATE_NOT_ALLOWED = "TEMPLATE_NOT_ALLOWED"
    CONNECTOR_ERROR = "CONNECTOR_ERROR"
    CREDENTIAL_UNAVAILABLE = "CREDENTIAL_UNAVAILABLE"
    HOST_NOT_ALLOWED = "HOST_NOT_ALLOWED"
    RESPONSE_INVALID = "RESPONSE_INVALID"
    RESPONSE_TOO_LARGE = "RESPONSE_TOO_LARGE"
    CONNECTOR_TIMEOUT = "CONNECTOR_TIMEOUT"
    CONNECTOR_BUSY = "CONNECTOR_BUSY"
    CONNECTOR_UNAVAILABLE = "CONNECTOR_UNAVAILABLE"
    INTERNAL_ERROR = "INTERNAL_ERROR"


class ObservationStatus(StrEnum):
    """What became of a retrieval span that was seen from outside."""

    PENDING = "PENDING"
    MATCHED = "MATCHED"
    BYPASS = "BYPASS"


class BypassReason(StrEnum):
    """Why no access speaks for a span."""

    EVIDENCE_MISMATCH = "EVIDENCE_MISMATCH"
    NO_MEDIATED_ACCESS = "NO_MEDIATED_ACCESS"
    NO_RUN = "NO_RUN"
    DOCUMENT_MISMATCH = "DOCUMENT_MISMATCH"


class AccessInput(Input):
    """One attempt; `payload` is the connector's closed model, at most 64 KiB canonical."""

    run_id: Identifier
    plane_id: Identifier
    action: Action
    payload: dict[str, Any]
    purpose: Purpose | None = None
    step_index: int | None = Field(None, ge=0, le=2_147_483_647)
    attempt: int | None = Field(None, ge=1, le=2_147_483_647)


class MatchedRuleView(Output):
    rule_id: str
    version: int
    content_hash: str
    effect: str


class AccessResult(Output):
    """What an allowed access returns; `timestamp` is when it was asked."""

    success: Literal[True] = True
    outcome: Literal["ALLOWED"] = "ALLOWED"
    reason_code: Literal["OK"] = "OK"
    evidence_id: str
    run_id: str
    attempt: int
    plane_id: str
    connector_id: str
    policy_snapshot_id: str
    matched_rules: list[MatchedRuleView]
    query_hash: str
    tokens_consumed: int
    truncated: bool
    timestamp: OutputTime
    data: dict[str, Any]


class ExplainResult(Output):
    """What an access would be told now; it reads no document and leaves no evidence."""

    allowed: bool
    reason_code: Reason
    policy_snapshot_id: str | None
    matched_rules: list[MatchedRuleView]
    max_documents: int | None
    max_tokens: int | None
    max_response_bytes: int | None


class ListEvidence(ListInput):
    run_id: Identifier | None = None
    plane_id: Identifier | None = None
    outcome: Outcome | None = None
    reason_code: Reason | None = None
    query_hash: QueryHash | None = None
    from_: AwareTime | None = Field(None, alias="from")
    to: AwareTime | None = None


class EvidencePath(Input):
    evidence_id: Identifier


class EvidenceView(Output):
    """One attempt as it was recorded; `query` is kept only where the plane says so."""

    evidence_id: str
    run_id: str
    attempt: int | None
    plane_id: str
    action: str
    purpose: str | None
    step_index: int | None
    actor_id: str
    request_id: str | None
    trace_id: str | None
    outcome: Outcome
    reason_code: Reason
    revoked_in_flight: bool
    connector_id: str | None
    plane_state_value: int | None
    plane_version: int | None
    config_digest: str | None
    sensitivity_level: str | None
    policy_snapshot_id: str | None
    policy_snapshot_hash: str | None
    matched_rules: list[MatchedRuleView]
    query_hash: str
    query: dict[str, Any] | None
    protected_state: Literal["INTACT", "ERASED"] | None
    documents: list[dict[str, Any]]
    doc_count: int
    token_count: int
    bytes_returned: int
    truncated: bool
    requested_at: OutputTime
    completed_at: OutputTime
    duration_ms: int


class ListObservations(ListInput):
    run_id: Identifier | None = None
    status: ObservationStatus | None = None


class ObservationView(Output):
    """A retrieval span that was seen from outside, and what became of it."""

    trace_id: str
    span_id: str
    run_id: str | None
    operation: str
    data_source_id: str | None
    document_ids: list[str]
    started_at: OutputTime
    ended_at: OutputTime
    claimed_evidence_id: str | None
    status: ObservationStatus
    bypass_reason: str | None
    evidence_id: str | None
    signal_id: str | None


class Reconcile(Input):
    """Input of retrieval.reconcile: nothing, the tenant is the worker's."""


class Reconciled(Output):
    """How many spans were matched, how many bypass; `more` tells that further ones are due."""

    matched: int
    bypasses: int
    more: bool


class Recover(Input):
    """Input of retrieval.recover: nothing, the tenant is the worker's."""


class Recovered(Output):
    """How many lost accesses have their evidence now; `more` tells that further ones are due."""

    recovered: int
    more: bool


class AffectedRuns(ListInput):
    """Which runs were given this document: exactly one of artifact_id, doc_ref and digest."""

    artifact_id: Identifier | None = None
    revision: int | None = Field(None, ge=1, le=2_147_483_647)
    doc_ref: Annotated[Text, StringConstraints(min_length=1, max_length=512)] | None = None
    digest: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    depth: int = Field(1, ge=1, le=5)


class RunOutput(Output):
    artifact_id: str
    revision: int
    digest: str | None


class AffectedRun(Output):
    """A run that was given the document; at a greater depth, what another such run made of it."""

    run_id: str
    status: str | None
    access_count: int
    first_at: OutputTime
    last_at: OutputTime
    depth: int
    revisions: list[int]
    evidence_ids: list[str]
    incident_ids: list[str]
    outputs: list[RunOutput]


class BlastRadius(Output):
    """The affected runs as of one moment; `complete` tells whether all of them are here."""

    runs: list[AffectedRun]
    next_cursor: str | None
    complete: bool
    as_of: OutputTime
