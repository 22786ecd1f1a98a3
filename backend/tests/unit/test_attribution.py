"""Unit: attribution rules R1-R5 name every broken rule, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from app.domains.activity.engines.attribution import check_attribution
from app.domains.activity.engines.evaluation import Findings, decide_evaluation, settle_termination
from app.domains.activity.errors import run_validation_failure
from app.domains.activity.models.facts import Attribution
from app.domains.activity.models.vocabulary import EvaluationOutcome, RunStatus, TerminationReason
from app.kernel.errors import HocError


def claim(**changes: Any) -> Attribution:
    members = {"agent_id": "a", "origin_system_id": "o", "actor_type": "SYSTEM", "actor_id": None} | changes
    return Attribution(**members)


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({}, []),
        ({"actor_type": "SERVICE"}, []),
        ({"actor_type": "HUMAN", "actor_id": "u"}, []),
        ({"agent_id": None}, ["R1"]),
        ({"agent_id": " \t"}, ["R1"]),
        ({"agent_id": "legacy-unknown"}, ["R2"]),
        ({"origin_system_id": None}, ["R3"]),
        ({"origin_system_id": ""}, ["R3"]),
        ({"origin_system_id": "legacy-migration"}, ["R3"]),
        ({"actor_type": None}, ["R4"]),
        ({"actor_type": "human"}, ["R4"]),
        ({"actor_type": "AGENT"}, ["R4"]),
        ({"actor_type": "HUMAN"}, ["R5"]),
        ({"actor_type": "HUMAN", "actor_id": " "}, ["R5"]),
        ({"actor_id": "u"}, ["R5"]),
        (
            {"agent_id": None, "origin_system_id": None, "actor_type": "?", "actor_id": "u"},
            ["R1", "R3", "R4", "R5"],
        ),
    ],
)
def test_each_broken_rule_is_named_in_order(changes: dict[str, Any], rules: list[str]) -> None:
    assert [item.rule for item in check_attribution(claim(**changes))] == rules


def test_a_refusal_carries_every_broken_rule_in_errors_and_detail() -> None:
    broken = check_attribution(claim(agent_id="legacy-unknown", actor_type="ROBOT"))
    error = run_validation_failure([item.as_error() for item in broken])
    assert error.code == "RUN_VALIDATION_FAILURE"
    assert error.errors[0] == {
        "rule": "R2",
        "field": "agent_id",
        "expected": "not legacy-unknown",
        "actual": "'legacy-unknown'",
        "action": "REJECTED",
        "reference": "Attribution R2",
    }
    lines = error.detail.splitlines()
    assert lines[0] == "RUN_VALIDATION_FAILURE"
    assert [line.strip() for line in lines if "rule:" in line] == ["rule: R2", "rule: R4"]
    assert len(lines) == 13


@pytest.mark.parametrize(
    ("status", "default"),
    [
        (RunStatus.SUCCEEDED, "completed"),
        (RunStatus.FAILED, "system_failure"),
        (RunStatus.HALTED, "policy_block"),
        (RunStatus.CANCELLED, "user_abort"),
    ],
)
def test_each_status_has_a_default_reason(status: RunStatus, default: str) -> None:
    assert settle_termination(status, None) == default
    assert settle_termination(status, default) is TerminationReason(default)


@pytest.mark.parametrize("reason", ["timeout", "nonsense", ""])
def test_a_reason_outside_the_status_is_refused(reason: str) -> None:
    with pytest.raises(HocError, match="INVALID_TERMINATION"):
        settle_termination(RunStatus.SUCCEEDED, reason)


@pytest.mark.parametrize(
    ("status", "findings", "outcome", "confidence"),
    [
        (RunStatus.SUCCEEDED, Findings(), "NO_VIOLATION", 100),
        (RunStatus.SUCCEEDED, Findings(preventions=1, advisory=1), "ADVISORY", 0),
        (RunStatus.SUCCEEDED, Findings(preventions=1), "NO_VIOLATION", 100),
        (RunStatus.SUCCEEDED, Findings(breaches=1), "ADVISORY", 0),
        (RunStatus.SUCCEEDED, Findings(violation_incidents=1, breaches=1), "VIOLATION_INCIDENT", 0),
        (RunStatus.HALTED, Findings(), "ADVISORY", 0),
        (RunStatus.FAILED, Findings(), "NOT_APPLICABLE", 0),
        (RunStatus.CANCELLED, Findings(), "NOT_APPLICABLE", 0),
    ],
)
def test_the_first_outcome_that_holds_is_the_evaluation(
    status: RunStatus, findings: Findings, outcome: str, confidence: int
) -> None:
    evaluation = decide_evaluation(status, findings)
    assert (evaluation.outcome, evaluation.confidence) == (EvaluationOutcome(outcome), confidence)
