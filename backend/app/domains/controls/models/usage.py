"""Controls: use as values and views: findings, reservations, records, breaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import Field

from app.domains.controls.models.limits import LimitRule
from app.domains.controls.models.vocabulary import BreachType, LimitEnforcement, ReservationStatus
from app.kernel.amounts import Amount, Metric, as_number
from app.kernel.inputs import AwareTime, Identifier, Input, ListInput, Output, OutputTime


class Evaluation(StrEnum):
    """How a limit stands."""

    OK = "OK"
    NEAR_THRESHOLD = "NEAR_THRESHOLD"
    BREACH = "BREACH"
    OVERRIDDEN = "OVERRIDDEN"


@dataclass(frozen=True, slots=True)
class OverrideInForce:
    """An approved override; it replaces the value of its limit from `starts_at` until `expires_at`."""

    override_id: str
    limit_id: str
    value: int
    starts_at: datetime
    expires_at: datetime

    def is_in_force(self, now: datetime) -> bool:
        """Tell whether its time has come and is not over."""
        return self.starts_at <= now < self.expires_at


@dataclass(frozen=True, slots=True)
class LimitFinding:
    """How a judging limit stands, in millionths; `value` includes what was asked for."""

    rule: LimitRule
    window_key: str
    evaluation: Evaluation
    value: int
    max_value: int
    override_id: str | None = None
    refused: bool = False
    crossed_near: bool = False

    @property
    def limit_id(self) -> str:
        return self.rule.limit_id

    @property
    def name(self) -> str:
        return self.rule.name

    @property
    def metric(self) -> Metric:
        return self.rule.metric

    @property
    def enforcement(self) -> LimitEnforcement:
        return self.rule.enforcement

    @property
    def halts_run(self) -> bool:
        return self.rule.halts_run

    @property
    def proximity_pct(self) -> float:
        """Return value / max x 100, two decimals."""
        return round(self.value * 100 / self.max_value, 2)

    @property
    def headroom(self) -> int:
        return max(0, self.max_value - self.value)

    @property
    def is_breach(self) -> bool:
        return self.evaluation is Evaluation.BREACH

    def as_json(self) -> dict[str, Any]:
        """Return the finding as it is printed and as a decision record keeps it."""
        return {
            "limit_id": self.limit_id,
            "name": self.name,
            "metric": self.metric.value,
            "evaluation": self.evaluation.value,
            "value": as_number(self.value),
            "max_value": as_number(self.max_value),
            "proximity_pct": self.proximity_pct,
            "headroom": as_number(self.headroom),
            "enforcement": self.enforcement.value,
        }


@dataclass(frozen=True, slots=True)
class Reserving:
    """What a check takes of one limit: what is held until it is used or given back, and what is used now."""

    rule: LimitRule
    window_key: str
    hold: int = 0
    spend: int = 0

    @property
    def amount(self) -> int:
        return self.hold + self.spend


@dataclass(frozen=True, slots=True)
class LimitJudgement:
    """What the limits say of a check; nothing of it stands when it was refused or could not be judged."""

    findings: tuple[LimitFinding, ...] = ()
    unavailable: bool = False
    taken: tuple[Reserving, ...] = ()
    amounts: Mapping[Metric, int] = field(default_factory=dict)
    decision_id: str = ""
    reservation_id: str = ""
    expires_at: datetime | None = None

    @property
    def reserved(self) -> bool:
        """Whether there is a reservation to keep."""
        return any(item.hold for item in self.taken)

    @property
    def refused(self) -> tuple[LimitFinding, ...]:
        """The BLOCK limits that refuse."""
        return tuple(finding for finding in self.findings if finding.refused)

    @property
    def warned(self) -> tuple[LimitFinding, ...]:
        """The WARN limits that are exceeded."""
        return tuple(
            finding
            for finding in self.findings
            if finding.is_breach and finding.enforcement is LimitEnforcement.WARN
        )

    @property
    def halting(self) -> LimitFinding | None:
        """The first refusing limit that halts the run."""
        return next((finding for finding in self.refused if finding.halts_run), None)


@dataclass(frozen=True, slots=True)
class Use:
    """Use to be committed: where it was reported, how much, and the reservation that it redeems."""

    source_ref: str
    usage: Mapping[Metric, int]
    reservation_id: str | None = None
    step_index: int | None = None


class BreachView(Output):
    """A first crossing of a limit, with the values of that moment."""

    breach_id: str
    limit_id: str
    limit_name: str
    limit_version: int
    run_id: str | None
    attempt: int | None
    decision_id: str | None
    breach_type: BreachType
    breached_value: float
    threshold_value: float
    override_id: str | None
    window_key: str
    details: dict[str, Any] | None
    breached_at: OutputTime
    protected_state: str


class ListBreaches(ListInput):
    """List breaches, newest first."""

    run_id: Identifier | None = None
    limit_id: Identifier | None = None
    since: AwareTime | None = None


class RecordUsage(Input):
    """Record use of a run; a fact that no limit refuses."""

    run_id: Identifier
    usage_id: Identifier
    usage: dict[Metric, Amount] = Field(min_length=1)
    reservation_id: Identifier | None = None
    step_index: int | None = Field(None, ge=0, le=2**31 - 2)


class FindingView(Output):
    """How one limit stands."""

    limit_id: str
    name: str
    metric: Metric
    evaluation: Evaluation
    value: float
    max_value: float
    proximity_pct: float
    headroom: float
    enforcement: LimitEnforcement


class RecordedUsage(Output):
    """What recorded use led to; `must_stop` when a BLOCK limit is exceeded or a rule blocks."""

    run_id: str
    usage_id: str
    attempt: int
    limits: list[FindingView]
    breaches: list[BreachView]
    must_stop: bool
    run_status: str
    replayed: bool


class UsageRef(Input):
    """Name the run whose use is asked for."""

    run_id: Identifier


class AttemptUsage(Output):
    """The recorded use of one attempt, by metric."""

    attempt: int
    usage: dict[str, float]
    steps: int


class ReservationView(Output):
    """An amount held for a check."""

    reservation_id: str
    decision_id: str
    run_id: str
    attempt: int
    amounts: dict[str, float]
    status: ReservationStatus
    expires_at: OutputTime
    closed_at: OutputTime | None
    created_at: OutputTime


class RunUsage(Output):
    """A run's use: by attempt, in all, against its limits, and what is still held."""

    run_id: str
    attempts: list[AttemptUsage]
    total: dict[str, float]
    limits: list[FindingView]
    reservations: list[ReservationView]


class ReservationRef(Input):
    """Name a reservation of a run."""

    run_id: Identifier
    reservation_id: Identifier


class CheckCounters(Input):
    """Compare every counter of the tenant with the sums of its entries."""


class Drift(Output):
    """A counter that is not the sum of its entries."""

    limit_id: str
    window_key: str
    committed: float
    reserved: float
    entered_committed: float
    entered_reserved: float


class CounterCheck(Output):
    """The counters that are not the sums of their entries; none when all is well."""

    drifting: list[Drift]


class Upkeep(Input):
    """Work off due rows of this tenant, at most so many."""

    limit: int = Field(500, ge=1, le=500)


class UpkeepDone(Output):
    """How many rows were worked off, and whether there may be more."""

    count: int
    more: bool
