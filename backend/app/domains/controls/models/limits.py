"""Controls: limits as values, and what callers say and see of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from app.domains.controls.models.vocabulary import (
    LimitCategory,
    LimitConsequence,
    LimitEnforcement,
    LimitScope,
    LimitSource,
    LimitStatus,
    ResetPeriod,
)
from app.kernel.amounts import Amount, Metric
from app.kernel.inputs import Identifier, Input, ListInput, LongText, Name, Output, OutputTime, Reason


@dataclass(frozen=True, slots=True)
class LimitRule:
    """One version of a limit as a policy snapshot holds it; `max_value` in millionths."""

    limit_id: str
    limit_version: int
    name: str
    category: LimitCategory
    metric: Metric
    scope: LimitScope
    scope_id: str | None
    reset_period: ResetPeriod | None
    window_seconds: int | None
    source: LimitSource
    max_value: int
    enforcement: LimitEnforcement
    consequence: LimitConsequence
    halts_run: bool
    content_hash: str

    @classmethod
    def of(cls, member: Mapping[str, Any]) -> LimitRule:
        """Read a row or a snapshot's member; KeyError or ValueError when it is none."""
        period = member["reset_period"]
        return cls(
            limit_id=str(member["limit_id"]),
            limit_version=int(member["limit_version"]),
            name=str(member["name"]),
            category=LimitCategory(member["category"]),
            metric=Metric(member["metric"]),
            scope=LimitScope(member["scope"]),
            scope_id=member["scope_id"],
            reset_period=None if period is None else ResetPeriod(period),
            window_seconds=member["window_seconds"],
            source=LimitSource(member["source"]),
            max_value=int(member["max_value"]),
            enforcement=LimitEnforcement(member["enforcement"]),
            consequence=LimitConsequence(member["consequence"]),
            halts_run=bool(member["halts_run"]),
            content_hash=str(member["content_hash"]),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the member of a policy snapshot."""
        return {
            "limit_id": self.limit_id,
            "limit_version": self.limit_version,
            "name": self.name,
            "category": self.category.value,
            "metric": self.metric.value,
            "scope": self.scope.value,
            "scope_id": self.scope_id,
            "reset_period": None if self.reset_period is None else self.reset_period.value,
            "window_seconds": self.window_seconds,
            "source": self.source.value,
            "max_value": self.max_value,
            "enforcement": self.enforcement.value,
            "consequence": self.consequence.value,
            "halts_run": self.halts_run,
            "content_hash": self.content_hash,
        }


def _positive(amount: int) -> int:
    if amount <= 0:
        raise ValueError("must be more than 0")
    return amount


MaxValue = Annotated[Amount, AfterValidator(_positive)]


class CreateLimit(Input):
    """Make a limit; new runs count and obey it."""

    limit_id: Identifier | None = None
    name: Name
    description: LongText | None = None
    category: LimitCategory
    metric: Metric
    scope: LimitScope = LimitScope.TENANT
    scope_id: Identifier | None = None
    reset_period: ResetPeriod | None = None
    window_seconds: int | None = Field(None, ge=1, le=86_400)
    max_value: MaxValue
    enforcement: LimitEnforcement = LimitEnforcement.BLOCK
    consequence: LimitConsequence = LimitConsequence.NONE
    halts_run: bool = False

    @model_validator(mode="after")
    def _fits(self) -> CreateLimit:
        if (self.scope is LimitScope.TENANT) != (self.scope_id is None):
            raise ValueError("scope_id is given for PROJECT and AGENT, and for these alone")
        if (self.category is LimitCategory.BUDGET) != (self.reset_period is not None):
            raise ValueError("reset_period is given for a BUDGET, and for nothing else")
        if (self.category is LimitCategory.RATE) != (self.window_seconds is not None):
            raise ValueError("window_seconds is given for a RATE, and for nothing else")
        if self.metric is Metric.RUN_TIME_MS and self.category is not LimitCategory.THRESHOLD:
            raise ValueError("RUN_TIME_MS is a THRESHOLD: it is read from the clock")
        if self.halts_run and self.enforcement is not LimitEnforcement.BLOCK:
            raise ValueError("only a BLOCK limit halts a run")
        return self


class UpdateLimit(Input):
    """Change what a limit allows or does; what it counts, and for whom, is fixed (IMMUTABLE_FIELD)."""

    limit_id: Identifier
    name: Name | None = None
    description: LongText | None = None
    max_value: MaxValue | None = None
    enforcement: LimitEnforcement | None = None
    consequence: LimitConsequence | None = None
    halts_run: bool | None = None
    category: LimitCategory | None = None
    metric: Metric | None = None
    scope: LimitScope | None = None
    scope_id: Identifier | None = None
    reset_period: ResetPeriod | None = None
    window_seconds: int | None = Field(None, ge=1, le=86_400)
    source: LimitSource | None = None
    reason: Reason | None = None


FIXED = ("category", "metric", "scope", "scope_id", "reset_period", "window_seconds", "source")
CHANGEABLE = ("name", "description", "max_value", "enforcement", "consequence", "halts_run")


class ChangeLimitStatus(Input):
    """Disable or enable a limit for the runs that start from now on."""

    limit_id: Identifier
    reason: Reason | None = None


class LimitRef(Input):
    """Name a limit."""

    limit_id: Identifier


class ListLimits(ListInput):
    """List limits, newest first."""

    category: LimitCategory | None = None
    metric: Metric | None = None
    scope: LimitScope | None = None
    status: LimitStatus | None = None


class LimitView(Output):
    """A limit as it is now."""

    limit_id: str
    name: str
    description: str | None
    category: LimitCategory
    metric: Metric
    scope: LimitScope
    scope_id: str | None
    reset_period: ResetPeriod | None
    window_seconds: int | None
    source: LimitSource
    max_value: float
    enforcement: LimitEnforcement
    consequence: LimitConsequence
    halts_run: bool
    status: LimitStatus
    limit_version: int
    content_hash: str
    created_by: str
    created_at: OutputTime
    updated_at: OutputTime
    version: int


class LimitStanding(LimitView):
    """A limit with its use in the window of now; null where each run has a window of its own."""

    window_key: str | None
    committed: float | None
    reserved: float | None
    headroom: float | None
    in_force_value: float
    override_id: str | None
