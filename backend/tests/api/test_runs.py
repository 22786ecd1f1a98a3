"""API: routes of runs: credentials, scopes, statuses, headers, problems."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.factories.tenants import Tenant

RUNS = "/api/v1/runs"
START: dict[str, Any] = {
    "run_id": "r-1",
    "agent_id": "agent-1",
    "goal": "Summarise",
    "actor_type": "SYSTEM",
    "origin_system_id": "crm",
}
STEP = {"step_index": 0, "skill_id": "s", "skill_name": "search", "status": "success"}
ROUTES: list[tuple[str, str, dict[str, Any] | None, str]] = [
    ("POST", "", START, "runs:write"),
    ("GET", "", None, "runs:read"),
    ("GET", "/r-1", None, "runs:read"),
    ("GET", "/r-1/attempts", None, "runs:read"),
    ("POST", "/r-1/steps", {"steps": [STEP]}, "runs:write"),
    ("GET", "/r-1/steps", None, "runs:read"),
    ("GET", "/r-1/traces/1", None, "runs:read"),
    ("POST", "/r-1/retry", {"from_attempt": 1, "reason": "again"}, "runs:write"),
    ("POST", "/r-1/complete", {"status": "succeeded"}, "runs:write"),
    ("POST", "/r-1/halt", {"reason": "stop"}, "runs:write"),
    ("POST", "/r-1/cancel", {"reason": "stop"}, "runs:write"),
]
IDS = [f"{method} {path or '/'}" for method, path, _, _ in ROUTES]


def start(client: TestClient, tenant: Tenant, **changes: Any) -> Any:
    return client.post(RUNS, json=START | changes, headers=tenant.headers())


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES, ids=IDS)
def test_each_route_wants_a_credential_with_its_scope(
    client: TestClient, tenant: Tenant, method: str, path: str, body: dict[str, Any] | None, scope: str
) -> None:
    anonymous = client.request(method, RUNS + path, json=body)
    assert (anonymous.status_code, anonymous.json()["code"]) == (401, "INVALID_CREDENTIALS")
    other = "runs:read" if scope == "runs:write" else "runs:write"
    narrow = client.request(method, RUNS + path, json=body, headers=tenant.headers(scopes=(other,)))
    assert (narrow.status_code, narrow.json()["code"]) == (403, "INSUFFICIENT_SCOPE")
    if path not in ("", "/r-1/cancel"):
        start(client, tenant)
    wide = client.request(method, RUNS + path, json=body, headers=tenant.headers(scopes=(scope,)))
    assert wide.status_code in ((404,) if path == "/r-1/cancel" else (200, 201)), wide.text


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES[2:], ids=IDS[2:])
def test_another_tenants_run_is_not_found(
    client: TestClient,
    tenant: Tenant,
    other_tenant: Tenant,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    scope: str,
) -> None:
    start(client, other_tenant)
    answer = client.request(method, RUNS + path, json=body, headers=tenant.headers())
    unknown = client.request(method, RUNS + path.replace("r-1", "r-9"), json=body, headers=tenant.headers())
    assert (answer.status_code, answer.json()["code"]) == (404, "RUN_NOT_FOUND")
    ignored = {"instance", "request_id"}
    assert {k: v for k, v in answer.json().items() if k not in ignored} == {
        k: v for k, v in unknown.json().items() if k not in ignored
    }


def test_a_start_is_created_once_and_then_replayed(client: TestClient, tenant: Tenant) -> None:
    first, again = start(client, tenant), start(client, tenant)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.headers["location"].endswith("/runs/r-1")
    assert first.headers["etag"] == '"v1"'
    assert (first.json()["trace_id"], first.json()["warnings"]) == ("trace_r-1", [])
    taken = start(client, tenant, goal="Else")
    assert (taken.status_code, taken.json()["code"]) == (409, "RUN_EXISTS")


def test_an_idempotency_key_replays_a_start_without_an_id(client: TestClient, tenant: Tenant) -> None:
    body = {name: value for name, value in START.items() if name != "run_id"}
    headers = tenant.headers() | {"Idempotency-Key": "k-1"}
    first = client.post(RUNS, json=body, headers=headers)
    again = client.post(RUNS, json=body, headers=headers)
    assert first.status_code == 201
    assert again.headers["idempotent-replay"] == "true"
    assert again.json() == first.json()
    other = client.post(RUNS, json=body | {"goal": "Else"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


def test_broken_attribution_is_one_problem_with_every_rule(client: TestClient, tenant: Tenant) -> None:
    answer = client.post(RUNS, json={"goal": "x", "actor_type": "ROBOT"}, headers=tenant.headers())
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "RUN_VALIDATION_FAILURE")
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert [item["rule"] for item in problem["errors"]] == ["R1", "R3", "R4"]
    assert set(problem["errors"][0]) == {"rule", "field", "expected", "actual", "action", "reference"}
    assert problem["detail"].startswith("RUN_VALIDATION_FAILURE\n")


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"run_id": "has space"},
        {"run_id": "x" * 116},
        {"goal": ""},
        {"goal": "x" * 16_385},
        {"goal": "nul \x00"},
        {"max_attempts": 21},
        {"timeout_seconds": 604_801},
        {"is_synthetic": True},
        {"labels": {"text": "x" * 4096}},
        {"labels": []},
        {"seed": 2**63},
        {"agent_id": 5},
    ],
)
def test_a_start_that_does_not_fit_is_invalid(
    client: TestClient, tenant: Tenant, change: dict[str, Any]
) -> None:
    answer = start(client, tenant, **change)
    # U+0000 never gets as far as the operation: it is no JSON text of ours.
    assert (answer.status_code, answer.json()["code"]) in ((422, "INVALID_INPUT"), (400, "MALFORMED_JSON"))


def test_a_quota_stop_says_when_to_come_back(client: TestClient, new_tenant: Any) -> None:
    tenant = new_tenant(plan="FREE")
    for number in range(5):
        assert start(client, tenant, run_id=f"r-{number}").status_code == 201
    answer = start(client, tenant, run_id="r-5")
    assert (answer.status_code, answer.json()["code"]) == (429, "QUOTA_EXCEEDED")
    assert int(answer.headers["retry-after"]) > 0


def test_a_run_is_read_with_its_version(client: TestClient, tenant: Tenant) -> None:
    start(client, tenant)
    shown = client.get(f"{RUNS}/r-1", headers=tenant.headers())
    assert (shown.status_code, shown.headers["etag"]) == (200, '"v1"')
    unchanged = client.get(f"{RUNS}/r-1", headers=tenant.headers() | {"If-None-Match": '"v1"'})
    assert unchanged.status_code == 304
    ended = client.post(f"{RUNS}/r-1/complete", json={"status": "succeeded"}, headers=tenant.headers())
    assert (ended.status_code, ended.headers["etag"]) == (200, '"v2"')
    assert ended.json()["evaluation"]["outcome"] == "NO_VIOLATION"
    # Quick and cheap: the first such success of an agent on a day is one to learn from.
    assert [lesson["lesson_type"] for lesson in ended.json()["lessons"]] == ["CRITICAL_SUCCESS"]


def test_lists_take_filters_and_refuse_unknown_ones(client: TestClient, tenant: Tenant) -> None:
    for number in range(3):
        start(client, tenant, run_id=f"r-{number}")
    page = client.get(f"{RUNS}?limit=2&status=running", headers=tenant.headers())
    assert len(page.json()["items"]) == 2
    assert 'rel="next"' in page.headers["link"]
    after = client.get(f"{RUNS}?started_after=2000-01-01T00:00:00Z", headers=tenant.headers())
    assert len(after.json()["items"]) == 3
    for query in (
        "color=red",
        "status=sleeping",
        "limit=0",
        "started_after=2000-01-01T00:00:00",
        "limit=501",
    ):
        refused = client.get(f"{RUNS}?{query}", headers=tenant.headers())
        assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_QUERY"), query
    for cursor in ("x", "e30", "WyJhIl0"):
        refused = client.get(f"{RUNS}?cursor={cursor}", headers=tenant.headers())
        assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_CURSOR"), cursor


def test_endings_are_replayed_or_refused(client: TestClient, tenant: Tenant) -> None:
    start(client, tenant)
    body = {"reason": "enough"}
    answers = [client.post(f"{RUNS}/r-1/cancel", json=body, headers=tenant.headers()) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [answer.json()["replayed"] for answer in answers] == [False, True]
    other = client.post(f"{RUNS}/r-1/halt", json=body, headers=tenant.headers())
    assert (other.status_code, other.json()["code"]) == (409, "RUN_TERMINAL")
    retry = client.post(
        f"{RUNS}/r-1/retry", json={"from_attempt": 1, "reason": "x"}, headers=tenant.headers()
    )
    assert (retry.status_code, retry.json()["code"]) == (409, "RUN_NOT_RUNNING")
    wrong = {"status": "succeeded", "termination_reason": "timeout"}
    invalid = client.post(f"{RUNS}/r-1/complete", json=wrong, headers=tenant.headers())
    assert (invalid.status_code, invalid.json()["code"]) == (422, "INVALID_TERMINATION")
    blank = client.post(f"{RUNS}/r-1/cancel", json={"reason": " "}, headers=tenant.headers())
    assert (blank.status_code, blank.json()["code"]) == (422, "INVALID_INPUT")
