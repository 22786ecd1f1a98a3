"""Activity: inputs and views of runs, attempts and policy evaluations."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from app.domains.activity.models.vocabulary import (
    EndStatus,
    EvaluationOutcome,
    OutcomeKind,
    RiskLevel,
    RunActorType,
    RunSource,
    RunStatus,
    TerminationReason,
)
from app.kernel.canonical_json import CanonicalJsonError, dumps
from app.kernel.inputs import (
    AwareTime,
    Identifier,
    Input,
    ListInput,
    LongText,
    Output,
    OutputTime,
    Reason,
    Text,
)

MAX_LABELS_BYTES = 4096
MAX_PLAN_BYTES = 64 * 1024
MAX_DEPTH = 24
MAX_ATTEMPTS_LIMIT = 20


def depth_of(value: Any) -> int:
    """Return how deeply arrays and objects nest; a scalar has depth 0, so has an empty one."""
    depth, level = -1, [value]
    while level:
        depth += 1
        inner: list[Any] = []
        for outer in level:
            if isinstance(outer, dict):
                inner.extend(outer.values())
            elif isinstance(outer, list):
                inner.extend(outer)
        level = inner
    return depth


def bounded(limit: int) -> AfterValidator:
    def check(value: Any) -> Any:
        if depth_of(value) > MAX_DEPTH:
            raise ValueError(f"nests deeper than {MAX_DEPTH} levels")
        try:
            size = len(dumps(value).encode())
        except CanonicalJsonError as error:
            raise ValueError(str(error)) from error
        if size > limit:
            raise ValueError(f"has {size} bytes as canonical JSON; {limit} is the most")
        return value

    return AfterValidator(check)


def _is_run_id(value: str) -> str:
    # `trace_<run_id>.<attempt>` has to stay an identifier of at most 128 characters.
    if len(value) > 115:
        raise ValueError("a run id has at most 115 characters")
    return value


RunId = Annotated[Identifier, AfterValidator(_is_run_id)]
Labels = Annotated[dict[str, Any], bounded(MAX_LABELS_BYTES)]
Plan = Annotated[Any, bounded(MAX_PLAN_BYTES)]
Short = Annotated[Text, StringConstraints(min_length=1, max_length=255)]
Goal = Annotated[Text, StringConstraints(min_length=1, max_length=16_384)]
ErrorCode = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
# Judged by the attribution rules, so that every broken one is named; here only what storage demands.
Claimed = Annotated[Text, StringConstraints(max_length=255)]


class StartRun(Input):
    """Start a governed run; the attribution members are judged by rules R1-R5."""

    run_id: RunId | None = None
    agent_id: Claimed | None = None
    goal: Goal
    actor_type: Claimed | None = None
    actor_id: Claimed | None = None
    origin_system_id: Claimed | None = None
    project_id: Identifier | None = None
    parent_run_id: Identifier | None = None
    labels: Labels = Field(default_factory=dict)
    source: RunSource = RunSource.API
    provider_type: Short | None = None
    model: Short | None = None
    max_attempts: int = Field(3, ge=1, le=MAX_ATTEMPTS_LIMIT)
    timeout_seconds: int = Field(3600, ge=1, le=604_800)
    is_synthetic: bool = False
    synthetic_scenario_id: Identifier | None = None
    subject_ref: Short | None = None
    plan: Plan = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)

    @model_validator(mode="after")
    def _scenario_iff_synthetic(self) -> Self:
        if self.is_synthetic != (self.synthetic_scenario_id is not None):
            raise ValueError("synthetic_scenario_id is given exactly when is_synthetic is true")
        return self


class RetryRun(Input):
    """End the current attempt as failed and open the next one under the same snapshot."""

    run_id: Identifier
    from_attempt: int = Field(ge=1, le=MAX_ATTEMPTS_LIMIT)
    reason: Reason
    error_code: ErrorCode | None = None
    error_message: LongText | None = None


class CompleteRun(Input):
    """End a run; its trace is sealed and its one evaluation written."""

    run_id: Identifier
    status: EndStatus
    termination_reason: Short | None = None
    error_code: ErrorCode | None = None
    error_message: LongText | None = None
    expected_steps: int | None = Field(None, ge=0, le=2_147_483_647)
    outcome_data: Annotated[Any, bounded(MAX_PLAN_BYTES)] = None


class StopRun(Input):
    """Halt or cancel a run, with the reason that the ledger keeps."""

    run_id: Identifier
    reason: Reason


class ExpireRuns(Input):
    """End runs past their deadline, at most `limit` of them."""

    limit: int = Field(500, ge=1, le=500)


class RequireEvaluation(Input):
    """Name a run and how it ended, to get the evaluation of that ending."""

    run_id: Identifier
    run_status: Short


class RunRef(Input):
    """Name one run."""

    run_id: Identifier


class ListRuns(ListInput):
    """List the runs of the tenant, newest first."""

    status: RunStatus | None = None
    agent_id: Short | None = None
    project_id: Identifier | None = None
    risk_level: RiskLevel | None = None
    actor_type: RunActorType | None = None
    parent_run_id: Identifier | None = None
    started_after: AwareTime | None = None
    started_before: AwareTime | None = None


class ListAttempts(ListInput):
    """List the attempts of one run, first attempt first."""

    run_id: Identifier


class RunView(Output):
    """A run as it stands; goal and error_message are null once erased."""

    run_id: str
    run_no: int
    agent_id: str
    project_id: str | None
    parent_run_id: str | None
    actor_type: RunActorType
    actor_id: str | None
    origin_system_id: str
    goal: str | None
    labels: dict[str, Any]
    source: RunSource
    provider_type: str | None
    model: str | None
    is_synthetic: bool
    synthetic_scenario_id: str | None
    max_attempts: int
    policy_snapshot_id: str
    authorization: dict[str, Any]
    started_at: OutputTime
    deadline_at: OutputTime
    created_by_key: str
    request_id: str
    traceparent: str | None
    subject_ref: str | None
    status: RunStatus
    attempt: int
    termination_reason: TerminationReason | None
    stopped_at_step: int | None
    violation_rule_id: str | None
    error_code: str | None
    error_message: str | None
    completed_at: OutputTime | None
    risk_level: RiskLevel
    policy_violation: bool
    policy_draft_count: int
    incident_count: int
    last_seen_at: OutputTime
    protected_state: str
    created_at: OutputTime
    updated_at: OutputTime
    version: int


class StartedRun(RunView):
    """A started run with what its caller needs to go on."""

    trace_id: str
    warnings: list[dict[str, Any]]
    replayed: bool


class EvaluationView(Output):
    """The one policy evaluation of an ended attempt."""

    evaluation_id: str
    run_id: str
    attempt: int
    run_status: RunStatus
    outcome: EvaluationOutcome
    policies_checked: int
    confidence: int
    outcome_kind: OutcomeKind
    outcome_ref: str | None
    counts: dict[str, Any]
    snapshot_id: str
    created_at: OutputTime


class CompletedRun(RunView):
    """An ended run with its trace and its evaluation."""

    trace_id: str
    root_hash: str
    step_count: int
    evaluation: EvaluationView
    lessons: list[dict[str, Any]]
    replayed: bool


class RetriedRun(RunView):
    """A run in its next attempt."""

    trace_id: str
    replayed: bool


class AttemptView(Output):
    """One attempt of a run: its trace, how it ended, and its evaluation."""

    run_id: str
    attempt: int
    trace_id: str
    status: str
    outcome: str | None
    step_count: int
    started_at: OutputTime
    completed_at: OutputTime | None
    root_hash: str | None
    evaluation: EvaluationView | None


class ExpiredRuns(Output):
    """The runs that a maintenance round ended; `more` when others wait."""

    expired: list[str]
    more: bool


@dataclass(frozen=True, slots=True)
class RunKey:
    """Where a list of runs goes on: the last row's start and id."""

    started_at: datetime
    run_id: str
