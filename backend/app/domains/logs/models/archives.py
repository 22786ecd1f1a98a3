"""Logs: archives of a log, and for how long a tenant keeps its evidence: inputs and views."""

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from app.domains.logs.models.retention import DEFAULT_DAYS
from app.kernel.inputs import Identifier, Input, Output, OutputTime, Reason, Text
from app.kernel.pages import HIGHEST_KEY

MOST_DAYS = 36_500
Days = Annotated[int, Field(ge=1, le=MOST_DAYS)]
Index = Annotated[int, Field(ge=0, le=HIGHEST_KEY)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class SetRetention(Input):
    """Keep evidence, or the values in it, for so many days; what is left out stays as it is."""

    days: Days | None = None
    value_days: Days | None = None
    reason: Annotated[Reason, StringConstraints(max_length=500)] | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> "SetRetention":
        if self.days is None and self.value_days is None:
            raise ValueError("give days, value_days or both")
        return self


class NoRetentionInput(Input):
    """Nothing to say."""


class RetentionView(Output):
    """For how long evidence and values are kept; version 0 is what holds where nobody has said anything."""

    retention_days: int = DEFAULT_DAYS
    value_retention_days: int = DEFAULT_DAYS
    version: int = 0
    updated_at: OutputTime | None = None


class ArchiveCounts(Input):
    """What went in; `root` is the RFC 6962 root over the leaf hashes of the statements, in their order."""

    statements: Index
    runs: Index
    steps: Index
    values: Index
    root: Digest


class WriteArchive(Input):
    """Write what is over age, as of now, into a new file of this folder."""

    folder: Text
    with_values: bool = False


class Archive(Input):
    """A file that was written and verified; its record lets a purge delete what it holds."""

    archive_id: Identifier
    epoch: Index
    from_idx: Index
    to_idx: Index
    sha256: Digest
    size: Index
    path: Text
    counts: ArchiveCounts


class ArchiveWritten(Output):
    """An archive under its temporary name, and the keys that signed its checkpoint."""

    archive: Archive
    temporary: str
    vkeys: list[str]


class ArchiveView(Output):
    """What was archived of the log, and since when the database no longer has it."""

    archive_id: str
    epoch: int
    from_idx: int
    to_idx: int
    sha256: str
    size: int
    path: str
    counts: ArchiveCounts
    created_at: OutputTime
    purged_at: OutputTime | None
    fact_id: str


class ErasedByAge(Output):
    """How many rows lost their values in one transaction; `more` says that there is more to look at."""

    erased: int
    more: bool
