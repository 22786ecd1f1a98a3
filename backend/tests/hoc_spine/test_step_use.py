"""Spine: steps against limits, USAGE rules, and the decisions that they cite."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from app.hoc_spine.operation_registry import OperationResult
from tests.factories.limits import counters, limit, record, rows, start
from tests.factories.tenants import Tenant


def step(index: int, **changes: Any) -> dict[str, Any]:
    return {"step_index": index, "skill_id": "s", "skill_name": "search", "status": "success", **changes}


def append(tenant: Tenant, *steps: dict[str, Any], run_id: str = "r-1") -> OperationResult:
    return tenant.dispatch("traces.steps.append", {"run_id": run_id, "steps": list(steps)})


def check(tenant: Tenant, name: str = "send", run_id: str = "r-1", **members: Any) -> Any:
    action = {"kind": "TOOL", "name": name}
    return tenant.call("runs.check", {"run_id": run_id, "action": action, **members})


def guard(tenant: Tenant, rule_id: str, moments: list[str], condition: str, **members: Any) -> None:
    rule = {
        "rule_id": rule_id,
        "name": rule_id,
        "kind": "GUARD",
        "scope": "TENANT",
        "moments": moments,
        "condition": condition,
        "enforcement_mode": "BLOCK",
        "activate": True,
    }
    tenant.call("policies.rules.create", rule | members)


def test_a_batch_counts_its_use_once_and_tells_of_the_breach(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    limit(tenant)
    limit(tenant, limit_id="steps", name="steps", metric="STEPS", max_value=100)
    start(tenant, "r-1")
    batch = [step(0, usage={"COST_USD": 60}), step(1), step(2, usage={"COST_USD": 45.5})]
    first = append(tenant, *batch).unwrap()
    assert (first.must_stop, len(first.breaches)) == (True, 1)
    assert (first.breaches[0]["breached_value"], first.breaches[0]["threshold_value"]) == (105.5, 100.0)
    again = append(tenant, *batch).unwrap()
    assert (again.replayed, again.must_stop, again.breaches) == (3, False, [])
    assert counters(second_connection, tenant) == {"l-1": (105_500_000, 0), "steps": (3_000_000, 0)}
    sources = {row["source_ref"] for row in rows(second_connection, tenant, "limit_entries")}
    assert sources == {"step:trace_r-1:0", "step:trace_r-1:1", "step:trace_r-1:2"}
    shown = tenant.call("usage.get", {"run_id": "r-1"})
    assert (shown.total, shown.attempts[0].steps) == ({"COST_USD": 105.5}, 3)


def test_a_step_redeems_the_reservation_it_names_when_it_reports_use(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    limit(tenant)
    start(tenant, "r-1")
    allowed = check(tenant, estimate={"COST_USD": 40})
    named = {"reservation_id": allowed.reservation.reservation_id, "decision_id": allowed.decision_id}
    append(tenant, step(0, **named)).unwrap()
    assert counters(second_connection, tenant)["l-1"] == (0, 40_000_000)
    append(tenant, step(1, **named, usage={"COST_USD": 30}), step(2, **named, usage={"COST_USD": 5})).unwrap()
    assert counters(second_connection, tenant)["l-1"] == (35_000_000, 0)


def test_a_limit_that_halts_ends_the_run_in_the_batch(tenant: Tenant) -> None:
    limit(tenant, halts_run=True)
    start(tenant, "r-1")
    result = append(tenant, step(0, usage={"COST_USD": 101}), step(1)).unwrap()
    assert (result.must_stop, result.appended) == (True, 2)
    run = tenant.call("runs.get", {"run_id": "r-1"})
    assert (run.status, run.termination_reason, run.stopped_at_step) == ("halted", "budget_exceeded", 2)
    trace = tenant.call("traces.get", {"run_id": "r-1", "attempt": 1})
    assert (trace.status, trace.step_count, trace.root_hash) == ("SEALED", 2, result.head_hash)
    assert append(tenant, step(2)).error_code == "TRACE_SEALED"


def test_usage_rules_judge_a_running_run(tenant: Tenant, second_connection: sa.Connection) -> None:
    guard(tenant, "warns", ["USAGE"], "usage.COST_USD > 1.0", enforcement_mode="WARN")
    guard(tenant, "blocks", ["USAGE"], "usage.COST_USD > 2.0")
    guard(tenant, "halts", ["USAGE"], "usage.TOKENS_TOTAL >= 100.0", halts_run=True)
    start(tenant, "r-1")
    assert not append(tenant, step(0, usage={"COST_USD": 1})).unwrap().must_stop
    assert rows(second_connection, tenant, "prevention_records") == []
    assert not record(tenant, "u-1", usage={"COST_USD": "0.5"}).must_stop
    assert append(tenant, step(1, usage={"COST_USD": 1})).unwrap().must_stop
    used = record(tenant, "u-2", usage={"TOKENS_INPUT": 60, "TOKENS_OUTPUT": 40})
    assert (used.must_stop, used.run_status) == (True, "halted")
    found = rows(second_connection, tenant, "prevention_records", "moment = 'USAGE'")
    assert sorted((row["rule_id"], row["outcome"]) for row in found) == [
        ("blocks", "BLOCKED"),
        ("blocks", "BLOCKED"),
        ("halts", "STOPPED"),
        ("warns", "WARNED"),
        ("warns", "WARNED"),
        ("warns", "WARNED"),
    ]
    run = tenant.call("runs.get", {"run_id": "r-1"})
    assert (run.status, run.termination_reason, run.violation_rule_id) == ("halted", "policy_block", "halts")
    (evaluation,) = rows(second_connection, tenant, "policy_evaluations")
    (stopped,) = [row for row in found if row["outcome"] == "STOPPED"]
    assert (evaluation["outcome_kind"], evaluation["outcome_ref"]) == ("PREVENTION", stopped["prevention_id"])


def test_a_decision_that_a_step_cites_is_of_its_run(tenant: Tenant) -> None:
    start(tenant, "r-1")
    start(tenant, "r-2")
    decision_id = check(tenant).decision_id
    other = append(tenant, step(0), step(1, decision_id=decision_id), run_id="r-2")
    assert other.error is not None
    assert (other.error_code, other.error.extra["field"]) == ("REFERENCE_NOT_FOUND", "/steps/1/decision_id")
    assert append(tenant, step(0, decision_id="dec_0")).error_code == "REFERENCE_NOT_FOUND"
    append(tenant, step(0, decision_id=decision_id, side_effect=True)).unwrap()
    (shown,) = tenant.call("traces.steps.list", {"run_id": "r-1"}).items
    assert shown.decision_id == decision_id


def test_a_step_that_did_what_a_decision_forbids_is_stored_and_is_an_incident(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    guard(tenant, "no-deletion", ["STEP"], 'action.name == "delete"')
    start(tenant, "r-1")
    blocked = check(tenant, "delete")
    assert blocked.verdict == "BLOCK"
    done = step(0, decision_id=blocked.decision_id, side_effect=True)
    append(tenant, done, step(1, decision_id=blocked.decision_id)).unwrap()
    append(tenant, done).unwrap()
    (incident,) = rows(second_connection, tenant, "incidents")
    assert (incident["severity"], incident["category"], incident["trigger_ref"]) == (
        "HIGH",
        "POLICY_VIOLATION",
        blocked.decision_id,
    )
    run = tenant.call("runs.get", {"run_id": "r-1"})
    assert (run.policy_violation, run.risk_level, run.incident_count) == (True, "VIOLATED", 1)
    (link,) = rows(second_connection, tenant, "incident_links")
    assert (link["kind"], link["ref"]) == ("DECISION", blocked.decision_id)
    ended = tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    assert ended.evaluation.outcome == "VIOLATION_INCIDENT"


def test_a_side_effect_without_a_decision_is_a_signal(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    start(tenant, "r-1")
    append(tenant, step(0), step(1, side_effect=True), step(2, side_effect=True)).unwrap()
    (signal,) = rows(second_connection, tenant, "discovery_ledger")
    assert (signal["signal_type"], signal["artifact"]) == ("unchecked_side_effect", "agent:agent-1")
    evidence = json.loads(signal["evidence"])
    assert (evidence["count"], [item["step_index"] for item in evidence["steps"]]) == (2, [1, 2])
