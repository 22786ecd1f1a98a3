"""Controls L5: how a limit stands, and what an estimate or a use asks of the limits; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from app.domains.controls.engines.windows import judging_ids, window_key
from app.domains.controls.models.limits import LimitRule
from app.domains.controls.models.usage import Evaluation, LimitFinding, OverrideInForce, Reserving
from app.domains.controls.models.vocabulary import LimitEnforcement
from app.kernel.amounts import MICRO, Metric

NEAR_PCT: Final = 80
ONE: Final = MICRO


@dataclass(frozen=True, slots=True)
class Standing:
    """The limits of one run at one moment: which of them judge, their windows, and values in force."""

    rules: tuple[LimitRule, ...]
    judging: frozenset[str]
    overrides: Mapping[str, OverrideInForce]
    now: datetime
    run_id: str
    started_at: datetime
    ended_at: datetime | None = None

    def window(self, rule: LimitRule) -> str:
        """Return the window of now."""
        return window_key(rule, self.now, self.run_id)

    def most(self, rule: LimitRule) -> int:
        """Return the value in force."""
        override = self.overrides.get(rule.limit_id)
        return rule.max_value if override is None else override.value

    def cap(self, rule: LimitRule) -> int | None:
        """Return the value above which nothing is reserved; None for a limit that does not refuse."""
        blocks = rule.limit_id in self.judging and rule.enforcement is LimitEnforcement.BLOCK
        return self.most(rule) if blocks else None

    @property
    def elapsed(self) -> int:
        """The run's time so far as an amount of milliseconds."""
        return ((self.ended_at or self.now) - self.started_at) // timedelta(microseconds=1) * (MICRO // 1000)


def standing_of(
    limits: Sequence[Mapping[str, Any]],
    overrides: Iterable[OverrideInForce],
    *,
    run: Mapping[str, Any],
    now: datetime,
) -> Standing:
    """Return how a snapshot's limits judge a run now; KeyError or ValueError for what is no limit."""
    rules = tuple(sorted((LimitRule.of(limit) for limit in limits), key=lambda rule: rule.limit_id))
    live = {item.limit_id: item for item in overrides if item.is_in_force(now)}
    return Standing(
        rules, judging_ids(rules), live, now, run["run_id"], run["started_at"], run.get("completed_at")
    )


def decide_finding(
    standing: Standing,
    rule: LimitRule,
    *,
    value: int,
    before: int | None = None,
    window: str | None = None,
    refused: bool = False,
) -> LimitFinding:
    """Return how a limit stands at a value; equal to the value in force is no breach.

    `before` tells whether this use was the one that came to 80 %.
    """
    most = standing.most(rule)
    override = standing.overrides.get(rule.limit_id)
    if value > most:
        evaluation = Evaluation.BREACH
    elif override is not None:
        evaluation = Evaluation.OVERRIDDEN
    elif _is_near(value, most):
        evaluation = Evaluation.NEAR_THRESHOLD
    else:
        evaluation = Evaluation.OK
    return LimitFinding(
        rule=rule,
        window_key=standing.window(rule) if window is None else window,
        evaluation=evaluation,
        value=value,
        max_value=most,
        override_id=None if override is None else override.override_id,
        refused=refused,
        crossed_near=before is not None
        and value <= most
        and _is_near(value, most)
        and not _is_near(before, most),
    )


def _is_near(value: int, most: int) -> bool:
    return value * 100 >= most * NEAR_PCT


def complete_use(usage: Mapping[Metric, int]) -> dict[Metric, int]:
    """Return the use with TOKENS_TOTAL, which is input + output unless it is given."""
    parts = [usage[name] for name in (Metric.TOKENS_INPUT, Metric.TOKENS_OUTPUT) if name in usage]
    total = {} if Metric.TOKENS_TOTAL in usage or not parts else {Metric.TOKENS_TOTAL: sum(parts)}
    return {**usage, **total}


def plan_reserving(standing: Standing, estimate: Mapping[Metric, int]) -> list[Reserving]:
    """Return what a check takes of each limit, in the order of the counters; it is one request itself."""
    asked = complete_use(estimate)
    planned = [
        Reserving(
            rule,
            standing.window(rule),
            hold=asked.get(rule.metric, 0),
            spend=ONE if rule.metric is Metric.REQUESTS else 0,
        )
        for rule in standing.rules
        if rule.metric is not Metric.RUN_TIME_MS
    ]
    return sorted(planned, key=lambda item: (item.rule.limit_id, item.window_key))
