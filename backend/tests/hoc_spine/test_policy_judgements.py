"""What rules have done and what they would do: prevention records, evaluations, effect, simulation."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant

RUN = {"agent_id": "agent-1", "goal": "g", "actor_type": "SYSTEM", "origin_system_id": "o"}
TABLES = ("decision_records", "prevention_records", "policy_snapshots", "log_leaves", "audit_ledger")


def guard(tenant: Tenant, rule_id: str, mode: str, condition: str | None, **members: Any) -> Any:
    rule = {"rule_id": rule_id, "kind": "GUARD", "name": rule_id, "moments": ["STEP"], "activate": True}
    return tenant.call(
        "policies.rules.create", {**rule, "enforcement_mode": mode, "condition": condition, **members}
    )


def check(tenant: Tenant, name: str, **members: Any) -> Any:
    asked = {"run_id": "run-1", "action": {"kind": "TOOL", "name": name, **members}}
    return tenant.call("runs.check", asked)


def simulate(tenant: Tenant, moment: str = "STEP", name: str = "read", **members: Any) -> Any:
    action = {"action": {"kind": "TOOL", "name": name}} if moment == "STEP" else {}
    asked = {"moment": moment, "run": {"agent_id": "agent-1"}, **action, **members}
    return tenant.call("policies.simulate", asked)


def written(connection: sa.Connection, tenant: Tenant) -> list[int]:
    texts = (f"SELECT count(*) FROM {table} WHERE tenant_id = :t" for table in TABLES)
    return [connection.execute(sa.text(text), {"t": tenant.tenant_id}).scalar_one() for text in texts]


def test_prevention_records_are_listed_by_run_and_rule_page_by_page(tenant: Tenant) -> None:
    guard(tenant, "r-1", "WARN", None)
    guard(tenant, "r-2", "AUDIT", None)
    for run_id in ("run-0", "run-1"):
        tenant.call("runs.start", {**RUN, "run_id": run_id})
    for name in ("one", "two"):
        check(tenant, name)
    first = tenant.call("policies.preventions.list", {"run_id": "run-1", "limit": 3})
    rest = tenant.call(
        "policies.preventions.list", {"run_id": "run-1", "limit": 3, "cursor": first.next_cursor}
    )
    assert (len(first.items), len(rest.items), rest.next_cursor) == (3, 1, None)
    assert len({item.prevention_id for item in (*first.items, *rest.items)}) == 4
    assert {(item.policy_name, item.outcome) for item in first.items} == {
        ("r-1", "WARNED"),
        ("r-2", "AUDITED"),
    }
    assert tenant.call("policies.preventions.list", {"run_id": "run-0"}).items == []
    assert len(tenant.call("policies.preventions.list", {"rule_id": "r-2"}).items) == 2


def test_evaluations_are_listed_newest_first_and_by_run(tenant: Tenant) -> None:
    for run_id in ("run-1", "run-2", "run-3"):
        tenant.call("runs.start", {**RUN, "run_id": run_id})
        tenant.call("runs.complete", {"run_id": run_id, "status": "succeeded"})
    first = tenant.call("policies.evaluations.list", {"limit": 2})
    rest = tenant.call("policies.evaluations.list", {"limit": 2, "cursor": first.next_cursor})
    assert [item.run_id for item in (*first.items, *rest.items)] == ["run-3", "run-2", "run-1"]
    assert [item.run_id for item in tenant.call("policies.evaluations.list", {"run_id": "run-2"}).items] == [
        "run-2"
    ]


def test_the_effect_of_a_rule_counts_the_runs_it_governs_and_what_it_did(tenant: Tenant) -> None:
    tenant.call("runs.start", {**RUN, "run_id": "before"})
    guard(tenant, "r.1", "BLOCK", 'action.name == "drop"')
    guard(tenant, "r-1", "WARN", 'action.name == "send"', scope="AGENT", scope_id="agent-2")
    tenant.call("runs.start", {**RUN, "run_id": "run-1"})
    tenant.call("runs.start", {**RUN, "run_id": "run-2", "agent_id": "agent-2"})
    check(tenant, "drop")
    check(tenant, "drop")
    effect = tenant.call("policies.rules.effect", {"rule_id": "r.1"})
    assert effect.runs_governed == 2
    assert {word: count for word, count in effect.preventions.items() if count} == {"BLOCKED": 2}
    assert (effect.chain.proposal_id, effect.signature, effect.incidents_before) == (None, None, None)
    assert tenant.call("policies.rules.effect", {"rule_id": "r-1"}).runs_governed == 1
    assert tenant.dispatch("policies.rules.effect", {"rule_id": "none"}).error_code == "RULE_NOT_FOUND"


def test_a_simulation_says_what_a_check_would_and_writes_nothing(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    guard(tenant, "r-warn", "WARN", 'action.name == "send"')
    guard(tenant, "r-use", "BLOCK", "usage.COST_USD > 10.0", moments=["USAGE"])
    guard(tenant, "r-other", "BLOCK", None, scope="AGENT", scope_id="agent-2")
    guard(tenant, "r-start", "BLOCK", 'run.labels["env"] == "prod"', moments=["START"])
    before = written(second_connection, tenant)
    assert simulate(tenant).verdict == "ALLOW"
    sent = simulate(tenant, name="send", usage={"COST_USD": 10.5})
    assert (sent.verdict, [reason.rule_id for reason in sent.matched]) == ("BLOCK", ["r-use", "r-warn"])
    assert simulate(tenant, "USAGE", usage={"COST_USD": 11}).verdict == "BLOCK"
    prod = simulate(tenant, "START", run={"agent_id": "agent-1", "labels": {"env": "prod"}})
    assert (prod.verdict, prod.rules_judged) == ("BLOCK", 1)
    # A candidate stands in for the rule of its id, and beside all others.
    softer = {"rule_id": "r-use", "name": "x", "enforcement_mode": "AUDIT", "moments": ["USAGE"]}
    tried = simulate(tenant, name="send", usage={"COST_USD": 10.5}, candidates=[softer])
    assert (tried.verdict, [reason.code for reason in tried.matched]) == ("WARN", ["RULE_AUDIT", "RULE_WARN"])
    assert written(second_connection, tenant) == before


def test_a_simulation_refuses_what_could_not_be_made(tenant: Tenant) -> None:
    candidate = {"name": "x", "enforcement_mode": "BLOCK", "moments": ["STEP"], "condition": "nope"}
    asked = {"moment": "STEP", "run": {"agent_id": "a"}}
    for members, code in (
        ({"candidates": [candidate]}, "INVALID_CONDITION"),
        ({"candidates": [{**candidate, "condition": None, "effect": "ALLOW"}]}, "INVALID_INPUT"),
        ({"snapshot_id": "snap_0"}, "SNAPSHOT_NOT_FOUND"),
        ({"usage": {"COST_EUR": 1}}, "INVALID_INPUT"),
    ):
        assert tenant.dispatch("policies.simulate", {**asked, **members}).error_code == code


def test_stored_decisions_are_judged_again_with_the_candidates(tenant: Tenant, clock: SteerableClock) -> None:
    guard(tenant, "r-1", "WARN", 'action.name == "send"')
    tenant.call("runs.start", {**RUN, "run_id": "run-1"})
    since = clock.now()
    check(tenant, "read")
    check(tenant, "send", params={"to": "x"})
    check(tenant, "send", params={"to": "all"})
    snapshot_id = tenant.call("runs.get", {"run_id": "run-1"}).policy_snapshot_id
    tenant.call("policies.rules.retire", {"rule_id": "r-1", "reason": "r"})
    candidate = {"name": "n", "enforcement_mode": "BLOCK", "moments": ["STEP"]}
    candidate |= {"condition": '"to" in action.params && action.params.to == "all"'}
    replay = {"since": (since - timedelta(seconds=1)).isoformat()}
    told = simulate(tenant, candidates=[candidate], replay=replay, snapshot_id=snapshot_id).replay
    assert (told.judged, told.kept, told.changes) == (3, 2, {"WARN->BLOCK": 1})
    # By the rules of today, of which there are none, nothing is warned of.
    told = simulate(tenant, replay={**replay, "limit": 2}).replay
    assert (told.judged, told.changes, told.truncated) == (2, {"WARN->ALLOW": 2}, True)
