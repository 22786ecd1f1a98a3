"""Traces: vocabulary, inputs and views of traces and their steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from app.kernel.amounts import Amount, Metric, scaled
from app.kernel.inputs import AwareTime, Identifier, Input, ListInput, Output, OutputTime, Text

MAX_PAYLOAD_BYTES = 64 * 1024
MAX_BATCH = 1000
MAX_DEPTH = 24
MAX_BIGINT = 2**63 - 1
MICRO = 1_000_000
SCHEMA_VERSION = 1


class TraceStatus(StrEnum):
    OPEN = "OPEN"
    SEALED = "SEALED"


class TraceOutcome(StrEnum):
    SUCCESS = "success"
    FAILURE = "failure"
    ABORTED = "aborted"


class StepStatus(StrEnum):
    """A word outside this list is refused, never read as a similar one."""

    SUCCESS = "success"
    FAILURE = "failure"
    RETRY = "retry"
    SKIPPED = "skipped"


class ReplayBehavior(StrEnum):
    EXECUTE = "execute"
    SKIP = "skip"
    CHECK = "check"


class StepLevel(StrEnum):
    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class PreparedStep:
    """A step ready to be linked: its row but for the chain, its statement's hash, what was said and used."""

    row: Mapping[str, Any]
    statement_hash: bytes
    content: str
    used: Mapping[Metric, int]

    @property
    def step_index(self) -> int:
        return int(self.row["step_index"])


@dataclass(frozen=True, slots=True)
class Totals:
    """What the steps of a trace have used; tokens are null until one step reports them."""

    input_tokens: int | None
    output_tokens: int | None
    cost_micro: int


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain of a trace stands."""

    head_hash: str
    step_count: int
    totals: Totals


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


def _shallow(value: Any) -> Any:
    if depth_of(value) > MAX_DEPTH:
        raise ValueError(f"nests deeper than {MAX_DEPTH} levels")
    return value


# The size of a payload is judged where it has its canonical text: once, after redaction.
Payload = Annotated[dict[str, Any], AfterValidator(_shallow)]
# Exact integers inside, decimals on the wire: micro-dollars, microseconds.
CostCents = Annotated[int, BeforeValidator(lambda value: scaled(value, digits=4, what="cost_cents"))]
DurationMs = Annotated[int, BeforeValidator(lambda value: scaled(value, digits=3, what="duration_ms"))]
Word = Annotated[Text, StringConstraints(min_length=1, max_length=255)]
HashText = Annotated[Text, StringConstraints(min_length=1, max_length=128)]
Index = Annotated[int, Field(ge=0, le=2**31 - 2)]


class StepInput(Input):
    """One step as its caller reports it."""

    step_index: Index
    skill_id: Word
    skill_name: Word
    status: StepStatus
    params: Payload = Field(default_factory=dict)
    outcome_category: Word = "UNSPECIFIED"
    outcome_code: Word | None = None
    outcome_data: Annotated[Any, AfterValidator(_shallow)] = None
    cost_cents: CostCents = 0
    duration_ms: DurationMs = 0
    retry_count: int = Field(0, ge=0, le=2**31 - 1)
    input_hash: HashText | None = None
    output_hash: HashText | None = None
    rng_state_before: Annotated[Text, StringConstraints(max_length=4096)] | None = None
    replay_behavior: ReplayBehavior = ReplayBehavior.EXECUTE
    level: StepLevel = StepLevel.INFO
    side_effect: bool = False
    decision_id: Identifier | None = None
    reservation_id: Identifier | None = None
    usage: dict[Metric, Amount] = Field(default_factory=dict)
    external_id: Word | None = None
    occurred_at: AwareTime | None = None


class AppendSteps(Input):
    """Append a batch of steps to the trace of a run's attempt (default: the current one)."""

    run_id: Identifier
    attempt: int | None = Field(None, ge=1, le=2_147_483_647)
    steps: list[StepInput] = Field(min_length=1, max_length=MAX_BATCH)


class SpanInput(Input):
    """One OpenTelemetry span: hexadecimal ids, times in nanoseconds since 1970, attributes as JSON values."""

    trace_id: str
    span_id: str
    parent_span_id: str | None = None
    name: str
    scope_name: str
    kind: str
    start_ns: int
    end_ns: int
    failed: bool = False
    status_message: str | None = None
    attributes: dict[str, Any]
    events: list[dict[str, Any]] = Field(default_factory=list)


class IngestSpans(Input):
    """Take the spans of an export that name one run into it; null: they name none, or nothing that is one."""

    run: Identifier | None
    spans: list[SpanInput]


class IngestedSpans(Output):
    """How many of the spans the run now holds, and how many nobody takes, by reason."""

    accepted: int
    rejected: dict[str, int]


class ListSteps(ListInput):
    """List the steps of an attempt in order (default: the latest attempt)."""

    run_id: Identifier
    attempt: int | None = Field(None, ge=1, le=2_147_483_647)
    status: StepStatus | None = None


class TraceRef(Input):
    """Name the trace of one attempt."""

    run_id: Identifier
    attempt: int = Field(ge=1, le=2_147_483_647)


class AppendedSteps(Output):
    """Where the chain stands after a batch."""

    trace_id: str
    attempt: int
    appended: int
    replayed: int
    step_count: int
    head_hash: str
    breaches: list[dict[str, Any]]
    must_stop: bool


class StepView(Output):
    """A recorded step with its links; params and outcome_data are null once erased."""

    step_index: int
    skill_id: str
    skill_name: str
    params: dict[str, Any] | None
    status: StepStatus
    outcome_category: str
    outcome_code: str | None
    outcome_data: Any
    cost_cents: float
    duration_ms: float
    retry_count: int
    input_hash: str | None
    output_hash: str | None
    rng_state_before: str | None
    replay_behavior: ReplayBehavior
    level: StepLevel
    side_effect: bool
    decision_id: str | None
    reservation_id: str | None
    usage: dict[str, float]
    external_id: str | None
    redactions: int
    redaction_version: str
    occurred_at: OutputTime
    recorded_at: OutputTime
    protected_state: str
    prev_hash: str
    step_hash: str


class TraceView(Output):
    """The trace of one attempt: where its chain began, where it stands, and its seal."""

    trace_id: str
    run_id: str
    attempt: int
    schema_version: int
    seed: int | None
    plan_hash: str | None
    genesis_hash: str
    started_at: OutputTime
    status: TraceStatus
    outcome: TraceOutcome | None
    head_hash: str
    root_hash: str | None
    step_count: int
    input_tokens: int | None
    output_tokens: int | None
    cost_cents: float
    completed_at: OutputTime | None
    sealed_at: OutputTime | None
    version: int
