"""API key routes over HTTP: what a key may make, what stops it, and how fast."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from app.api.table import ROUTES as ROUTE_TABLE
from app.hoc_spine.maintenance import Maintenance
from app.hoc_spine.spine import Spine
from app.main import create_app
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant, make_tenant

API = "/api/v1"
REASON = {"reason": "test"}
NEW = {"name": "CRM", "actor_type": "SYSTEM", "actor_id": "crm", "scopes": ["runs:read", "tenant:read"]}
ROUTES = [
    ("POST", "/keys", NEW, "keys:admin"),
    ("GET", "/keys", None, "keys:read"),
    ("GET", "/keys/key_1", None, "keys:read"),
    ("POST", "/keys/key_1/freeze", REASON, "keys:admin"),
    ("POST", "/keys/key_1/unfreeze", REASON, "keys:admin"),
    ("POST", "/keys/key_1/revoke", REASON, "keys:admin"),
]
OF_ONE = [route for route in ROUTES if "key_1" in route[1]]

# The operation of each route, in its order above.
OPERATIONS = {
    "POST /api/v1/keys": "keys.create",
    "GET /api/v1/keys": "keys.list",
    "GET /api/v1/keys/{key_id}": "keys.get",
    "POST /api/v1/keys/{key_id}/freeze": "keys.freeze",
    "POST /api/v1/keys/{key_id}/unfreeze": "keys.unfreeze",
    "POST /api/v1/keys/{key_id}/revoke": "keys.revoke",
}


def send(
    client: TestClient, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> httpx.Response:
    given: dict[str, Any] = {"headers": headers or {}} | ({} if body is None else {"json": body})
    return client.request(method, API + path, **given)


def code(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["code"]


def bearer(made: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {made['api_key']}"}


@pytest.fixture
def admin(tenant: Tenant) -> dict[str, str]:
    return tenant.headers(actor_id="alice")


@pytest.fixture
def make(client: TestClient, admin: dict[str, str]) -> Callable[..., dict[str, Any]]:
    """Make a key over HTTP and return its answer."""

    def create(**members: Any) -> dict[str, Any]:
        reply = send(client, "POST", "/keys", NEW | members, admin)
        assert reply.status_code == 201, reply.text
        made: dict[str, Any] = reply.json()
        return made

    return create


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
    others = {"keys:read": ["keys:write", "keys:admin"], "keys:admin": ["keys:read", "keys:write"]}
    headers = tenant.headers(scopes=[*others[scope], "tenant:*", "runs:*"])
    assert code(send(client, method, path, body, headers)) == (403, "INSUFFICIENT_SCOPE")


@pytest.mark.parametrize(("method", "path", "body", "scope"), OF_ONE)
def test_another_tenants_key_is_not_there(
    client: TestClient,
    other_tenant: Tenant,
    make: Callable[..., dict[str, Any]],
    method: str,
    path: str,
    body: Any,
    scope: str,
) -> None:
    made = make()
    headers = other_tenant.headers()
    foreign = send(client, method, path.replace("key_1", made["key_id"]), body, headers)
    unknown = send(client, method, path, body, headers)
    assert code(foreign) == code(unknown) == (404, "KEY_NOT_FOUND")
    assert foreign.json()["detail"] == unknown.json()["detail"]
    assert send(client, "GET", "/tenant", headers=bearer(made)).status_code == 200


def test_a_key_is_made_and_shown_once(
    client: TestClient, tenant: Tenant, admin: dict[str, str], second_connection: sa.Connection
) -> None:
    reply = send(client, "POST", "/keys", NEW | {"rate_limit_rpm": 100}, admin)
    made = reply.json()
    assert reply.status_code == 201
    assert reply.headers["location"] == f"{API}/keys/{made['key_id']}"
    assert reply.headers["cache-control"] == "no-store"
    assert made["api_key"].startswith(made["prefix"])
    assert (made["status"], made["created_by"], made["scopes"]) == (
        "ACTIVE",
        "alice",
        ["runs:read", "tenant:read"],
    )
    assert (made["actor_type"], made["actor_id"], made["rate_limit_rpm"]) == ("SYSTEM", "crm", 100)
    shown = send(client, "GET", f"/keys/{made['key_id']}", headers=admin)
    assert "api_key" not in shown.json()
    assert "key_hash" not in shown.json()
    assert shown.headers["etag"] == '"v1"'
    for table in ("api_keys", "audit_ledger", "log_leaves", "idempotency_keys", "outbox"):
        rows = second_connection.execute(sa.text(f"SELECT * FROM {table}")).all()
        assert made["api_key"] not in repr(rows), table


def test_a_new_key_opens_what_its_scopes_open(
    client: TestClient, make: Callable[..., dict[str, Any]]
) -> None:
    headers = bearer(make())
    assert send(client, "GET", "/tenant", headers=headers).status_code == 200
    assert code(send(client, "GET", "/keys", headers=headers)) == (403, "INSUFFICIENT_SCOPE")


def test_who_acts_is_the_keys_own(
    client: TestClient, tenant: Tenant, make: Callable[..., dict[str, Any]], admin: dict[str, str]
) -> None:
    made = make(scopes=["tenant:admin"], actor_type="AGENT", actor_id="robot")
    send(client, "POST", "/tenant/freeze", REASON, bearer(made))
    entry = send(client, "GET", "/logs/audit?entity_type=TENANT", headers=admin).json()["items"][0]
    assert (entry["actor_type"], entry["actor_id"], entry["actor_key_id"]) == (
        "AGENT",
        "robot",
        made["key_id"],
    )


def test_a_role_is_its_scopes_of_the_moment(client: TestClient, make: Callable[..., dict[str, Any]]) -> None:
    made = make(role="VIEWER", scopes=[])
    assert made["role"] == "VIEWER"
    assert "runs:read" in made["scopes"]
    assert not {"logs:read", "keys:read", "*"} & set(made["scopes"])


def test_neither_role_nor_scopes_open_nothing(
    client: TestClient, make: Callable[..., dict[str, Any]]
) -> None:
    made = make(scopes=[])
    assert made["scopes"] == []
    assert code(send(client, "GET", "/tenant", headers=bearer(made))) == (403, "INSUFFICIENT_SCOPE")


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "x" * 256},
        {"actor_type": "ROBOT"},
        {"actor_id": "a b"},
        {"scopes": ["runs"]},
        {"scopes": "runs:read"},
        {"scopes": ["runs:read"] * 101},
        {"role": "KING"},
        {"rate_limit_rpm": 0},
        {"rate_limit_rpm": "7"},
        {"expires_at": "2030-01-01T00:00:00"},
        {"expires_at": 1893456000},
        {"tenant_id": "other"},
        {"api_key": "hoc_mine"},
    ],
    ids=str,
)
def test_a_key_that_does_not_fit_is_refused(
    client: TestClient, admin: dict[str, str], change: dict[str, Any]
) -> None:
    reply = send(client, "POST", "/keys", NEW | change, admin)
    assert code(reply) == (422, "INVALID_INPUT")
    assert reply.json()["errors"]


@pytest.mark.parametrize(
    ("giver", "wanted"),
    [
        (["keys:admin"], {"scopes": ["runs:read"]}),
        (["keys:admin", "runs:read"], {"scopes": ["runs:write"]}),
        (["keys:*"], {"scopes": ["*"]}),
        (["keys:*", "runs:*"], {"role": "VIEWER", "scopes": []}),
        (["keys:*"], {"role": "OWNER", "scopes": []}),
    ],
)
def test_a_key_cannot_give_what_it_lacks(
    client: TestClient,
    tenant: Tenant,
    second_connection: sa.Connection,
    giver: list[str],
    wanted: dict[str, Any],
) -> None:
    headers = tenant.headers(scopes=giver)
    reply = send(client, "POST", "/keys", NEW | wanted, headers)
    assert code(reply) == (403, "SCOPE_ESCALATION")
    assert reply.json()["errors"]
    count = sa.text("SELECT count(*) FROM api_keys WHERE tenant_id = :t")
    assert second_connection.execute(count, {"t": tenant.tenant_id}).scalar_one() == 1


def test_a_key_gives_what_it_has(client: TestClient, tenant: Tenant) -> None:
    headers = tenant.headers(scopes=["keys:admin", "runs:*"])
    reply = send(client, "POST", "/keys", NEW | {"scopes": ["runs:write", "keys:admin"]}, headers)
    assert reply.status_code == 201


def test_a_plan_has_so_many_live_keys(client: TestClient, new_tenant: Callable[..., Tenant]) -> None:
    tenant = new_tenant(plan="FREE")
    headers = tenant.headers()
    made = [send(client, "POST", "/keys", NEW, headers) for _ in range(5)]
    assert [reply.status_code for reply in made] == [201] * 4 + [409]
    assert code(made[-1]) == (409, "KEY_QUOTA_EXCEEDED")
    send(client, "POST", f"/keys/{made[0].json()['key_id']}/freeze", REASON, headers)
    assert code(send(client, "POST", "/keys", NEW, headers)) == (409, "KEY_QUOTA_EXCEEDED")
    send(client, "POST", f"/keys/{made[0].json()['key_id']}/revoke", REASON, headers)
    assert send(client, "POST", "/keys", NEW, headers).status_code == 201


def test_an_expired_key_is_no_live_one(new_tenant: Callable[..., Tenant], clock: SteerableClock) -> None:
    tenant = new_tenant(plan="FREE")
    expires_at = (clock.now() + timedelta(minutes=1)).isoformat()
    for _ in range(5):
        tenant.call("keys.create", NEW | {"expires_at": expires_at})
    assert tenant.dispatch("keys.create", NEW).error_code == "KEY_QUOTA_EXCEEDED"
    clock.advance(minutes=2)
    assert tenant.dispatch("keys.create", NEW).success


def test_racing_makers_never_exceed_the_plan(
    new_tenant: Callable[..., Tenant], second_connection: sa.Connection
) -> None:
    tenant = new_tenant(plan="FREE")
    codes: list[str | None] = []
    barrier = threading.Barrier(8)

    def create() -> None:
        barrier.wait()
        codes.append(tenant.dispatch("keys.create", NEW).error_code)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, codes)) == ["KEY_QUOTA_EXCEEDED"] * 3 + ["None"] * 5
    count = sa.text("SELECT count(*) FROM api_keys WHERE tenant_id = :t")
    assert second_connection.execute(count, {"t": tenant.tenant_id}).scalar_one() == 5


def test_a_creation_is_replayed_without_its_secret(client: TestClient, admin: dict[str, str]) -> None:
    headers = {**admin, "Idempotency-Key": "make-1"}
    first, again = (send(client, "POST", "/keys", NEW, headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert "idempotent-replay" not in first.headers
    assert again.headers["idempotent-replay"] == "true"
    assert again.json() == first.json() | {"api_key": None}
    other = send(client, "POST", "/keys", NEW | {"name": "Other"}, headers)
    assert code(other) == (422, "IDEMPOTENCY_KEY_REUSED")


def test_keys_are_listed_newest_first_and_by_status(
    client: TestClient, make: Callable[..., dict[str, Any]], tenant: Tenant, admin: dict[str, str]
) -> None:
    made = [make(name=f"key {number}")["key_id"] for number in range(3)]
    send(client, "POST", f"/keys/{made[0]}/freeze", REASON, admin)

    def listed(query: str) -> list[str]:
        body = send(client, "GET", f"/keys{query}", headers=admin).json()
        return [item["key_id"] for item in body["items"]]

    assert listed("")[:3] == made[::-1]
    assert len(listed("")) == 4
    assert listed("?status=FROZEN") == [made[0]]
    assert listed("?status=REVOKED") == []
    first = send(client, "GET", "/keys?limit=2", headers=admin).json()
    second = send(client, "GET", f"/keys?limit=2&cursor={first['next_cursor']}", headers=admin).json()
    assert [item["key_id"] for item in first["items"] + second["items"]] == listed("")
    assert second["next_cursor"] is None
    wrong = f"/keys?status=FROZEN&cursor={first['next_cursor']}"
    assert code(send(client, "GET", wrong, headers=admin)) == (400, "INVALID_CURSOR")
    assert code(send(client, "GET", "/keys?status=MELTED", headers=admin)) == (400, "INVALID_QUERY")


def test_a_key_goes_through_its_states(
    client: TestClient, make: Callable[..., dict[str, Any]], admin: dict[str, str]
) -> None:
    path = f"/keys/{make()['key_id']}"
    frozen = send(client, "POST", f"{path}/freeze", {"reason": "leak"}, admin)
    assert (frozen.status_code, frozen.json()["status"], frozen.headers["etag"]) == (200, "FROZEN", '"v2"')
    assert (frozen.json()["frozen_by"], frozen.json()["frozen_reason"]) == ("alice", "leak")
    thawed = send(client, "POST", f"{path}/unfreeze", REASON, admin).json()
    assert (thawed["status"], thawed["frozen_at"], thawed["frozen_reason"]) == ("ACTIVE", None, None)
    revoked = send(client, "POST", f"{path}/revoke", {"reason": "over"}, admin).json()
    assert (revoked["status"], revoked["revoked_by"], revoked["revoked_reason"]) == (
        "REVOKED",
        "alice",
        "over",
    )
    for change in ("freeze", "unfreeze"):
        assert code(send(client, "POST", f"{path}/{change}", REASON, admin)) == (409, "KEY_REVOKED")
    again = send(client, "POST", f"{path}/revoke", {"reason": "other"}, admin)
    assert (again.status_code, again.json()) == (200, revoked)


def test_a_change_that_changes_nothing_writes_nothing(
    client: TestClient, make: Callable[..., dict[str, Any]], admin: dict[str, str]
) -> None:
    path = f"/keys/{make()['key_id']}"
    before = send(client, "GET", path, headers=admin).json()
    again = send(client, "POST", f"{path}/unfreeze", REASON, admin)
    assert (again.status_code, again.json()) == (200, before)
    entries = send(client, "GET", "/logs/audit?entity_type=API_KEY", headers=admin).json()["items"]
    assert [entry["event_type"] for entry in entries] == ["ApiKeyCreated"]


def test_a_change_meets_if_match(
    client: TestClient, make: Callable[..., dict[str, Any]], admin: dict[str, str]
) -> None:
    path = f"/keys/{make()['key_id']}"
    stale = send(client, "POST", f"{path}/freeze", REASON, {**admin, "If-Match": '"v7"'})
    assert code(stale) == (412, "VERSION_MISMATCH")
    assert stale.json()["current_version"] == 1
    assert send(client, "POST", f"{path}/freeze", REASON, {**admin, "If-Match": '"v1"'}).status_code == 200


def test_an_expired_key_may_only_be_revoked(
    client: TestClient, make: Callable[..., dict[str, Any]], admin: dict[str, str], clock: SteerableClock
) -> None:
    made = make(expires_at=(clock.now() + timedelta(minutes=1)).isoformat())
    path = f"/keys/{made['key_id']}"
    assert send(client, "GET", "/tenant", headers=bearer(made)).status_code == 200
    clock.advance(minutes=2)
    assert code(send(client, "GET", "/tenant", headers=bearer(made))) == (401, "INVALID_CREDENTIALS")
    assert code(send(client, "POST", f"{path}/freeze", REASON, admin)) == (409, "KEY_EXPIRED")
    assert send(client, "POST", f"{path}/revoke", REASON, admin).json()["status"] == "REVOKED"


def test_the_ledger_keeps_the_whole_row_of_a_key_but_no_hash(
    client: TestClient, make: Callable[..., dict[str, Any]], admin: dict[str, str]
) -> None:
    made = make()
    send(client, "POST", f"/keys/{made['key_id']}/freeze", {"reason": "bob@example.com leaked it"}, admin)
    path = f"/logs/audit?entity_id={made['key_id']}&event_type=ApiKeyFrozen"
    (entry,) = send(client, "GET", path, headers=admin).json()["items"]
    assert entry["action_reason"] == "<REDACTED_EMAIL> leaked it"
    shown = send(client, "GET", f"/logs/audit/{entry['entry_id']}", headers=admin).json()
    before, after = shown["before_state"], shown["after_state"]
    assert set(before["key_hash"]) == {"sha256", "len"}
    assert (before["status"], after["status"], after["frozen_by"]) == ("ACTIVE", "FROZEN", "alice")
    assert (before["version"], after["version"], after["scopes"]) == (1, 2, ["runs:read", "tenant:read"])
    assert not {"frozen_reason", "revoked_reason", "last_used_at", "protected_salt", "tenant_id"} & set(after)
    assert before["protected_commit"] is None
    assert after["protected_commit"].startswith("c1:")


@pytest.fixture
def second_worker(make_spine: Callable[..., Spine]) -> Iterator[TestClient]:
    """Another worker of the same product on the same database, with a cache of its own."""
    with TestClient(create_app(make_spine()), raise_server_exceptions=False) as http:
        yield http


@pytest.mark.parametrize("change", ["freeze", "revoke"])
def test_a_stopped_key_is_refused_by_every_worker_within_a_second(
    client: TestClient,
    second_worker: TestClient,
    make: Callable[..., dict[str, Any]],
    admin: dict[str, str],
    change: str,
) -> None:
    made = make(scopes=["tenant:*"])
    for worker in (client, second_worker):
        assert send(worker, "GET", "/tenant", headers=bearer(made)).status_code == 200
    assert send(client, "POST", f"/keys/{made['key_id']}/{change}", REASON, admin).status_code == 200
    stopped = time.monotonic()
    # A write looks for itself, in its own transaction: not one more goes through.
    for worker in (client, second_worker):
        assert code(send(worker, "POST", "/tenant/freeze", REASON, bearer(made))) == (
            401,
            "INVALID_CREDENTIALS",
        )
    for worker in (client, second_worker):
        while send(worker, "GET", "/tenant", headers=bearer(made)).status_code != 401:
            assert time.monotonic() - stopped < 1
    assert time.monotonic() - stopped < 1


def test_a_suspended_tenant_is_refused_by_every_worker_within_a_second(
    client: TestClient, second_worker: TestClient, make: Callable[..., dict[str, Any]], tenant: Tenant
) -> None:
    made = make(scopes=["tenant:*"])
    for worker in (client, second_worker):
        assert send(worker, "GET", "/tenant", headers=bearer(made)).status_code == 200
    tenant.suspend()
    stopped = time.monotonic()
    for worker in (client, second_worker):
        refused = send(worker, "POST", "/tenant/freeze", REASON, bearer(made))
        assert code(refused) == (401, "INVALID_CREDENTIALS")
        while send(worker, "GET", "/tenant", headers=bearer(made)).status_code != 401:
            assert time.monotonic() - stopped < 1


def test_maintenance_notes_when_a_key_was_last_used(
    make_spine: Callable[..., Spine], new_database: Callable[..., str]
) -> None:
    spine = make_spine(database_url=new_database())
    tenant = make_tenant(spine)
    with TestClient(create_app(spine)) as http:
        http.headers.update(tenant.headers())
        (key,) = http.get(f"{API}/keys").json()["items"]
        assert key["last_used_at"] is None
        Maintenance(spine).run_round()
        earlier = {"used": {key["key_id"]: "2020-01-01T00:00:00.000000Z"}}
        assert tenant.call("keys.note_use", earlier, door="worker").keys == 1
        seen = http.get(f"{API}/keys/{key['key_id']}").json()
    assert seen["last_used_at"] > "2020-01-01T00:00:00.000000Z"
    assert seen["version"] == key["version"]
