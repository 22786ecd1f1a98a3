"""Policies: the governed check before a side effect: what is asked, and what is answered."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from app.kernel.amounts import Amount
from app.kernel.canonical_json import CanonicalJsonError, dumps
from app.kernel.inputs import Identifier, Input, Output, OutputTime, Text

MAX_PARAMS_BYTES = 64 * 1024
MAX_PARAMS_DEPTH = 24
UsageName = Literal["COST_USD", "TOKENS_INPUT", "TOKENS_OUTPUT", "TOKENS_TOTAL", "STEPS"]


class Verdict(StrEnum):
    """Only ALLOW and WARN permit the side effect."""

    ALLOW = "ALLOW"
    WARN = "WARN"
    BLOCK = "BLOCK"


class CheckReason(StrEnum):
    """Why a check says what it says."""

    RULE_BLOCK = "RULE_BLOCK"
    RULE_WARN = "RULE_WARN"
    RULE_AUDIT = "RULE_AUDIT"
    RULE_ERROR = "RULE_ERROR"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    LIMIT_WARN = "LIMIT_WARN"
    LIMIT_UNAVAILABLE = "LIMIT_UNAVAILABLE"
    KILL_SWITCH = "KILL_SWITCH"
    DEGRADED_MODE = "DEGRADED_MODE"
    SNAPSHOT_INVALID = "SNAPSHOT_INVALID"


class ActionKind(StrEnum):
    """What sort of thing a run is about to do."""

    TOOL = "TOOL"
    MODEL = "MODEL"
    RETRIEVAL = "RETRIEVAL"
    WRITE = "WRITE"
    OTHER = "OTHER"


def _fits(value: dict[str, Any]) -> dict[str, Any]:
    # The depth comes first: a text of 64 KiB may nest deeper than what reads it can follow.
    level: list[Any] = [value]
    for _ in range(MAX_PARAMS_DEPTH + 1):
        inner = [outer.values() if isinstance(outer, dict) else outer for outer in level]
        level = [item for group in inner for item in group if isinstance(item, dict | list)]
    if level:
        raise ValueError(f"nests deeper than {MAX_PARAMS_DEPTH} levels")
    try:
        size = len(dumps(value).encode())
    except CanonicalJsonError as error:
        raise ValueError(str(error)) from error
    if size > MAX_PARAMS_BYTES:
        raise ValueError(f"has {size} bytes as canonical JSON; {MAX_PARAMS_BYTES} is the most")
    return value


Params = Annotated[dict[str, Any], AfterValidator(_fits)]
ActionWord = Annotated[Text, StringConstraints(min_length=1, max_length=255)]
ActionTarget = Annotated[Text, StringConstraints(max_length=1024)]


class Action(Input):
    """What the run is about to do."""

    kind: ActionKind
    name: ActionWord
    target: ActionTarget | None = None
    params: Params = Field(default_factory=dict)
    side_effect: bool = True


class CheckRun(Input):
    """Ask whether a run may do something; the same check_id with the same content is one check."""

    run_id: Identifier
    check_id: Annotated[Identifier, StringConstraints(max_length=64)] | None = None
    action: Action
    estimate: dict[UsageName, Amount] = Field(default_factory=dict)
    ttl_seconds: int = Field(900, ge=30, le=3600)
    step_index: int | None = Field(None, ge=0, le=2**31 - 2)


class Reason(Output):
    """One reason of a verdict."""

    code: CheckReason
    rule_id: str | None = None
    rule_version: int | None = None
    limit_id: str | None = None
    message: str


class LimitStand(Output):
    """Where one limit stands with what was asked for."""

    limit_id: str
    metric: str
    evaluation: str
    value: float
    max_value: float
    proximity_pct: float
    headroom: float


class HeldReservation(Output):
    """What is held for the run until it is used, released, or expires."""

    reservation_id: str
    expires_at: OutputTime


class CheckResult(Output):
    """The verdict of one check; a reservation is there when limits hold an estimate."""

    decision_id: str
    verdict: Verdict
    outcome: str
    reasons: list[Reason]
    limits: list[LimitStand]
    reservation: HeldReservation | None = None
    run_status: str
    decided_at: OutputTime
