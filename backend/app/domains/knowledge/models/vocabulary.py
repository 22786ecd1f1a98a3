"""Knowledge: the closed words of planes, their states, jobs and events."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class KnowledgePlaneLifecycleState(IntEnum):
    """The 13 lifecycle states of a knowledge plane, stored as their value (GAP-089, LIFECYCLE-001)."""

    DRAFT = 100
    PENDING_VERIFY = 110
    VERIFIED = 120
    INGESTING = 130
    INDEXED = 140
    CLASSIFIED = 150
    PENDING_ACTIVATE = 160
    ACTIVE = 200
    PENDING_DEACTIVATE = 300
    DEACTIVATED = 310
    ARCHIVED = 320
    PURGED = 400
    FAILED = 500

    @property
    def is_onboarding(self) -> bool:
        """Tell whether the plane has not served yet."""
        return 100 <= self < 200

    @property
    def is_operational(self) -> bool:
        """Tell whether the plane is in service."""
        return 200 <= self < 300

    @property
    def is_offboarding(self) -> bool:
        """Tell whether the plane is on its way out."""
        return 300 <= self < 400

    @property
    def is_terminal(self) -> bool:
        """Tell whether no edge leaves the state."""
        return self >= 400

    @property
    def is_failed(self) -> bool:
        """Tell whether the plane was given up."""
        return self >= 500

    @property
    def allows_queries(self) -> bool:
        """Tell whether a run may read the plane."""
        return self is KnowledgePlaneLifecycleState.ACTIVE

    @property
    def allows_new_runs(self) -> bool:
        """Tell whether a run that starts now may rely on the plane."""
        return self is KnowledgePlaneLifecycleState.ACTIVE

    @property
    def allows_policy_binding(self) -> bool:
        """Tell whether a policy may be bound to the plane."""
        return self in (
            KnowledgePlaneLifecycleState.PENDING_ACTIVATE,
            KnowledgePlaneLifecycleState.ACTIVE,
        )

    @property
    def allows_modifications(self) -> bool:
        """Tell whether the configuration may change."""
        return self.is_onboarding or self is KnowledgePlaneLifecycleState.ACTIVE

    @property
    def requires_async_job(self) -> bool:
        """Tell whether entering the state queues a job."""
        return self in (
            KnowledgePlaneLifecycleState.PENDING_VERIFY,
            KnowledgePlaneLifecycleState.INGESTING,
            KnowledgePlaneLifecycleState.ARCHIVED,
        )

    @property
    def requires_policy_gate(self) -> bool:
        """Tell whether the forward edge out of the state passes a gate."""
        return self in (
            KnowledgePlaneLifecycleState.PENDING_ACTIVATE,
            KnowledgePlaneLifecycleState.PENDING_DEACTIVATE,
            KnowledgePlaneLifecycleState.ARCHIVED,
        )


class LifecycleAction(StrEnum):
    """The verbs that name the edges of the lifecycle."""

    REGISTER = "register_knowledge_plane"
    VERIFY = "verify_knowledge_plane"
    INGEST = "ingest_knowledge_plane"
    INDEX = "index_knowledge_plane"
    CLASSIFY = "classify_knowledge_plane"
    REQUEST_ACTIVATION = "request_activation"
    ACTIVATE = "activate_knowledge_plane"
    DEREGISTER = "deregister_knowledge_plane"
    CANCEL_DEREGISTER = "cancel_deregister_knowledge_plane"
    DEACTIVATE = "deactivate_knowledge_plane"
    ARCHIVE = "archive_knowledge_plane"
    PURGE = "purge_knowledge_plane"
    RETRY = "retry_knowledge_plane"
    FAIL = "fail_knowledge_plane"
    JOB_COMPLETE = "job_complete"


class ConnectorType(StrEnum):
    """Where the knowledge of a plane comes from."""

    REPOSITORY = "repository"
    SQL = "sql"
    HTTP = "http"


class SensitivityLevel(StrEnum):
    """How sensitive the content is, lowest first."""

    PUBLIC = "public"
    INTERNAL = "internal"
    CONFIDENTIAL = "confidential"
    RESTRICTED = "restricted"


class CollectionMode(StrEnum):
    """How a plane uses a collection: OWNED is a binding, SHARED only a reference."""

    OWNED = "OWNED"
    SHARED = "SHARED"


class EventActorType(StrEnum):
    """Who made a lifecycle event."""

    HUMAN = "HUMAN"
    SYSTEM = "SYSTEM"
    AGENT = "AGENT"


class GateDecision(StrEnum):
    """What a gate answers: BLOCKED needs a change, PENDING needs time or a consent."""

    ALLOWED = "ALLOWED"
    BLOCKED = "BLOCKED"
    PENDING = "PENDING"


class LifecycleEventType(StrEnum):
    """The kinds of lifecycle events."""

    LIFECYCLE_TRANSITION = "LIFECYCLE_TRANSITION"
    LIFECYCLE_ROLLBACK = "LIFECYCLE_ROLLBACK"
    LIFECYCLE_BLOCKED = "LIFECYCLE_BLOCKED"
    LIFECYCLE_PURGE_APPROVED = "LIFECYCLE_PURGE_APPROVED"
    LIFECYCLE_JOB_STARTED = "LIFECYCLE_JOB_STARTED"
    LIFECYCLE_JOB_COMPLETED = "LIFECYCLE_JOB_COMPLETED"
    LIFECYCLE_JOB_FAILED = "LIFECYCLE_JOB_FAILED"
    PLANE_CONFIG_UPDATED = "PLANE_CONFIG_UPDATED"
    PLANE_POLICY_BOUND = "PLANE_POLICY_BOUND"
    PLANE_POLICY_UNBOUND = "PLANE_POLICY_UNBOUND"
    PLANE_SUSPENDED = "PLANE_SUSPENDED"
    PLANE_RESUMED = "PLANE_RESUMED"
    PLANE_REFRESHED = "PLANE_REFRESHED"
    PLANE_ARCHIVE_DELETED = "PLANE_ARCHIVE_DELETED"


class JobType(StrEnum):
    """The kinds of work a plane waits for."""

    VERIFY_CONNECTIVITY = "verify_connectivity"
    INGEST_DATA = "ingest_data"
    REFRESH_DATA = "refresh_data"
    ARCHIVE_DATA = "archive_data"
    DELETE_ARCHIVE = "delete_archive"


class JobStatus(StrEnum):
    """The states of a job."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class ConfigChange(StrEnum):
    """How a new configuration takes effect."""

    OPERATIONAL = "operational"
    SOURCE = "source"
    CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True)
class TransitionResult:
    """The verdict on one pair of states; true in a condition iff the pair is legal."""

    allowed: bool
    from_state: KnowledgePlaneLifecycleState
    to_state: KnowledgePlaneLifecycleState
    reason: str
    requires_gate: bool
    requires_async: bool

    def __bool__(self) -> bool:
        return self.allowed
