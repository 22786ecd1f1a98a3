"""Reconciliation of a run: what was due against what was committed, by hand and over all combinations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.hoc_spine.coordinators.run_completeness import (
    EVALUATE,
    FINALIZE,
    INCIDENT,
    START_TRACE,
    Ack,
    Action,
    ActionStatus,
    Completeness,
    Expectation,
    acks_of,
    expectations_of,
    reconcile,
)

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def a_run(**members: Any) -> dict[str, Any]:
    plain = {
        "run_id": "r",
        "status": "running",
        "attempt": 1,
        "started_at": START,
        "deadline_at": at(100),
        "completed_at": None,
    }
    return plain | members


def judged(attempt: int, kind: str = "NONE") -> dict[str, Any]:
    return {"attempt": attempt, "outcome_kind": kind}


def found(run: dict[str, Any], *, traced: dict[int, Any], evaluations: list[Any], seconds: float) -> Any:
    expected = expectations_of(run, traced)
    return reconcile(expected, acks_of(run, traced, evaluations), at(seconds))


OPEN = {"completed_at": None}


def test_a_run_that_goes_on_waits_for_nothing_but_its_end() -> None:
    outcome = found(a_run(), traced={1: OPEN}, evaluations=[], seconds=50)
    assert outcome.status is Completeness.COMPLETE
    assert outcome.statuses == {
        Action(*START_TRACE, 1): ActionStatus.ACKED,
        Action(*FINALIZE, 1): ActionStatus.PENDING,
    }


def test_a_trace_is_due_five_seconds_after_the_start() -> None:
    for seconds, status in ((4.9, ActionStatus.PENDING), (5, ActionStatus.MISSING)):
        outcome = found(a_run(), traced={}, evaluations=[], seconds=seconds)
        assert outcome.statuses[Action(*START_TRACE, 1)] is status


def test_a_run_past_its_deadline_is_stale_whatever_else_is_missing() -> None:
    assert found(a_run(), traced={1: OPEN}, evaluations=[], seconds=104).status is Completeness.COMPLETE
    for traced in ({1: OPEN}, {}):
        outcome = found(a_run(), traced=traced, evaluations=[], seconds=105)
        assert (outcome.status, outcome.stale) == (Completeness.STALE, True)
        assert Action(*FINALIZE, 1) in outcome.having(ActionStatus.MISSING)


@pytest.mark.parametrize(
    ("status", "kind", "of_incident"),
    [
        ("succeeded", "NONE", ActionStatus.ACKED),
        ("cancelled", "NONE", ActionStatus.ACKED),
        ("failed", "INCIDENT", ActionStatus.ACKED),
        ("halted", "PREVENTION", ActionStatus.ACKED),
        ("failed", "NONE", ActionStatus.FAILED),
        ("halted", "NONE", ActionStatus.FAILED),
    ],
)
def test_only_a_run_that_failed_or_was_halted_leaves_something_behind(
    status: str, kind: str, of_incident: ActionStatus
) -> None:
    run = a_run(status=status, completed_at=at(10))
    outcome = found(run, traced={1: OPEN}, evaluations=[judged(1, kind)], seconds=11)
    assert outcome.statuses[Action(*INCIDENT, 1)] is of_incident
    complete = of_incident is ActionStatus.ACKED
    assert (outcome.status is Completeness.COMPLETE) is complete
    assert outcome.statuses[Action(*EVALUATE, 1)] is ActionStatus.ACKED


def test_each_attempt_owes_its_own_and_a_retried_one_no_incident() -> None:
    run = a_run(status="failed", attempt=3, completed_at=at(30))
    traced = {1: {"completed_at": at(10)}, 2: {"completed_at": at(20)}, 3: OPEN}
    evaluations = [judged(1), judged(3, "INCIDENT")]
    early = found(run, traced=traced, evaluations=evaluations, seconds=24)
    late = found(run, traced=traced, evaluations=evaluations, seconds=36)
    owed = [Action(*EVALUATE, 2), Action(*INCIDENT, 2)]
    assert (early.status, early.having(ActionStatus.PENDING)) == (Completeness.COMPLETE, owed)
    assert (late.status, late.having(ActionStatus.MISSING)) == (Completeness.INCOMPLETE, owed)


def test_what_nobody_expected_is_drift() -> None:
    outcome = found(a_run(), traced={1: OPEN, 2: OPEN}, evaluations=[judged(1)], seconds=6)
    assert outcome.status is Completeness.INCOMPLETE
    assert set(outcome.drift) == {Action(*START_TRACE, 2), Action(*EVALUATE, 1), Action(*INCIDENT, 1)}


ACTIONS = [Action(*name, attempt) for name in (START_TRACE, EVALUATE, FINALIZE) for attempt in (1, 2)]


@settings(max_examples=60)
@given(
    due=st.dictionaries(st.sampled_from(ACTIONS), st.integers(0, 10)),
    acked=st.dictionaries(st.sampled_from(ACTIONS), st.booleans()),
    seconds=st.integers(0, 10),
)
def test_every_action_has_one_status_and_nothing_acked_is_missing(
    due: dict[Action, int], acked: dict[Action, bool], seconds: int
) -> None:
    expectations = [Expectation(action, at(moment)) for action, moment in due.items()]
    outcome = reconcile(expectations, [Ack(a, failed=f) for a, f in acked.items()], at(seconds))
    assert outcome.statuses.keys() == due.keys()
    assert set(outcome.drift) == acked.keys() - due.keys()
    for action, status in outcome.statuses.items():
        if action in acked:
            assert status is (ActionStatus.FAILED if acked[action] else ActionStatus.ACKED)
        else:
            assert (status is ActionStatus.MISSING) is (due[action] <= seconds)
    overdue = any(outcome.statuses.get(Action(*FINALIZE, n)) is ActionStatus.MISSING for n in (1, 2))
    assert outcome.stale is overdue is (outcome.status is Completeness.STALE)
    clean = not outcome.drift and not {ActionStatus.MISSING, ActionStatus.FAILED} & set(
        outcome.statuses.values()
    )
    assert clean is (outcome.status is Completeness.COMPLETE)
