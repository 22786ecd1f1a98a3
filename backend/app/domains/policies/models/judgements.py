"""Policies: what rules have done, what they would do: prevention records, effect, simulation."""

from typing import Annotated, Any, Literal

from pydantic import Field

from app.domains.policies.models.checks import Action, LimitStand, Reason, UsageName, Verdict
from app.domains.policies.models.rules import RuleFields
from app.domains.policies.models.vocabulary import Moment, PreventionOutcome, RuleSource, RuleStatus
from app.kernel.amounts import Amount
from app.kernel.inputs import AwareTime, Identifier, Input, ListInput, Output, OutputTime, Text

MAX_REPLAYED = 1000


class ListPreventions(ListInput):
    """List prevention records, newest first."""

    run_id: Identifier | None = None
    rule_id: Identifier | None = None


class PreventionView(Output):
    """What one matching rule did; event and reason are null once erased."""

    prevention_id: str
    run_id: str | None
    attempt: int | None
    rule_id: str
    rule_version: int
    rule_hash: str
    policy_name: str
    snapshot_id: str | None
    decision_id: str
    outcome: PreventionOutcome
    moment: Moment
    signature: str | None
    confidence: int
    prevented_event: dict[str, Any] | None
    reason: str | None
    is_synthetic: bool
    created_at: OutputTime
    protected_state: str


class ListEvaluations(ListInput):
    """List the evaluations of ended attempts, newest first."""

    run_id: Identifier | None = None


class EffectChain(Output):
    """Where a rule came from, by id: incident, lesson, proposal, rule."""

    source_run_id: str | None
    incident_id: str | None
    lesson_id: str | None
    proposal_id: str | None
    rule_id: str


class RuleEffect(Output):
    """What a rule has changed since it was activated; without a signature no incidents are counted."""

    rule_id: str
    status: RuleStatus
    source: RuleSource
    activated_at: OutputTime | None
    chain: EffectChain
    preventions: dict[str, int]
    runs_governed: int
    signature: str | None
    window_days: int
    incidents_before: int | None
    incidents_after: int | None


class SimulatedRun(Input):
    """The run that is judged; it need not exist."""

    run_id: Identifier | None = None
    agent_id: Identifier
    project_id: Identifier | None = None
    actor_type: Literal["HUMAN", "SYSTEM", "SERVICE"] = "SYSTEM"
    origin_system_id: Identifier = "simulation"
    attempt: int = Field(1, ge=1, le=20)
    labels: dict[str, Any] = Field(default_factory=dict, max_length=64)


class SimulatedOutcome(Input):
    """How the run ends."""

    status: Literal["succeeded", "failed", "halted", "cancelled"]
    termination_reason: Text | None = None
    error_code: Text | None = None
    duration_ms: int = Field(0, ge=0)
    step_count: int = Field(0, ge=0)


class SimulatedIncident(Input):
    """The incident that would be opened."""

    severity: Literal["CRITICAL", "HIGH", "MEDIUM", "LOW"] = "MEDIUM"
    category: Text = "MANUAL"
    error_code: Text | None = None
    title: Text | None = None


class CandidateRule(RuleFields):
    """A GUARD rule that does not exist yet, or the next version of one that does."""

    rule_id: Identifier | None = None


class Replay(Input):
    """Which stored decisions are judged again."""

    since: AwareTime
    limit: int = Field(MAX_REPLAYED, ge=1, le=MAX_REPLAYED)


class Simulate(Input):
    """Judge a moment of a run without recording anything."""

    moment: Moment
    run: SimulatedRun
    action: Action | None = None
    usage: dict[UsageName | Literal["RUN_TIME_MS"], Amount] = Field(default_factory=dict)
    outcome: SimulatedOutcome | None = None
    incident: SimulatedIncident | None = None
    snapshot_id: Identifier | None = None
    candidates: Annotated[list[CandidateRule], Field(max_length=50)] = Field(default_factory=list)
    replay: Replay | None = None


class ReplayCounts(Output):
    """How stored decisions would come out now: `changes` counts by `old->new` verdict."""

    judged: int
    kept: int
    changed: int
    unreadable: int
    changes: dict[str, int]
    truncated: bool


class Simulated(Output):
    """What the rules and limits would say; nothing of it is recorded."""

    verdict: Verdict
    matched: list[Reason]
    rules_judged: int
    limits: list[LimitStand]
    snapshot_id: str | None
    replay: ReplayCounts | None = None
