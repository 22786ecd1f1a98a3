"""Limits, pure: windows, who judges, how a limit stands, what use and estimates come to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from app.domains.controls.engines.judging import complete_use, decide_finding, plan_reserving, standing_of
from app.domains.controls.engines.overrides import ENDS
from app.domains.controls.engines.windows import judging_ids, window_key
from app.domains.controls.models.limits import LimitRule
from app.domains.controls.models.usage import Evaluation, OverrideInForce
from app.domains.controls.models.vocabulary import OverrideStatus
from app.kernel.amounts import Amount, Metric, as_number

NOW = datetime(2027, 1, 1, 0, 30, tzinfo=UTC)
RUN = {"run_id": "r-1", "started_at": NOW - timedelta(seconds=2)}


def member(limit_id: str = "l-1", **changes: Any) -> dict[str, Any]:
    return {
        "limit_id": limit_id,
        "limit_version": 1,
        "name": limit_id,
        "category": "BUDGET",
        "metric": "COST_USD",
        "scope": "TENANT",
        "scope_id": None,
        "reset_period": "NONE",
        "window_seconds": None,
        "source": "MANUAL",
        "max_value": 100,
        "enforcement": "BLOCK",
        "consequence": "NONE",
        "halts_run": False,
        "content_hash": "0" * 64,
        **changes,
    }


def rule(limit_id: str = "l-1", **changes: Any) -> LimitRule:
    return LimitRule.of(member(limit_id, **changes))


def test_an_amount_is_exact_to_six_decimals_and_printed_as_a_number() -> None:
    amount = TypeAdapter(Amount)
    for given, micro in ((105.5, 105_500_000), ("0.000001", 1), (100, 100_000_000), ("1e3", 1_000_000_000)):
        assert amount.validate_python(given) == micro
    for wrong in (-1, "0.0000001", 9_000_000_000.1, True, "x", float("nan"), None, "Infinity"):
        with pytest.raises(ValidationError):
            amount.validate_python(wrong)
    assert [repr(as_number(micro)) for micro in (105_500_000, 100_000_000, 1)] == ["105.5", "100.0", "1e-06"]


def test_windows_are_named_in_utc_and_weeks_by_their_own_year() -> None:
    found = {
        period: window_key(rule(reset_period=period), NOW, "r-1")
        for period in ("DAILY", "WEEKLY", "MONTHLY", "NONE")
    }
    assert found == {"DAILY": "D:2027-01-01", "WEEKLY": "W:2026-W53", "MONTHLY": "M:2027-01", "NONE": "ALL"}
    rate = rule(category="RATE", reset_period=None, window_seconds=3600)
    assert window_key(rate, NOW, "r-1") == f"R:{int(NOW.timestamp()) // 3600}"
    assert window_key(rule(category="THRESHOLD", reset_period=None), NOW, "r-1") == "run:r-1"


def test_the_most_specific_of_a_kind_judges_and_the_limits_of_the_system_always() -> None:
    agent = {"scope": "AGENT", "scope_id": "a"}
    project = {"scope": "PROJECT", "scope_id": "p"}
    rules = [
        rule("tenant"),
        rule("project", **project),
        rule("agent", **agent),
        rule("agent-too", **agent),
        rule("system", source="SYSTEM"),
        rule("daily", reset_period="DAILY"),
        rule("steps", metric="STEPS", **project),
        rule("run", category="THRESHOLD", reset_period=None),
    ]
    assert judging_ids(rules) == {"agent", "agent-too", "system", "daily", "steps", "run"}


@pytest.mark.parametrize(
    ("value", "override", "evaluation"),
    [
        (79, None, Evaluation.OK),
        (80, None, Evaluation.NEAR_THRESHOLD),
        (100, None, Evaluation.NEAR_THRESHOLD),
        (101, None, Evaluation.BREACH),
        (101, 200, Evaluation.OVERRIDDEN),
        (201, 200, Evaluation.BREACH),
        (60, 50, Evaluation.BREACH),
    ],
)
def test_a_limit_stands_by_the_value_in_force(
    value: int, override: int | None, evaluation: Evaluation
) -> None:
    live = [OverrideInForce("o", "l-1", override, NOW, NOW + timedelta(hours=1))] if override else []
    standing = standing_of([member()], live, run=RUN, now=NOW)
    found = decide_finding(standing, standing.rules[0], value=value)
    assert (found.evaluation, found.max_value) == (evaluation, override or 100)
    assert found.headroom == max(0, (override or 100) - value)


def test_the_crossing_of_eighty_percent_is_told_once() -> None:
    standing = standing_of([member()], [], run=RUN, now=NOW)
    crossings = [
        decide_finding(standing, standing.rules[0], value=value, before=before).crossed_near
        for before, value in ((0, 79), (79, 80), (80, 90), (70, 101))
    ]
    assert crossings == [False, True, False, False]


def test_an_override_acts_from_its_start_until_before_its_end() -> None:
    override = OverrideInForce("o", "l-1", 5, NOW, NOW + timedelta(hours=1))
    moments = [NOW - timedelta(microseconds=1), NOW, NOW + timedelta(minutes=59), NOW + timedelta(hours=1)]
    assert [override.is_in_force(moment) for moment in moments] == [False, True, True, False]


def test_the_total_of_tokens_is_their_sum_unless_it_is_given() -> None:
    parts = {Metric.TOKENS_INPUT: 3, Metric.TOKENS_OUTPUT: 4}
    assert complete_use(parts)[Metric.TOKENS_TOTAL] == 7
    assert complete_use({**parts, Metric.TOKENS_TOTAL: 9})[Metric.TOKENS_TOTAL] == 9
    assert complete_use({Metric.COST_USD: 1}) == {Metric.COST_USD: 1}


def test_a_check_takes_what_is_estimated_and_is_one_request() -> None:
    members = [
        member("b"),
        member("a", metric="REQUESTS"),
        member("t", metric="RUN_TIME_MS", category="THRESHOLD", reset_period=None),
    ]
    standing = standing_of(members, [], run=RUN, now=NOW)
    planned = plan_reserving(standing, {Metric.COST_USD: 7})
    assert [(item.rule.limit_id, item.hold, item.spend) for item in planned] == [
        ("a", 0, 1_000_000),
        ("b", 7, 0),
    ]
    assert standing.elapsed == 2000 * 1_000_000
    ended = standing_of(members, [], run={**RUN, "completed_at": NOW - timedelta(seconds=1)}, now=NOW)
    assert ended.elapsed == 1000 * 1_000_000


def test_a_snapshot_that_holds_no_limit_cannot_be_read() -> None:
    for broken in ({"limit_id": "x"}, member(metric="JOULES"), member(max_value="x")):
        with pytest.raises((KeyError, ValueError)):
            standing_of([broken], [], run=RUN, now=NOW)


def test_an_override_that_has_ended_stays_as_it_is() -> None:
    for status in (OverrideStatus.REJECTED, OverrideStatus.CANCELLED, OverrideStatus.EXPIRED):
        assert status not in ENDS
