"""The governed check over HTTP: a block is an answer, not an error."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.factories.tenants import Tenant

RUN = {"run_id": "run-1", "agent_id": "a", "goal": "g", "actor_type": "SYSTEM", "origin_system_id": "o"}
CHECKS = "/api/v1/runs/run-1/checks"
ASKED = {"check_id": "c-1", "action": {"kind": "TOOL", "name": "drop"}}


@pytest.fixture
def running(tenant: Tenant) -> Tenant:
    """A tenant with a run that may not drop anything."""
    rule = {"rule_id": "r-1", "kind": "GUARD", "name": "No drop", "enforcement_mode": "BLOCK"}
    rule |= {"moments": ["STEP"], "condition": 'action.name == "drop"', "activate": True}
    tenant.call("policies.rules.create", rule)
    tenant.call("runs.start", RUN)
    return tenant


def test_who_may_not_ask_is_turned_away(client: TestClient, running: Tenant, other_tenant: Tenant) -> None:
    reading = running.headers(scopes=["runs:read"])
    for headers, answer in (
        ({}, (401, "INVALID_CREDENTIALS")),
        (reading, (403, "INSUFFICIENT_SCOPE")),
        (other_tenant.headers(), (404, "RUN_NOT_FOUND")),
    ):
        reply = client.post(CHECKS, json=ASKED, headers=headers)
        assert (reply.status_code, reply.json()["code"]) == answer


def test_a_block_is_answered_with_200_and_replays(client: TestClient, running: Tenant) -> None:
    headers = running.headers()
    reply = client.post(CHECKS, json=ASKED, headers=headers)
    assert reply.status_code == 200
    answer: dict[str, Any] = reply.json()
    assert (answer["verdict"], answer["outcome"], answer["run_status"]) == ("BLOCK", "BLOCKED", "running")
    assert [(item["code"], item["rule_id"]) for item in answer["reasons"]] == [("RULE_BLOCK", "r-1")]
    assert client.post(CHECKS, json=ASKED, headers=headers).json() == answer
    other = {**ASKED, "action": {"kind": "TOOL", "name": "read"}}
    reply = client.post(CHECKS, json=other, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (409, "CHECK_CONFLICT")
    assert reply.json()["decision_id"] == answer["decision_id"]


def test_what_does_not_fit_is_refused_and_never_permits(client: TestClient, running: Tenant) -> None:
    headers = running.headers()
    for body, status in (
        ({}, 422),
        ({"action": {"kind": "TOOL"}}, 422),
        ({**ASKED, "estimate": {"EUR": 1}}, 422),
        ({**ASKED, "tenant_id": "t"}, 422),
    ):
        reply = client.post(CHECKS, json=body, headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (status, "INVALID_INPUT")
    running.call("runs.cancel", {"run_id": "run-1", "reason": "r"})
    reply = client.post(CHECKS, json={**ASKED, "check_id": "c-2"}, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (409, "RUN_NOT_RUNNING")


def test_a_start_that_a_rule_forbids_names_its_decision(client: TestClient, tenant: Tenant) -> None:
    rule = {"kind": "GUARD", "name": "Nobody", "enforcement_mode": "BLOCK", "moments": ["START"]}
    tenant.call("policies.rules.create", {**rule, "activate": True})
    reply = client.post("/api/v1/runs", json=RUN, headers=tenant.headers())
    assert (reply.status_code, reply.json()["code"]) == (403, "RUN_NOT_AUTHORIZED")
    decision = client.get(f"/api/v1/decisions/{reply.json()['decision_id']}", headers=tenant.headers())
    assert decision.json()["decision_outcome"] == "POLICY_BLOCKED"
    assert client.get("/api/v1/runs/run-1", headers=tenant.headers()).status_code == 404
