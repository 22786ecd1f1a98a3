"""Routes of limits, their breaches and overrides, and of the use of runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.testclient import TestClient

from tests.factories.limits import BUDGET, START
from tests.factories.tenants import Tenant

API = "/api/v1"


def test_a_limit_is_kept_from_its_making_to_its_breach(client: TestClient, tenant: Tenant) -> None:
    head = tenant.headers()
    made = client.post(f"{API}/limits", json={"limit_id": "l-1", **BUDGET}, headers=head)
    assert (made.status_code, made.headers["location"], made.headers["etag"]) == (
        201,
        f"{API}/limits/l-1",
        '"v1"',
    )
    assert made.json()["max_value"] == 100.0
    assert b'"max_value":100.0' in made.content
    taken = client.post(f"{API}/limits", json={"limit_id": "l-1", **BUDGET}, headers=head)
    assert (taken.status_code, taken.json()["code"]) == (409, "LIMIT_EXISTS")
    changed = {"max_value": "105.500001"}
    without = client.patch(f"{API}/limits/l-1", json=changed, headers=head)
    stale = client.patch(f"{API}/limits/l-1", json=changed, headers=head | {"If-Match": '"v2"'})
    assert (without.status_code, stale.status_code) == (428, 412)
    fixed = client.patch(f"{API}/limits/l-1", json={"metric": "STEPS"}, headers=head | {"If-Match": '"v1"'})
    assert (fixed.status_code, fixed.json()["code"]) == (422, "IMMUTABLE_FIELD")
    done = client.patch(f"{API}/limits/l-1", json=changed, headers=head | {"If-Match": '"v1"'})
    assert (done.status_code, done.json()["max_value"]) == (200, 105.500001)

    assert client.post(f"{API}/runs", json={"run_id": "r-1", **START}, headers=head).status_code == 201
    check = {"action": {"kind": "TOOL", "name": "x"}, "estimate": {"COST_USD": 5}}
    held = client.post(f"{API}/runs/r-1/checks", json=check, headers=head).json()["reservation"]
    shown = client.get(f"{API}/limits/l-1", headers=head).json()
    assert (shown["committed"], shown["reserved"], shown["headroom"]) == (0.0, 5.0, 100.500001)
    path = f"{API}/runs/r-1/reservations/{held['reservation_id']}/release"
    assert client.post(path, headers=head).json()["status"] == "RELEASED"
    used = {"usage_id": "u-1", "usage": {"COST_USD": 106}}
    first = client.post(f"{API}/runs/r-1/usage", json=used, headers=head)
    again = client.post(f"{API}/runs/r-1/usage", json=used, headers=head)
    assert (first.status_code, first.json()["must_stop"], again.json()["replayed"]) == (200, True, True)
    other = client.post(f"{API}/runs/r-1/usage", json=used | {"step_index": 1}, headers=head)
    assert (other.status_code, other.json()["code"]) == (409, "USAGE_CONFLICT")
    (breach,) = client.get(f"{API}/limit-breaches?run_id=r-1", headers=head).json()["items"]
    assert (breach["limit_id"], breach["breached_value"]) == ("l-1", 106.0)
    assert client.get(f"{API}/runs/r-1/usage", headers=head).json()["total"] == {"COST_USD": 106.0}
    for verb, status in (("disable", "DISABLED"), ("disable", "DISABLED"), ("enable", "ACTIVE")):
        answer = client.post(f"{API}/limits/l-1/{verb}", json={"reason": "x"}, headers=head)
        assert (answer.status_code, answer.json()["status"]) == (200, status)
    system = client.post(f"{API}/limits/plan-tokens-month/disable", json={}, headers=head)
    assert (system.status_code, system.json()["code"]) == (403, "LIMIT_SYSTEM")
    usage = client.get(f"{API}/tenant/usage", headers=head).json()
    assert (usage["tokens_this_month"], usage["tokens_per_month"]) == (0.0, 1_000_000_000)


def test_an_override_passes_from_one_hand_to_another(client: TestClient, tenant: Tenant) -> None:
    asking = tenant.headers(scopes=("controls:write", "controls:read"), actor_id="user-1")
    deciding = tenant.headers(scopes=("controls:admin", "controls:read"), actor_id="user-2")
    client.post(f"{API}/limits", json={"limit_id": "l-1", **BUDGET}, headers=asking)
    wish: dict[str, Any] = {"limit_id": "l-1", "override_value": 150, "reason": "month end"}
    wish["expires_at"] = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    made = client.post(f"{API}/limit-overrides", json=wish, headers=asking | {"Idempotency-Key": "k-1"})
    same = client.post(f"{API}/limit-overrides", json=wish, headers=asking | {"Idempotency-Key": "k-1"})
    assert (made.status_code, same.headers["idempotent-replay"]) == (201, "true")
    assert made.json() == same.json()
    path = f"{API}/limit-overrides/{made.json()['override_id']}"
    assert made.headers["location"] == path
    assert client.post(f"{path}/approve", json={}, headers=asking).status_code == 403
    approved = client.post(f"{path}/approve", json={"notes": "fine"}, headers=deciding)
    assert (approved.status_code, approved.json()["status"]) == (200, "APPROVED")
    again = client.post(f"{path}/approve", json={}, headers=deciding)
    assert (again.status_code, again.json()["code"], again.json()["state"]) == (
        409,
        "INVALID_TRANSITION",
        "APPROVED",
    )
    assert client.get(path, headers=asking).json()["review_notes"] == "fine"
    (listed,) = client.get(f"{API}/limit-overrides?status=APPROVED", headers=asking).json()["items"]
    assert listed["limit_id"] == "l-1"
    assert client.post(f"{path}/cancel", json={}, headers=asking).json()["status"] == "CANCELLED"


def test_a_stranger_and_a_key_without_the_scope_see_nothing(client: TestClient, tenant: Tenant) -> None:
    weak = tenant.headers(scopes=("tenant:read",))
    for method, path in (
        ("GET", "/limits"),
        ("POST", "/limits"),
        ("GET", "/limits/l-1"),
        ("PATCH", "/limits/l-1"),
        ("POST", "/limits/l-1/disable"),
        ("POST", "/limits/l-1/enable"),
        ("GET", "/limit-breaches"),
        ("GET", "/limit-overrides"),
        ("POST", "/limit-overrides"),
        ("GET", "/limit-overrides/o"),
        ("POST", "/limit-overrides/o/approve"),
        ("POST", "/limit-overrides/o/reject"),
        ("POST", "/limit-overrides/o/cancel"),
        ("POST", "/runs/r/usage"),
        ("GET", "/runs/r/usage"),
        ("POST", "/runs/r/reservations/x/release"),
    ):
        body = {"json": {}} if method != "GET" else {}
        assert client.request(method, f"{API}{path}", **body).status_code == 401, path
        assert client.request(method, f"{API}{path}", headers=weak, **body).status_code == 403, path
