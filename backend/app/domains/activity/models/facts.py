"""Activity: what engines decide about runs, before it is rows."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.domains.activity.models.vocabulary import (
    EvaluationOutcome,
    OutcomeKind,
    RiskLevel,
    RunStatus,
    TerminationReason,
)


@dataclass(frozen=True, slots=True)
class Attribution:
    """The attribution that a caller claims for a run, unjudged."""

    agent_id: str | None
    origin_system_id: str | None
    actor_type: str | None
    actor_id: str | None


@dataclass(frozen=True, slots=True)
class BrokenRule:
    """One attribution rule that a start breaks."""

    rule: str
    field: str
    expected: str
    actual: str
    action: str = "REJECTED"
    reference: str = ""

    def as_error(self) -> dict[str, str]:
        """Return the item of the problem's `errors[]`."""
        return {
            "rule": self.rule,
            "field": self.field,
            "expected": self.expected,
            "actual": self.actual,
            "action": self.action,
            "reference": self.reference,
        }


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ends: the requested end, with the reason settled.

    A run that is halted may name the step that it stopped at (else its last) and the rule that stopped it.
    """

    status: RunStatus
    termination_reason: TerminationReason
    error_code: str | None = None
    error_message: str | None = None
    stopped_at_step: int | None = None
    violation_rule_id: str | None = None


@dataclass(frozen=True, slots=True)
class Projections:
    """By how much a run's row rises: further incidents and drafts, a violation, at least this risk."""

    incidents: int = 0
    drafts: int = 0
    violation: bool = False
    risk: RiskLevel = RiskLevel.NORMAL


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an attempt's one policy evaluation says."""

    outcome: EvaluationOutcome
    confidence: int
    outcome_kind: OutcomeKind
    outcome_ref: str | None
    policies_checked: int
    counts: Mapping[str, int]
