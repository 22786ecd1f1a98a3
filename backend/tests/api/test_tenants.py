"""Tenant and log routes over HTTP: strangers, other tenants, missing scopes, and as it should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from app.api.table import ROUTES as ROUTE_TABLE
from app.hoc_spine.spine import Spine
from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run

API = "/api/v1"
REASON = {"reason": "test"}
ROUTES = [
    ("GET", "/tenant", None, "tenant:read"),
    ("GET", "/tenant/usage", None, "tenant:read"),
    ("POST", "/tenant/freeze", REASON, "tenant:admin"),
    ("POST", "/tenant/unfreeze", REASON, "tenant:admin"),
    ("GET", "/logs/audit", None, "logs:read"),
    ("GET", "/logs/audit/aud_1", None, "logs:read"),
    ("GET", "/logs/dispatches", None, "logs:read"),
    ("GET", "/logs/runs/r-1/governance", None, "logs:read"),
]

# The operation of each route, in its order above.
OPERATIONS = {
    "GET /api/v1/tenant": "tenants.get",
    "GET /api/v1/tenant/usage": "tenants.usage",
    "POST /api/v1/tenant/freeze": "tenants.freeze",
    "POST /api/v1/tenant/unfreeze": "tenants.unfreeze",
    "GET /api/v1/logs/audit": "logs.audit_list",
    "GET /api/v1/logs/audit/{entry_id}": "logs.audit_get",
    "GET /api/v1/logs/dispatches": "logs.dispatches",
    "GET /api/v1/logs/runs/{run_id}/governance": "logs.run_governance",
}


def send(
    client: TestClient, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> httpx.Response:
    given: dict[str, Any] = {"headers": headers or {}} | ({} if body is None else {"json": body})
    return client.request(method, API + path, **given)


def code(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["code"]


def test_each_route_dispatches_its_operation() -> None:
    served = {f"{route.method} {route.path}": route.operation for route in ROUTE_TABLE}
    assert {name: served[name] for name in OPERATIONS} == OPERATIONS
    assert len(OPERATIONS) == len(ROUTES)


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES)
def test_a_stranger_is_turned_away(client: TestClient, method: str, path: str, body: Any, scope: str) -> None:
    assert code(send(client, method, path, body)) == (401, "INVALID_CREDENTIALS")


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES)
def test_a_key_without_the_scope_is_turned_away(
    client: TestClient, tenant: Tenant, method: str, path: str, body: Any, scope: str
) -> None:
    area = scope.partition(":")[0]
    others = [f"{area}:{verb}" for verb in ("read", "write", "admin") if f"{area}:{verb}" != scope]
    headers = tenant.headers(scopes=[*others, "runs:*", "keys:*"])
    assert code(send(client, method, path, body, headers)) == (403, "INSUFFICIENT_SCOPE")


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES)
def test_the_operators_token_opens_no_route_of_a_tenant(
    client: TestClient, operator_headers: dict[str, str], method: str, path: str, body: Any, scope: str
) -> None:
    assert code(send(client, method, path, body, operator_headers)) == (401, "INVALID_CREDENTIALS")


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES)
def test_the_keys_of_a_suspended_tenant_are_turned_away(
    client: TestClient, tenant: Tenant, method: str, path: str, body: Any, scope: str
) -> None:
    headers = tenant.headers(scopes=[scope])
    tenant.suspend()
    assert code(send(client, method, path, body, headers)) == (401, "INVALID_CREDENTIALS")


def test_a_tenant_sees_itself(client: TestClient, tenant: Tenant) -> None:
    reply = send(client, "GET", "/tenant", headers=tenant.headers(scopes=["tenant:read"]))
    body = reply.json()
    assert reply.status_code == 200
    assert reply.headers["etag"] == '"v1"'
    assert (body["tenant_id"], body["plan"], body["status"]) == (tenant.tenant_id, "ENTERPRISE", "ACTIVE")
    assert (body["frozen"], body["frozen_at"], body["status_reason"]) == (False, None, None)


def test_another_tenant_sees_itself(client: TestClient, tenant: Tenant, other_tenant: Tenant) -> None:
    reply = send(client, "GET", "/tenant", headers=other_tenant.headers())
    assert reply.json()["tenant_id"] == other_tenant.tenant_id


def test_a_tenant_named_in_the_query_is_refused(
    client: TestClient, tenant: Tenant, other_tenant: Tenant
) -> None:
    path = f"/tenant?tenant_id={other_tenant.tenant_id}"
    assert code(send(client, "GET", path, headers=tenant.headers())) == (400, "INVALID_QUERY")


def test_use_is_told_against_the_plan(client: TestClient, new_tenant: Callable[..., Tenant]) -> None:
    tenant = new_tenant(plan="FREE")
    headers = tenant.headers()
    for run in ("r-1", "r-2"):
        start_run(tenant, run_id=run)
    used = {"run_id": "r-1", "usage_id": "u-1", "usage": {"TOKENS_INPUT": 12.5}}
    tenant.call("runs.usage.record", used)
    tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    assert send(client, "GET", "/tenant/usage", headers=headers).json() == {
        "plan": "FREE",
        "running_runs": 1,
        "concurrent_runs": 5,
        "runs_today": 2,
        "runs_per_day": 100,
        "live_keys": 1,
        "max_live_keys": 5,
        "requests_per_minute": 60,
        "tokens_this_month": 12.5,
        "tokens_per_month": 1_000_000,
    }


def test_the_use_of_yesterday_is_not_that_of_today(tenant: Tenant, clock: Any) -> None:
    start_run(tenant, run_id="r-1")
    assert tenant.call("tenants.usage").runs_today == 1
    clock.advance(days=1)
    assert tenant.call("tenants.usage").runs_today == 0


def test_a_tenants_own_switch_goes_on_and_off(client: TestClient, tenant: Tenant) -> None:
    headers = tenant.headers(actor_id="alice")
    on = send(client, "POST", "/tenant/freeze", {"reason": "we were called"}, headers)
    assert on.status_code == 200
    assert (on.json()["frozen"], on.json()["frozen_by"]) == (True, "alice")
    assert on.json()["frozen_reason"] == "we were called"
    assert on.json()["frozen_at"]
    off = send(client, "POST", "/tenant/unfreeze", REASON, headers).json()
    assert (off["frozen"], off["frozen_at"], off["frozen_by"], off["frozen_reason"]) == (
        False,
        None,
        None,
        None,
    )


def test_a_switch_changes_the_version_of_what_shows_it(client: TestClient, tenant: Tenant) -> None:
    headers = tenant.headers()
    before = send(client, "GET", "/tenant", headers=headers)
    known = {**headers, "If-None-Match": before.headers["etag"]}
    assert send(client, "GET", "/tenant", headers=known).status_code == 304
    send(client, "POST", "/tenant/freeze", REASON, headers)
    after = send(client, "GET", "/tenant", headers=known)
    assert (after.status_code, after.json()["frozen"], after.headers["etag"]) == (200, True, '"v2"')


def test_a_switch_meets_if_match(client: TestClient, tenant: Tenant) -> None:
    headers = tenant.headers()
    stale = send(client, "POST", "/tenant/freeze", REASON, {**headers, "If-Match": '"v9"'})
    assert (*code(stale), stale.json()["current_version"]) == (412, "VERSION_MISMATCH", 1)
    assert send(client, "POST", "/tenant/freeze", REASON, {**headers, "If-Match": '"v1"'}).status_code == 200


@pytest.mark.parametrize(
    ("path", "before"), [("/tenant/unfreeze", []), ("/tenant/freeze", ["/tenant/freeze"])]
)
def test_a_switch_that_stands_so_already_writes_nothing(
    client: TestClient,
    tenant: Tenant,
    second_connection: sa.Connection,
    path: str,
    before: list[str],
) -> None:
    headers = tenant.headers()
    for each in before:
        send(client, "POST", each, {"reason": "first"}, headers)
    shown = send(client, "GET", "/tenant", headers=headers).json()
    count = sa.text("SELECT count(*) FROM audit_ledger WHERE tenant_id = :t")
    entries = second_connection.execute(count, {"t": tenant.tenant_id}).scalar_one()
    again = send(client, "POST", path, {"reason": "second"}, headers)
    assert (again.status_code, again.json()) == (200, shown)
    assert second_connection.execute(count, {"t": tenant.tenant_id}).scalar_one() == entries == len(before)


@pytest.mark.parametrize(
    "body", [{}, {"reason": ""}, {"reason": " "}, {"reason": "x" * 4097}, {"reason": 1}, {**REASON, "x": 1}]
)
def test_a_switch_needs_a_reason_and_nothing_else(client: TestClient, tenant: Tenant, body: Any) -> None:
    reply = send(client, "POST", "/tenant/freeze", body, tenant.headers())
    assert code(reply) == (422, "INVALID_INPUT")
    assert reply.json()["errors"]


def test_the_ledger_keeps_the_whole_row_of_a_switched_tenant(client: TestClient, tenant: Tenant) -> None:
    headers = tenant.headers(actor_id="alice")
    sent = {**headers, "X-Request-ID": "req-of-alice"}
    send(client, "POST", "/tenant/freeze", {"reason": "asked by bob@example.com"}, sent)
    (entry,) = send(client, "GET", "/logs/audit", headers=headers).json()["items"]
    shown = send(client, "GET", f"/logs/audit/{entry['entry_id']}", headers=headers).json()
    assert (shown["event_type"], shown["entity_type"]) == ("EmergencyOverrideActivated", "TENANT")
    assert (shown["entity_id"], shown["actor_id"]) == (tenant.tenant_id, "alice")
    assert (shown["request_id"], shown["operation"]) == ("req-of-alice", "tenants.freeze")
    assert shown["action_reason"] == "asked by <REDACTED_EMAIL>"
    assert shown["actor_key_id"].startswith("key_")
    before, after = shown["before_state"], shown["after_state"]
    assert set(after) == set(before) == {
        "name", "slug", "plan", "status", "allow_self_approval", "created_at", "updated_at", "version",
        "protected_commit", "frozen",
    }  # fmt: skip
    assert (before["frozen"], after["frozen"]) == (False, True)
    assert (before["version"], after["version"]) == (1, 2)


@pytest.fixture
def history(client: TestClient, tenant: Tenant) -> dict[str, str]:
    """Five entries of a tenant: the switch on and off, a key made, frozen and revoked."""
    headers = tenant.headers(actor_id="alice")
    send(client, "POST", "/tenant/freeze", REASON, headers)
    send(client, "POST", "/tenant/unfreeze", REASON, headers)
    key = {"name": "k", "actor_type": "AGENT", "actor_id": "a-1"}
    made = send(client, "POST", "/keys", key, tenant.headers(actor_id="bob")).json()["key_id"]
    for change in ("freeze", "revoke"):
        send(client, "POST", f"/keys/{made}/{change}", REASON, headers)
    return headers


def events(client: TestClient, headers: dict[str, str], query: str = "") -> list[str]:
    reply = send(client, "GET", f"/logs/audit{query}", headers=headers)
    assert reply.status_code == 200, reply.text
    return [entry["event_type"] for entry in reply.json()["items"]]


def test_the_ledger_is_told_newest_first_without_its_states(
    client: TestClient, history: dict[str, str]
) -> None:
    assert events(client, history) == [
        "ApiKeyRevoked",
        "ApiKeyFrozen",
        "ApiKeyCreated",
        "EmergencyOverrideDeactivated",
        "EmergencyOverrideActivated",
    ]
    (entry, *_) = send(client, "GET", "/logs/audit", headers=history).json()["items"]
    assert not {"before_state", "after_state", "fact_id", "protected_salt"} & set(entry)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("?event_type=ApiKeyFrozen", 1),
        ("?entity_type=API_KEY", 3),
        ("?entity_type=API_KEY&event_type=ApiKeyCreated", 1),
        ("?actor_id=bob", 1),
        ("?actor_type=HUMAN", 5),
        ("?actor_type=AGENT", 0),
        ("?run_id=r-1", 0),
        ("?entity_id=nothing", 0),
        ("?created_after=2000-01-01T00:00:00Z", 5),
        ("?created_before=2000-01-01T00:00:00Z", 0),
    ],
)
def test_the_ledger_is_filtered(client: TestClient, history: dict[str, str], query: str, count: int) -> None:
    assert len(events(client, history, query)) == count


def test_the_ledger_is_read_page_by_page_without_gap_or_repeat(
    client: TestClient, history: dict[str, str]
) -> None:
    whole = send(client, "GET", "/logs/audit", headers=history).json()["items"]
    seen, cursor = [], ""
    while True:
        reply = send(client, "GET", f"/logs/audit?limit=2{cursor}", headers=history)
        seen += reply.json()["items"]
        if reply.json()["next_cursor"] is None:
            break
        assert 'rel="next"' in reply.headers["link"]
        cursor = f"&cursor={reply.json()['next_cursor']}"
    assert seen == whole


def test_a_cursor_belongs_to_its_tenant_and_filter(
    client: TestClient, history: dict[str, str], other_tenant: Tenant
) -> None:
    cursor = send(client, "GET", "/logs/audit?limit=1", headers=history).json()["next_cursor"]
    for path, headers in (
        (f"/logs/audit?actor_id=alice&cursor={cursor}", history),
        (f"/logs/audit?cursor={cursor}", other_tenant.headers()),
        (f"/keys?cursor={cursor}", history),
        ("/logs/audit?cursor=nonsense", history),
    ):
        assert code(send(client, "GET", path, headers=headers)) == (400, "INVALID_CURSOR")


def test_another_tenants_entry_is_not_there(
    client: TestClient, history: dict[str, str], other_tenant: Tenant
) -> None:
    entry = send(client, "GET", "/logs/audit", headers=history).json()["items"][0]["entry_id"]
    foreign = send(client, "GET", f"/logs/audit/{entry}", headers=other_tenant.headers())
    unknown = send(client, "GET", "/logs/audit/aud_unknown", headers=other_tenant.headers())
    assert code(foreign) == code(unknown) == (404, "ENTRY_NOT_FOUND")
    assert foreign.json()["detail"] == unknown.json()["detail"]
    assert events(client, other_tenant.headers()) == []


def test_the_governance_of_a_run_is_told_oldest_first(client: TestClient, tenant: Tenant) -> None:
    headers = tenant.headers()
    start_run(tenant, run_id="r-1")
    rule = {"kind": "ACCESS", "name": "R", "effect": "ALLOW", "scope": "TENANT"}
    made = tenant.call("policies.rules.create", rule, run_id="r-1").rule_id
    send(client, "POST", "/tenant/freeze", REASON, {**headers, "X-Run-ID": "r-1"})
    tenant.call("runs.halt", {"run_id": "r-1", "reason": "stop"})
    path = "/logs/runs/r-1/governance"
    whole = send(client, "GET", path, headers=headers).json()
    assert [event["event_type"] for event in whole["events"]] == [
        "PolicyRuleCreated",
        "IncidentCreated",
        "RunHalted",
    ]
    assert (whole["run_id"], whole["total_events"], whole["next_cursor"]) == ("r-1", 3, None)
    assert whole["events"][0]["policy_id"] == made
    metadata = whole["metadata"]
    assert (metadata["tenant_id"], metadata["run_id"], metadata["immutable"]) == (
        tenant.tenant_id,
        "r-1",
        True,
    )
    # The policies that judged the run, and the incidents that it caused.
    assert metadata["policy_ids"] == []
    assert metadata["incident_ids"] == [whole["events"][1]["entity_id"]]
    first = send(client, "GET", f"{path}?limit=1", headers=headers).json()
    assert (first["events"], first["total_events"]) == (whole["events"][:1], 3)
    second = send(client, "GET", f"{path}?limit=2&cursor={first['next_cursor']}", headers=headers).json()
    assert (second["events"], second["next_cursor"]) == (whole["events"][1:], None)


def test_a_run_without_events_has_an_empty_log_and_no_null(client: TestClient, tenant: Tenant) -> None:
    start_run(tenant, run_id="r-1")
    reply = send(client, "GET", "/logs/runs/r-1/governance", headers=tenant.headers())
    assert (reply.status_code, reply.json()["events"], reply.json()["total_events"]) == (200, [], 0)


def test_the_governance_of_another_tenants_run_is_not_there(
    client: TestClient, tenant: Tenant, other_tenant: Tenant
) -> None:
    start_run(tenant, run_id="r-1")
    for run in ("r-1", "unknown"):
        reply = send(client, "GET", f"/logs/runs/{run}/governance", headers=other_tenant.headers())
        assert code(reply) == (404, "RUN_NOT_FOUND")


def test_a_tenant_sees_its_own_dispatches_alone(
    client: TestClient, tenant: Tenant, other_tenant: Tenant
) -> None:
    send(client, "GET", "/tenant", headers=other_tenant.headers())
    headers = tenant.headers()
    send(client, "GET", "/tenant", headers={**headers, "X-Request-ID": "req-1"})
    send(client, "POST", "/tenant/freeze", REASON, headers)
    items = send(client, "GET", "/logs/dispatches", headers=headers).json()["items"]
    assert [item["operation"] for item in items] == ["tenants.freeze", "tenants.get"]
    assert {item["tenant_id"] for item in items} == {tenant.tenant_id}
    (read,) = send(client, "GET", "/logs/dispatches?operation=tenants.get", headers=headers).json()["items"]
    assert (read["request_id"], read["outcome"], read["success"]) == ("req-1", "COMMITTED", True)


@pytest.mark.parametrize("limit", ["0", "1001", "x"])
def test_dispatches_have_a_limit(client: TestClient, tenant: Tenant, limit: str) -> None:
    path = f"/logs/dispatches?limit={limit}"
    assert code(send(client, "GET", path, headers=tenant.headers())) == (400, "INVALID_QUERY")


def test_a_write_of_a_tenant_suspended_meanwhile_is_refused_in_itself(spine: Spine, tenant: Tenant) -> None:
    by = tenant.context()
    tenant.suspend()
    assert spine.dispatch("tenants.freeze", by, REASON).error_code == "TENANT_INACTIVE"
