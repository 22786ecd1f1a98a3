"""Logs: erasures of protected values and legal holds: vocabulary, inputs and views."""

from enum import StrEnum
from typing import Annotated

from pydantic import StringConstraints, model_validator

from app.kernel.inputs import Identifier, Input, ListInput, Name, Output, OutputTime, Reason


class ErasureScope(StrEnum):
    """What an erasure is asked of: what one fact stands for, a run, all runs about a person."""

    FACT = "FACT"
    RUN = "RUN"
    SUBJECT = "SUBJECT"


class HoldScope(StrEnum):
    """What a hold covers."""

    RUN = "RUN"
    SUBJECT = "SUBJECT"
    PLANE = "PLANE"
    TENANT = "TENANT"


class HoldStatus(StrEnum):
    """RELEASED is final."""

    ACTIVE = "ACTIVE"
    RELEASED = "RELEASED"


Why = Annotated[Reason, StringConstraints(max_length=500)]
Basis = Annotated[Reason, StringConstraints(max_length=200)]


class EraseEvidence(Input):
    """Take protected values away for good; reason and legal basis stay readable for ever."""

    scope: ErasureScope
    scope_id: Name
    reason: Why
    legal_basis: Basis | None = None


class EvidenceErased(Output):
    """What one transaction erased, and how many rows of the scope still hold values."""

    erasure_ids: list[str]
    erased: int
    remaining: int


class ListErasures(ListInput):
    """List erasures, newest first."""

    run_id: Identifier | None = None


class ErasureView(Output):
    """One record of an erasure: of up to 500 rows, all of one run or of none."""

    erasure_id: str
    scope: ErasureScope
    scope_id: str
    run_id: str | None
    values: int
    reason: str
    legal_basis: str | None
    requested_by: str
    created_at: OutputTime
    fact_id: str


class PlaceHold(Input):
    """Keep what a run, a person's runs, a plane or the whole tenant left, until the hold is released."""

    scope: HoldScope
    scope_id: Name | None = None
    reason: Why

    @model_validator(mode="after")
    def _names_something(self) -> "PlaceHold":
        if self.scope_id is None and self.scope is not HoldScope.TENANT:
            raise ValueError("scope_id names the run, subject or plane")
        return self


class HoldPath(Input):
    hold_id: Identifier


class ReleaseHold(HoldPath):
    reason: Why


class ListHolds(ListInput):
    """List holds, newest first."""

    status: HoldStatus | None = None


class HoldView(Output):
    """A legal hold as it stands."""

    hold_id: str
    scope: HoldScope
    scope_id: str
    status: HoldStatus
    reason: str
    placed_by: str
    placed_at: OutputTime
    released_by: str | None
    released_at: OutputTime | None
    version: int
