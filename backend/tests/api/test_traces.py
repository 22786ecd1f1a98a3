"""API: routes of steps and traces: batches in, pages out, problems with their place."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.factories.tenants import Tenant

STEPS = "/api/v1/runs/r-1/steps"


def step(index: int, **changes: Any) -> dict[str, Any]:
    return {"step_index": index, "skill_id": "s", "skill_name": "search", "status": "success", **changes}


@pytest.fixture
def headers(client: TestClient, tenant: Tenant) -> dict[str, str]:
    body = {
        "run_id": "r-1",
        "agent_id": "agent-1",
        "goal": "Summarise",
        "actor_type": "SYSTEM",
        "origin_system_id": "crm",
    }
    assert client.post("/api/v1/runs", json=body, headers=tenant.headers()).status_code == 201
    return tenant.headers()


def test_a_batch_is_appended_and_replayed(client: TestClient, headers: dict[str, str]) -> None:
    body = {"steps": [step(0), step(1)]}
    first = client.post(STEPS, json=body, headers=headers)
    again = client.post(STEPS, json=body, headers=headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert [answer.json()["replayed"] for answer in (first, again)] == [0, 2]
    assert first.json()["head_hash"] == again.json()["head_hash"]


def test_refusals_name_the_place(client: TestClient, headers: dict[str, str]) -> None:
    client.post(STEPS, json={"steps": [step(0)]}, headers=headers)
    gap = client.post(STEPS, json={"steps": [step(2)]}, headers=headers)
    assert (gap.status_code, gap.json()["code"], gap.json()["expected_index"]) == (409, "STEP_GAP", 1)
    conflict = client.post(STEPS, json={"steps": [step(0, level="WARN")]}, headers=headers)
    assert (conflict.status_code, conflict.json()["code"]) == (409, "STEP_CONFLICT")
    assert conflict.json()["step_index"] == 0
    jump = client.post(STEPS, json={"steps": [step(1), step(3)]}, headers=headers)
    assert (jump.status_code, jump.json()["code"]) == (422, "STEP_BATCH_NOT_CONTIGUOUS")
    word = client.post(STEPS, json={"steps": [step(1, status="SUCCESS")]}, headers=headers)
    assert (word.status_code, word.json()["code"]) == (422, "INVALID_INPUT")
    assert word.json()["errors"][0]["field"] == "/steps/0/status"


def test_at_most_a_thousand_steps_fit_a_batch(client: TestClient, headers: dict[str, str]) -> None:
    steps = [step(number) for number in range(1001)]
    refused = client.post(STEPS, json={"steps": steps}, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_INPUT")
    accepted = client.post(STEPS, json={"steps": steps[:1000]}, headers=headers)
    assert (accepted.status_code, accepted.json()["step_count"]) == (200, 1000)


def test_a_sealed_trace_takes_no_new_step(client: TestClient, headers: dict[str, str]) -> None:
    client.post("/api/v1/runs/r-1/complete", json={"status": "succeeded"}, headers=headers)
    refused = client.post(STEPS, json={"steps": [step(0)]}, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (409, "TRACE_SEALED")


def test_steps_and_trace_are_read(client: TestClient, headers: dict[str, str]) -> None:
    reported = step(0, params={"n": 1.0, "who": "bob@example.com"}, cost_cents=0.25, usage={"COST_USD": 100})
    client.post(STEPS, json={"steps": [reported, step(1, status="failure")]}, headers=headers)
    page = client.get(f"{STEPS}?limit=1", headers=headers).json()
    (shown,) = page["items"]
    assert shown["params"] == {"n": 1.0, "who": "<REDACTED_EMAIL>"}
    assert (shown["cost_cents"], shown["usage"]) == (0.25, {"COST_USD": 100.0})
    rest = client.get(f"{STEPS}?cursor={page['next_cursor']}", headers=headers).json()
    assert [item["step_index"] for item in rest["items"]] == [] or rest["items"][0]["step_index"] == 1
    failed = client.get(f"{STEPS}?status=failure&attempt=1", headers=headers).json()
    assert [item["step_index"] for item in failed["items"]] == [1]
    trace = client.get("/api/v1/runs/r-1/traces/1", headers=headers)
    assert (trace.status_code, trace.json()["step_count"], trace.headers["etag"]) == (200, 2, '"v2"')
    for missing in ("/api/v1/runs/r-1/traces/2", f"{STEPS}?attempt=2"):
        answer = client.get(missing, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "TRACE_NOT_FOUND"), missing
