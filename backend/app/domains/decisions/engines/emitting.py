"""Decisions L5: one helper for each type of decision: its outcome follows from its facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.db.unit import GovernedUnit
from app.domains.decisions.drivers import decision_records as driver
from app.domains.decisions.engines.recording import inputs_digest, record_decisions
from app.domains.decisions.errors import care_signal_forbidden, decision_conflict, member_required
from app.domains.decisions.models.facts import (
    CARE_SIGNALS,
    BudgetEnforcementFacts,
    BudgetFacts,
    CareFacts,
    MemoryFacts,
    PolicyFacts,
    PolicyPrecheckFacts,
    RecoveryEvaluationFacts,
    RecoveryFacts,
    RoutingFacts,
)
from app.domains.decisions.models.records import DecisionDraft
from app.domains.decisions.models.vocabulary import (
    CausalRole,
    DecisionOutcome,
    DecisionSource,
    DecisionTrigger,
    DecisionType,
)
from app.kernel.inputs import Input

MIN_CARE_CONFIDENCE = 0.5


@dataclass(frozen=True, slots=True)
class About:
    """What a decision is about, beside its facts; all texts are redacted."""

    reason: str
    source: DecisionSource = DecisionSource.SYSTEM
    run_id: str | None = None
    attempt: int | None = None
    request_id: str | None = None
    workflow_id: str | None = None
    snapshot_id: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Emitted:
    """The record that stands; `known` when an equal one was there before."""

    decision_id: str
    known: bool


def emit_routing_decision(unit: GovernedUnit, facts: RoutingFacts, about: About) -> Emitted:
    """Record whether a request found an agent."""
    outcome = DecisionOutcome.NONE
    if facts.routed and facts.agent_id is not None:
        outcome = DecisionOutcome.SELECTED
    elif not facts.routed and facts.rejection_reason:
        outcome = DecisionOutcome.REJECTED
    return _emit(unit, DecisionType.ROUTING, outcome, facts, about)


def emit_recovery_decision(unit: GovernedUnit, facts: RecoveryFacts, about: About) -> Emitted:
    """Record whether a failing step was recovered."""
    outcome = DecisionOutcome.NONE
    if not facts.evaluated:
        outcome = DecisionOutcome.SKIPPED
    elif facts.triggered:
        outcome = DecisionOutcome.SELECTED
    return _emit(unit, DecisionType.RECOVERY, outcome, facts, about)


def emit_memory_decision(unit: GovernedUnit, facts: MemoryFacts, about: About) -> Emitted:
    """Record whether remembered context came into the run."""
    if not facts.queried:
        outcome = DecisionOutcome.SKIPPED
    elif not facts.matched:
        outcome = DecisionOutcome.NONE
    else:
        outcome = DecisionOutcome.SELECTED if facts.injected else DecisionOutcome.BLOCKED
    return _emit(unit, DecisionType.MEMORY, outcome, facts, about)


def emit_policy_decision(unit: GovernedUnit, facts: PolicyFacts, about: About) -> Emitted:
    """Record what a policy of the caller's own said."""
    if not facts.evaluated:
        outcome = DecisionOutcome.SKIPPED
    elif facts.violated:
        grave = facts.severity == "error"
        outcome = DecisionOutcome.BLOCKED if grave else DecisionOutcome.REJECTED
    else:
        outcome = DecisionOutcome.SELECTED
    return _emit(unit, DecisionType.POLICY, outcome, facts, about)


def emit_budget_decision(unit: GovernedUnit, facts: BudgetFacts, about: About) -> Emitted:
    """Record whether a run fits its budget."""
    outcome = DecisionOutcome.SELECTED
    if facts.exceeded and facts.hard:
        outcome = DecisionOutcome.BLOCKED
    elif facts.exceeded and not facts.proceeded:
        outcome = DecisionOutcome.REJECTED
    return _emit(unit, DecisionType.BUDGET, outcome, facts, about)


def emit_budget_enforcement_decision(
    unit: GovernedUnit, facts: BudgetEnforcementFacts, about: About
) -> Emitted:
    """Record, once for each run, that its budget stopped it."""
    return _emit(
        unit,
        DecisionType.BUDGET_ENFORCEMENT,
        DecisionOutcome.EXECUTION_HALTED,
        facts,
        about,
        key=f"budget_enforcement:{about.run_id}",
    )


def emit_policy_precheck_decision(
    unit: GovernedUnit, facts: PolicyPrecheckFacts, about: About
) -> Emitted | None:
    """Record, once for each request and outcome, what stopped it before a run; None for a pass."""
    if facts.available and facts.passed:
        return None
    outcome = DecisionOutcome.POLICY_BLOCKED if facts.available else DecisionOutcome.POLICY_UNAVAILABLE
    return _emit(
        unit,
        DecisionType.POLICY_PRE_CHECK,
        outcome,
        facts,
        about,
        key=f"precheck:{about.request_id}:{outcome}",
    )


def emit_recovery_evaluation_decision(
    unit: GovernedUnit, facts: RecoveryEvaluationFacts, about: About
) -> Emitted:
    """Record, once for each run and failure, how the failure was classed."""
    outcome = {"R1": DecisionOutcome.RECOVERY_APPLIED, "R2": DecisionOutcome.RECOVERY_SUGGESTED}.get(
        facts.recovery_class or "", DecisionOutcome.RECOVERY_SKIPPED
    )
    return _emit(
        unit,
        DecisionType.RECOVERY_EVALUATION,
        outcome,
        facts,
        about,
        key=f"recovery:{about.run_id}:{facts.failure_type}",
    )


def emit_care_optimization_decision(unit: GovernedUnit, facts: CareFacts, about: About) -> Emitted | None:
    """Record, once for each request, which of two agents was taken; None when both are the same.

    The baseline agent stays below a confidence of 0.5. Refuses CARE_SIGNAL_FORBIDDEN when the
    optimisation looked at anything but the permitted signals.
    """
    forbidden = sorted(set(facts.signals) - CARE_SIGNALS)
    if forbidden:
        raise care_signal_forbidden(forbidden)
    if facts.baseline_agent_id == facts.optimized_agent_id:
        return None
    outcome = DecisionOutcome.OPTIMIZED_SELECTED
    if facts.confidence < MIN_CARE_CONFIDENCE:
        outcome = DecisionOutcome.BASELINE_SELECTED
    return _emit(
        unit,
        DecisionType.CARE_ROUTING_OPTIMIZED,
        outcome,
        facts,
        about,
        key=f"care:{about.request_id}",
    )


def emit_policy_evaluation_decision(
    unit: GovernedUnit,
    outcome: DecisionOutcome,
    inputs: Mapping[str, Any],
    about: About,
    *,
    role: CausalRole,
    matched: Sequence[Mapping[str, Any]] = (),
    key: str | None = None,
    reservation_id: str | None = None,
    decision_id: str | None = None,
) -> str:
    """Record what the tenant's own rules and limits came to; return the record's id.

    Only the product itself calls this. Who gives a key has looked it up already: a record that took it
    meanwhile raises DecisionRacedError.
    """
    draft = replace(
        _draft(DecisionType.POLICY_EVALUATION, outcome, inputs, about, key=key),
        causal_role=role,
        matched=matched,
        reservation_id=reservation_id,
        decision_id=decision_id,
    )
    (recorded,) = record_decisions(unit, [draft])
    return recorded


# What calls for a decision of each type, and when; a policy evaluation says its role itself.
_SHAPES: Mapping[DecisionType, tuple[DecisionTrigger, CausalRole]] = {
    DecisionType.ROUTING: (DecisionTrigger.EXPLICIT, CausalRole.PRE_RUN),
    DecisionType.RECOVERY: (DecisionTrigger.REACTIVE, CausalRole.IN_RUN),
    DecisionType.MEMORY: (DecisionTrigger.EXPLICIT, CausalRole.IN_RUN),
    DecisionType.POLICY: (DecisionTrigger.EXPLICIT, CausalRole.IN_RUN),
    DecisionType.BUDGET: (DecisionTrigger.EXPLICIT, CausalRole.PRE_RUN),
    DecisionType.BUDGET_ENFORCEMENT: (DecisionTrigger.REACTIVE, CausalRole.IN_RUN),
    DecisionType.POLICY_PRE_CHECK: (DecisionTrigger.EXPLICIT, CausalRole.PRE_RUN),
    DecisionType.RECOVERY_EVALUATION: (DecisionTrigger.REACTIVE, CausalRole.POST_RUN),
    DecisionType.CARE_ROUTING_OPTIMIZED: (DecisionTrigger.AUTONOMOUS, CausalRole.PRE_RUN),
    DecisionType.POLICY_EVALUATION: (DecisionTrigger.EXPLICIT, CausalRole.IN_RUN),
}


def _draft(
    kind: DecisionType,
    outcome: DecisionOutcome,
    inputs: Mapping[str, Any],
    about: About,
    *,
    key: str | None,
) -> DecisionDraft:
    trigger, role = _SHAPES[kind]
    return DecisionDraft(
        decision_type=kind,
        decision_source=about.source,
        decision_trigger=trigger,
        causal_role=role,
        decision_outcome=outcome,
        decision_reason=about.reason,
        decision_inputs=inputs,
        run_id=about.run_id,
        attempt=about.attempt,
        workflow_id=about.workflow_id,
        request_id=about.request_id,
        snapshot_id=about.snapshot_id,
        idempotency_key=key,
        details=about.details,
    )


def _emit(
    unit: GovernedUnit,
    kind: DecisionType,
    outcome: DecisionOutcome,
    facts: Input,
    about: About,
    *,
    key: str | None = None,
) -> Emitted:
    return _record(unit, _draft(kind, outcome, facts.model_dump(mode="json"), about, key=key))


def _record(unit: GovernedUnit, draft: DecisionDraft) -> Emitted:
    """Record a draft, or return the record of its key; refuse DECISION_CONFLICT, INVALID_INPUT."""
    if draft.run_id is None and draft.causal_role is not CausalRole.PRE_RUN:
        raise member_required("run_id")
    if draft.idempotency_key is not None:
        known = driver.find_by_key(
            unit.connection, tenant_id=unit.tenant_id, idempotency_key=draft.idempotency_key
        )
        if known is not None:
            if known["inputs_digest"] != inputs_digest(unit.digest_key(), draft.decision_inputs):
                raise decision_conflict(draft.idempotency_key, known["decision_id"])
            return Emitted(known["decision_id"], known=True)
    (decision_id,) = record_decisions(unit, [draft])
    return Emitted(decision_id, known=False)
