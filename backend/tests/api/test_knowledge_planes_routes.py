"""HTTP: the routes of knowledge planes, for each the ways in that are refused and the one that is served."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState as State,
)
from tests.factories.lifecycle import (
    SQL_CONFIG,
    events_of,
    make_active_plane,
    make_allow_rule,
    make_waiting_plane,
    plane_in,
    register_plane,
)
from tests.factories.tenants import Tenant

PLANES = "/api/v1/knowledge/planes"
NEW = {
    "plane_type": "catalogue",
    "plane_name": "orders",
    "connector_type": "sql",
    "connector_id": "warehouse",
    "config": SQL_CONFIG,
}
# Method, path below one plane, body, the scope that suffices.
ROUTES: list[tuple[str, str, dict[str, Any] | None, str]] = [
    ("GET", "", None, "knowledge:read"),
    ("GET", "/events", None, "knowledge:read"),
    ("GET", "/documents", None, "knowledge:read"),
    ("GET", "/next-actions", None, "knowledge:read"),
    ("PUT", "/config", {"config": SQL_CONFIG}, "knowledge:write"),
    ("POST", "/transitions", {"action": "verify_knowledge_plane"}, "knowledge:write"),
    ("PUT", "/policies/rule-1", {}, "knowledge:write"),
    ("DELETE", "/policies/rule-1", None, "knowledge:write"),
    ("POST", "/purge-approvals", {"reason": "checked"}, "knowledge:admin"),
    ("PUT", "/suspension", {"suspended": True, "reason": "leak"}, "knowledge:write"),
]


def call(
    client: TestClient, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> Any:
    options: dict[str, Any] = {} if body is None else {"json": body}
    return client.request(method, path, headers=headers or {}, **options)


def code_of(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES, ids=lambda part: str(part)[:24])
def test_a_route_asks_for_a_key_and_its_scope_and_hides_other_tenants(
    client: TestClient,
    tenant: Tenant,
    other_tenant: Tenant,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    scope: str,
) -> None:
    plane_id = register_plane(tenant).plane_id
    url = f"{PLANES}/{plane_id}{path}"
    assert code_of(call(client, method, url, body)) == (401, "INVALID_CREDENTIALS")
    weak = tenant.headers(scopes=("repository:read",))
    assert code_of(call(client, method, url, body, weak)) == (403, "INSUFFICIENT_SCOPE")
    foreign = call(client, method, url, body, other_tenant.headers(scopes=(scope,)))
    unknown = call(client, method, f"{PLANES}/kp_unknown{path}", body, tenant.headers(scopes=(scope,)))
    assert code_of(foreign) == code_of(unknown) == (404, "PLANE_NOT_FOUND")
    assert foreign.json()["detail"] == unknown.json()["detail"]


def test_a_plane_is_registered_over_http(client: TestClient, tenant: Tenant) -> None:
    headers = tenant.headers(scopes=("knowledge:write",))
    made = call(client, "POST", PLANES, NEW, headers | {"Idempotency-Key": "k1"})
    assert made.status_code == 201
    plane = made.json()
    assert made.headers["etag"] == '"v1"'
    assert made.headers["location"].endswith(f"/knowledge/planes/{plane['plane_id']}")
    assert (plane["lifecycle_state"], plane["lifecycle_state_value"]) == ("DRAFT", 100)
    again = call(client, "POST", PLANES, NEW, headers | {"Idempotency-Key": "k1"})
    assert (again.status_code, again.json()) == (201, plane)
    assert again.headers["idempotent-replay"] == "true"
    other = call(client, "POST", PLANES, NEW | {"plane_name": "x"}, headers | {"Idempotency-Key": "k1"})
    assert code_of(other) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert code_of(call(client, "POST", PLANES, NEW, headers)) == (409, "DUPLICATE_PLANE")
    assert code_of(call(client, "POST", PLANES, NEW)) == (401, "INVALID_CREDENTIALS")
    reader = tenant.headers(scopes=("knowledge:read",))
    assert code_of(call(client, "POST", PLANES, NEW, reader)) == (403, "INSUFFICIENT_SCOPE")


@pytest.mark.parametrize(
    ("members", "status", "code"),
    [
        ({"plane_type": "No"}, 422, "INVALID_INPUT"),
        ({"tenant_id": "other"}, 422, "INVALID_INPUT"),
        ({"connector_type": "ldap"}, 422, "UNKNOWN_CONNECTOR_TYPE"),
        ({"config": {"driver": "oracle"}}, 422, "INVALID_CONFIG"),
        ({"config": {"approvals": []}}, 422, "RESERVED_CONFIG_KEY"),
        ({"config": {"password": "x"}}, 422, "SECRET_IN_CONFIG"),
        ({"config": SQL_CONFIG | {"credential_ref": "x"}}, 422, "INVALID_CREDENTIAL_REF"),
        ({"config": {"description": "x" * 70000}}, 413, "TOO_LARGE"),
        ({"connector_type": "repository", "config": {"owned_collection": "x"}}, 422, "REFERENCE_NOT_FOUND"),
    ],
)
def test_a_bad_registration_is_a_problem_with_its_code(
    client: TestClient, tenant: Tenant, members: dict[str, Any], status: int, code: str
) -> None:
    answer = call(client, "POST", PLANES, NEW | members, tenant.headers(scopes=("knowledge:write",)))
    assert code_of(answer) == (status, code)


def test_planes_are_listed_and_read_with_an_etag(
    client: TestClient, tenant: Tenant, other_tenant: Tenant
) -> None:
    plane_id = register_plane(tenant).plane_id
    register_plane(other_tenant)
    headers = tenant.headers(scopes=("knowledge:read",))
    listed = call(client, "GET", f"{PLANES}?state=draft&connector_type=sql", headers=headers)
    assert [plane["plane_id"] for plane in listed.json()["items"]] == [plane_id]
    one = call(client, "GET", f"{PLANES}/{plane_id}", headers=headers)
    assert (one.status_code, one.headers["etag"]) == (200, '"v1"')
    assert one.json()["created_at"].endswith("Z")
    same = call(client, "GET", f"{PLANES}/{plane_id}", headers=headers | {"If-None-Match": '"v1"'})
    assert same.status_code == 304
    assert code_of(call(client, "GET", f"{PLANES}?colour=red", headers=headers)) == (400, "INVALID_QUERY")
    assert code_of(call(client, "GET", f"{PLANES}?limit=501", headers=headers)) == (400, "INVALID_QUERY")
    assert call(client, "GET", PLANES, headers={}).status_code == 401


def test_a_configuration_is_replaced_under_its_version(client: TestClient, tenant: Tenant) -> None:
    plane_id = register_plane(tenant).plane_id
    url, headers = f"{PLANES}/{plane_id}/config", tenant.headers(scopes=("knowledge:write",))
    body = {"config": SQL_CONFIG | {"max_documents": 3}}
    stale = call(client, "PUT", url, body, headers | {"If-Match": '"v9"'})
    assert code_of(stale) == (412, "VERSION_MISMATCH")
    assert stale.json()["current_version"] == 1
    changed = call(client, "PUT", url, body, headers | {"If-Match": '"v1"'})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"v2"')
    assert (changed.json()["changed"], changed.json()["job_id"]) == (True, None)


def test_a_transition_that_queues_work_is_accepted(
    client: TestClient, second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = register_plane(tenant).plane_id
    url, headers = f"{PLANES}/{plane_id}/transitions", tenant.headers(scopes=("knowledge:write",))
    queued = call(client, "POST", url, {"action": "verify_knowledge_plane"}, headers)
    assert (queued.status_code, queued.headers["etag"]) == (202, '"v2"')
    view = queued.json()
    assert (view["from_state"], view["to_state"], view["to_state_value"]) == ("DRAFT", "PENDING_VERIFY", 110)
    assert view["job_id"] is not None
    back = call(client, "POST", url, {"to_state": "draft"}, headers)
    assert (back.status_code, back.json()["job_id"]) == (200, None)
    refused = call(client, "POST", url, {"action": "activate_knowledge_plane"}, headers)
    assert code_of(refused) == (409, "INVALID_ACTION")
    assert refused.json()["event_id"] == events_of(second_connection, tenant, plane_id)[-1]["event_id"]
    assert code_of(call(client, "POST", url, {}, headers)) == (422, "MISSING_TRANSITION_INTENT")


def test_a_closed_gate_stands_in_the_body(
    client: TestClient, second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = make_waiting_plane(second_connection, tenant)
    url, headers = f"{PLANES}/{plane_id}/transitions", tenant.headers(scopes=("knowledge:write",))
    refused = call(client, "POST", url, {"action": "activate_knowledge_plane"}, headers)
    assert code_of(refused) == (409, "POLICY_GATE_BLOCKED")
    assert refused.json()["gate"]["required_action"] == "bind_policy"
    told = call(client, "GET", f"{PLANES}/{plane_id}/next-actions", headers=tenant.headers())
    assert told.json()["actions"][0]["gate"] == refused.json()["gate"]


def test_a_policy_is_bound_and_unbound_over_http(
    client: TestClient, second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = make_waiting_plane(second_connection, tenant)
    rule_id = make_allow_rule(tenant)
    url, headers = f"{PLANES}/{plane_id}/policies", tenant.headers(scopes=("knowledge:write",))
    bound = call(client, "PUT", f"{url}/{rule_id}", headers=headers)
    assert (bound.status_code, bound.json()["bound_policy_ids"]) == (200, [rule_id])
    assert call(client, "PUT", f"{url}/{rule_id}", headers=headers).json()["changed"] is False
    assert code_of(call(client, "PUT", f"{url}/unknown", headers=headers)) == (404, "RULE_NOT_FOUND")
    ended = call(client, "DELETE", f"{url}/{rule_id}", headers=headers)
    assert (ended.status_code, ended.json()["bound_policy_ids"]) == (200, [])


def test_a_purge_is_consented_to_over_http(
    client: TestClient, second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = plane_in(second_connection, tenant, State.ARCHIVED)
    url, headers = f"{PLANES}/{plane_id}/purge-approvals", tenant.headers(scopes=("knowledge:admin",))
    given = call(client, "POST", url, {"reason": "checked"}, headers | {"Idempotency-Key": "k1"})
    assert (given.status_code, given.json()["approved_by"]) == (201, "user-1")
    again = call(client, "POST", url, {"reason": "checked"}, headers | {"Idempotency-Key": "k1"})
    assert again.json() == given.json()
    assert code_of(call(client, "POST", url, {"reason": " "}, headers)) == (422, "INVALID_INPUT")
    machine = tenant.headers(scopes=("knowledge:admin",), actor_type="SYSTEM", actor_id="robot")
    assert code_of(call(client, "POST", url, {"reason": "checked"}, machine)) == (403, "HUMAN_REQUIRED")


def test_a_plane_is_suspended_over_http(
    client: TestClient, second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = make_active_plane(second_connection, tenant)
    url, headers = f"{PLANES}/{plane_id}/suspension", tenant.headers(scopes=("knowledge:write",))
    stopped = call(client, "PUT", url, {"suspended": True, "reason": "leak"}, headers)
    assert (stopped.status_code, stopped.json()["suspended"]) == (200, True)
    assert code_of(call(client, "PUT", url, {"suspended": True}, headers)) == (422, "INVALID_INPUT")
    draft = register_plane(tenant).plane_id
    refused = call(client, "PUT", f"{PLANES}/{draft}/suspension", {"suspended": True, "reason": "x"}, headers)
    assert code_of(refused) == (409, "PLANE_NOT_ACTIVE")


def test_events_are_paged_over_http(client: TestClient, tenant: Tenant) -> None:
    plane_id = register_plane(tenant).plane_id
    url, headers = f"{PLANES}/{plane_id}", tenant.headers(scopes=("knowledge:read", "knowledge:write"))
    for _ in range(2):
        call(client, "POST", f"{url}/transitions", {"action": "activate_knowledge_plane"}, headers)
    first = call(client, "GET", f"{url}/events?limit=2", headers=headers)
    assert [event["seq"] for event in first.json()["items"]] == [1, 2]
    assert 'rel="next"' in first.headers["link"]
    rest = call(client, "GET", f"{url}/events?limit=2&cursor={first.json()['next_cursor']}", headers=headers)
    assert [event["seq"] for event in rest.json()["items"]] == [3]
    blocked = call(client, "GET", f"{url}/events?event_type=LIFECYCLE_BLOCKED", headers=headers)
    assert [event["error_code"] for event in blocked.json()["items"]] == ["INVALID_ACTION"] * 2
    bad = call(client, "GET", f"{url}/events?event_type=NOTHING", headers=headers)
    assert code_of(bad) == (400, "INVALID_QUERY")
    documents = call(client, "GET", f"{url}/documents", headers=headers)
    assert documents.json() == {"items": [], "next_cursor": None}
