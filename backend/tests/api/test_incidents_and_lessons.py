"""Routes of incidents, lessons and proposals over HTTP: who gets in, and what they answer."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.factories.tenants import Tenant

P = "/api/v1"
RULE = {
    "kind": "GUARD",
    "name": "Known",
    "enforcement_mode": "BLOCK",
    "moments": ["INCIDENT"],
    "condition": 'incident.error_code == "KNOWN"',
}
PROPOSAL = {"kind": "RULE", "title": "t", "rationale": "r", "proposed": RULE}
UNTIL = {"until": "2026-12-01T00:00:00Z"}
RESOLVED = {"resolution_method": "MANUAL"}
# Method, path, body, the scope that it needs, the code for what is not there.
ROUTES: list[tuple[str, str, Any, str, str | None]] = [
    ("POST", "/incidents", {"title": "t"}, "incidents:write", None),
    ("GET", "/incidents", None, "incidents:read", None),
    ("GET", "/incident-signatures", None, "incidents:read", None),
    ("GET", "/incidents/{incident}", None, "incidents:read", "INCIDENT_NOT_FOUND"),
    ("GET", "/incidents/{incident}/events", None, "incidents:read", "INCIDENT_NOT_FOUND"),
    ("GET", "/incidents/{incident}/links", None, "incidents:read", "INCIDENT_NOT_FOUND"),
    ("POST", "/incidents/{incident}/acknowledge", {}, "incidents:write", "INCIDENT_NOT_FOUND"),
    (
        "POST",
        "/incidents/{incident}/escalate",
        {"severity": "CRITICAL", "reason": "r"},
        "incidents:write",
        "INCIDENT_NOT_FOUND",
    ),
    ("POST", "/incidents/{incident}/resolve", RESOLVED, "incidents:write", "INCIDENT_NOT_FOUND"),
    ("POST", "/incidents/{incident}/close", {"reason": "r"}, "incidents:write", "INCIDENT_NOT_FOUND"),
    ("GET", "/lessons", None, "lessons:read", None),
    ("GET", "/lesson-stats", None, "lessons:read", None),
    ("GET", "/lessons/{lesson}", None, "lessons:read", "LESSON_NOT_FOUND"),
    ("POST", "/lessons/{lesson}/convert", {}, "lessons:write", "LESSON_NOT_FOUND"),
    ("POST", "/lessons/{lesson}/defer", UNTIL, "lessons:write", "LESSON_NOT_FOUND"),
    ("POST", "/lessons/{lesson}/dismiss", {"reason": "r"}, "lessons:write", "LESSON_NOT_FOUND"),
    ("POST", "/lessons/{lesson}/reactivate", {}, "lessons:write", "LESSON_NOT_FOUND"),
    ("POST", "/policies/proposals", PROPOSAL, "policies:write", None),
    ("GET", "/policies/proposals", None, "policies:read", None),
    ("GET", "/policies/proposals/{proposal}", None, "policies:read", "PROPOSAL_NOT_FOUND"),
    ("PATCH", "/policies/proposals/{proposal}", {"title": "u"}, "policies:write", "PROPOSAL_NOT_FOUND"),
    ("POST", "/policies/proposals/{proposal}/approve", {}, "policies:admin", "PROPOSAL_NOT_FOUND"),
    ("POST", "/policies/proposals/{proposal}/reject", {}, "policies:admin", "PROPOSAL_NOT_FOUND"),
]


def send(client: TestClient, method: str, path: str, body: Any, headers: dict[str, str]) -> Any:
    given = {"headers": headers} if body is None else {"headers": headers, "json": body}
    return client.request(method, P + path, **given)


def code(reply: Any) -> tuple[int, str]:
    return reply.status_code, reply.json()["code"]


@pytest.fixture
def ids(tenant: Tenant) -> dict[str, str]:
    """One incident, one lesson and one proposal of the tenant."""
    run = {"agent_id": "a", "goal": "g", "actor_type": "SYSTEM", "origin_system_id": "o", "run_id": "r-1"}
    tenant.call("runs.start", run)
    ended = tenant.call("runs.complete", {"run_id": "r-1", "status": "failed"})
    return {
        "incident": ended.evaluation.outcome_ref,
        "lesson": ended.lessons[0]["lesson_id"],
        "proposal": tenant.call("policies.proposals.create", PROPOSAL).proposal_id,
    }


def test_every_route_knows_its_doors(
    client: TestClient, tenant: Tenant, other_tenant: Tenant, ids: dict[str, str]
) -> None:
    unknown = {name: f"{value[:-4]}zzzz" for name, value in ids.items()}
    for method, route, body, scope, missing in ROUTES:
        path = route.format(**ids)
        assert code(send(client, method, path, body, {})) == (401, "INVALID_CREDENTIALS"), route
        wrong = tenant.headers(scopes=["tenant:read"], if_match='"v1"')
        if "PATCH" not in method:
            wrong.pop("If-Match")
        assert code(send(client, method, path, body, wrong)) == (403, "INSUFFICIENT_SCOPE"), route
        if missing is None:
            continue
        key = other_tenant.headers(scopes=[scope], if_match='"v1"')
        if method != "PATCH":
            key.pop("If-Match")
        foreign = send(client, method, path, body, key)
        nobodys = send(client, method, route.format(**unknown), body, key)
        assert code(foreign) == code(nobodys) == (404, missing), route


def test_a_report_is_created_once_and_replayed(client: TestClient, tenant: Tenant) -> None:
    headers = tenant.headers()
    body = {"incident_id": "inc-1", "title": "It broke", "error_code": "STEP_FAILURE"}
    made = client.post(f"{P}/incidents", json=body, headers=headers)
    assert (made.status_code, made.json()["result"]) == (201, "CREATED")
    again = client.post(f"{P}/incidents", json=body, headers=headers)
    assert (again.status_code, again.json()["incident"]) == (200, made.json()["incident"])
    other = client.post(f"{P}/incidents", json=body | {"title": "Else"}, headers=headers)
    assert code(other) == (409, "INCIDENT_EXISTS")
    shown = client.get(f"{P}/incidents/inc-1", headers=headers)
    assert (shown.json(), shown.headers["etag"]) == (made.json()["incident"], '"v1"')
    acked = client.post(f"{P}/incidents/inc-1/acknowledge", headers=headers | {"If-Match": '"v1"'})
    assert (acked.status_code, acked.headers["etag"]) == (200, '"v2"')
    stale = client.post(f"{P}/incidents/inc-1/acknowledge", headers=headers | {"If-Match": '"v1"'})
    assert code(stale) == (412, "VERSION_MISMATCH")


def test_a_report_that_a_rule_prevents_answers_200_each_time(client: TestClient, tenant: Tenant) -> None:
    tenant.call("policies.rules.create", RULE | {"rule_id": "p-1", "activate": True})
    headers = tenant.headers() | {"Idempotency-Key": "k-1"}
    replies = [
        client.post(f"{P}/incidents", json={"title": "t", "error_code": "KNOWN"}, headers=headers)
        for _ in range(2)
    ]
    assert [reply.status_code for reply in replies] == [200, 200]
    assert replies[0].json() == replies[1].json()
    assert (replies[0].json()["result"], replies[0].json()["rule_id"]) == ("PREVENTED", "p-1")


def test_a_lesson_is_converted_and_its_proposal_approved(
    client: TestClient, tenant: Tenant, ids: dict[str, str]
) -> None:
    headers = tenant.headers()
    made = client.post(f"{P}/lessons/{ids['lesson']}/convert", headers=headers)
    assert (made.status_code, made.json()["status"]) == (200, "CONVERTED_TO_DRAFT")
    path = f"{P}/policies/proposals/{made.json()['draft_proposal_id']}"
    assert code(client.post(f"{path}/approve", headers=headers)) == (403, "SELF_APPROVAL")
    agent = tenant.headers(actor_type="AGENT", actor_id="bot")
    assert code(client.post(f"{path}/approve", headers=agent)) == (403, "HUMAN_REQUIRED")
    reviewer = tenant.headers(actor_id="reviewer")
    approved = client.post(f"{path}/approve", json={"notes": "yes"}, headers=reviewer)
    assert (approved.status_code, approved.json()["status"]) == (200, "APPROVED")
    assert code(client.post(f"{path}/reject", headers=reviewer)) == (409, "PROPOSAL_REVIEWED")
    effect = client.get(f"{P}/lessons/{ids['lesson']}", headers=headers).json()["effect"]
    assert effect["result_ref"] == approved.json()["result_ref"]
