"""The acceptance of domain linkage: run-linkage-test-001, driven and read through the public API alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from app.hoc_spine.spine import Spine
from app.main import create_app
from tests.factories.tenants import Tenant

RUN_ID = "run-linkage-test-001"
R = f"/api/v1/runs/{RUN_ID}"
RUN = {"agent_id": "agent-1", "goal": "linkage", "actor_type": "SYSTEM", "origin_system_id": "acceptance"}
RULES = (
    ("policy-001", "Test Policy Rule 1", "WARN", "STEP", 'action.name == "send_draft"'),
    ("policy-002", "Test Policy Rule 2", "BLOCK", "STEP", 'action.name == "delete_records"'),
    ("policy-003", "Test Policy Rule 3", "BLOCK", "INCIDENT", 'incident.error_code == "KNOWN_FAILURE"'),
)
UNRELATED = 500


class Caller:
    """One key at the public API; a call of another status than expected fails the test."""

    def __init__(self, client: TestClient, api_key: str) -> None:
        self.client = client
        self.headers = {"Authorization": f"Bearer {api_key}"}

    def post(self, path: str, body: Any, status: int = 200, **headers: str) -> Any:
        reply = self.client.post(path, json=body, headers=self.headers | headers)
        assert reply.status_code == status, reply.text
        return reply.json()

    def get(self, path: str, status: int = 200) -> Any:
        reply = self.client.get(path, headers=self.headers)
        assert reply.status_code == status, reply.text
        return reply.json()


class World:
    """The tenant of one acceptance run and the caller that drives it."""

    def __init__(self, client: TestClient, spine: Spine, operator: dict[str, str]) -> None:
        self.tenant_id = f"tenant-test-001-{uuid4().hex[:12]}"
        body = {"tenant_id": self.tenant_id, "name": "Test", "slug": self.tenant_id, "plan": "ENTERPRISE"}
        made = client.post("/api/v1/operator/tenants", json=body, headers=operator)
        assert made.status_code == 201, made.text
        key = {"name": "admin", "role": "ADMIN", "actor_type": "HUMAN", "actor_id": "admin"}
        path = f"/api/v1/operator/tenants/{self.tenant_id}/keys"
        self.key = client.post(path, json=key, headers=operator).json()["api_key"]
        self.caller = Caller(client, self.key)
        self.tenant = Tenant(spine, self.tenant_id)

    def furnish(self) -> None:
        """Make the rules and the limit."""
        for rule_id, name, mode, moment, condition in RULES:
            rule = {"rule_id": rule_id, "name": name, "kind": "GUARD", "scope": "TENANT", "activate": True}
            rule |= {"enforcement_mode": mode, "moments": [moment], "condition": condition}
            self.caller.post("/api/v1/policies/rules", rule, 201)
        limit = {"limit_id": "limit-budget-001", "name": "Budget Limit", "category": "BUDGET"}
        limit |= {"metric": "COST_USD", "scope": "TENANT", "max_value": 100, "reset_period": "NONE"}
        self.caller.post("/api/v1/limits", {**limit, "enforcement": "BLOCK"}, 201)

    def disturb(self) -> None:
        """Write unrelated ledger entries of the same tenant, in one transaction."""
        with self.tenant.spine.unit(self.tenant.context(door="worker")) as unit:
            for _ in range(UNRELATED):
                rule = {
                    "kind": "GUARD",
                    "name": uuid4().hex,
                    "enforcement_mode": "AUDIT",
                    "moments": ["START"],
                }
                unit.dispatch("policies.rules.create", rule).unwrap()

    def play(self) -> None:
        """Do the seven steps, with unrelated work in the midst; each call is sent twice."""
        post = self.caller.post
        post("/api/v1/runs", {**RUN, "run_id": RUN_ID}, 201)
        post("/api/v1/runs", {**RUN, "run_id": RUN_ID}, 200)
        for check_id, name, verdict in (
            ("check-1", "send_draft", "WARN"),
            ("check-2", "delete_records", "BLOCK"),
        ):
            asked = {"check_id": check_id, "action": {"kind": "TOOL", "name": name}}
            first = post(f"{R}/checks", asked)
            assert first["verdict"] == verdict
            assert post(f"{R}/checks", asked) == first
        known = {"title": "Known", "error_code": "KNOWN_FAILURE", "source_run_id": RUN_ID}
        prevented = post("/api/v1/incidents", known, 200, **{"Idempotency-Key": "known"})
        assert (prevented["result"], prevented["rule_id"]) == ("PREVENTED", "policy-003")
        assert post("/api/v1/incidents", known, 200, **{"Idempotency-Key": "known"}) == prevented
        for incident_id, title, severity in (
            ("inc-test-001", "Test incident 1", "HIGH"),
            ("inc-test-002", "Test incident 2", "MEDIUM"),
        ):
            incident = {"incident_id": incident_id, "title": title, "severity": severity}
            incident["source_run_id"] = RUN_ID
            assert post("/api/v1/incidents", incident, 201)["result"] == "CREATED"
            assert self.client_status("/api/v1/incidents", incident) in (200, 201)
        self.disturb()
        step = {"step_index": 0, "skill_id": "s", "skill_name": "pay", "status": "success", "params": {}}
        batch = {"steps": [{**step, "usage": {"COST_USD": 105.5}}]}
        appended = post(f"{R}/steps", batch)
        assert (len(appended["breaches"]), appended["must_stop"]) == (1, True)
        assert post(f"{R}/steps", batch)["replayed"] == 1
        ended = post(f"{R}/complete", {"status": "succeeded"})
        assert ended["evaluation"]["outcome"] == "ADVISORY"
        assert post(f"{R}/complete", {"status": "succeeded"})["replayed"] is True

    def client_status(self, path: str, body: Any) -> int:
        return self.caller.client.post(path, json=body, headers=self.caller.headers).status_code


@pytest.fixture
def second_process(make_spine: Callable[..., Spine]) -> Iterator[TestClient]:
    """Another instance of the server over the same database: nothing of the first one's memory."""
    with TestClient(create_app(make_spine()), raise_server_exceptions=False) as client:
        yield client


def test_everything_a_run_led_to_is_linked_by_its_id(
    client: TestClient,
    second_process: TestClient,
    spine: Spine,
    operator_headers: dict[str, str],
    second_connection: sa.Connection,
    other_tenant: Tenant,
) -> None:
    world = World(client, spine, operator_headers)
    world.furnish()
    world.play()
    _the_rows_name_the_run(second_connection, world.tenant_id)
    reader = Caller(second_process, world.key)
    _the_evidence_is_complete(reader)
    assert reader.get(f"{R}/proof")["integrity"]["verification_status"] == "VERIFIED"
    _the_governance_log_counts_the_run_alone(world, reader)
    _a_limit_changed_later_changes_no_evidence(world, reader)
    stranger = second_process.get(f"{R}/evidence", headers=other_tenant.headers())
    assert (stranger.status_code, stranger.json()["code"]) == (404, "RUN_NOT_FOUND")
    for path in (f"/api/v1/logs/runs/{RUN_ID}/governance", f"{R}/proof", f"{R}/completeness"):
        assert second_process.get(path, headers=other_tenant.headers()).status_code == 404


def _the_rows_name_the_run(connection: sa.Connection, tenant_id: str) -> None:
    given = {"t": tenant_id, "r": RUN_ID}
    for table, column, count in (
        ("incidents", "source_run_id", 2),
        ("prevention_records", "run_id", 3),
        ("limit_breaches", "run_id", 1),
        ("aos_traces", "run_id", 1),
        ("decision_records", "run_id", 3),
    ):
        text = f"SELECT count(*) FROM {table} WHERE tenant_id = :t AND {column} = :r"
        assert connection.execute(sa.text(text), given).scalar_one() == count, table
    text = "SELECT policy_violation, policy_draft_count, risk_level, incident_count FROM runs"
    row = connection.execute(sa.text(f"{text} WHERE tenant_id = :t AND run_id = :r"), given).one()
    assert (bool(row.policy_violation), row.policy_draft_count) == (False, 0)
    assert (row.risk_level, row.incident_count) == ("AT_RISK", 2)


def _the_evidence_is_complete(reader: Caller) -> None:
    evidence = reader.get(f"{R}/evidence")
    assert evidence["complete"] is True
    assert sorted((item["incident_id"], item["severity"]) for item in evidence["incidents_caused"]) == [
        ("inc-test-001", "HIGH"),
        ("inc-test-002", "MEDIUM"),
    ]
    judged = [
        (item["policy_id"], item["policy_name"], item["outcome"]) for item in evidence["policies_evaluated"]
    ]
    assert judged == [
        ("policy-003", "Test Policy Rule 3", "PREVENTED"),
        ("policy-002", "Test Policy Rule 2", "BLOCKED"),
        ("policy-001", "Test Policy Rule 1", "WARNED"),
    ]
    _the_hit_is_of_its_moment(evidence)
    decided = [(item["decision_type"], item["outcome"]) for item in evidence["decisions_made"]]
    assert decided == [("POLICY_EVALUATION", outcome) for outcome in ("PREVENTED", "BLOCKED", "WARNED")]
    assert len({item["decision_id"] for item in evidence["decisions_made"]}) == 3
    completeness = reader.get(f"{R}/completeness")
    assert (completeness["status"], completeness["missing_actions"]) == ("COMPLETE", [])


def _the_hit_is_of_its_moment(evidence: Any) -> None:
    (hit,) = evidence["limits_hit"]
    assert (hit["limit_id"], hit["limit_name"]) == ("limit-budget-001", "Budget Limit")
    assert (hit["breached_value"], hit["threshold_value"]) == (105.5, 100.0)


def _the_governance_log_counts_the_run_alone(world: World, reader: Caller) -> None:
    path = f"/api/v1/logs/runs/{RUN_ID}/governance"
    log = reader.get(path)
    assert log["total_events"] == 3
    events = sorted((event["event_type"], event["entity_type"]) for event in log["events"])
    assert events == [*[("IncidentCreated", "INCIDENT")] * 2, ("LimitBreached", "LIMIT")]
    assert {event["run_id"] for event in log["events"]} == {RUN_ID}
    for event in log["events"]:
        entry = reader.get(f"/api/v1/logs/audit/{event['entry_id']}")
        assert entry["after_state"]["run_id"] == RUN_ID
    metadata = log["metadata"]
    assert (metadata["tenant_id"], metadata["run_id"]) == (world.tenant_id, RUN_ID)
    assert (metadata["source_domain"], metadata["source_component"]) == ("LOGS", "AuditLedger")
    assert metadata["immutable"] is True
    rule = {"kind": "GUARD", "enforcement_mode": "AUDIT", "moments": ["START"]}
    world.caller.post("/api/v1/policies/rules", {**rule, "name": "without a run"}, 201)
    assert reader.get(path)["total_events"] == 3
    world.caller.post("/api/v1/policies/rules", {**rule, "name": "with"}, 201, **{"X-Run-ID": RUN_ID})
    assert [event["event_type"] for event in reader.get(path)["events"]].count("PolicyRuleCreated") == 1


def _a_limit_changed_later_changes_no_evidence(world: World, reader: Caller) -> None:
    reply = world.caller.client.patch(
        "/api/v1/limits/limit-budget-001",
        json={"max_value": 500},
        headers=world.caller.headers | {"If-Match": "*"},
    )
    assert reply.status_code == 200, reply.text
    _the_hit_is_of_its_moment(reader.get(f"{R}/evidence"))
