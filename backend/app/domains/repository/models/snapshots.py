"""Models of the repository slice: snapshots, their faults, and what export, import and verify answer."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from app.kernel.files import HandedFile
from app.kernel.inputs import Input, Output, Text

Policy = Literal["fail", "skip_identical", "fast_forward"]
MAX_SHOWN = 100


class Fault(StrEnum):
    """Why a snapshot is not valid."""

    UNSUPPORTED_VERSION = "UNSUPPORTED_VERSION"
    UNKNOWN_KIND = "UNKNOWN_KIND"
    UNKNOWN_FIELD = "UNKNOWN_FIELD"
    NOT_CANONICAL = "NOT_CANONICAL"
    BAD_ORDER = "BAD_ORDER"
    DUPLICATE_RECORD = "DUPLICATE_RECORD"
    COUNT_MISMATCH = "COUNT_MISMATCH"
    LINE_HASH_MISMATCH = "LINE_HASH_MISMATCH"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    BLOB_MISSING = "BLOB_MISSING"
    BLOB_MISMATCH = "BLOB_MISMATCH"
    BLOB_UNLISTED = "BLOB_UNLISTED"
    BAD_VALUE = "BAD_VALUE"
    DANGLING_REFERENCE = "DANGLING_REFERENCE"
    REVISION_GAP = "REVISION_GAP"
    BAD_HEAD = "BAD_HEAD"
    CHAIN_BROKEN = "CHAIN_BROKEN"
    MANIFEST_MISMATCH = "MANIFEST_MISMATCH"
    TRUNCATED = "TRUNCATED"
    TRAILING_DATA = "TRAILING_DATA"
    BAD_ARCHIVE = "BAD_ARCHIVE"


class Relation(StrEnum):
    """How a record of a snapshot stands to what the repository holds."""

    ABSENT = "ABSENT"
    IDENTICAL = "IDENTICAL"
    SNAPSHOT_AHEAD = "SNAPSHOT_AHEAD"
    TARGET_AHEAD = "TARGET_AHEAD"
    DIVERGED = "DIVERGED"


class ExportSnapshot(Input):
    """The whole repository, or these collections alone."""

    collections: list[Text] | None = Field(None, max_length=1000)


class VerifySnapshot(Input):
    """A snapshot: a zip, or in process a folder."""

    content: HandedFile


class ImportSnapshot(VerifySnapshot):
    """A snapshot to be brought in; `dry_run` says what would become of it and writes nothing."""

    policy: Policy = "fail"
    dry_run: bool = False


class ChangeHead(Output):
    """The last record of a change chain."""

    seq: int
    hash: str


class SnapshotSummary(Output):
    """What a snapshot says of itself in its manifest."""

    scope: Literal["repository"] | list[str]
    change_head: ChangeHead | None
    counts: dict[str, int]
    blob_count: int
    blob_bytes: int
    snapshot_digest: str
    state_digest: str


class SnapshotExported(SnapshotSummary):
    """An exported snapshot; `content` is a zip in a folder of its own, for whoever asked to take away."""

    omitted: dict[str, int]
    content: HandedFile = Field(exclude=True)
    content_digest: str
    media_type: str = "application/zip"


class SnapshotFault(Output):
    """One fault, with the line of records.jsonl where it shows."""

    code: Fault
    line: int | None
    detail: str


class SnapshotVerified(Output):
    """Whether a snapshot is whole and consistent; without a summary its manifest cannot be read."""

    valid: bool
    summary: SnapshotSummary | None
    errors: list[SnapshotFault]


class SnapshotConflict(Output):
    """A record that does not fit the repository under the policy."""

    kind: str
    key: list[Any]
    reason: str


class SnapshotImported(Output):
    """What an import did, by kind of record; of a dry run, what it would do."""

    mode: Literal["adopt", "merge"]
    policy: Policy
    dry_run: bool
    snapshot_digest: str | None
    created: dict[str, int]
    identical: dict[str, int]
    behind: dict[str, int]
    appended: dict[str, int]
    conflicts: list[SnapshotConflict]
    conflicts_total: int
    errors: list[SnapshotFault]
    first_seq: int | None
    last_seq: int | None
