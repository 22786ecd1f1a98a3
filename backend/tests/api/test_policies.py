"""Policy routes over HTTP: each one for strangers, other tenants, missing scopes, and as it should be."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from tests.factories.tenants import Tenant

P = "/api/v1/policies"
RULE = {"rule_id": "rule-1", "kind": "ACCESS", "name": "Rule 1", "effect": "ALLOW"}
ROUTES = [
    ("POST", "/rules", RULE, "policies:write"),
    ("GET", "/rules", None, "policies:read"),
    ("GET", "/rules/rule-1", None, "policies:read"),
    ("PATCH", "/rules/rule-1", {"message": "m"}, "policies:write"),
    ("POST", "/rules/rule-1/activate", {}, "policies:write"),
    ("POST", "/rules/rule-1/retire", {"reason": "r"}, "policies:write"),
    ("GET", "/rules/rule-1/versions", None, "policies:read"),
    ("GET", "/rules/rule-1/dependencies", None, "policies:read"),
    ("GET", "/conflicts", None, "policies:read"),
    ("GET", "/snapshots/snap_1", None, "policies:read"),
    ("GET", "/rules/rule-1/effect", None, "policies:read"),
    ("GET", "/preventions", None, "policies:read"),
    ("GET", "/evaluations", None, "policies:read"),
    ("POST", "/simulate", {"moment": "START", "run": {"agent_id": "a"}}, "policies:read"),
]
ONE_RULE = [route for route in ROUTES if "rule-1" in route[1]]


def send(client: TestClient, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
    given = {"headers": headers} if body is None else {"headers": headers, "json": body}
    return client.request(method, P + path, **given)


def code(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["code"]


@pytest.fixture
def rule(client: TestClient, tenant: Tenant) -> dict[str, Any]:
    """Rule 1 of the tenant, a DRAFT."""
    reply = client.post(f"{P}/rules", json=RULE, headers=tenant.headers())
    assert reply.status_code == 201
    made: dict[str, Any] = reply.json()
    return made


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES)
def test_a_stranger_is_turned_away(client: TestClient, method: str, path: str, body: Any, scope: str) -> None:
    assert code(send(client, method, path, body, {})) == (401, "INVALID_CREDENTIALS")


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES)
def test_a_key_without_the_scope_is_turned_away(
    client: TestClient, tenant: Tenant, method: str, path: str, body: Any, scope: str
) -> None:
    others = {"policies:read": "policies:write", "policies:write": "policies:read"}
    headers = tenant.headers(scopes=[others[scope]], if_match='"v1"')
    assert code(send(client, method, path, body, headers)) == (403, "INSUFFICIENT_SCOPE")


@pytest.mark.parametrize(("method", "path", "body", "scope"), ONE_RULE)
def test_a_rule_of_another_tenant_looks_like_none(
    client: TestClient,
    rule: dict[str, Any],
    other_tenant: Tenant,
    method: str,
    path: str,
    body: Any,
    scope: str,
) -> None:
    headers = other_tenant.headers(if_match='"v1"')
    foreign = send(client, method, path, body, headers)
    unknown = send(client, method, path.replace("rule-1", "rule-9"), body, headers)
    assert code(foreign) == code(unknown) == (404, "RULE_NOT_FOUND")
    assert foreign.json()["detail"] == unknown.json()["detail"]


def test_a_rule_is_made_read_changed_activated_and_retired(client: TestClient, tenant: Tenant) -> None:
    headers = tenant.headers()
    made = client.post(f"{P}/rules", json={**RULE, "condition": "run.attempt == 1"}, headers=headers)
    assert (made.status_code, made.headers["etag"]) == (201, '"v1"')
    assert made.headers["location"].endswith("/policies/rules/rule-1")
    shown = client.get(f"{P}/rules/rule-1", headers=headers)
    assert (shown.json(), shown.headers["etag"]) == (made.json(), '"v1"')
    known = client.get(f"{P}/rules/rule-1", headers={**headers, "If-None-Match": '"v1"'})
    assert known.status_code == 304
    change = {**headers, "If-Match": '"v1"'}
    changed = client.patch(f"{P}/rules/rule-1", json={"condition": None}, headers=change)
    assert (changed.status_code, changed.headers["etag"]) == (200, '"v2"')
    assert (changed.json()["condition"], changed.json()["current_version"]) == (None, 2)
    active = client.post(f"{P}/rules/rule-1/activate", json={}, headers=headers)
    assert (active.status_code, active.json()["status"]) == (200, "ACTIVE")
    assert active.json()["activated_at"].endswith("Z")
    ended = client.post(f"{P}/rules/rule-1/retire", json={"reason": "done"}, headers=headers)
    assert (ended.json()["status"], ended.json()["retired_reason"]) == ("RETIRED", "done")
    versions = client.get(f"{P}/rules/rule-1/versions", headers=headers).json()
    assert [item["rule_version"] for item in versions["items"]] == [2, 1]
    listed = client.get(f"{P}/rules", params={"status": "RETIRED"}, headers=headers).json()
    assert listed["items"] == [ended.json()]


def test_a_change_needs_if_match(client: TestClient, tenant: Tenant, rule: dict[str, Any]) -> None:
    bare = client.patch(f"{P}/rules/rule-1", json={"message": "m"}, headers=tenant.headers())
    assert code(bare) == (428, "PRECONDITION_REQUIRED")
    stale = client.patch(f"{P}/rules/rule-1", json={"message": "m"}, headers=tenant.headers(if_match='"v7"'))
    assert code(stale) == (412, "VERSION_MISMATCH")
    assert stale.json()["current_version"] == 1


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({}, (422, "INVALID_INPUT")),
        ({**RULE, "kind": "OTHER"}, (422, "INVALID_INPUT")),
        ({**RULE, "kind": "GUARD", "moments": ["STEP"]}, (422, "INVALID_INPUT")),
        ({**RULE, "unknown": 1}, (422, "INVALID_INPUT")),
        ({**RULE, "status": "ACTIVE"}, (422, "INVALID_INPUT")),
        ({**RULE, "tenant_id": "t"}, (422, "INVALID_INPUT")),
        ({**RULE, "effect": None}, (422, "INVALID_INPUT")),
        ({**RULE, "name": " "}, (422, "INVALID_INPUT")),
        ({**RULE, "name": "n" * 256}, (422, "INVALID_INPUT")),
        ({**RULE, "rule_id": "-"}, (422, "INVALID_INPUT")),
        ({**RULE, "condition": "x" * 2001}, (422, "INVALID_INPUT")),
        ({**RULE, "condition": "nope"}, (422, "INVALID_CONDITION")),
        ({**RULE, "constraints": {"max_documents": 0}}, (422, "INVALID_INPUT")),
        ({**RULE, "constraints": {"actions": []}}, (422, "INVALID_INPUT")),
        ({**RULE, "constraints": {"max_pages": 1}}, (422, "INVALID_INPUT")),
        ({**RULE, "depends_on": ["ghost"]}, (422, "REFERENCE_NOT_FOUND")),
        ({**RULE, "depends_on": ["rule-1"]}, (422, "REFERENCE_NOT_FOUND")),
    ],
)
def test_a_body_that_does_not_fit_is_refused(
    client: TestClient, tenant: Tenant, body: dict[str, Any], answer: tuple[int, str]
) -> None:
    assert code(client.post(f"{P}/rules", json=body, headers=tenant.headers())) == answer


def test_a_condition_shows_where_it_is_wrong(client: TestClient, tenant: Tenant) -> None:
    reply = client.post(f"{P}/rules", json={**RULE, "condition": "true &&\n nope"}, headers=tenant.headers())
    assert code(reply) == (422, "INVALID_CONDITION")
    (fault,) = reply.json()["errors"]
    assert (fault["field"], fault["line"], fault["column"]) == ("/condition", 2, 2)


def test_conflicts_of_state_are_409(client: TestClient, tenant: Tenant, rule: dict[str, Any]) -> None:
    headers = tenant.headers()
    assert code(client.post(f"{P}/rules", json=RULE, headers=headers)) == (409, "RULE_EXISTS")
    client.post(f"{P}/rules/rule-1/activate", json={}, headers=headers)
    opposite = {"kind": "ACCESS", "name": "Rule 2", "effect": "DENY", "activate": True}
    reply = client.post(f"{P}/rules", json=opposite, headers=headers)
    assert code(reply) == (409, "POLICY_CONFLICT")
    assert reply.json()["errors"][0]["other_rule_id"]
    client.post(f"{P}/rules/rule-1/retire", json={"reason": "r"}, headers=headers)
    assert code(client.post(f"{P}/rules/rule-1/activate", json={}, headers=headers)) == (409, "RULE_RETIRED")


def test_a_draft_leaning_on_a_rule_is_no_hindrance_and_an_active_one_is(
    client: TestClient, tenant: Tenant, rule: dict[str, Any]
) -> None:
    headers = tenant.headers()
    client.post(f"{P}/rules/rule-1/activate", json={}, headers=headers)
    leaning = {**RULE, "rule_id": "rule-2", "name": "n", "condition": "true", "depends_on": ["rule-1"]}
    client.post(f"{P}/rules", json={**leaning, "activate": True}, headers=headers)
    reply = client.post(f"{P}/rules/rule-1/retire", json={"reason": "r"}, headers=headers)
    assert code(reply) == (409, "RULE_HAS_DEPENDENTS")
    assert [item["entity_id"] for item in reply.json()["errors"]] == ["rule-2"]
    ties = client.get(f"{P}/rules/rule-1/dependencies", headers=headers).json()
    assert [(tie["direction"], tie["entity_id"]) for tie in ties["items"]] == [("REQUIRED_BY", "rule-2")]


def test_a_create_is_replayed_under_its_key(client: TestClient, tenant: Tenant) -> None:
    headers = {**tenant.headers(), "Idempotency-Key": "make-rule-1"}
    first = client.post(f"{P}/rules", json=RULE, headers=headers)
    again = client.post(f"{P}/rules", json=RULE, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotent-replay"] == "true"
    other = client.post(f"{P}/rules", json={**RULE, "name": "Other"}, headers=headers)
    assert code(other) == (422, "IDEMPOTENCY_KEY_REUSED")


def test_lists_take_only_what_they_know(client: TestClient, tenant: Tenant, rule: dict[str, Any]) -> None:
    headers = tenant.headers()
    assert code(client.get(f"{P}/rules", params={"color": "red"}, headers=headers)) == (400, "INVALID_QUERY")
    assert code(client.get(f"{P}/rules", params={"status": "GONE"}, headers=headers)) == (
        400,
        "INVALID_QUERY",
    )
    assert code(client.get(f"{P}/rules", params={"cursor": "x"}, headers=headers)) == (400, "INVALID_CURSOR")
    conflicts = client.get(f"{P}/conflicts", headers=headers)
    assert conflicts.json() == {"items": [], "total": 0, "truncated": False}


def test_an_unknown_snapshot_is_404(client: TestClient, tenant: Tenant) -> None:
    reply = client.get(f"{P}/snapshots/snap_unknown", headers=tenant.headers())
    assert code(reply) == (404, "SNAPSHOT_NOT_FOUND")


def test_the_effect_of_a_rule_is_shown(client: TestClient, tenant: Tenant, rule: dict[str, Any]) -> None:
    shown = client.get(f"{P}/rules/{rule['rule_id']}/effect", headers=tenant.headers())
    assert shown.status_code == 200
    assert shown.json()["preventions"] == dict.fromkeys(
        ("AUDITED", "WARNED", "BLOCKED", "STOPPED", "PREVENTED"), 0
    )
    assert shown.json()["activated_at"] is None
