"""The governed check: its verdicts, what it records, its replays, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import CommitUnknownError, Transactions, statement_counter
from tests.factories.policies import tamper
from tests.factories.tenants import Tenant, make_tenant, operator_context

RUN = {"agent_id": "agent-1", "goal": "g", "actor_type": "SYSTEM", "origin_system_id": "o"}


def guard(tenant: Tenant, rule_id: str, mode: str, condition: str | None, **members: Any) -> Any:
    """Make an ACTIVE GUARD rule at STEP."""
    rule = {"rule_id": rule_id, "kind": "GUARD", "name": rule_id, "moments": ["STEP"], "activate": True}
    return tenant.call(
        "policies.rules.create", {**rule, "enforcement_mode": mode, "condition": condition, **members}
    )


def start(tenant: Tenant, run_id: str = "run-1", **members: Any) -> Any:
    return tenant.call("runs.start", {**RUN, "run_id": run_id, **members})


def check(tenant: Tenant, name: str = "read", run_id: str = "run-1", **members: Any) -> Any:
    return tenant.call("runs.check", asked(name, run_id, **members))


def asked(name: str = "read", run_id: str = "run-1", **members: Any) -> dict[str, Any]:
    action = {"kind": "TOOL", "name": name, **members.pop("action", {})}
    return {"run_id": run_id, "action": action, **members}


def rows(connection: sa.Connection, tenant: Tenant, table: str, columns: str = "*") -> list[Any]:
    order = "decided_at" if table == "decision_records" else "created_at"
    statement = sa.text(f"SELECT {columns} FROM {table} WHERE tenant_id = :t ORDER BY {order}")
    return list(connection.execute(statement, {"t": tenant.tenant_id}).mappings())


def test_every_verdict_is_told_with_its_reasons_and_recorded(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    guard(tenant, "r-audit", "AUDIT", 'action.name != "read"', message="watched")
    guard(tenant, "r-warn", "WARN", 'action.name == "send"')
    guard(tenant, "r-block", "BLOCK", 'action.target.startsWith("prod")')
    guard(tenant, "r-error", "BLOCK", 'action.params["amount"] > 5 && action.name == "pay"')
    guard(tenant, "r-off", "DISABLED", None)
    guard(tenant, "r-other", "BLOCK", None, scope="AGENT", scope_id="agent-2")
    guard(tenant, "r-use", "WARN", "usage.COST_USD > 10.0", moments=["USAGE"])
    start(tenant)
    seen = {}
    for name, members in {
        "read": {"action": {"params": {"amount": 1}}},
        "look": {"action": {"params": {"amount": 1}}},
        "send": {"action": {"params": {"amount": 1}}},
        "drop": {"action": {"params": {"amount": 1}, "target": "prod-db"}},
        "pay": {"action": {"params": {}}},
        "spend": {"action": {"params": {"amount": 1}}, "estimate": {"COST_USD": 10.5}},
    }.items():
        answer = check(tenant, name, **members)
        seen[name] = (answer.verdict, answer.outcome, [(r.code, r.rule_id) for r in answer.reasons])
    assert seen == {
        "read": ("ALLOW", "ALLOWED", []),
        "look": ("ALLOW", "AUDITED", [("RULE_AUDIT", "r-audit")]),
        "send": ("WARN", "WARNED", [("RULE_AUDIT", "r-audit"), ("RULE_WARN", "r-warn")]),
        "drop": ("BLOCK", "BLOCKED", [("RULE_AUDIT", "r-audit"), ("RULE_BLOCK", "r-block")]),
        "pay": ("BLOCK", "BLOCKED", [("RULE_AUDIT", "r-audit"), ("RULE_ERROR", "r-error")]),
        "spend": ("WARN", "WARNED", [("RULE_AUDIT", "r-audit"), ("RULE_WARN", "r-use")]),
    }
    decisions = rows(second_connection, tenant, "decision_records")
    assert [row["decision_outcome"] for row in decisions] == [outcome for _, outcome, _ in seen.values()]
    assert {(row["decision_type"], row["causal_role"], row["run_id"]) for row in decisions} == {
        ("POLICY_EVALUATION", "IN_RUN", "run-1")
    }
    kept = rows(second_connection, tenant, "prevention_records", "rule_id, outcome, moment, decision_id")
    assert sorted((row["rule_id"], row["outcome"], row["moment"]) for row in kept) == [
        *[("r-audit", "AUDITED", "STEP")] * 5,
        ("r-block", "BLOCKED", "STEP"),
        ("r-error", "BLOCKED", "STEP"),
        ("r-use", "WARNED", "USAGE"),
        ("r-warn", "WARNED", "STEP"),
    ]
    assert {row["decision_id"] for row in kept} == {row["decision_id"] for row in decisions[1:]}


def test_the_same_check_is_one_check_and_another_content_is_refused(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    guard(tenant, "r-warn", "WARN", None)
    start(tenant)
    first = check(tenant, check_id="c-1", action={"params": {"password": "one"}})
    # What is redacted is not judged: it makes no difference to what was asked.
    again = check(tenant, check_id="c-1", action={"params": {"password": "two"}})
    assert again == first
    refused = tenant.dispatch("runs.check", asked("other", check_id="c-1"))
    assert refused.error_code == "CHECK_CONFLICT"
    tenant.call("runs.cancel", {"run_id": "run-1", "reason": "over"})
    assert check(tenant, check_id="c-1", action={"params": {"password": "one"}}) == first
    assert tenant.dispatch("runs.check", asked(check_id="c-2")).error_code == "RUN_NOT_RUNNING"
    assert len(rows(second_connection, tenant, "decision_records")) == 1
    assert len(rows(second_connection, tenant, "prevention_records")) == 1
    stored = rows(second_connection, tenant, "decision_records")[0]["decision_inputs"]
    assert "<REDACTED>" in stored
    assert "one" not in stored


def test_racing_tries_of_one_check_are_one_check(tenant: Tenant, second_connection: sa.Connection) -> None:
    guard(tenant, "r-warn", "WARN", None)
    start(tenant)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: check(tenant, check_id="c-1"), range(12)))
    assert len({answer.decision_id for answer in answers}) == 1
    assert len(rows(second_connection, tenant, "decision_records")) == 1
    assert len(rows(second_connection, tenant, "prevention_records")) == 1


def test_a_check_whose_commit_is_not_known_is_found_again(
    tenant: Tenant, spine: Spine, monkeypatch: pytest.MonkeyPatch, second_connection: sa.Connection
) -> None:
    start(tenant)
    commit, lost = Transactions._commit, []

    def forgetful(self: Transactions, raw: sa.Connection) -> None:
        commit(self, raw)
        if not lost:
            lost.append(raw)
            raise CommitUnknownError

    monkeypatch.setattr(Transactions, "_commit", forgetful)
    assert check(tenant).verdict == "ALLOW"
    assert len(lost) == 1
    assert len(rows(second_connection, tenant, "decision_records")) == 1


def test_switches_and_a_broken_snapshot_block_or_warn_and_are_recorded(
    tenant: Tenant, spine: Spine, make_spine: Callable[..., Spine], second_connection: sa.Connection
) -> None:
    start(tenant)
    tenant.call("tenants.freeze", {"reason": "stop"})
    killed = check(tenant)
    assert (killed.verdict, killed.outcome, killed.reasons[0].code) == ("BLOCK", "KILLED", "KILL_SWITCH")
    tenant.call("tenants.unfreeze", {"reason": "go on"})
    spine.dispatch("ops.degraded.enter", operator_context(), {"reason": "a test"}).unwrap()
    try:
        degraded = check(tenant)
    finally:
        spine.dispatch("ops.degraded.exit", operator_context(), {"reason": "a test"}).unwrap()
    assert (degraded.verdict, degraded.outcome) == ("WARN", "WARNED")
    assert degraded.reasons[0].code == "DEGRADED_MODE"
    tamper(
        second_connection,
        "UPDATE policy_snapshots SET content = replace(content, 'bindings', 'Bindings') WHERE tenant_id = :t",
        tenant.tenant_id,
    )
    # This process has verified the snapshot; another one reads what is there now.
    broken = check(Tenant(make_spine(), tenant.tenant_id))
    assert (broken.verdict, broken.reasons[0].code) == ("BLOCK", "SNAPSHOT_INVALID")
    outcomes = [row["decision_outcome"] for row in rows(second_connection, tenant, "decision_records")]
    assert outcomes == ["KILLED", "WARNED", "BLOCKED"]


def test_a_revoked_rule_no_longer_judges_a_running_run(tenant: Tenant) -> None:
    guard(tenant, "r-block", "BLOCK", None)
    guard(tenant, "r-later", "BLOCK", None, moments=["USAGE"])
    start(tenant)
    assert [reason.rule_id for reason in check(tenant).reasons] == ["r-block", "r-later"]
    tenant.call("policies.rules.retire", {"rule_id": "r-block", "reason": "wrong", "revoke": True})
    tenant.call("policies.rules.retire", {"rule_id": "r-later", "reason": "done"})
    assert [reason.rule_id for reason in check(tenant).reasons] == ["r-later"]


def limit(tenant: Tenant, limit_id: str, max_value: float, **members: Any) -> Any:
    rule = {"limit_id": limit_id, "name": limit_id, "category": "BUDGET", "metric": "COST_USD"}
    rule |= {"scope": "TENANT", "reset_period": "NONE", "max_value": max_value}
    return tenant.call("controls.limits.create", {**rule, **members})


def test_an_estimate_is_held_until_the_limit_refuses(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    limit(tenant, "l-cost", 10)
    limit(tenant, "l-soft", 5, enforcement="WARN", category="RATE", reset_period=None, window_seconds=86400)
    start(tenant)
    first = check(tenant, estimate={"COST_USD": 4}, ttl_seconds=60)
    assert (first.verdict, first.outcome) == ("ALLOW", "ALLOWED")
    assert first.reservation.expires_at - first.decided_at == timedelta(seconds=60)
    stands = {item.limit_id: (item.evaluation, item.value, item.headroom) for item in first.limits}
    assert stands["l-cost"] == ("OK", 4.0, 6.0)
    second = check(tenant, estimate={"COST_USD": 4})
    assert (second.verdict, [item.code for item in second.reasons]) == ("WARN", ["LIMIT_WARN"])
    third = check(tenant, check_id="c-3", estimate={"COST_USD": "2.000001"})
    assert (third.verdict, third.outcome, third.reservation) == ("BLOCK", "BLOCKED", None)
    assert (third.reasons[0].code, third.reasons[0].limit_id) == ("LIMIT_EXCEEDED", "l-cost")
    assert check(tenant, check_id="c-3", estimate={"COST_USD": "2.000001"}) == third
    exact = check(tenant, estimate={"COST_USD": 2})
    assert {item.limit_id: item.evaluation for item in exact.limits}["l-cost"] == "NEAR_THRESHOLD"
    (breach,) = rows(second_connection, tenant, "limit_breaches")
    assert (breach["breach_type"], breach["value_at_breach"]) == ("EXHAUSTED", 10_000_001)
    assert breach["decision_id"] == third.decision_id
    kept = rows(second_connection, tenant, "usage_reservations", "reservation_id, decision_id")
    assert [row["reservation_id"] for row in kept] == [
        answer.reservation.reservation_id for answer in (first, second, exact)
    ]


def test_a_rule_that_halts_stops_the_run_in_the_same_transaction(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    guard(tenant, "r-halt", "BLOCK", 'action.name == "drop"', halts_run=True)
    guard(tenant, "r-block", "BLOCK", 'action.name == "drop"')
    start(tenant)
    step = {"step_index": 0, "skill_id": "s", "skill_name": "n", "status": "success", "params": {}}
    tenant.call("traces.steps.append", {"run_id": "run-1", "steps": [step]})
    stopped = check(tenant, "drop", check_id="c-1", step_index=7)
    assert (stopped.verdict, stopped.outcome, stopped.run_status) == ("BLOCK", "STOPPED", "halted")
    run = tenant.call("runs.get", {"run_id": "run-1"})
    assert (run.status, run.termination_reason, run.stopped_at_step) == ("halted", "policy_block", 7)
    assert run.violation_rule_id == "r-halt"
    kept = {row["rule_id"]: row for row in rows(second_connection, tenant, "prevention_records")}
    assert {name: row["outcome"] for name, row in kept.items()} == {
        "r-halt": "STOPPED",
        "r-block": "BLOCKED",
    }
    (evaluation,) = rows(second_connection, tenant, "policy_evaluations")
    assert (evaluation["outcome_kind"], evaluation["outcome_ref"]) == (
        "PREVENTION",
        kept["r-halt"]["prevention_id"],
    )
    assert rows(second_connection, tenant, "incidents") == []
    proof = tenant.call("runs.proof", {"run_id": "run-1"})
    assert proof.integrity.verification_status == "VERIFIED"
    assert check(tenant, "drop", check_id="c-1", step_index=7) == stopped


def test_a_limit_that_halts_leaves_one_incident(tenant: Tenant, second_connection: sa.Connection) -> None:
    limit(tenant, "l-halt", 1, halts_run=True, consequence="INCIDENT")
    limit(tenant, "l-bare", 1, halts_run=True, category="THRESHOLD", reset_period=None, metric="STEPS")
    for run_id, estimate, reason in (
        ("run-1", {"COST_USD": 2}, "budget_exceeded"),
        ("run-2", {"STEPS": 2}, "budget_exceeded"),
    ):
        start(tenant, run_id)
        stopped = check(tenant, run_id=run_id, estimate=estimate)
        assert (stopped.outcome, stopped.run_status) == ("STOPPED", "halted")
        assert tenant.call("runs.get", {"run_id": run_id}).termination_reason == reason
        (evaluation,) = tenant.call("policies.evaluations.list", {"run_id": run_id}).items
        incidents = tenant.call("incidents.list", {"source_run_id": run_id}).items
        assert [item.incident_id for item in incidents] == [evaluation.outcome_ref]


def test_a_limit_that_cannot_be_read_blocks_and_is_recorded(
    make_spine: Callable[..., Spine], new_database: Callable[..., str]
) -> None:
    own = make_tenant(make_spine(database_url=new_database()))
    limit(own, "l-cost", 10)
    start(own)
    with own.spine.transactions.engine.connect() as owner:
        owner.exec_driver_sql("ALTER TABLE limit_counters RENAME TO limit_counters_gone")
        owner.commit()
    blocked = check(own, estimate={"COST_USD": 1})
    assert (blocked.verdict, [item.code for item in blocked.reasons]) == ("BLOCK", ["LIMIT_UNAVAILABLE"])
    (decision,) = own.call("decisions.list", {"run_id": "run-1"}).items
    assert (decision.decision_id, decision.decision_outcome) == (blocked.decision_id, "BLOCKED")


def test_a_check_refuses_what_it_cannot_judge(tenant: Tenant, other_tenant: Tenant) -> None:
    start(tenant)
    assert tenant.dispatch("runs.check", asked(run_id="run-2")).error_code == "RUN_NOT_FOUND"
    assert other_tenant.dispatch("runs.check", asked()).error_code == "RUN_NOT_FOUND"
    for members in (
        {"estimate": {"COST_EUR": 1}},
        {"estimate": {"COST_USD": -1}},
        {"estimate": {"COST_USD": 0.0000001}},
        {"ttl_seconds": 29},
        {"action": {"kind": "CALL"}},
        {"action": {"params": {"x": "y" * 65_536}}},
        {"step_index": -1},
    ):
        assert tenant.dispatch("runs.check", asked(**members)).error_code == "INVALID_INPUT"


def test_a_check_keeps_its_budget_of_statements(make_spine: Callable[..., Spine], tenant: Tenant) -> None:
    own = Tenant(make_spine(), tenant.tenant_id)
    guard(own, "r-warn", "WARN", 'action.name == "send"')
    limit(own, "l-cost", 100)
    start(own)
    # The first fills the process caches: digest key, snapshot, revoked rules, overrides.
    check(own)
    seen: list[str] = []
    statement_counter(own.spine.transactions.engine, seen.append)
    judged = len(check(own).limits)
    spent = {}
    for name, members in (("read", {}), ("send", {}), ("hold", {"estimate": {"COST_USD": 1}})):
        seen.clear()
        check(own, name, **members)
        frame = ("BEGIN", "COMMIT", "SET", "SAVEPOINT", "RELEASE")
        spent[name] = len([text for text in seen if not text.startswith(frame)])
    # 4, 1 for each limit judged, 1 for a table of findings, 2 for a reservation; what nothing is taken of
    # is read with the run, and PostgreSQL counts and writes facts in one statement.
    most = 4 + judged
    assert spent["read"] <= 4
    assert spent["send"] <= 4 + 1
    assert spent["hold"] <= most + 2
    assert spent["read"] == (4 if own.spine.transactions.dialect_name == "sqlite" else 3)


def test_a_check_joins_an_open_unit(tenant: Tenant, spine: Spine) -> None:
    start(tenant)
    with spine.unit(tenant.context(door="worker")) as unit:
        answer = unit.dispatch("runs.check", asked()).unwrap()
    assert answer.verdict == "ALLOW"
