"""Incidents and lessons: severity, recurrence, the state tables and bands, without a database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.domains.incidents.engines.incidents import (
    IncidentOperation,
    Step,
    check_escalation,
    decide_step,
    redacted,
    severity_of,
    signature_of,
)
from app.domains.incidents.models.records import IncidentDraft
from app.domains.incidents.models.vocabulary import (
    CauseType,
    IncidentCategory,
    LifecycleState,
    Severity,
    SourceType,
)
from app.domains.lessons.engines.learning import band_of, is_critical_success
from app.domains.lessons.engines.lessons import LessonOperation, check_transition, check_until
from app.domains.lessons.models.vocabulary import LessonStatus
from app.kernel.errors import HocError

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def draft(**members: object) -> IncidentDraft:
    plain = {
        "title": "t",
        "category": IncidentCategory.EXECUTION_FAILURE,
        "cause_type": CauseType.LLM_RUN,
        "source_type": SourceType.RUN,
    }
    return IncidentDraft(**{**plain, **members})  # type: ignore[arg-type]


def test_severity_follows_the_error_code_unless_it_is_stated() -> None:
    by_code = {
        "AGENT_CRASH": "CRITICAL",
        "EXECUTION_TIMEOUT": "HIGH",
        "STEP_FAILURE": "HIGH",
        "SKILL_ERROR": "HIGH",
        "POLICY_VIOLATION": "HIGH",
        "BUDGET_EXCEEDED": "MEDIUM",
        "RATE_LIMIT_EXCEEDED": "MEDIUM",
        "RESOURCE_EXHAUSTION": "MEDIUM",
        "RETRY_EXHAUSTED": "MEDIUM",
        "UNKNOWN": "MEDIUM",
        "anything": "MEDIUM",
        None: "MEDIUM",
        "CANCELLED": "LOW",
        "MANUAL_STOP": "LOW",
    }
    assert {code: severity_of(code).value for code in by_code} == by_code
    assert severity_of("AGENT_CRASH", Severity.LOW) is Severity.LOW


def test_a_signature_is_equal_for_the_same_trouble_and_for_nothing_else() -> None:
    same = signature_of(draft(error_code="E", title="a"), "agent")
    assert len(same) == 32
    assert signature_of(draft(error_code="E", title="b", severity=Severity.LOW), "agent") == same
    others = {
        signature_of(draft(error_code="F"), "agent"),
        signature_of(draft(error_code="E"), "other"),
        signature_of(draft(error_code="E", trigger_ref="l-1"), "agent"),
        signature_of(draft(error_code="E", category=IncidentCategory.MANUAL), "agent"),
    }
    assert len(others | {same}) == 5


def test_texts_are_redacted_and_references_are_not() -> None:
    # The digits within this id are a valid number of a card.
    reference = "dec_01a1fa71266270019228affea1824246"
    texts = redacted(draft(title=reference, trigger_ref=reference))
    assert "REDACTED_CARD" in texts["title"]
    assert "trigger_ref" not in texts


def test_the_state_table_of_incidents() -> None:
    for state in (LifecycleState.ACTIVE, LifecycleState.ACKED):
        for operation in IncidentOperation:
            again = state is LifecycleState.ACKED and operation is IncidentOperation.ACKNOWLEDGE
            assert decide_step(state, operation) is (Step.NO_OP if again else Step.APPLY)
    for operation in IncidentOperation:
        with pytest.raises(HocError) as refused:
            decide_step(LifecycleState.RESOLVED, operation)
        assert refused.value.code == "INCIDENT_RESOLVED"


def test_severity_only_rises() -> None:
    check_escalation(Severity.LOW, Severity.MEDIUM)
    for wanted in (Severity.HIGH, Severity.LOW):
        with pytest.raises(HocError) as refused:
            check_escalation(Severity.HIGH, wanted)
        assert refused.value.code == "SEVERITY_NOT_HIGHER"


def test_only_some_incidents_yield_to_rules() -> None:
    assert draft().yields_to_rules
    assert not draft(suppressible=False).yields_to_rules
    for category in (IncidentCategory.POLICY_VIOLATION, IncidentCategory.INTEGRITY):
        assert not draft(category=category).yields_to_rules


def test_the_state_table_of_lessons() -> None:
    allowed = {
        (LessonStatus.PENDING, LessonOperation.CONVERT),
        (LessonStatus.PENDING, LessonOperation.DEFER),
        (LessonStatus.PENDING, LessonOperation.DISMISS),
        (LessonStatus.DEFERRED, LessonOperation.REACTIVATE),
    }
    for status in LessonStatus:
        for operation in LessonOperation:
            if (status, operation) in allowed:
                check_transition(status, operation)
                continue
            with pytest.raises(HocError) as refused:
                check_transition(status, operation)
            assert refused.value.code == "INVALID_TRANSITION"


def test_bands_have_their_lower_bound_and_end_at_the_limit() -> None:
    bands = {84.99: None, 85: "85-90", 89.99: "85-90", 90: "90-95", 95: "95-100", 100: "95-100", 100.01: None}
    assert {percent: band_of(percent) for percent in bands} == bands


def test_a_critical_success_is_fast_cheap_and_measured_against_a_budget() -> None:
    assert is_critical_success(succeeded=True, tightest_percent=29.9, duration_ms=4999)
    assert not is_critical_success(succeeded=True, tightest_percent=30, duration_ms=1)
    assert not is_critical_success(succeeded=True, tightest_percent=1, duration_ms=5000)
    assert not is_critical_success(succeeded=True, tightest_percent=None, duration_ms=1)
    assert not is_critical_success(succeeded=False, tightest_percent=1, duration_ms=1)


def test_a_deferral_ends_in_the_next_ninety_days() -> None:
    check_until(NOW + timedelta(days=90), NOW)
    for until in (NOW, NOW + timedelta(days=90, seconds=1)):
        with pytest.raises(HocError) as refused:
            check_until(until, NOW)
        assert refused.value.code == "INVALID_INPUT"
