"""Erasure and legal holds over HTTP."""

from __future__ import annotations

import json

from starlette.testclient import TestClient

from tests.factories.tenants import Tenant

API = "/api/v1"
RUN = {
    "agent_id": "support-agent",
    "goal": "Answer Trillian",
    "actor_type": "SYSTEM",
    "origin_system_id": "tests",
    "subject_ref": "customer-42",
}


def test_a_hold_stops_an_erasure_and_its_release_lets_it_go(client: TestClient, tenant: Tenant) -> None:
    headers = tenant.headers()
    started = client.post(f"{API}/runs", json=RUN, headers=headers | {"Idempotency-Key": "run-1"}).json()
    run = started["run_id"]
    wish = {"scope": "RUN", "scope_id": run, "reason": "asked", "legal_basis": "GDPR 17"}
    hold = {"scope": "SUBJECT", "scope_id": "customer-42", "reason": "matter 7"}

    weak = tenant.headers(scopes=("logs:read", "logs:write"))
    for method, path, body in (
        ("POST", "/erasures", wish),
        ("GET", "/erasures", None),
        ("POST", "/legal-holds", hold),
        ("GET", "/legal-holds", None),
        ("POST", "/legal-holds/hold_1/release", {"reason": "x"}),
    ):
        denied = client.request(method, f"{API}{path}", json=body, headers=weak)
        assert (path, denied.status_code, denied.json()["code"]) == (path, 403, "INSUFFICIENT_SCOPE")

    placed = client.post(f"{API}/legal-holds", json=hold, headers=headers | {"Idempotency-Key": "h-1"})
    again = client.post(f"{API}/legal-holds", json=hold, headers=headers | {"Idempotency-Key": "h-1"})
    assert (placed.status_code, again.json(), placed.headers["ETag"]) == (201, placed.json(), '"v1"')
    hold_id = placed.json()["hold_id"]
    assert client.get(f"{API}/legal-holds?status=ACTIVE", headers=headers).json()["items"] == [placed.json()]
    held = client.post(f"{API}/erasures", json=wish, headers=headers)
    assert (held.status_code, held.json()["code"], held.json()["hold_ids"]) == (409, "LEGAL_HOLD", [hold_id])

    release = f"{API}/legal-holds/{hold_id}/release"
    stale = client.post(release, json={"reason": "x"}, headers=headers | {"If-Match": '"v9"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "VERSION_MISMATCH")
    done = client.post(release, json={"reason": "x"}, headers=headers | {"If-Match": '"v1"'})
    assert (done.status_code, done.json()["status"]) == (200, "RELEASED")
    assert client.post(release, json={"reason": "x"}, headers=headers).json()["code"] == "HOLD_RELEASED"
    unknown = client.post(f"{API}/legal-holds/hold_x/release", json={"reason": "x"}, headers=headers)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "HOLD_NOT_FOUND")

    for body, code in (
        (wish | {"scope_id": "run_unknown"}, "REFERENCE_NOT_FOUND"),
        (wish | {"reason": " "}, "INVALID_INPUT"),
        (wish | {"legal_basis": ""}, "INVALID_INPUT"),
        (wish | {"scope": "TENANT"}, "INVALID_INPUT"),
        (wish | {"force": True}, "INVALID_INPUT"),
    ):
        refused = client.post(f"{API}/erasures", json=body, headers=headers)
        assert (body, refused.status_code, refused.json()["code"]) == (body, 422, code)
    gone = client.post(f"{API}/erasures", json=wish, headers=headers)
    assert (gone.status_code, gone.json()["erased"], gone.json()["remaining"]) == (201, 1, 0)
    empty = client.post(f"{API}/erasures", json=wish, headers=headers)
    assert (empty.status_code, empty.json()["code"]) == (409, "NOTHING_TO_ERASE")
    shown = client.get(f"{API}/runs/{run}", headers=headers).json()
    assert (shown["goal"], shown["protected_state"]) == (None, "ERASED")
    (record,) = client.get(f"{API}/erasures?run_id={run}", headers=headers).json()["items"]
    fact = json.loads(client.get(f"{API}/log/facts/{record['fact_id']}", headers=headers).json()["statement"])
    assert (fact["type"], fact["run"], len(fact["body"]["commitments"])) == ("erasure", run, 1)
    # The answer that this key kept told the goal; it is a new key now.
    retried = client.post(f"{API}/runs", json=RUN, headers=headers | {"Idempotency-Key": "run-1"})
    assert retried.status_code == 201
    assert retried.json()["run_id"] != run
