"""Operator routes over HTTP: tenants, their keys, the system's switches, and telemetry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from app.api.table import ROUTES as ROUTE_TABLE
from app.hoc_spine.spine import Spine
from app.main import create_app
from tests.factories.tenants import Tenant, make_tenant
from tests.factories.worlds import make_world, start_run, step

API = "/api/v1/operator"
REASON = {"reason": "test"}
KEY = {"name": "First key", "actor_type": "HUMAN", "actor_id": "alice", "role": "OWNER"}
ROUTES = [
    ("POST", "/tenants", {"tenant_id": "t-1", "name": "T"}),
    ("GET", "/tenants", None),
    ("GET", "/tenants/t-1", None),
    ("PATCH", "/tenants/t-1", {"name": "U"}),
    ("POST", "/tenants/t-1/suspend", REASON),
    ("POST", "/tenants/t-1/activate", REASON),
    ("POST", "/tenants/t-1/close", REASON),
    ("POST", "/tenants/t-1/keys", KEY),
    ("POST", "/tenants/t-1/keys/key_1/revoke", REASON),
    ("GET", "/switches", None),
    ("POST", "/killswitch/engage", REASON),
    ("POST", "/killswitch/release", REASON),
    ("POST", "/degraded/enter", REASON),
    ("POST", "/degraded/exit", REASON),
    ("GET", "/dispatch-records", None),
    ("GET", "/metrics/operations", None),
]
OF_ONE = [route for route in ROUTES if "t-1" in route[1]]

# The operation of each route, in its order above.
OPERATIONS = {
    "POST /api/v1/operator/tenants": "ops.tenants.create",
    "GET /api/v1/operator/tenants": "ops.tenants.list",
    "GET /api/v1/operator/tenants/{tenant_id}": "ops.tenants.get",
    "PATCH /api/v1/operator/tenants/{tenant_id}": "ops.tenants.update",
    "POST /api/v1/operator/tenants/{tenant_id}/suspend": "ops.tenants.suspend",
    "POST /api/v1/operator/tenants/{tenant_id}/activate": "ops.tenants.activate",
    "POST /api/v1/operator/tenants/{tenant_id}/close": "ops.tenants.close",
    "POST /api/v1/operator/tenants/{tenant_id}/keys": "ops.keys.create",
    "POST /api/v1/operator/tenants/{tenant_id}/keys/{key_id}/revoke": "ops.keys.revoke",
    "GET /api/v1/operator/switches": "ops.switches.get",
    "POST /api/v1/operator/killswitch/engage": "ops.killswitch.engage",
    "POST /api/v1/operator/killswitch/release": "ops.killswitch.release",
    "POST /api/v1/operator/degraded/enter": "ops.degraded.enter",
    "POST /api/v1/operator/degraded/exit": "ops.degraded.exit",
    "GET /api/v1/operator/dispatch-records": "ops.dispatches.list",
    "GET /api/v1/operator/metrics/operations": "ops.metrics.operations",
}


class Operator:
    """A client with the operator's token."""

    def __init__(self, client: TestClient, headers: dict[str, str]) -> None:
        self.client, self.headers = client, headers

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        given: dict[str, Any] = {} if body is None else {"json": body}
        return self.client.request(method, API + path, headers={**self.headers, **headers}, **given)

    def ok(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        reply = self.send(method, path, body, **headers)
        assert reply.status_code in (200, 201), reply.text
        return reply.json()


@pytest.fixture
def operator(client: TestClient, operator_headers: dict[str, str]) -> Operator:
    return Operator(client, operator_headers)


def code(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["code"]


def new_id() -> str:
    return f"t-{uuid4().hex}"


def test_each_route_dispatches_its_operation() -> None:
    served = {f"{route.method} {route.path}": route.operation for route in ROUTE_TABLE}
    assert {name: served[name] for name in OPERATIONS} == OPERATIONS
    assert len(OPERATIONS) == len(ROUTES)


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_a_stranger_is_turned_away(client: TestClient, method: str, path: str, body: Any) -> None:
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"X-API-Key": "the-operator"}):
        assert code(Operator(client, headers).send(method, path, body)) == (401, "INVALID_CREDENTIALS")


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_no_key_of_a_tenant_opens_an_operators_route(
    client: TestClient, tenant: Tenant, method: str, path: str, body: Any
) -> None:
    assert code(Operator(client, tenant.headers()).send(method, path, body)) == (401, "INVALID_CREDENTIALS")


@pytest.mark.parametrize(("method", "path", "body"), OF_ONE)
def test_a_tenant_that_does_not_exist_is_not_there(
    operator: Operator, method: str, path: str, body: Any
) -> None:
    for tenant_id in (new_id(), "_system"):
        reply = operator.send(method, path.replace("t-1", tenant_id), body, **{"If-Match": "*"})
        assert code(reply) == (404, "TENANT_NOT_FOUND")


def test_a_tenant_is_made_and_works_at_once(operator: Operator, client: TestClient) -> None:
    tenant_id = new_id()
    reply = operator.send("POST", "/tenants", {"tenant_id": tenant_id, "name": "Acme", "plan": "PRO"})
    made = reply.json()
    assert (reply.status_code, reply.headers["location"]) == (201, f"{API}/tenants/{tenant_id}")
    assert (made["slug"], made["plan"], made["status"], made["version"]) == (tenant_id, "PRO", "ACTIVE", 1)
    assert made["allow_self_approval"] is False
    key = operator.ok("POST", f"/tenants/{tenant_id}/keys", KEY)
    headers = {"Authorization": f"Bearer {key['api_key']}"}
    assert (key["tenant_id"], key["scopes"], key["created_by"]) == (tenant_id, ["*"], "operator")
    assert client.get("/api/v1/tenant", headers=headers).json()["tenant_id"] == tenant_id


@pytest.mark.parametrize("tenant_id", ["default", "_system"])
def test_a_reserved_id_is_refused(operator: Operator, tenant_id: str) -> None:
    reply = operator.send("POST", "/tenants", {"tenant_id": tenant_id, "name": "T"})
    # `_system` is no identifier to begin with.
    assert code(reply) in ((422, "TENANT_ID_RESERVED"), (422, "INVALID_INPUT"))
    assert reply.json()["code"] == ("TENANT_ID_RESERVED" if tenant_id == "default" else "INVALID_INPUT")


@pytest.mark.parametrize("member", ["tenant_id", "slug"])
def test_a_taken_id_or_slug_is_refused(operator: Operator, tenant: Tenant, member: str) -> None:
    payload = {"tenant_id": new_id(), "name": "T"} | {member: tenant.tenant_id}
    assert code(operator.send("POST", "/tenants", payload)) == (409, "TENANT_EXISTS")


@pytest.mark.parametrize(
    "change",
    [
        {"name": " "},
        {"name": None},
        {"plan": "GOLD"},
        {"tenant_id": "a/b"},
        {"slug": ""},
        {"status": "CLOSED"},
    ],
    ids=str,
)
def test_a_tenant_that_does_not_fit_is_refused(operator: Operator, change: dict[str, Any]) -> None:
    reply = operator.send("POST", "/tenants", {"tenant_id": new_id(), "name": "T"} | change)
    assert code(reply) == (422, "INVALID_INPUT")


def test_a_creation_is_replayed(operator: Operator) -> None:
    tenant_id = new_id()
    payload = {"tenant_id": tenant_id, "name": "T"}
    key = {"Idempotency-Key": f"make-{tenant_id}"}
    first, again = (operator.send("POST", "/tenants", payload, **key) for _ in range(2))
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert again.headers["idempotent-replay"] == "true"
    other = operator.send("POST", "/tenants", payload | {"name": "U"}, **key)
    assert code(other) == (422, "IDEMPOTENCY_KEY_REUSED")


def test_the_first_keys_secret_is_shown_once(operator: Operator, tenant: Tenant) -> None:
    key = {"Idempotency-Key": f"key-{tenant.tenant_id}"}
    path = f"/tenants/{tenant.tenant_id}/keys"
    first, again = (operator.ok("POST", path, KEY, **key) for _ in range(2))
    assert first["api_key"].startswith("hoc_")
    assert again == first | {"api_key": None}


def test_a_tenant_is_changed_under_its_version(operator: Operator, tenant: Tenant) -> None:
    path = f"/tenants/{tenant.tenant_id}"
    assert code(operator.send("PATCH", path, {"name": "New"})) == (428, "PRECONDITION_REQUIRED")
    stale = operator.send("PATCH", path, {"name": "New"}, **{"If-Match": '"v9"'})
    assert (*code(stale), stale.json()["current_version"]) == (412, "VERSION_MISMATCH", 1)
    done = operator.send("PATCH", path, {"name": "New", "plan": "FREE"}, **{"If-Match": '"v1"'})
    assert (done.status_code, done.headers["etag"]) == (200, '"v2"')
    assert (done.json()["name"], done.json()["plan"], done.json()["slug"]) == (
        "New",
        "FREE",
        tenant.tenant_id,
    )
    same = operator.send("PATCH", path, {"name": "New"}, **{"If-Match": '"v2"'})
    assert (same.status_code, same.json()) == (200, done.json())


@pytest.mark.parametrize(
    "change", [{"status": "CLOSED"}, {"slug": "x"}, {"name": ""}, {"tenant_id": "x"}], ids=str
)
def test_a_change_that_does_not_fit_is_refused(
    operator: Operator, tenant: Tenant, change: dict[str, Any]
) -> None:
    reply = operator.send("PATCH", f"/tenants/{tenant.tenant_id}", change, **{"If-Match": "*"})
    assert code(reply) == (422, "INVALID_INPUT")


def test_a_tenant_goes_through_its_states(operator: Operator, tenant: Tenant, client: TestClient) -> None:
    path = f"/tenants/{tenant.tenant_id}"
    headers = tenant.headers()
    suspended = operator.send("POST", f"{path}/suspend", {"reason": "bob@example.com did not pay"})
    assert (suspended.json()["status"], suspended.headers["etag"]) == ("SUSPENDED", '"v2"')
    assert suspended.json()["status_reason"] == "<REDACTED_EMAIL> did not pay"
    assert code(client.get("/api/v1/tenant", headers=headers)) == (401, "INVALID_CREDENTIALS")
    assert operator.ok("POST", f"{path}/activate", REASON)["status"] == "ACTIVE"
    closed = operator.ok("POST", f"{path}/close", {"reason": "over"})
    assert closed["status"] == "CLOSED"
    for change in ("suspend", "activate"):
        assert code(operator.send("POST", f"{path}/{change}", REASON)) == (409, "TENANT_CLOSED")
    assert operator.ok("POST", f"{path}/close", {"reason": "again"}) == closed
    assert code(operator.send("POST", f"{path}/keys", KEY)) == (409, "TENANT_CLOSED")


def test_a_state_that_is_already_so_writes_nothing(
    operator: Operator, tenant: Tenant, second_connection: sa.Connection
) -> None:
    before = operator.ok("GET", f"/tenants/{tenant.tenant_id}")
    assert operator.ok("POST", f"/tenants/{tenant.tenant_id}/activate", REASON) == before
    count = sa.text("SELECT count(*) FROM audit_ledger WHERE entity_id = :t")
    assert second_connection.execute(count, {"t": tenant.tenant_id}).scalar_one() == 1


def test_a_change_of_state_meets_if_match(operator: Operator, tenant: Tenant) -> None:
    path = f"/tenants/{tenant.tenant_id}/suspend"
    assert code(operator.send("POST", path, REASON, **{"If-Match": '"v9"'})) == (412, "VERSION_MISMATCH")
    assert operator.ok("POST", path, REASON, **{"If-Match": '"v1"'})["status"] == "SUSPENDED"


def test_tenants_are_listed_by_id_and_status(operator: Operator, new_tenant: Callable[..., Tenant]) -> None:
    mine = sorted(new_tenant().tenant_id for _ in range(3))
    operator.ok("POST", f"/tenants/{mine[1]}/suspend", REASON)
    seen, query = [], "?limit=2"
    while True:
        page = operator.ok("GET", f"/tenants{query}")
        seen += [item["tenant_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        query = f"?limit=2&cursor={page['next_cursor']}"
    assert seen == sorted(seen)
    assert set(mine) <= set(seen)
    assert "_system" not in seen
    suspended = {
        item["tenant_id"] for item in operator.ok("GET", "/tenants?status=SUSPENDED&limit=500")["items"]
    }
    assert suspended & set(mine) == {mine[1]}
    wrong = operator.send("GET", f"/tenants?status=CLOSED&{query[1:]}")
    assert code(wrong) == (400, "INVALID_CURSOR")


def test_the_operators_entries_stand_in_the_systems_ledger_and_say_whose(
    operator: Operator, tenant: Tenant, second_connection: sa.Connection
) -> None:
    path = f"/tenants/{tenant.tenant_id}"
    key = operator.ok("POST", f"{path}/keys", KEY)
    operator.ok("POST", f"{path}/keys/{key['key_id']}/revoke", {"reason": "over"})
    operator.ok("POST", f"{path}/suspend", REASON)
    query = sa.text(
        "SELECT tenant_id, event_type, actor_id, before_state, after_state FROM audit_ledger"
        " WHERE entity_id IN (:t, :k) ORDER BY created_at, entry_id"
    )
    rows = second_connection.execute(query, {"t": tenant.tenant_id, "k": key["key_id"]}).all()
    assert [row.event_type for row in rows] == [
        "TenantCreated",
        "ApiKeyCreated",
        "ApiKeyRevoked",
        "TenantSuspended",
    ]
    assert {(row.tenant_id, row.actor_id) for row in rows} == {("_system", "operator")}
    assert all(f'"tenant_id":"{tenant.tenant_id}"' in row.after_state for row in rows[1:3])
    assert '"slug"' in rows[3].after_state
    assert '"status":"SUSPENDED"' in rows[3].after_state
    assert '"status":"ACTIVE"' in rows[3].before_state


def test_the_operator_revokes_a_key_of_its_tenant_alone(
    operator: Operator, tenant: Tenant, other_tenant: Tenant, client: TestClient
) -> None:
    key = operator.ok("POST", f"/tenants/{tenant.tenant_id}/keys", KEY)
    wrong = operator.send("POST", f"/tenants/{other_tenant.tenant_id}/keys/{key['key_id']}/revoke", REASON)
    assert code(wrong) == (404, "KEY_NOT_FOUND")
    done = operator.ok("POST", f"/tenants/{tenant.tenant_id}/keys/{key['key_id']}/revoke", REASON)
    assert (done["status"], done["revoked_by"]) == ("REVOKED", "operator")
    headers = {"Authorization": f"Bearer {key['api_key']}"}
    assert code(client.get("/api/v1/tenant", headers=headers)) == (401, "INVALID_CREDENTIALS")


def test_the_operator_sees_dispatches_of_every_tenant(
    operator: Operator, tenant: Tenant, other_tenant: Tenant, client: TestClient
) -> None:
    for each in (tenant, other_tenant):
        client.get("/api/v1/tenant", headers=each.headers())
    items = operator.ok("GET", "/dispatch-records?operation=tenants.get&limit=2")["items"]
    assert [item["tenant_id"] for item in items] == [other_tenant.tenant_id, tenant.tenant_id]
    (mine,) = operator.ok("GET", f"/dispatch-records?tenant_id={tenant.tenant_id}&operation=tenants.get")[
        "items"
    ]
    assert mine["actor_id"] == "user-1"
    assert code(operator.send("GET", "/dispatch-records?limit=1001")) == (400, "INVALID_QUERY")


def test_the_operator_sees_counts_and_latencies(operator: Operator) -> None:
    operator.ok("GET", "/switches")
    found = {item["operation"]: item for item in operator.ok("GET", "/metrics/operations")["items"]}
    counted = found["ops.switches.get"]
    assert counted["total"] == counted["success"] + counted["failure"] > 0
    assert counted["min_latency_ms"] <= counted["avg_latency_ms"] <= counted["max_latency_ms"]


@pytest.fixture
def alone(
    make_spine: Callable[..., Spine], new_database: Callable[..., str], operator_headers: dict[str, str]
) -> Iterator[tuple[Spine, Operator]]:
    """The product on a database of its own: the switches of the system are everybody's."""
    spine = make_spine(database_url=new_database())
    with TestClient(create_app(spine), raise_server_exceptions=False) as http:
        yield spine, Operator(http, operator_headers)


def test_the_two_switches_are_independent(alone: tuple[Spine, Operator]) -> None:
    _, operator = alone
    off = operator.ok("GET", "/switches")
    assert off == dict.fromkeys(off, None) | {"kill_engaged": False, "degraded": False}
    operator.ok("POST", "/degraded/enter", {"reason": "disk"})
    both = operator.ok("POST", "/killswitch/engage", {"reason": "bob@example.com called"})
    assert (both["kill_engaged"], both["degraded"], both["kill_by"]) == (True, True, "operator")
    assert (both["kill_reason"], both["degraded_reason"]) == ("<REDACTED_EMAIL> called", "disk")
    left = operator.ok("POST", "/degraded/exit", REASON)
    assert (left["kill_engaged"], left["degraded"], left["degraded_at"]) == (True, False, None)
    assert operator.ok("POST", "/killswitch/release", REASON) == off


def test_a_switch_that_stands_so_already_writes_nothing(alone: tuple[Spine, Operator]) -> None:
    spine, operator = alone
    first = operator.ok("POST", "/killswitch/engage", {"reason": "first"})
    assert operator.ok("POST", "/killswitch/engage", {"reason": "second"}) == first
    operator.ok("POST", "/degraded/exit", REASON)
    with spine.transactions.read("_system", role="hoc_maintenance") as connection:
        query = sa.text("SELECT event_type, entity_type, before_state, after_state FROM audit_ledger")
        (entry,) = connection.execute(query).all()
    assert (entry.event_type, entry.entity_type) == ("EmergencyOverrideActivated", "SYSTEM")
    assert '"kill_engaged":false' in entry.before_state
    assert '"kill_engaged":true' in entry.after_state
    assert "first" not in entry.after_state


@pytest.mark.parametrize("whose", ["the system's", "the tenant's own"])
def test_the_kill_switch_stops_starts_and_retrieval_and_no_fact(
    alone: tuple[Spine, Operator], whose: str
) -> None:
    spine, operator = alone
    tenant = make_tenant(spine)
    world = make_world(spine, tenant)
    headers = tenant.headers()

    def post(path: str, body: Any) -> httpx.Response:
        return operator.client.post(f"/api/v1{path}", json=body, headers=headers)

    if whose == "the system's":
        operator.ok("POST", "/killswitch/engage", REASON)
    else:
        post("/tenant/freeze", REASON)
    run = {"agent_id": "a", "goal": "g", "actor_type": "SYSTEM", "origin_system_id": "crm"}
    assert code(post("/runs", run)) == (409, "KILL_SWITCH_ACTIVE")
    denied = world.access("refund")
    assert (denied.success, denied.committed) == (False, True)
    assert denied.error is not None
    assert denied.error.extra["evidence_id"]
    (evidence,) = tenant.call("retrieval.evidence.list", {"run_id": world.run_id}).items
    assert (evidence.outcome, evidence.reason_code) == ("DENIED", "KILL_SWITCH")
    # What happened is recorded, and the repair work goes on.
    world.append(step(0))
    assert post("/keys", KEY | {"role": "VIEWER"}).status_code == 201
    world.complete("halted")
    if whose == "the system's":
        operator.ok("POST", "/killswitch/release", REASON)
    else:
        post("/tenant/unfreeze", REASON)
    assert post("/runs", run).status_code == 201


def test_degraded_mode_stops_starts_and_flags_the_rest(alone: tuple[Spine, Operator]) -> None:
    spine, operator = alone
    tenant = make_tenant(spine)
    world = make_world(spine, tenant)
    operator.ok("POST", "/degraded/enter", REASON)
    headers = tenant.headers()
    run = {"agent_id": "a", "goal": "g", "actor_type": "SYSTEM", "origin_system_id": "crm"}
    refused = operator.client.post("/api/v1/runs", json=run, headers=headers)
    assert code(refused) == (503, "DEGRADED_MODE")
    assert refused.headers["retry-after"] == "30"
    assert world.access("refund").success
    world.append(step(0))
    assert operator.client.get("/api/v1/tenant", headers=headers).status_code == 200
    records = spine.audit_store.get_dispatch_records(tenant_id=tenant.tenant_id, limit=4)
    assert {record["operation"] for record in records} == {
        "runs.start",
        "retrieval.access",
        "traces.steps.append",
        "tenants.get",
    }
    assert all(record["authority_degraded"] for record in records)
    operator.ok("POST", "/degraded/exit", REASON)
    assert operator.client.post("/api/v1/runs", json=run, headers=headers).status_code == 201


def test_a_switch_is_obeyed_by_the_next_write_of_every_worker(
    alone: tuple[Spine, Operator], make_spine: Callable[..., Spine]
) -> None:
    spine, operator = alone
    second = make_spine(database_url=spine.services.settings.database_url)
    tenant = make_tenant(second)
    start_run(tenant)
    operator.ok("POST", "/killswitch/engage", REASON)
    run = {"agent_id": "a", "goal": "g", "actor_type": "SYSTEM", "origin_system_id": "crm"}
    assert tenant.dispatch("runs.start", run).error_code == "KILL_SWITCH_ACTIVE"
