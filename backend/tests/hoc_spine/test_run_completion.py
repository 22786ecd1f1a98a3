"""Spine: the end of a run: rules, the one explanation, evaluation, links, lessons, risk, cost."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.operation_registry import OperationResult
from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import statement_counter
from app.kernel.canonical_json import loads
from tests.factories.limits import limit, record, rows
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run, without_triggers

MAX_STATEMENTS = 16


def guard(tenant: Tenant, rule_id: str, mode: str, moment: str, condition: str | None = None) -> None:
    rule = {"rule_id": rule_id, "kind": "GUARD", "name": rule_id, "moments": [moment], "activate": True}
    tenant.call("policies.rules.create", {**rule, "enforcement_mode": mode, "condition": condition})


def complete(tenant: Tenant, run_id: str, status: str, **members: Any) -> Any:
    return tenant.call("runs.complete", {"run_id": run_id, "status": status, **members})


def outcome(ended: Any) -> tuple[Any, ...]:
    found = ended.evaluation
    return found.outcome, found.outcome_kind, found.counts


@pytest.fixture
def cost(tenant: Tenant) -> Callable[[Callable[[], Any]], int]:
    """Count what a call executes in the database."""
    seen: list[str] = []
    statement_counter(tenant.spine.transactions.engine, seen.append)

    def count(call: Callable[[], Any]) -> int:
        seen.clear()
        call()
        return len([text for text in seen if not text.startswith(("BEGIN", "COMMIT"))])

    return count


@pytest.mark.parametrize(
    ("status", "reason", "category", "code", "severity"),
    [
        ("failed", None, "EXECUTION_FAILURE", None, "MEDIUM"),
        ("failed", "timeout", "EXECUTION_FAILURE", "EXECUTION_TIMEOUT", "HIGH"),
        ("halted", None, "EXECUTION_FAILURE", "POLICY_BLOCK", "MEDIUM"),
        ("halted", "budget_exceeded", "BUDGET_EXCEEDED", "BUDGET_EXCEEDED", "MEDIUM"),
        ("halted", "rate_limited", "RATE_LIMIT", "RATE_LIMIT_EXCEEDED", "MEDIUM"),
        ("halted", "user_abort", "EXECUTION_FAILURE", "MANUAL_STOP", "LOW"),
    ],
)
def test_a_run_that_failed_or_was_halted_has_exactly_one_incident(
    tenant: Tenant,
    second_connection: sa.Connection,
    status: str,
    reason: str | None,
    category: str,
    code: str | None,
    severity: str,
) -> None:
    start_run(tenant, run_id="r-1")
    ended = complete(tenant, "r-1", status, termination_reason=reason, error_message="bob@example.com")
    (incident,) = rows(second_connection, tenant, "incidents")
    assert (incident["category"], incident["error_code"], incident["severity"]) == (category, code, severity)
    assert (incident["source_run_id"], incident["attempt"], incident["dedupe_key"]) == (
        "r-1",
        1,
        "r-1:1:outcome",
    )
    assert incident["error_message"] == "<REDACTED_EMAIL>"
    assert (ended.evaluation.outcome_kind, ended.evaluation.outcome_ref) == (
        "INCIDENT",
        incident["incident_id"],
    )
    assert ended.evaluation.counts == {"breaches": 0, "incidents": 1, "preventions": 0}
    assert (ended.incident_count, ended.policy_violation, ended.risk_level) == (1, False, "NORMAL")
    (lesson,) = rows(second_connection, tenant, "lessons_learned")
    assert (lesson["lesson_type"], lesson["source_event_id"]) == ("FAILURE", incident["incident_id"])
    assert lesson["title"] == f"Failure: {code or 'Unknown Error'}"
    kinds = Counter(row["type"] for row in rows(second_connection, tenant, "log_leaves", "run_id = 'r-1'"))
    assert (kinds["incident"], kinds["incident.event"], kinds["lesson"], kinds["evaluation"]) == (1, 1, 1, 1)
    assert {row["type"] for row in rows(second_connection, tenant, "outbox")} >= {
        "IncidentCreated",
        "PolicyEvaluated",
        "RunCompleted",
    }
    again = complete(tenant, "r-1", status, termination_reason=reason, error_message="bob@example.com")
    assert (again.replayed, again.lessons) == (True, ended.lessons)
    assert len(rows(second_connection, tenant, "incidents")) == 1


def test_a_run_that_succeeded_or_was_cancelled_has_neither_incident_nor_prevention(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    for run_id, status in (("r-1", "succeeded"), ("r-2", "cancelled")):
        start_run(tenant, run_id=run_id)
        ended = complete(tenant, run_id, status)
        assert (ended.evaluation.outcome_kind, ended.evaluation.outcome_ref) == ("NONE", None)
    assert rows(second_connection, tenant, "incidents") == []
    assert rows(second_connection, tenant, "prevention_records") == []


def test_an_incident_rule_turns_the_ending_into_a_prevention(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    guard(tenant, "p-2", "BLOCK", "INCIDENT", 'incident.error_code == "KNOWN"')
    guard(tenant, "p-1", "BLOCK", "INCIDENT", 'incident.error_code == "KNOWN"')
    start_run(tenant, run_id="r-1")
    ended = complete(tenant, "r-1", "failed", error_code="KNOWN")
    (kept,) = rows(second_connection, tenant, "prevention_records")
    assert (kept["rule_id"], kept["outcome"], kept["moment"]) == ("p-1", "PREVENTED", "INCIDENT")
    assert outcome(ended) == ("ADVISORY", "PREVENTION", {"breaches": 0, "incidents": 0, "preventions": 1})
    assert ended.evaluation.outcome_ref == kept["prevention_id"]
    assert ended.evaluation.policies_checked == 2
    (decision,) = rows(second_connection, tenant, "decision_records")
    assert (decision["decision_id"], decision["decision_outcome"]) == (kept["decision_id"], "PREVENTED")
    assert [match["rule_id"] for match in loads(decision["matched"])] == ["p-1", "p-2"]
    event = loads(kept["prevented_event"])
    assert (event["error_code"], event["dedupe_key"]) == ("KNOWN", "r-1:1:outcome")
    assert rows(second_connection, tenant, "incidents") == []
    assert rows(second_connection, tenant, "lessons_learned") == []


def test_a_completion_rule_turns_a_success_into_a_halt_and_nothing_else(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    guard(tenant, "c-block", "BLOCK", "COMPLETION", "outcome.step_count == 0")
    guard(tenant, "c-warn", "WARN", "COMPLETION")
    start_run(tenant, run_id="r-1")
    ended = complete(tenant, "r-1", "succeeded")
    assert (ended.status, ended.termination_reason, ended.violation_rule_id) == (
        "halted",
        "policy_block",
        "c-block",
    )
    kept = {row["rule_id"]: row for row in rows(second_connection, tenant, "prevention_records")}
    assert {rule: row["outcome"] for rule, row in kept.items()} == {"c-block": "STOPPED", "c-warn": "WARNED"}
    assert ended.evaluation.outcome_ref == kept["c-block"]["prevention_id"]
    assert outcome(ended) == ("ADVISORY", "PREVENTION", {"breaches": 0, "incidents": 0, "preventions": 2})
    assert ended.risk_level == "AT_RISK"
    assert complete(tenant, "r-1", "succeeded").replayed
    start_run(tenant, run_id="r-2")
    failed = complete(tenant, "r-2", "failed")
    assert (failed.status, failed.evaluation.outcome_kind) == ("failed", "INCIDENT")
    later = {
        row["rule_id"]: row["outcome"]
        for row in rows(second_connection, tenant, "prevention_records", "run_id = 'r-2'")
    }
    assert later == {"c-block": "AUDITED", "c-warn": "WARNED"}


def test_a_completion_rule_that_cannot_be_judged_blocks_a_success(tenant: Tenant) -> None:
    guard(tenant, "c-1", "AUDIT", "COMPLETION", 'run.labels["missing"] == "x"')
    start_run(tenant, run_id="r-1")
    assert complete(tenant, "r-1", "succeeded").status == "halted"


def test_a_retry_explains_nothing_and_leaves_each_attempt_its_evaluation(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    guard(tenant, "c-1", "WARN", "COMPLETION")
    start_run(tenant, run_id="r-1")
    tenant.call("runs.retry", {"run_id": "r-1", "from_attempt": 1, "reason": "again"})
    assert rows(second_connection, tenant, "incidents") == []
    assert rows(second_connection, tenant, "prevention_records") == []
    ended = complete(tenant, "r-1", "failed")
    found = rows(second_connection, tenant, "policy_evaluations")
    assert sorted((row["attempt"], row["outcome_kind"]) for row in found) == [(1, "NONE"), (2, "INCIDENT")]
    assert ended.attempt == 2
    (closing,) = rows(second_connection, tenant, "log_leaves", "type = 'run.completed'")
    traces = loads(closing["statement"])["body"]["closure"]["traces"]
    assert [trace["attempt"] for trace in traces] == [1, 2]
    assert all(trace["root_hash"] for trace in traces)


def test_an_incident_points_at_the_breaches_and_the_decisions_that_blocked(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    limit(tenant, enforcement="WARN")
    guard(tenant, "s-1", "BLOCK", "STEP", 'action.name == "drop"')
    start_run(tenant, run_id="r-1")
    check = {"run_id": "r-1", "action": {"kind": "TOOL", "name": "drop"}}
    blocked = tenant.call("runs.check", check)
    record(tenant, "u-1", usage={"COST_USD": 105.5})
    ended = complete(tenant, "r-1", "failed", error_code="STEP_FAILURE")
    (breach,) = rows(second_connection, tenant, "limit_breaches")
    links = tenant.call("incidents.links", {"incident_id": ended.evaluation.outcome_ref}).items
    assert [(link.kind, link.ref) for link in links] == [
        ("BREACH", breach["breach_id"]),
        ("DECISION", blocked.decision_id),
    ]
    assert outcome(ended) == ("ADVISORY", "INCIDENT", {"breaches": 1, "incidents": 1, "preventions": 1})
    assert ended.risk_level == "AT_RISK"


def test_open_reservations_are_given_back_at_the_end(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    limit(tenant)
    start_run(tenant, run_id="r-1")
    check = {"run_id": "r-1", "action": {"kind": "MODEL", "name": "m"}, "estimate": {"COST_USD": 5}}
    tenant.call("runs.check", check)
    (held,) = rows(second_connection, tenant, "limit_counters", "limit_id = 'l-1'")
    assert held["reserved"] == 5_000_000
    complete(tenant, "r-1", "succeeded")
    (held,) = rows(second_connection, tenant, "limit_counters", "limit_id = 'l-1'")
    assert held["reserved"] == 0
    (reservation,) = rows(second_connection, tenant, "usage_reservations")
    assert reservation["status"] == "RELEASED"


def test_a_budget_near_its_end_teaches_once_in_a_day_for_each_band(
    tenant: Tenant, clock: SteerableClock
) -> None:
    limit(tenant)

    def end(run_id: str, cost: float) -> list[tuple[str, str | None]]:
        start_run(tenant, run_id=run_id)
        record(tenant, "u-1", run_id, usage={"COST_USD": cost})
        ended = complete(tenant, run_id, "succeeded")
        assert ended.risk_level == "NEAR_THRESHOLD"
        shown = [tenant.call("lessons.get", {"lesson_id": item["lesson_id"]}) for item in ended.lessons]
        return [(lesson.lesson_type, lesson.threshold_band) for lesson in shown]

    assert end("r-1", 84.5) == []
    assert end("r-2", 0.5) == [("NEAR_THRESHOLD", "85-90")]
    assert end("r-3", 1) == []
    clock.advance(hours=24)
    assert end("r-4", 1) == [("NEAR_THRESHOLD", "85-90")]
    assert end("r-5", 4) == [("NEAR_THRESHOLD", "90-95")]
    assert end("r-6", 9) == [("NEAR_THRESHOLD", "95-100")]
    (lesson, *_) = tenant.call("lessons.list", {"source_run_id": "r-6"}).items
    assert lesson.source_event_id == "r-6:l-1"
    assert lesson.detected_pattern["current_value"] == 100_000_000


def test_a_quick_success_that_used_little_is_learned_from(tenant: Tenant, clock: SteerableClock) -> None:
    limit(tenant)

    def end(run_id: str, *, seconds: float = 0, cost: float = 0.001) -> list[str]:
        start_run(tenant, run_id=run_id)
        record(tenant, "u-1", run_id, usage={"COST_USD": cost})
        clock.advance(seconds=seconds)
        return [item["lesson_type"] for item in complete(tenant, run_id, "succeeded").lessons]

    assert end("slow", seconds=5) == []
    assert end("quick") == ["CRITICAL_SUCCESS"]
    assert end("again") == []
    clock.advance(hours=24)
    assert end("next-day") == ["CRITICAL_SUCCESS"]
    clock.advance(hours=24)
    assert end("dear", cost=30) == []


def test_a_run_under_an_invalid_snapshot_does_not_succeed(
    tenant: Tenant, second_connection: sa.Connection, make_spine: Callable[..., Spine]
) -> None:
    start_run(tenant, run_id="r-1")
    without_triggers(
        second_connection,
        "UPDATE policy_snapshots SET content = content || ' ' WHERE tenant_id = :t",
        t=tenant.tenant_id,
    )
    # A process that has not verified the snapshot yet.
    ended = complete(Tenant(make_spine(), tenant.tenant_id), "r-1", "succeeded")
    assert (ended.status, ended.termination_reason) == ("halted", "policy_block")
    (incident,) = rows(second_connection, tenant, "incidents")
    assert (incident["category"], incident["error_code"], incident["severity"]) == (
        "INTEGRITY",
        "SNAPSHOT_INVALID",
        "HIGH",
    )
    assert ended.evaluation.outcome_ref == incident["incident_id"]


def test_racing_endings_of_all_kinds_end_a_run_exactly_once(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    start_run(tenant, run_id="r-1")
    calls = [
        ("runs.complete", {"run_id": "r-1", "status": "failed", "error_code": "STEP_FAILURE"}),
        ("runs.complete", {"run_id": "r-1", "status": "succeeded"}),
        ("runs.halt", {"run_id": "r-1", "reason": "x"}),
        ("runs.cancel", {"run_id": "r-1", "reason": "x"}),
    ]
    results: list[OperationResult] = []
    barrier = threading.Barrier(16)

    def end(name: str, payload: dict[str, Any]) -> None:
        barrier.wait()
        results.append(tenant.dispatch(name, payload))

    threads = [threading.Thread(target=end, args=calls[number % 4]) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended: list[Any] = [result.data for result in results if result.success]
    assert len(ended) == 4
    assert sorted(done.replayed for done in ended) == [False, True, True, True]
    assert {result.error_code for result in results if not result.success} == {"RUN_TERMINAL"}
    assert len(rows(second_connection, tenant, "policy_evaluations")) == 1
    explained = len(rows(second_connection, tenant, "incidents"))
    assert explained == (1 if ended[0].status in ("failed", "halted") else 0)
    (state,) = rows(second_connection, tenant, "tenant_state")
    assert state["running_runs"] == 0


def test_overdue_runs_are_explained_one_by_one(
    tenant: Tenant, clock: SteerableClock, second_connection: sa.Connection
) -> None:
    for number in range(3):
        start_run(tenant, run_id=f"r-{number}", timeout_seconds=60)
    clock.advance(seconds=61)
    done = tenant.call("runs.expire", {}, door="worker", actor_type="SYSTEM")
    assert done.expired == ["r-0", "r-1", "r-2"]
    found = rows(second_connection, tenant, "incidents")
    assert sorted(row["source_run_id"] for row in found) == done.expired
    assert {row["error_code"] for row in found} == {"EXECUTION_TIMEOUT"}
    assert sorted(row["recurrence_count"] for row in found) == [0, 1, 2]


def test_an_ending_stays_within_its_statements(
    tenant: Tenant, cost: Callable[[Callable[[], Any]], int]
) -> None:
    limit(tenant, enforcement="WARN")
    guard(tenant, "s-1", "BLOCK", "STEP", 'action.name == "drop"')
    for run_id in ("plain", "failed", "linked"):
        start_run(tenant, run_id=run_id)
    # What a process reads once: the snapshot's rules, the rules that are revoked.
    guard(tenant, "w-1", "AUDIT", "INCIDENT", 'incident.title == ""')
    start_run(tenant, run_id="warm")
    complete(tenant, "warm", "failed")
    costs = {
        "plain": cost(lambda: complete(tenant, "plain", "succeeded")),
        "failed": cost(lambda: complete(tenant, "failed", "failed")),
    }
    check = {"run_id": "linked", "action": {"kind": "TOOL", "name": "drop"}}
    tenant.call("runs.check", check)
    record(tenant, "u-1", "linked", usage={"COST_USD": 105.5})
    costs["linked"] = cost(lambda: complete(tenant, "linked", "failed"))
    guard(tenant, "i-1", "BLOCK", "INCIDENT")
    start_run(tenant, run_id="prevented")
    costs["prevented"] = cost(lambda: complete(tenant, "prevented", "failed"))
    guard(tenant, "c-1", "BLOCK", "COMPLETION")
    start_run(tenant, run_id="stopped")
    costs["stopped"] = cost(lambda: complete(tenant, "stopped", "succeeded"))
    assert all(spent <= MAX_STATEMENTS for spent in costs.values()), costs


def test_an_ending_that_meets_everything_at_once_costs_three_more(
    tenant: Tenant, cost: Callable[[Callable[[], Any]], int]
) -> None:
    limit(tenant, enforcement="WARN")
    limit(tenant, limit_id="l-2", name="Wide", max_value=120, reset_period="DAILY")
    guard(tenant, "c-1", "WARN", "COMPLETION")
    guard(tenant, "w-1", "AUDIT", "INCIDENT", 'incident.title == ""')
    for run_id in ("warm", "r-1"):
        start_run(tenant, run_id=run_id)
    complete(tenant, "warm", "failed")
    record(tenant, "u-1", usage={"COST_USD": 105.5})
    # Records of a rule, links of a breach and the debounce of a lesson, all in one ending.
    assert cost(lambda: complete(tenant, "r-1", "failed")) <= MAX_STATEMENTS + 3
    assert tenant.call("lessons.stats").by_type == {
        "FAILURE": 2,
        "NEAR_THRESHOLD": 1,
        "CRITICAL_SUCCESS": 0,
    }


class Fault(Exception):
    """Stands for a database that fails in the middle."""


APPENDED = (
    "incidents", "incident_events", "incident_links", "lessons_learned", "lesson_debounce",
    "decision_records", "prevention_records", "policy_evaluations", "audit_ledger", "outbox",
    "log_leaves", "limit_entries",
)  # fmt: skip


CHANGED = ("runs", "aos_traces", "policy_proposals", "lessons_learned")


def failing_lesson(tenant: Tenant) -> Any:
    """The lesson of a run that failed before."""
    start_run(tenant, run_id="r-0")
    complete(tenant, "r-0", "failed")
    return tenant.call("lessons.list", {"source_run_id": "r-0"}).items[0]


def footprint(connection: sa.Connection, tenant: Tenant) -> list[Any]:
    counts = " UNION ALL ".join(
        f"SELECT '{table}', count(*) FROM {table} WHERE tenant_id = :t" for table in APPENDED
    )
    found: list[Any] = list(connection.execute(sa.text(counts), {"t": tenant.tenant_id}).all())
    for table in (*CHANGED, "tenant_state", "limit_counters", "usage_reservations"):
        found += [tuple(row.values()) for row in rows(connection, tenant, table)]
    return found


def test_a_conversion_that_fails_after_any_statement_leaves_nothing(
    tenant: Tenant, make_spine: Callable[..., Spine], second_connection: sa.Connection
) -> None:
    lesson = failing_lesson(tenant)
    engine = (spine := make_spine()).transactions.engine
    here = Tenant(spine, tenant.tenant_id)
    fault = {"after": 0, "seen": 0}

    def count(_c: Any, _cursor: Any, statement: str, _p: Any, _x: Any, _m: bool) -> None:
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            fault["seen"] += 1
            if fault["seen"] == fault["after"]:
                raise Fault

    sa.event.listen(engine, "after_cursor_execute", count)
    before = footprint(second_connection, tenant)
    while True:
        fault |= {"after": fault["after"] + 1, "seen": 0}
        result = here.dispatch("lessons.convert", {"lesson_id": lesson.lesson_id})
        if result.success:
            break
        assert result.error_code == "HANDLER_EXCEPTION:Fault"
        assert footprint(second_connection, tenant) == before
    assert fault["seen"] == fault["after"] - 1 > 5
    assert footprint(second_connection, tenant) != before


def test_a_late_violation_is_told_on_the_row_of_an_ended_run(tenant: Tenant) -> None:
    start_run(tenant, run_id="r-1")
    complete(tenant, "r-1", "succeeded")
    report = {"title": "It leaked", "category": "POLICY_VIOLATION", "source_run_id": "r-1"}
    opened = tenant.call("incidents.create", report)
    run = tenant.call("runs.get", {"run_id": "r-1"})
    assert (run.policy_violation, run.risk_level, run.incident_count) == (True, "VIOLATED", 1)
    assert opened.incident.attempt == 1
    start_run(tenant, run_id="r-2")
    tenant.call("incidents.create", {**report, "source_run_id": "r-2"})
    ended = complete(tenant, "r-2", "succeeded")
    assert ended.evaluation.outcome == "VIOLATION_INCIDENT"
    assert ended.completed_at - ended.started_at < timedelta(minutes=5)


@pytest.mark.parametrize("by", ["check", "use"])
def test_a_halt_by_a_limit_whose_incident_a_rule_prevents_is_explained_once(
    tenant: Tenant, second_connection: sa.Connection, by: str
) -> None:
    limit(tenant, consequence="INCIDENT", halts_run=True)
    guard(tenant, "i-1", "BLOCK", "INCIDENT", 'incident.category == "BUDGET_EXCEEDED"')
    start_run(tenant, run_id="r-1")
    if by == "use":
        record(tenant, "u-1", usage={"COST_USD": 105.5})
    else:
        check = {"run_id": "r-1", "action": {"kind": "MODEL", "name": "m"}, "estimate": {"COST_USD": 105.5}}
        assert tenant.call("runs.check", check).verdict == "BLOCK"
    run = tenant.call("runs.get", {"run_id": "r-1"})
    assert (run.status, run.termination_reason) == ("halted", "budget_exceeded")
    (kept,) = rows(second_connection, tenant, "prevention_records")
    (found,) = rows(second_connection, tenant, "policy_evaluations")
    assert (found["outcome_kind"], found["outcome_ref"]) == ("PREVENTION", kept["prevention_id"])
    assert rows(second_connection, tenant, "incidents") == []


def test_a_rule_without_words_is_called_by_its_name(tenant: Tenant, second_connection: sa.Connection) -> None:
    rule = {"kind": "GUARD", "name": "Quiet", "moments": ["COMPLETION"], "message": "  ", "activate": True}
    tenant.call("policies.rules.create", {**rule, "enforcement_mode": "WARN"})
    start_run(tenant, run_id="r-1")
    complete(tenant, "r-1", "succeeded")
    (decision,) = rows(second_connection, tenant, "decision_records")
    assert decision["decision_reason"] == "Quiet"


def test_an_ending_amid_checks_use_reports_and_maintenance_deadlocks_with_nobody(
    tenant: Tenant, second_connection: sa.Connection, clock: SteerableClock
) -> None:
    limit(tenant, enforcement="WARN", consequence="INCIDENT", max_value=10)
    runs = [f"r-{number}" for number in range(4)]
    for run_id in runs:
        start_run(tenant, run_id=run_id, timeout_seconds=60)
    clock.advance(seconds=61)
    results: list[OperationResult] = []
    barrier = threading.Barrier(17)

    def work(calls: list[tuple[str, dict[str, Any]]]) -> None:
        barrier.wait()
        results.extend(tenant.dispatch(name, payload) for name, payload in calls)

    def expire() -> None:
        barrier.wait()
        results.append(tenant.dispatch("runs.expire", {}, door="worker"))

    threads = [threading.Thread(target=expire)]
    action = {"kind": "MODEL", "name": "m"}
    for run_id in runs:
        check = {"run_id": run_id, "action": action, "estimate": {"COST_USD": 4}}
        use = {"run_id": run_id, "usage_id": "u", "usage": {"COST_USD": 4}}
        report = {"title": "x", "source_run_id": run_id}
        ending = {"run_id": run_id, "status": "failed"}
        works = (
            [("runs.check", check), ("runs.usage.record", use)],
            [("runs.usage.record", use), ("incidents.create", report)],
            [("incidents.create", report), ("runs.check", check)],
            [("runs.check", check), ("runs.complete", ending)],
        )
        threads += [threading.Thread(target=work, args=(calls,)) for calls in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = {result.error_code for result in results if not result.success}
    assert refused <= {"RUN_NOT_RUNNING", "RUN_TERMINAL"}
    evaluations = rows(second_connection, tenant, "policy_evaluations")
    assert sorted(row["run_id"] for row in evaluations) == runs
    outcomes = rows(second_connection, tenant, "incidents", "source_type = 'RUN'")
    assert sorted(row["source_run_id"] for row in outcomes) == runs
    held = rows(second_connection, tenant, "limit_counters", "limit_id = 'l-1'")
    assert [(row["reserved"], row["committed"]) for row in held] == [(0, 16_000_000)]
    (state,) = rows(second_connection, tenant, "tenant_state")
    assert state["running_runs"] == 0
