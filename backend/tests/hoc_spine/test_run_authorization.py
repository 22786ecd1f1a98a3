"""Whether a run may start: the START rules, what a refusal leaves behind, and what a start costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import statement_counter
from app.kernel.canonical_json import loads
from tests.factories.policies import tamper
from tests.factories.tenants import Tenant

RUN = {"agent_id": "agent-1", "goal": "g", "actor_type": "SYSTEM", "origin_system_id": "o"}


def guard(tenant: Tenant, rule_id: str, mode: str, condition: str | None, **members: Any) -> Any:
    """Make an ACTIVE GUARD rule at START."""
    rule = {"rule_id": rule_id, "kind": "GUARD", "name": rule_id, "moments": ["START"], "activate": True}
    return tenant.call(
        "policies.rules.create", {**rule, "enforcement_mode": mode, "condition": condition, **members}
    )


def rows(connection: sa.Connection, tenant: Tenant, table: str) -> list[Any]:
    statement = sa.text(f"SELECT * FROM {table} WHERE tenant_id = :t ORDER BY created_at")
    return list(connection.execute(statement, {"t": tenant.tenant_id}).mappings())


def test_a_start_that_a_rule_forbids_leaves_no_run_but_its_decision(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    guard(tenant, "r-block", "BLOCK", 'run.labels["env"] == "prod"', message="not here")
    guard(tenant, "r-warn", "WARN", 'run.agent_id == "agent-1"')
    command = {**RUN, "run_id": "run-1", "labels": {"env": "prod"}}
    # Once with a snapshot that has to be made, once with the one that this process knows by then.
    for _ in range(2):
        refused = tenant.dispatch("runs.start", command)
        assert refused.error is not None
        assert (refused.error_code, refused.committed) == ("RUN_NOT_AUTHORIZED", True)
        assert [item["rule_id"] for item in refused.error.errors] == ["r-block"]
        decision = rows(second_connection, tenant, "decision_records")[-1]
        assert refused.error.extra["decision_id"] == decision["decision_id"]
        assert (decision["decision_type"], decision["causal_role"], decision["decision_outcome"]) == (
            "POLICY_PRE_CHECK",
            "PRE_RUN",
            "POLICY_BLOCKED",
        )
        assert decision["run_id"] is None
    assert rows(second_connection, tenant, "runs") == []
    kept = [(row["rule_id"], row["outcome"]) for row in rows(second_connection, tenant, "prevention_records")]
    assert sorted(kept) == [("r-block", "BLOCKED"), ("r-block", "BLOCKED"), *[("r-warn", "WARNED")] * 2]
    # The id was not used up, and the run's number neither.
    started = tenant.call("runs.start", {**command, "labels": {"env": "test"}})
    assert (started.run_no, started.run_id) == (1, "run-1")
    # A map key that is not there cannot be judged, and that forbids.
    bare = tenant.dispatch("runs.start", {**RUN, "run_id": "run-2"})
    assert bare.error is not None
    assert [item["code"] for item in bare.error.errors] == ["RULE_ERROR"]


def test_a_start_that_is_warned_says_so_and_replays_without_being_judged_again(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    guard(tenant, "r-warn", "WARN", None, message="careful")
    guard(tenant, "r-audit", "AUDIT", None)
    started = tenant.call("runs.start", {**RUN, "run_id": "run-1"})
    assert started.authorization == {"decision": "GRANTED", "rules_judged": 2, "warned": ["r-warn"]}
    assert [(item["code"], item["message"]) for item in started.warnings] == [("RULE_WARN", "careful")]
    (decision,) = rows(second_connection, tenant, "decision_records")
    assert (decision["decision_outcome"], decision["run_id"]) == ("WARNED", "run-1")
    kept = rows(second_connection, tenant, "prevention_records")
    assert sorted((row["rule_id"], row["outcome"], row["moment"]) for row in kept) == [
        ("r-audit", "AUDITED", "START"),
        ("r-warn", "WARNED", "START"),
    ]
    guard(tenant, "r-block", "BLOCK", None)
    again = tenant.call("runs.start", {**RUN, "run_id": "run-1"})
    assert (again.replayed, again.run_no) == (True, 1)
    assert len(rows(second_connection, tenant, "decision_records")) == 1


def test_a_rule_made_after_the_last_look_still_judges(
    tenant: Tenant, make_spine: Callable[..., Spine]
) -> None:
    tenant.call("runs.start", RUN)
    # Another process changes the rules; this one learns it from the version in its own transaction.
    guard(Tenant(make_spine(), tenant.tenant_id), "r-block", "BLOCK", None)
    assert tenant.dispatch("runs.start", RUN).error_code == "RUN_NOT_AUTHORIZED"


def test_a_quota_stop_leaves_its_decision(
    new_tenant: Callable[..., Tenant], second_connection: sa.Connection
) -> None:
    tenant = new_tenant(plan="FREE")
    known = [tenant.call("runs.start", RUN) for _ in range(5)]
    refused = tenant.dispatch("runs.start", {**RUN, "run_id": "sixth"})
    assert refused.error is not None
    (decision,) = rows(second_connection, tenant, "decision_records")
    assert refused.error.extra == {"quota": "concurrent_runs", "decision_id": decision["decision_id"]}
    assert (decision["decision_type"], decision["decision_outcome"]) == ("BUDGET", "BLOCKED")
    assert len(rows(second_connection, tenant, "runs")) == 5
    # "Try again" is no answer that an Idempotency-Key would keep for a day.
    keyed = {"idempotency_key": "k"}
    assert tenant.dispatch("runs.start", RUN, **keyed).error_code == "QUOTA_EXCEEDED"
    tenant.call("runs.cancel", {"run_id": known[0].run_id, "reason": "room"})
    assert tenant.dispatch("runs.start", RUN, **keyed).success


def test_decisions_of_the_request_are_linked_to_the_run_that_came_of_it(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    guard(tenant, "r-block", "BLOCK", "run.agent_id == 'other'")
    refused = tenant.dispatch("runs.start", {**RUN, "agent_id": "other"}, request_id="req-one")
    assert refused.error is not None
    started = tenant.call("runs.start", RUN, request_id="req-one")
    (link,) = rows(second_connection, tenant, "decision_links")
    assert (link["run_id"], link["decision_id"]) == (started.run_id, refused.error.extra["decision_id"])


def test_the_snapshot_of_a_run_holds_the_limits_in_its_scope(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    limit = {"category": "BUDGET", "metric": "COST_USD", "reset_period": "NONE", "max_value": 100}
    tenant.call("controls.limits.create", {**limit, "limit_id": "l-1", "name": "one", "scope": "TENANT"})
    tenant.call(
        "controls.limits.create",
        {**limit, "limit_id": "l-2", "name": "two", "scope": "AGENT", "scope_id": "agent-2"},
    )
    tenant.call("runs.start", RUN)
    (snapshot,) = rows(second_connection, tenant, "policy_snapshots")
    limits = loads(snapshot["content"])["limits"]
    assert [item["limit_id"] for item in limits if item["source"] == "MANUAL"] == ["l-1"]
    assert snapshot["limit_count"] == len(limits)


def test_a_rule_that_lost_its_hash_blocks_every_start_and_opens_an_incident(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    guard(tenant, "r-block", "BLOCK", "run.agent_id == 'other'")
    tamper(
        second_connection,
        "UPDATE policy_rule_versions SET enforcement_mode = 'AUDIT' WHERE tenant_id = :t",
        tenant.tenant_id,
    )
    refused = tenant.dispatch("runs.start", RUN)
    assert (refused.error_code, refused.committed) == ("POLICY_INTEGRITY", True)
    assert rows(second_connection, tenant, "runs") == []
    (incident,) = rows(second_connection, tenant, "incidents")
    assert (incident["category"], incident["cause_type"]) == ("INTEGRITY", "SYSTEM")


def test_a_start_with_a_known_snapshot_costs_at_most_seven_statements(
    make_spine: Callable[..., Spine], tenant: Tenant
) -> None:
    own = Tenant(make_spine(), tenant.tenant_id)
    guard(own, "r-block", "BLOCK", "run.agent_id == 'other'")
    own.call("runs.start", RUN)
    seen: list[str] = []
    statement_counter(own.spine.transactions.engine, seen.append)
    own.call("runs.start", {**RUN, "run_id": "run-1"})
    work = [text for text in seen if not text.startswith(("BEGIN", "COMMIT", "SET"))]
    assert len(work) <= 7, work
