"""Models of the repository slice: its closed vocabularies."""

from enum import StrEnum

DEFAULT_COLLECTION = "default"


class BlobState(StrEnum):
    """Whether the bytes of a digest are here."""

    PRESENT = "PRESENT"
    REDACTED = "REDACTED"
    COLLECTED = "COLLECTED"


class ContentState(StrEnum):
    """What a reader of one revision's content finds."""

    PRESENT = "PRESENT"
    NONE = "NONE"
    REDACTED = "REDACTED"
    COLLECTED = "COLLECTED"


class Redaction(StrEnum):
    """How much of a revision was destroyed."""

    FULL = "FULL"
    CONTENT = "CONTENT"


class EntityType(StrEnum):
    """What a change record is about."""

    COLLECTION = "COLLECTION"
    ARTIFACT = "ARTIFACT"
    RELATIONSHIP = "RELATIONSHIP"
    RUN = "RUN"
    BUNDLE = "BUNDLE"
    CONTEXT_PACKAGE = "CONTEXT_PACKAGE"
    BLOB = "BLOB"


class Action(StrEnum):
    """What a change record says was done."""

    CREATED = "CREATED"
    UPDATED = "UPDATED"
    DELETED = "DELETED"
    RESTORED = "RESTORED"
    REDACTED = "REDACTED"
    LINKED = "LINKED"
    UNLINKED = "UNLINKED"
    TRANSITIONED = "TRANSITIONED"
    OUTPUT_LINKED = "OUTPUT_LINKED"
    SEALED = "SEALED"
    COLLECTED = "COLLECTED"
    IMPORTED = "IMPORTED"


class OperationRunStatus(StrEnum):
    """The states of a workflow run; the last three are final."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepStatus(StrEnum):
    """The states of a workflow step."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


class ContextItemKind(StrEnum):
    """What an item of a context package points at."""

    ARTIFACT = "artifact"
    RELATIONSHIP = "relationship"
    RUN = "run"
    EXTERNAL_MEMORY = "external_memory"


class ScalarKind(StrEnum):
    """The type of a projected metadata value: string, number, bool, null, object, array."""

    STRING = "s"
    NUMBER = "n"
    BOOL = "b"
    NULL = "z"
    OBJECT = "o"
    ARRAY = "a"
