"""What the logs say of a run, from its rows alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.hoc_spine.coordinators.run_logs import (
    execution_status,
    inflection_of,
    replay_events,
    span_around,
)

START = datetime(2026, 3, 1, tzinfo=UTC)


def at(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("status", "reason", "word"),
    [
        ("running", None, "RUNNING"),
        ("succeeded", "completed", "SUCCEEDED"),
        ("failed", "system_failure", "FAILED"),
        ("failed", "timeout", "TIMEOUT"),
        ("halted", "policy_block", "ABORTED"),
        ("cancelled", "user_abort", "ABORTED"),
    ],
)
def test_the_logs_have_their_own_word_for_each_state(status: str, reason: str | None, word: str) -> None:
    assert execution_status(status, reason) == word


def test_a_run_takes_its_turn_at_its_first_block_or_its_end_or_its_start() -> None:
    run: dict[str, Any] = {"started_at": at(0), "completed_at": None}
    assert inflection_of(run, None) == at(0)
    run["completed_at"] = at(9)
    assert inflection_of(run, None) == at(9)
    assert inflection_of(run, at(4)) == at(4)


def test_a_window_merges_its_sources_by_time_then_source_then_id() -> None:
    run = {"run_id": "r", "status": "failed", "started_at": at(0), "completed_at": at(100)}
    steps = [
        {"occurred_at": at(5), "step_index": n, "skill_name": f"s{n}", "status": "success", "trace_id": "t"}
        for n in (10, 9)
    ]
    decision = {"decision_type": "POLICY", "decision_outcome": "BLOCKED"}
    decisions = [{**decision, "decided_at": at(5), "decision_id": name} for name in ("d2", "d1")]
    entries = [{"created_at": at(4), "event_type": "RunHalted", "entity_id": "r", "entry_id": "e"}]
    events = replay_events(run, span_around(at(0), 30), steps=steps, decisions=decisions, entries=entries)
    assert [(event.source, event.action, event.outcome) for event in events] == [
        ("SYSTEM", "run.started", "running"),
        ("SYSTEM", "RunHalted", "r"),
        ("LLM", "s9", "success"),
        ("LLM", "s10", "success"),
        ("POLICY", "POLICY", "BLOCKED"),
        ("POLICY", "POLICY", "BLOCKED"),
    ]
    assert [event.ref for event in events[-2:]] == ["d1", "d2"]
    assert [event.step_index for event in events] == [None, None, 9, 10, None, None]
