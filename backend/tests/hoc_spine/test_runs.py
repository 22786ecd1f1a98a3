"""Spine: a governed run from its start to its seal, with replays, refusals and races."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.operation_registry import OperationResult
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant

START: dict[str, Any] = {
    "agent_id": "agent-1",
    "goal": "Summarise the contract",
    "actor_type": "SYSTEM",
    "origin_system_id": "crm",
}


def start(tenant: Tenant, **changes: Any) -> Any:
    return tenant.call("runs.start", {**START, **changes})


def step(index: int, **changes: Any) -> dict[str, Any]:
    return {"step_index": index, "skill_id": "s", "skill_name": "search", "status": "success", **changes}


def append(tenant: Tenant, run_id: str, *steps: dict[str, Any], **members: Any) -> OperationResult:
    return tenant.dispatch("traces.steps.append", {"run_id": run_id, "steps": list(steps), **members})


def rows(connection: sa.Connection, table: str, tenant: Tenant, **where: Any) -> list[dict[str, Any]]:
    clause = "".join(f" AND {name} = :{name}" for name in where)
    result = connection.execute(
        sa.text(f"SELECT * FROM {table} WHERE tenant_id = :tenant{clause}"),
        {"tenant": tenant.tenant_id, **where},
    )
    return [dict(row) for row in result.mappings()]


def leaves(connection: sa.Connection, tenant: Tenant, run_id: str) -> list[dict[str, Any]]:
    found = rows(connection, "log_leaves", tenant, run_id=run_id)
    return sorted(
        (json.loads(row["statement"]) for row in found), key=lambda leaf: (leaf["late"], leaf["no"])
    )


def race(count: int, call: Callable[[], OperationResult]) -> list[OperationResult]:
    results: list[OperationResult] = []
    barrier = threading.Barrier(count)

    def one() -> None:
        barrier.wait()
        results.append(call())

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_started_run_is_there_for_a_second_connection(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    run = start(tenant, run_id="r-1", labels={"b": 1, "a": [1.0]}, seed=7, plan={"steps": ["x"]})
    assert (run.run_no, run.status, run.attempt, run.trace_id) == (1, "running", 1, "trace_r-1")
    assert run.authorization == {"decision": "GRANTED", "rules_judged": 0, "warned": []}
    assert (run.deadline_at - run.started_at).total_seconds() == 3600
    (row,) = rows(second_connection, "runs", tenant)
    assert row["labels"] == '{"a":[1.0],"b":1}'
    assert row["policy_snapshot_id"] == run.policy_snapshot_id
    (trace,) = rows(second_connection, "aos_traces", tenant)
    assert trace["head_hash"] == trace["genesis_hash"]
    (counter,) = rows(second_connection, "run_fact_counters", tenant)
    assert (counter["fact_count"], bool(counter["closed"])) == (1, False)
    (leaf,) = leaves(second_connection, tenant, "r-1")
    assert (leaf["type"], leaf["no"], leaf["run"], leaf["attempt"]) == ("run.started", 1, "r-1", 1)
    assert leaf["body"]["trace"] == {
        "trace_id": "trace_r-1",
        "attempt": 1,
        "genesis_hash": trace["genesis_hash"],
    }
    assert "goal" not in leaf["body"]
    assert leaf["body"]["protected_commit"] == row["protected_commit"]


def test_a_goal_is_redacted_before_it_is_stored(tenant: Tenant, second_connection: sa.Connection) -> None:
    start(tenant, goal="Write to bob@example.com")
    (row,) = rows(second_connection, "runs", tenant)
    assert row["goal"] == "Write to <REDACTED_EMAIL>"


def test_the_same_start_again_gives_the_same_run(tenant: Tenant, second_connection: sa.Connection) -> None:
    first = start(tenant, run_id="r-1")
    again = start(tenant, run_id="r-1")
    assert (first.replayed, again.replayed) == (False, True)
    assert again.model_dump(exclude={"replayed"}) == first.model_dump(exclude={"replayed"})
    (state,) = rows(second_connection, "tenant_state", tenant)
    assert (state["next_run_no"], state["running_runs"]) == (2, 1)
    assert len(leaves(second_connection, tenant, "r-1")) == 1


def test_another_start_under_a_taken_id_is_refused(tenant: Tenant) -> None:
    start(tenant, run_id="r-1")
    result = tenant.dispatch("runs.start", {**START, "run_id": "r-1", "goal": "Something else"})
    assert result.error_code == "RUN_EXISTS"
    assert not result.committed


def test_a_start_without_a_known_parent_is_refused(tenant: Tenant, other_tenant: Tenant) -> None:
    start(other_tenant, run_id="parent")
    result = tenant.dispatch("runs.start", {**START, "parent_run_id": "parent"})
    assert result.error_code == "REFERENCE_NOT_FOUND"
    assert result.error is not None
    assert result.error.extra == {"field": "parent_run_id"}
    start(tenant, run_id="parent")
    assert start(tenant, parent_run_id="parent").parent_run_id == "parent"


def test_run_numbers_have_no_gaps_where_a_start_is_refused(new_tenant: Callable[..., Tenant]) -> None:
    tenant = new_tenant(plan="FREE")
    assert [start(tenant).run_no for _ in range(5)] == [1, 2, 3, 4, 5]
    refused = tenant.dispatch("runs.start", {**START, "run_id": "sixth"})
    assert refused.error_code == "QUOTA_EXCEEDED"
    assert refused.error is not None
    assert refused.error.extra["quota"] == "concurrent_runs"
    assert refused.error.retry_after
    (ended, *_) = tenant.call("runs.list").items
    tenant.call("runs.complete", {"run_id": ended.run_id, "status": "succeeded"})
    assert start(tenant, run_id="sixth").run_no == 6


def test_the_daily_quota_names_the_time_until_midnight(
    new_tenant: Callable[..., Tenant], clock: SteerableClock, second_connection: sa.Connection
) -> None:
    tenant = new_tenant(plan="FREE")
    start(tenant, run_id="r-0")
    tenant.call("runs.complete", {"run_id": "r-0", "status": "succeeded"})
    busy_day = sa.text(
        "UPDATE tenant_state SET runs_today = runs_today + 97, next_run_no = next_run_no + 97"
        " WHERE tenant_id = :t"
    )
    second_connection.execute(busy_day, {"t": tenant.tenant_id})
    for number in (99, 100):
        assert start(tenant, run_id=f"r-{number}").run_no == number
        tenant.call("runs.complete", {"run_id": f"r-{number}", "status": "succeeded"})
    refused = tenant.dispatch("runs.start", START)
    assert refused.error is not None
    assert refused.error.extra["quota"] == "runs_per_day"
    clock.advance(seconds=refused.error.retry_after)
    assert start(tenant).run_no == 101


def test_racing_starts_of_one_id_make_one_run(tenant: Tenant, second_connection: sa.Connection) -> None:
    results = race(8, lambda: tenant.dispatch("runs.start", {**START, "run_id": "r-1"}))
    assert [result.error_code for result in results] == [None] * 8
    assert sorted(result.data.replayed for result in results) == [False] + [True] * 7  # type: ignore[union-attr]
    (state,) = rows(second_connection, "tenant_state", tenant)
    assert (state["next_run_no"], state["running_runs"], state["runs_today"]) == (2, 1, 1)
    assert start(tenant).run_no == 2


def test_the_kill_switch_stops_starts_but_no_facts(tenant: Tenant) -> None:
    start(tenant, run_id="r-1")
    tenant.call("tenants.freeze", {"reason": "audit"})
    assert tenant.dispatch("runs.start", START).error_code == "KILL_SWITCH_ACTIVE"
    retry = tenant.dispatch("runs.retry", {"run_id": "r-1", "from_attempt": 1, "reason": "again"})
    assert retry.error_code == "KILL_SWITCH_ACTIVE"
    assert append(tenant, "r-1", step(0)).success
    assert tenant.dispatch("runs.complete", {"run_id": "r-1", "status": "succeeded"}).success


def test_completion_seals_evaluates_and_closes(tenant: Tenant, second_connection: sa.Connection) -> None:
    start(tenant, run_id="r-1")
    appended = append(tenant, "r-1", step(0), step(1)).unwrap()
    ended = tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded", "expected_steps": 2})
    assert (ended.status, ended.termination_reason, ended.root_hash) == (
        "succeeded",
        "completed",
        appended.head_hash,
    )
    assert (ended.evaluation.outcome, ended.evaluation.confidence) == ("NO_VIOLATION", 100)
    (trace,) = rows(second_connection, "aos_traces", tenant)
    assert (trace["status"], trace["outcome"], trace["root_hash"]) == (
        "SEALED",
        "success",
        appended.head_hash,
    )
    (state,) = rows(second_connection, "tenant_state", tenant)
    assert state["running_runs"] == 0
    facts = leaves(second_connection, tenant, "r-1")
    assert [leaf["type"] for leaf in facts] == [
        # So quick a success, far below what the plan allows, is learned from.
        "run.started", "trace.extended", "evaluation", "trace.sealed", "lesson", "run.completed",
    ]  # fmt: skip
    assert [leaf["no"] for leaf in facts] == [1, 2, 3, 4, 5, 6]
    assert facts[-1]["body"]["closure"] == {
        "fact_count": 6,
        "type_counts": {
            "run.started": 1, "trace.extended": 1, "evaluation": 1, "trace.sealed": 1, "lesson": 1,
            "run.completed": 1,
        },
        "step_count": 2,
        "traces": [
            {"trace_id": "trace_r-1", "attempt": 1, "step_count": 2, "root_hash": appended.head_hash}
        ],
    }  # fmt: skip
    (counter,) = rows(second_connection, "run_fact_counters", tenant)
    assert (counter["fact_count"], bool(counter["closed"])) == (6, True)
    assert {row["type"] for row in rows(second_connection, "outbox", tenant)} == {
        "RunCompleted",
        "PolicyEvaluated",
    }


@pytest.mark.parametrize(
    ("status", "reason", "outcome", "trace_outcome", "confidence"),
    [
        ("succeeded", "completed", "NO_VIOLATION", "success", 100),
        ("failed", "system_failure", "NOT_APPLICABLE", "failure", 0),
        ("halted", "policy_block", "ADVISORY", "aborted", 0),
        ("cancelled", "user_abort", "NOT_APPLICABLE", "aborted", 0),
    ],
)
def test_each_ending_has_its_reason_seal_and_evaluation(
    tenant: Tenant, status: str, reason: str, outcome: str, trace_outcome: str, confidence: int
) -> None:
    start(tenant, run_id="r-1")
    ended = tenant.call(
        "runs.complete", {"run_id": "r-1", "status": status, "error_message": "a@b.org failed"}
    )
    assert (ended.status, ended.termination_reason) == (status, reason)
    assert ended.error_message == "<REDACTED_EMAIL> failed"
    assert (ended.evaluation.outcome, ended.evaluation.confidence) == (outcome, confidence)
    explained = "INCIDENT" if status in ("failed", "halted") else "NONE"
    assert (ended.evaluation.outcome_kind, ended.evaluation.policies_checked) == (explained, 0)
    (attempt,) = tenant.call("attempts.list", {"run_id": "r-1"}).items
    assert (attempt.outcome, attempt.evaluation) == (trace_outcome, ended.evaluation)


def test_a_reason_of_another_status_is_refused(tenant: Tenant) -> None:
    start(tenant, run_id="r-1")
    result = tenant.dispatch(
        "runs.complete", {"run_id": "r-1", "status": "succeeded", "termination_reason": "timeout"}
    )
    assert result.error_code == "INVALID_TERMINATION"


def test_a_completion_with_another_step_count_is_refused(tenant: Tenant) -> None:
    start(tenant, run_id="r-1")
    result = tenant.dispatch("runs.complete", {"run_id": "r-1", "status": "succeeded", "expected_steps": 1})
    assert result.error_code == "STEP_COUNT_MISMATCH"
    assert tenant.call("runs.get", {"run_id": "r-1"}).status == "running"


def test_the_same_completion_again_replays_and_another_is_refused(tenant: Tenant) -> None:
    start(tenant, run_id="r-1")
    command = {"run_id": "r-1", "status": "failed", "error_code": "AGENT_CRASH"}
    first = tenant.call("runs.complete", command)
    again = tenant.call("runs.complete", command)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.model_dump(exclude={"replayed"}) == first.model_dump(exclude={"replayed"})
    for name, other in (
        ("runs.complete", {"status": "failed", "error_code": "SKILL_ERROR"}),
        ("runs.halt", {"reason": "stop"}),
    ):
        assert tenant.dispatch(name, {"run_id": "r-1", **other}).error_code == "RUN_TERMINAL"


def test_racing_completions_end_a_run_exactly_once(tenant: Tenant, second_connection: sa.Connection) -> None:
    start(tenant, run_id="r-1")
    results = race(16, lambda: tenant.dispatch("runs.complete", {"run_id": "r-1", "status": "succeeded"}))
    assert [result.error_code for result in results] == [None] * 16
    assert sum(not result.data.replayed for result in results) == 1  # type: ignore[union-attr]
    assert len(rows(second_connection, "policy_evaluations", tenant)) == 1
    assert [leaf["type"] for leaf in leaves(second_connection, tenant, "r-1")].count("run.completed") == 1
    (state,) = rows(second_connection, "tenant_state", tenant)
    assert state["running_runs"] == 0


@pytest.mark.parametrize(
    ("name", "event", "status"), [("halt", "RunHalted", "halted"), ("cancel", "RunCancelled", "cancelled")]
)
def test_halting_and_cancelling_are_in_the_ledger(
    tenant: Tenant, second_connection: sa.Connection, name: str, event: str, status: str
) -> None:
    start(tenant, run_id="r-1")
    ended = tenant.call(f"runs.{name}", {"run_id": "r-1", "reason": "bob@example.com said so"})
    assert (ended.status, ended.termination_reason) == (status, "user_abort")
    (entry,) = rows(second_connection, "audit_ledger", tenant, entity_type="RUN")
    assert (entry["event_type"], entry["entity_id"], entry["run_id"]) == (event, "r-1", "r-1")
    assert entry["action_reason"] == "<REDACTED_EMAIL> said so"
    before, after = json.loads(entry["before_state"]), json.loads(entry["after_state"])
    assert (before["status"], after["status"]) == ("running", status)
    assert "goal" not in after
    facts = leaves(second_connection, tenant, "r-1")
    assert facts[-1]["type"] == "run.completed"
    told = [row["description"] for row in rows(second_connection, "incidents", tenant)]
    assert told == (["<REDACTED_EMAIL> said so"] if name == "halt" else [])
    # A halt has its incident too: the incident, its event, its ledger entry and what it teaches.
    assert facts[-1]["body"]["closure"]["fact_count"] == len(facts) == (9 if name == "halt" else 5)


def test_a_retry_seals_the_attempt_and_opens_the_next(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    start(tenant, run_id="r-1", seed=3)
    append(tenant, "r-1", step(0)).unwrap()
    command = {"run_id": "r-1", "from_attempt": 1, "reason": "flaky", "error_code": "STEP_FAILURE"}
    retried = tenant.call("runs.retry", command)
    assert (retried.attempt, retried.status, retried.trace_id) == (2, "running", "trace_r-1.2")
    assert (retried.error_code, retried.error_message) == ("STEP_FAILURE", "flaky")
    assert tenant.call("runs.retry", command).replayed
    first, second = sorted(rows(second_connection, "aos_traces", tenant), key=lambda row: row["attempt"])
    assert (first["status"], first["outcome"], second["status"]) == ("SEALED", "failure", "OPEN")
    assert (second["seed"], second["genesis_hash"] == first["genesis_hash"]) == (3, False)
    assert append(tenant, "r-1", step(0), step(1)).unwrap().trace_id == "trace_r-1.2"
    ended = tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded", "expected_steps": 2})
    assert (ended.error_code, ended.error_message, ended.goal) == (None, None, START["goal"])
    closure = leaves(second_connection, tenant, "r-1")[-1]["body"]["closure"]
    assert closure["step_count"] == 3
    assert [trace["attempt"] for trace in closure["traces"]] == [1, 2]
    attempts = tenant.call("attempts.list", {"run_id": "r-1", "limit": 1})
    assert attempts.items[0].evaluation.run_status == "failed"
    more = tenant.call("attempts.list", {"run_id": "r-1", "limit": 1, "cursor": attempts.next_cursor})
    assert (more.items[0].attempt, more.items[0].status, more.next_cursor) == (2, "SEALED", None)


def test_retries_that_do_not_fit_are_refused(tenant: Tenant) -> None:
    start(tenant, run_id="r-1", max_attempts=2)
    command = {"run_id": "r-1", "reason": "again"}
    assert tenant.dispatch("runs.retry", {**command, "from_attempt": 3}).error_code == "ATTEMPT_MISMATCH"
    tenant.call("runs.retry", {**command, "from_attempt": 1})
    assert tenant.dispatch("runs.retry", {**command, "from_attempt": 2}).error_code == "MAX_ATTEMPTS_REACHED"
    tenant.call("runs.cancel", {"run_id": "r-1", "reason": "enough"})
    assert tenant.dispatch("runs.retry", {**command, "from_attempt": 2}).error_code == "RUN_NOT_RUNNING"


def test_racing_retries_open_one_attempt(tenant: Tenant, second_connection: sa.Connection) -> None:
    start(tenant, run_id="r-1")
    results = race(
        8, lambda: tenant.dispatch("runs.retry", {"run_id": "r-1", "from_attempt": 1, "reason": "again"})
    )
    assert [result.error_code for result in results] == [None] * 8
    assert len(rows(second_connection, "aos_traces", tenant)) == 2


def test_overdue_runs_end_by_timeout(tenant: Tenant, clock: SteerableClock) -> None:
    start(tenant, run_id="late", timeout_seconds=60)
    start(tenant, run_id="in-time", timeout_seconds=600)
    clock.advance(seconds=61)
    expired = tenant.call("runs.expire", door="worker", actor_type="SYSTEM", actor_id="maintenance")
    assert (expired.expired, expired.more) == (["late"], False)
    run = tenant.call("runs.get", {"run_id": "late"})
    assert (run.status, run.termination_reason) == ("failed", "timeout")
    assert tenant.call("runs.get", {"run_id": "in-time"}).status == "running"
    refused = tenant.dispatch("runs.complete", {"run_id": "late", "status": "succeeded"})
    assert refused.error_code == "RUN_TERMINAL"


def test_lists_are_filtered_and_paged_newest_first(tenant: Tenant, clock: SteerableClock) -> None:
    for number in range(5):
        start(tenant, run_id=f"r-{number}", agent_id="even" if number % 2 == 0 else "odd")
        clock.advance(seconds=1)
    first = tenant.call("runs.list", {"limit": 2})
    assert [run.run_id for run in first.items] == ["r-4", "r-3"]
    second = tenant.call("runs.list", {"limit": 2, "cursor": first.next_cursor})
    assert [run.run_id for run in second.items] == ["r-2", "r-1"]
    assert [run.run_id for run in tenant.call("runs.list", {"agent_id": "odd"}).items] == ["r-3", "r-1"]
    refused = tenant.dispatch("runs.list", {"agent_id": "odd", "cursor": first.next_cursor})
    assert refused.error_code == "INVALID_CURSOR"
    moment = second.items[0].started_at.isoformat()
    assert [run.run_id for run in tenant.call("runs.list", {"started_before": moment}).items] == [
        "r-1",
        "r-0",
    ]


def test_late_facts_do_not_reopen_an_ended_run(tenant: Tenant, second_connection: sa.Connection) -> None:
    start(tenant, run_id="r-1")
    tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    start(tenant, run_id="r-2")
    tenant.call("runs.cancel", {"run_id": "r-2", "reason": "x"}, run_id="r-1")
    assert all(not leaf["late"] for leaf in leaves(second_connection, tenant, "r-1"))
    assert len(leaves(second_connection, tenant, "r-2")) == 5
