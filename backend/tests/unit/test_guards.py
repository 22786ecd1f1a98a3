"""Guards: what each match does at each moment, and what is not judged at all."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from app.domains.policies.engines import guards, rules
from app.domains.policies.engines.snapshots import build_snapshot_content, compile_snapshot
from app.domains.policies.models.rules import CreateRule, RuleVersion
from app.domains.policies.models.vocabulary import Moment
from app.hoc_spine.coordinators.run_policies import usage_inputs

NOW = datetime(2026, 1, 31, tzinfo=UTC)
RUN = {"run_id": "r", "agent_id": "a", "attempt": 1, "labels": {}}
BROKEN = 'run.labels["absent"] == "x"'


def rule(rule_id: str, mode: str, condition: str | None = None, **members: Any) -> RuleVersion:
    given = {"kind": "GUARD", "name": rule_id, "enforcement_mode": mode, "moments": ["STEP"]}
    given |= {"condition": condition, **members}
    return rules.draft_version("t", CreateRule.model_validate(given), rule_id=rule_id)


def judge(*versions: RuleVersion, moment: Moment = Moment.STEP, revoked: tuple[str, ...] = ()) -> Any:
    snapshot = compile_snapshot("t", build_snapshot_content(versions, []))
    return guards.judge(snapshot, moment, {"run": RUN, "now": NOW}, revoked_rule_ids=revoked)


def said(verdict: guards.GuardVerdict) -> list[tuple[str, str]]:
    return [(match.rule.rule_id, match.code) for match in verdict.matches]


def test_every_rule_of_the_moment_is_judged_by_id_and_nothing_stops_at_the_first() -> None:
    verdict = judge(
        rule("c", "WARN"),
        rule("a", "BLOCK"),
        rule("b", "AUDIT"),
        rule("d", "BLOCK", "false"),
        rule("e", "DISABLED"),
        rule("f", "BLOCK", moments=["COMPLETION"]),
    )
    assert said(verdict) == [("a", "RULE_BLOCK"), ("b", "RULE_AUDIT"), ("c", "RULE_WARN")]
    assert verdict.judged == 4
    assert [match.rule.rule_id for match in (*verdict.blocking, *verdict.warned, *verdict.audited)] == [
        "a",
        "c",
        "b",
    ]


@pytest.mark.parametrize("moment", list(Moment))
def test_a_condition_that_cannot_be_judged_blocks_everywhere_but_at_an_incident(moment: Moment) -> None:
    broken = [rule(f"r-{mode}", mode, BROKEN, moments=[moment]) for mode in ("AUDIT", "BLOCK", "DISABLED")]
    expected = [] if moment is Moment.INCIDENT else [("r-AUDIT", "RULE_ERROR"), ("r-BLOCK", "RULE_ERROR")]
    verdict = judge(*broken, moment=moment)
    assert said(verdict) == expected
    assert len(verdict.blocking) == len(expected)


def test_a_revoked_rule_does_not_judge() -> None:
    verdict = judge(rule("a", "BLOCK"), rule("b", "BLOCK", halts_run=True), revoked=("b",))
    assert said(verdict) == [("a", "RULE_BLOCK")]
    assert verdict.halting is None
    assert judge(rule("b", "BLOCK", BROKEN, halts_run=True)).halting is not None


def test_usage_is_what_the_attempt_used_and_what_is_asked_for() -> None:
    trace = {"input_tokens": 10, "output_tokens": None, "cost_micro": 1_500_000, "step_count": 3}
    trace["started_at"] = NOW.replace(day=30)
    estimate = {"COST_USD": 500_000, "TOKENS_INPUT": 5_000_000, "TOKENS_OUTPUT": 2_000_000}
    assert usage_inputs(trace, now=NOW, estimate=estimate) == {
        "COST_USD": 2.0,
        "TOKENS_INPUT": 15.0,
        "TOKENS_OUTPUT": 2.0,
        "TOKENS_TOTAL": 17.0,
        "STEPS": 3.0,
        "RUN_TIME_MS": 86_400_000.0,
    }
    named = usage_inputs(trace, now=NOW, estimate={**estimate, "TOKENS_TOTAL": 9_000_000})
    assert named["TOKENS_TOTAL"] == 19.0
