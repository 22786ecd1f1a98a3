"""Decisions: the facts that each type of decision is made from; the outcome is computed, never stated."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from app.domains.decisions.models.records import DecisionView
from app.domains.decisions.models.vocabulary import DecisionSource
from app.kernel.canonical_json import CanonicalJsonError, dumps
from app.kernel.inputs import Identifier, Input, LongText, Output, Reason, Text

MAX_JSON_BYTES = 64 * 1024
# What the routing of agents may be optimised by; anything else could be a person's or a policy's business.
CARE_SIGNALS = frozenset(
    {"latency_p50", "latency_p95", "cost_per_run", "success_rate", "recovery_occurred"}
    | {"agent_availability", "context_size_bucket"}
)


def _fits(value: Any) -> Any:
    try:
        size = len(dumps(value).encode())
    except CanonicalJsonError as error:
        raise ValueError(str(error)) from error
    if size > MAX_JSON_BYTES:
        raise ValueError(f"has {size} bytes as canonical JSON; {MAX_JSON_BYTES} is the most")
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_fits)]
Label = Annotated[Text, StringConstraints(min_length=1, max_length=255)]
Amount = Annotated[float, Field(ge=0)]


class RoutingFacts(Input):
    """Whether a request found an agent."""

    routed: bool
    agent_id: Identifier | None = None
    rejection_reason: LongText | None = None
    candidates: list[Identifier] = Field(default_factory=list, max_length=1000)


class RecoveryFacts(Input):
    """Whether a failing step was recovered."""

    evaluated: bool
    triggered: bool = False
    failure_type: Label | None = None
    strategy: Label | None = None


class MemoryFacts(Input):
    """Whether remembered context came into the run."""

    queried: bool
    matched: bool = False
    injected: bool = False
    sources: list[Label] = Field(default_factory=list, max_length=1000)


class PolicyFacts(Input):
    """What a policy of the caller's own said."""

    evaluated: bool
    violated: bool = False
    severity: Literal["info", "warning", "error"] | None = None
    policy_id: Identifier | None = None


class BudgetFacts(Input):
    """Whether a run fits its budget before it starts."""

    exceeded: bool
    hard: bool = False
    proceeded: bool = True
    limit: Amount | None = None
    estimate: Amount | None = None


class BudgetEnforcementFacts(Input):
    """What stopped a run whose budget was used up."""

    limit: Amount
    used: Amount
    metric: Label | None = None
    stopped_at_step: int | None = Field(None, ge=0, le=2_147_483_647)


class PolicyPrecheckFacts(Input):
    """What the policies said before a run; a pass leaves no record."""

    available: bool
    passed: bool = False
    violations: list[Label] = Field(default_factory=list, max_length=1000)


class RecoveryEvaluationFacts(Input):
    """How a failure was classed afterwards."""

    failure_type: Label
    recovery_class: Literal["R1", "R2", "R3"] | None = None


class CareFacts(Input):
    """What an optimised routing chose over the baseline, and by which signals."""

    baseline_agent_id: Identifier
    optimized_agent_id: Identifier
    confidence: float = Field(ge=0, le=1)
    signals: Annotated[dict[str, float | bool | str], AfterValidator(_fits)] = Field(default_factory=dict)


EmittedType = Literal[
    "ROUTING",
    "RECOVERY",
    "MEMORY",
    "POLICY",
    "BUDGET",
    "BUDGET_ENFORCEMENT",
    "POLICY_PRE_CHECK",
    "RECOVERY_EVALUATION",
    "CARE_ROUTING_OPTIMIZED",
]


class EmitDecision(Input):
    """Record a decision of the caller's from its facts; `facts` has the members of its type."""

    decision_type: EmittedType
    facts: JsonObject
    decision_reason: Reason
    decision_source: DecisionSource = DecisionSource.SYSTEM
    run_id: Identifier | None = None
    request_id: Identifier | None = None
    workflow_id: Identifier | None = None
    details: JsonObject = Field(default_factory=dict)


class EmittedDecision(Output):
    """RECORDED now, KNOWN from before, or NONE: these facts leave no record."""

    result: Literal["RECORDED", "KNOWN", "NONE"]
    decision: DecisionView | None
