"""Incidents: the closed words of incidents, their events and links."""

from __future__ import annotations

from enum import StrEnum


class CauseType(StrEnum):
    """What brought the incident about."""

    LLM_RUN = "LLM_RUN"
    SYSTEM = "SYSTEM"
    HUMAN = "HUMAN"


class SourceType(StrEnum):
    """What reported the incident."""

    RUN = "RUN"
    POLICY = "POLICY"
    LIMIT = "LIMIT"
    SIGNAL = "SIGNAL"
    VERIFIER = "VERIFIER"
    MANUAL = "MANUAL"


class IncidentCategory(StrEnum):
    """What kind of trouble it is."""

    EXECUTION_FAILURE = "EXECUTION_FAILURE"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    RATE_LIMIT = "RATE_LIMIT"
    RESOURCE_EXHAUSTION = "RESOURCE_EXHAUSTION"
    POLICY_VIOLATION = "POLICY_VIOLATION"
    INTEGRITY = "INTEGRITY"
    MANUAL = "MANUAL"


class ImpactScope(StrEnum):
    """How far it reaches."""

    SINGLE_RUN = "SINGLE_RUN"
    AGENT = "AGENT"
    TENANT = "TENANT"
    SYSTEM = "SYSTEM"


class Severity(StrEnum):
    """How grave it is, gravest first."""

    CRITICAL = "CRITICAL"
    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"


class LifecycleState(StrEnum):
    """The life of an incident; nothing reopens one."""

    ACTIVE = "ACTIVE"
    ACKED = "ACKED"
    RESOLVED = "RESOLVED"


class ResolutionMethod(StrEnum):
    """How an incident was resolved."""

    AUTO = "AUTO"
    MANUAL = "MANUAL"
    ROLLBACK = "ROLLBACK"
    MANUAL_CLOSURE = "MANUAL_CLOSURE"


class IncidentEventType(StrEnum):
    """What happened to an incident."""

    CREATED = "CREATED"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    ESCALATED = "ESCALATED"
    RESOLVED = "RESOLVED"
    MANUALLY_CLOSED = "MANUALLY_CLOSED"


class LinkKind(StrEnum):
    """What an incident points at."""

    BREACH = "BREACH"
    PREVENTION = "PREVENTION"
    DECISION = "DECISION"
    RETRIEVAL = "RETRIEVAL"
    LESSON = "LESSON"
    SIGNAL = "SIGNAL"


class EventActorType(StrEnum):
    """Who acted on an incident."""

    HUMAN = "HUMAN"
    SYSTEM = "SYSTEM"
    AGENT = "AGENT"
