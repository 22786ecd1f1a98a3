"""Activity: the closed sets of runs: states, reasons, sources, outcomes."""

from enum import StrEnum


class RunStatus(StrEnum):
    """Where a run stands; all but `running` are final."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    HALTED = "halted"
    CANCELLED = "cancelled"


class EndStatus(StrEnum):
    """What a run may be completed as."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    HALTED = "halted"
    CANCELLED = "cancelled"


class TerminationReason(StrEnum):
    COMPLETED = "completed"
    SYSTEM_FAILURE = "system_failure"
    TIMEOUT = "timeout"
    POLICY_BLOCK = "policy_block"
    BUDGET_EXCEEDED = "budget_exceeded"
    RATE_LIMITED = "rate_limited"
    USER_ABORT = "user_abort"


class RunActorType(StrEnum):
    """Who a run acts for (rule R4)."""

    HUMAN = "HUMAN"
    SYSTEM = "SYSTEM"
    SERVICE = "SERVICE"


class RunSource(StrEnum):
    API = "API"
    SDK = "SDK"
    OTLP = "OTLP"
    WORKER = "WORKER"
    SYNTHETIC = "SYNTHETIC"


class RiskLevel(StrEnum):
    """In rising order; a run's level never falls once it has ended."""

    NORMAL = "NORMAL"
    NEAR_THRESHOLD = "NEAR_THRESHOLD"
    AT_RISK = "AT_RISK"
    VIOLATED = "VIOLATED"


class EvaluationOutcome(StrEnum):
    NO_VIOLATION = "NO_VIOLATION"
    VIOLATION_INCIDENT = "VIOLATION_INCIDENT"
    ADVISORY = "ADVISORY"
    NOT_APPLICABLE = "NOT_APPLICABLE"


class OutcomeKind(StrEnum):
    """What the end of an attempt left behind."""

    NONE = "NONE"
    INCIDENT = "INCIDENT"
    PREVENTION = "PREVENTION"
