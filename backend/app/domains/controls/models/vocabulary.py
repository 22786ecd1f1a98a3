"""Controls: the closed words of limits, their use, breaches and overrides."""

from __future__ import annotations

from enum import StrEnum


class LimitCategory(StrEnum):
    """Over what a limit counts: a period, a sliding window, one run."""

    BUDGET = "BUDGET"
    RATE = "RATE"
    THRESHOLD = "THRESHOLD"


class LimitScope(StrEnum):
    """Whose use a limit counts."""

    TENANT = "TENANT"
    PROJECT = "PROJECT"
    AGENT = "AGENT"


class ResetPeriod(StrEnum):
    """When a budget begins anew."""

    DAILY = "DAILY"
    WEEKLY = "WEEKLY"
    MONTHLY = "MONTHLY"
    NONE = "NONE"


class LimitSource(StrEnum):
    """Where a limit came from."""

    MANUAL = "MANUAL"
    SYSTEM = "SYSTEM"
    LEARNED = "LEARNED"


class LimitEnforcement(StrEnum):
    """What reaching a limit does."""

    BLOCK = "BLOCK"
    WARN = "WARN"
    AUDIT = "AUDIT"


class LimitConsequence(StrEnum):
    """What a breach opens besides its record."""

    NONE = "NONE"
    INCIDENT = "INCIDENT"


class LimitStatus(StrEnum):
    """Whether new runs take a limit into their snapshot."""

    ACTIVE = "ACTIVE"
    DISABLED = "DISABLED"


class EntryKind(StrEnum):
    """How an entry moves a counter."""

    RESERVE = "RESERVE"
    COMMIT = "COMMIT"
    RELEASE = "RELEASE"
    EXPIRE = "EXPIRE"


class ReservationStatus(StrEnum):
    """The life of a reservation."""

    OPEN = "OPEN"
    COMMITTED = "COMMITTED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"


class BreachType(StrEnum):
    """How a limit was crossed: by recorded use, or by a refused budget, rate or threshold."""

    BREACHED = "BREACHED"
    EXHAUSTED = "EXHAUSTED"
    THROTTLED = "THROTTLED"
    VIOLATED = "VIOLATED"


class OverrideStatus(StrEnum):
    """The life of an override."""

    PENDING = "PENDING"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
