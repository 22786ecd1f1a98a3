"""Policies: the closed words of rules, their judgements and proposals."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

MAX_CONDITION_LENGTH: Final = 2000


class RuleKind(StrEnum):
    """ACCESS judges retrievals, GUARD judges what a run does."""

    ACCESS = "ACCESS"
    GUARD = "GUARD"


class RuleSource(StrEnum):
    """Who brought the rule into being."""

    MANUAL = "MANUAL"
    SYSTEM = "SYSTEM"
    LEARNED = "LEARNED"


class RuleStatus(StrEnum):
    """DRAFT never judges, ACTIVE judges new runs, RETIRED is final."""

    DRAFT = "DRAFT"
    ACTIVE = "ACTIVE"
    RETIRED = "RETIRED"


class Effect(StrEnum):
    """What a matching ACCESS rule says."""

    ALLOW = "ALLOW"
    DENY = "DENY"


class EnforcementMode(StrEnum):
    """What a matching GUARD rule does."""

    BLOCK = "BLOCK"
    WARN = "WARN"
    AUDIT = "AUDIT"
    DISABLED = "DISABLED"


class Moment(StrEnum):
    """When a GUARD rule is judged."""

    START = "START"
    STEP = "STEP"
    USAGE = "USAGE"
    COMPLETION = "COMPLETION"
    INCIDENT = "INCIDENT"


class PreventionOutcome(StrEnum):
    """What a matching GUARD rule did."""

    AUDITED = "AUDITED"
    WARNED = "WARNED"
    BLOCKED = "BLOCKED"
    STOPPED = "STOPPED"
    PREVENTED = "PREVENTED"


class RuleScope(StrEnum):
    """Which runs a rule applies to."""

    TENANT = "TENANT"
    PROJECT = "PROJECT"
    AGENT = "AGENT"


class ProposalKind(StrEnum):
    """What an approved proposal becomes."""

    RULE = "RULE"
    LIMIT = "LIMIT"


class ProposalSource(StrEnum):
    """Where a proposal came from."""

    MANUAL = "MANUAL"
    LESSON = "LESSON"
    INCIDENT = "INCIDENT"


class ProposalStatus(StrEnum):
    """A proposal is open until one review."""

    DRAFT = "DRAFT"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"


class ConflictType(StrEnum):
    """How two rules or limits disagree."""

    SCOPE_OVERLAP = "SCOPE_OVERLAP"
    PRIORITY_OVERRIDE = "PRIORITY_OVERRIDE"
    THRESHOLD_CONTRADICTION = "THRESHOLD_CONTRADICTION"
    TEMPORAL_CONFLICT = "TEMPORAL_CONFLICT"


class ConflictSeverity(StrEnum):
    """BLOCKING forbids activation."""

    BLOCKING = "BLOCKING"
    WARNING = "WARNING"


class DependencyType(StrEnum):
    """Why two policies hang together."""

    EXPLICIT = "EXPLICIT"
    IMPLICIT_SCOPE = "IMPLICIT_SCOPE"
    IMPLICIT_LIMIT = "IMPLICIT_LIMIT"


class AccessReason(StrEnum):
    """Why an access was allowed or denied by the rules."""

    OK = "OK"
    NO_POLICY_BOUND = "NO_POLICY_BOUND"
    DENIED_BY_RULE = "DENIED_BY_RULE"
    ACTION_NOT_ALLOWED = "ACTION_NOT_ALLOWED"
    POLICY_CONDITION_ERROR = "POLICY_CONDITION_ERROR"
    NO_MATCHING_RULE = "NO_MATCHING_RULE"
    POLICY_REVOKED = "POLICY_REVOKED"
