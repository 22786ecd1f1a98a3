"""T0: invariants of runs: attribution, one seal, one evaluation, a closed and gapless count of facts."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from app.db.governed import statement_types
from app.kernel.hashing import leaf_hash
from tests.factories.tenants import Tenant

START: dict[str, Any] = {
    "run_id": "run-linkage-test-001",
    "agent_id": "agent-1",
    "goal": "Link the domains",
    "actor_type": "HUMAN",
    "actor_id": "user-7",
    "origin_system_id": "crm",
}
STEP = {"step_index": 0, "skill_id": "s", "skill_name": "search", "status": "success"}
RUN = {"run_id": START["run_id"]}


def rows(connection: sa.Connection, tenant: Tenant, table: str) -> list[dict[str, Any]]:
    query = sa.text(f"SELECT * FROM {table} WHERE tenant_id = :t")
    return [dict(row) for row in connection.execute(query, {"t": tenant.tenant_id}).mappings()]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"agent_id": ""}, "R1"),
        ({"agent_id": "legacy-unknown"}, "R2"),
        ({"origin_system_id": "legacy-migration"}, "R3"),
        ({"actor_type": "UNKNOWN"}, "R4"),
        ({"actor_id": None}, "R5"),
    ],
)
def test_no_run_begins_without_attribution(
    tenant: Tenant, second_connection: sa.Connection, change: dict[str, Any], rule: str
) -> None:
    refused = tenant.dispatch("runs.start", START | change)
    assert refused.error is not None
    assert refused.error.code == "RUN_VALIDATION_FAILURE"
    assert rule in [item["rule"] for item in refused.error.errors]
    assert rows(second_connection, tenant, "runs") == []
    assert rows(second_connection, tenant, "tenant_state")[0]["next_run_no"] == 1


@pytest.mark.parametrize("status", ["succeeded", "failed", "halted", "cancelled"])
def test_every_ended_attempt_has_one_seal_and_one_evaluation(
    tenant: Tenant, second_connection: sa.Connection, status: str
) -> None:
    tenant.call("runs.start", START)
    tenant.call("traces.steps.append", RUN | {"steps": [STEP]})
    tenant.call("runs.retry", RUN | {"from_attempt": 1, "reason": "again"})
    tenant.call("runs.complete", RUN | {"status": status})
    traces = rows(second_connection, tenant, "aos_traces")
    assert sorted((trace["attempt"], trace["status"]) for trace in traces) == [(1, "SEALED"), (2, "SEALED")]
    assert all(trace["root_hash"] == trace["head_hash"] for trace in traces)
    evaluations = rows(second_connection, tenant, "policy_evaluations")
    assert sorted((row["attempt"], row["run_status"]) for row in evaluations) == [(1, "failed"), (2, status)]
    explained = "INCIDENT" if status in ("failed", "halted") else "NONE"
    assert {row["attempt"]: row["outcome_kind"] for row in evaluations} == {1: "NONE", 2: explained}
    incidents = rows(second_connection, tenant, "incidents")
    assert [row["attempt"] for row in incidents] == ([2] if explained == "INCIDENT" else [])


def test_the_facts_of_an_ended_run_are_numbered_without_gap_and_closed(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    tenant.call("runs.start", START)
    tenant.call("traces.steps.append", RUN | {"steps": [STEP]})
    tenant.call("runs.halt", RUN | {"reason": "stop"})
    leaves = [row for row in rows(second_connection, tenant, "log_leaves") if row["run_id"] == RUN["run_id"]]
    leaves.sort(key=lambda leaf: leaf["fact_no"])
    assert [leaf["fact_no"] for leaf in leaves] == list(range(1, len(leaves) + 1))
    assert all(leaf_hash(leaf["statement"]) == leaf["leaf_hash"] for leaf in leaves)
    closure = json.loads(leaves[-1]["statement"])["body"]["closure"]
    assert (leaves[-1]["type"], closure["fact_count"]) == ("run.completed", len(leaves))
    assert sum(closure["type_counts"].values()) == len(leaves)
    pending = {row["fact_id"] for row in rows(second_connection, tenant, "log_pending")}
    assert {leaf["fact_id"] for leaf in leaves} <= pending


def test_what_a_fact_says_of_a_run_is_what_its_row_says(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    tenant.call("runs.start", START | {"labels": {"team": "x"}})
    tenant.call("runs.complete", RUN | {"status": "failed", "error_message": "it broke"})
    (run,) = rows(second_connection, tenant, "runs")
    (last,) = [row for row in rows(second_connection, tenant, "log_leaves") if row["type"] == "run.completed"]
    body = json.loads(last["statement"])["body"]
    for name in (
        "agent_id",
        "status",
        "termination_reason",
        "protected_commit",
        "policy_snapshot_id",
        "run_no",
    ):
        assert body[name] == run[name], name
    assert body["labels"] == {"team": "x"}
    assert not {"goal", "error_message", "protected_salt", "start_digest", "complete_digest"} & set(body)


def test_every_fact_has_exactly_the_registered_members(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    tenant.call("runs.start", START)
    tenant.call("traces.steps.append", RUN | {"steps": [STEP]})
    tenant.call("runs.retry", RUN | {"from_attempt": 1, "reason": "again"})
    tenant.call("runs.halt", RUN | {"reason": "stop"})
    registered = statement_types()
    seen = set()
    for leaf in rows(second_connection, tenant, "log_leaves"):
        if leaf["run_id"] == RUN["run_id"]:
            body = json.loads(leaf["statement"])["body"]
            assert sorted(body) == registered[leaf["type"]], leaf["type"]
            seen.add(leaf["type"])
    assert seen >= {
        "run.started",
        "run.attempt",
        "run.completed",
        "trace.extended",
        "trace.sealed",
        "evaluation",
    }


def test_secrets_never_reach_the_database(tenant: Tenant, second_connection: sa.Connection) -> None:
    secret = "sk-" + "S3cr3t" * 6
    tenant.call("runs.start", START | {"goal": f"use {secret}"})
    step = STEP | {"params": {"note": secret, "api_key": secret}, "outcome_data": {secret: [secret]}}
    tenant.call("traces.steps.append", RUN | {"steps": [step]})
    tenant.call("runs.retry", RUN | {"from_attempt": 1, "reason": secret, "error_message": secret})
    tenant.call("runs.halt", RUN | {"reason": secret})
    for table in ("runs", "aos_trace_steps", "log_leaves", "audit_ledger", "outbox", "policy_evaluations"):
        assert secret not in repr(rows(second_connection, tenant, table)), table
