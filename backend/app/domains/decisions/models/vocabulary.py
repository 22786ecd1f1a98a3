"""Decisions: the closed words of decision records."""

from __future__ import annotations

from enum import StrEnum


class DecisionType(StrEnum):
    """What was decided about."""

    ROUTING = "ROUTING"
    RECOVERY = "RECOVERY"
    MEMORY = "MEMORY"
    POLICY = "POLICY"
    BUDGET = "BUDGET"
    BUDGET_ENFORCEMENT = "BUDGET_ENFORCEMENT"
    POLICY_PRE_CHECK = "POLICY_PRE_CHECK"
    RECOVERY_EVALUATION = "RECOVERY_EVALUATION"
    CARE_ROUTING_OPTIMIZED = "CARE_ROUTING_OPTIMIZED"
    POLICY_EVALUATION = "POLICY_EVALUATION"


class DecisionSource(StrEnum):
    """Who decided."""

    HUMAN = "HUMAN"
    SYSTEM = "SYSTEM"
    HYBRID = "HYBRID"


class DecisionTrigger(StrEnum):
    """What made the decision necessary."""

    EXPLICIT = "EXPLICIT"
    AUTONOMOUS = "AUTONOMOUS"
    REACTIVE = "REACTIVE"


class CausalRole(StrEnum):
    """Where a decision stands in the life of its run."""

    PRE_RUN = "PRE_RUN"
    IN_RUN = "IN_RUN"
    POST_RUN = "POST_RUN"


class DecisionOutcome(StrEnum):
    """What a decision came to."""

    SELECTED = "SELECTED"
    REJECTED = "REJECTED"
    SKIPPED = "SKIPPED"
    BLOCKED = "BLOCKED"
    NONE = "NONE"
    EXECUTION_HALTED = "EXECUTION_HALTED"
    POLICY_BLOCKED = "POLICY_BLOCKED"
    POLICY_UNAVAILABLE = "POLICY_UNAVAILABLE"
    RECOVERY_APPLIED = "RECOVERY_APPLIED"
    RECOVERY_SUGGESTED = "RECOVERY_SUGGESTED"
    RECOVERY_SKIPPED = "RECOVERY_SKIPPED"
    BASELINE_SELECTED = "BASELINE_SELECTED"
    OPTIMIZED_SELECTED = "OPTIMIZED_SELECTED"
    ALLOWED = "ALLOWED"
    AUDITED = "AUDITED"
    WARNED = "WARNED"
    STOPPED = "STOPPED"
    KILLED = "KILLED"
    PREVENTED = "PREVENTED"
