"""Logs: how long evidence is kept, what a purge would take, and what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydantic import Field

from app.kernel.inputs import Identifier, Input, Output, OutputTime, Text

# So many days are kept where nothing else was said, and no tenant may keep fewer.
DEFAULT_DAYS: Final = 2557
FEWEST_DAYS: Final = 183


class Pin(StrEnum):
    """Why a fact below the cut stays, the run of a fact for all its facts."""

    # The run has not ended, or its counter is open; a fact of it is not below the cut.
    RUNNING = "RUNNING"
    RECENT = "RECENT"
    HELD = "HELD"
    OPEN_INCIDENT = "OPEN_INCIDENT"
    OPEN_LESSON = "OPEN_LESSON"
    # A row that stays needs it.
    NEEDED = "NEEDED"
    # It says what a row that is there holds, or since when.
    HEAD = "HEAD"
    # It stays for itself: the log's own, knowledge, erasures, holds, retention.
    RECORD = "RECORD"


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes of a tenant's log below the cut, and why the rest stays; made at one moment.

    `run_ids` go whole, the newest first; `facts` are (index, fact) of them and of others, by index; `root` is
    that of the tree of RFC 6962 over their leaf hashes, in hex.
    """

    epoch: int
    cut: int
    run_ids: Sequence[str]
    facts: Sequence[tuple[int, str]]
    pinned: Mapping[str, int]
    root: str


class PlanRetention(Input):
    pass


class RetentionPlan(Output):
    """What a purge would take now; `values` are rows whose values are over age."""

    epoch: int
    cut: int
    runs: int
    facts: int
    pinned: dict[str, int]
    retention_days: int
    value_retention_days: int
    values: int


class PurgeEvidence(Input):
    archive_id: Identifier | None = None
    # Where the archive is now, if it was moved.
    path: Text | None = Field(None, max_length=4096)


class PurgeOpened(Output):
    """A purge that may delete what its archive holds; `resumed`: it was begun before."""

    purge_id: str
    archive_id: str
    cut: int
    runs: int
    facts: int
    opened_at: OutputTime
    resumed: bool


class PurgeRef(Input):
    purge_id: Identifier


class PurgeClosed(Output):
    purge_id: str
    closed_at: OutputTime
