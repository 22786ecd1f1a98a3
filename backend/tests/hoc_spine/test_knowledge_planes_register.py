"""Operations: planes are registered, configured, listed; every write is read back on a second connection."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState as State,
)
from app.kernel.hashing import digest_of
from tests.factories.lifecycle import (
    SQL_CONFIG,
    end_job,
    events_of,
    make_active_plane,
    move_plane,
    path_to,
    register_plane,
    rows_of,
    transition,
)
from tests.factories.tenants import Tenant

REPOSITORY = {"connector_type": "repository", "connector_id": "documents", "config": {}}


def one(connection: sa.Connection, statement: str, tenant: Tenant, **values: Any) -> dict[str, Any]:
    found = connection.execute(sa.text(statement), {"tenant": tenant.tenant_id, **values})
    return dict(found.mappings().one())


def count(connection: sa.Connection, table: str, tenant: Tenant) -> int:
    statement = sa.text(f"SELECT count(*) FROM {table} WHERE tenant_id = :tenant")
    return int(connection.execute(statement, {"tenant": tenant.tenant_id}).scalar_one())


def collection(tenant: Tenant, collection_id: str) -> str:
    tenant.call("repository.collections.create", {"id": collection_id, "name": collection_id})
    return collection_id


def links(connection: sa.Connection, tenant: Tenant, plane_id: str) -> dict[str, tuple[str, bool]]:
    rows = rows_of(connection, "plane_collections", tenant, plane_id)
    return {row["collection_id"]: (row["mode"], row["released_at"] is None) for row in rows}


def test_a_registered_plane_is_a_draft_with_one_event(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane = register_plane(tenant, plane_name="orders")
    assert (plane.lifecycle_state, plane.lifecycle_state_value, plane.version) == ("DRAFT", 100, 1)
    assert (plane.event_seq, plane.created_by, plane.config) == (1, "user-1", SQL_CONFIG)
    assert (plane.bound_policy_ids, plane.active_job_id, plane.suspended) == ([], None, False)
    assert plane.purge_approved is False
    assert plane.allows.model_dump() == {"queries": False, "policy_binding": False, "modifications": True}
    assert plane.plane_id.startswith("kp_")
    (event,) = events_of(second_connection, tenant, plane.plane_id)
    assert (event["event_type"], event["seq"]) == ("LIFECYCLE_TRANSITION", 1)
    assert (event["from_state_value"], event["to_state_value"]) == (None, 100)
    assert (event["action"], event["decision"]) == ("register_knowledge_plane", "ALLOWED")
    assert tenant.call("knowledge.planes.get", {"plane_id": plane.plane_id}) == plane


def test_a_registration_writes_ledger_outbox_and_facts(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane = register_plane(tenant)
    where = "WHERE tenant_id = :tenant AND entity_id = :plane"
    entry = one(second_connection, f"SELECT * FROM audit_ledger {where}", tenant, plane=plane.plane_id)
    assert (entry["event_type"], entry["entity_type"]) == ("PlaneRegistered", "PLANE")
    after = json.loads(entry["after_state"])
    assert (after["lifecycle_state_value"], after["version"]) == (100, 1)
    assert after["config_digest"] == plane.config_digest
    assert "config" not in after
    told = one(second_connection, "SELECT * FROM outbox WHERE tenant_id = :tenant", tenant)
    assert (told["type"], plane.plane_id in told["body"]) == ("PlaneRegistered", True)
    leaves = second_connection.execute(
        sa.text("SELECT type, fact_id, statement FROM log_leaves WHERE tenant_id = :tenant ORDER BY type"),
        {"tenant": tenant.tenant_id},
    ).mappings()
    found = {row["type"]: row for row in leaves}
    assert {"audit", "knowledge.plane", "knowledge.transition"} <= set(found)
    body = json.loads(found["knowledge.plane"]["statement"])["body"]
    assert (body["plane_id"], body["config_digest"]) == (plane.plane_id, plane.config_digest)
    assert found["knowledge.plane"]["fact_id"] == plane.fact_id
    assert "config" not in body


def test_the_config_digest_is_the_digest_of_the_canonical_text(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane = register_plane(tenant)
    (row,) = rows_of(second_connection, "knowledge_plane_registry", tenant, plane.plane_id)
    assert plane.config_digest == row["config_digest"] == digest_of(row["config"].encode())
    assert json.loads(row["config"]) == SQL_CONFIG


def test_a_repository_plane_gets_a_collection_of_its_own(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane = register_plane(tenant, **REPOSITORY)
    own = f"plane-{plane.plane_id}"
    assert links(second_connection, tenant, plane.plane_id) == {own: ("OWNED", True)}
    assert tenant.call("repository.collections.get", {"collection_id": own}).name == own
    (event,) = events_of(second_connection, tenant, plane.plane_id)
    assert json.loads(event["details"]) == {"collections": {"owned": own, "released": [], "shared": []}}


def test_a_repository_plane_owns_and_shares_what_it_names(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    owned, shared = collection(tenant, "contracts"), collection(tenant, "manuals")
    config = {"owned_collection": owned, "shared_collections": [shared]}
    plane = register_plane(tenant, **REPOSITORY | {"config": config})
    assert links(second_connection, tenant, plane.plane_id) == {
        owned: ("OWNED", True),
        shared: ("SHARED", True),
    }


def test_a_collection_has_one_owner_and_many_readers(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    taken = collection(tenant, "contracts")
    register_plane(tenant, **REPOSITORY | {"config": {"owned_collection": taken}})
    before = count(second_connection, "knowledge_plane_registry", tenant)
    payload = {"plane_type": "t", "plane_name": "second", **REPOSITORY}
    refused = tenant.dispatch("knowledge.planes.register", payload | {"config": {"owned_collection": taken}})
    assert refused.error_code == "COLLECTION_ALREADY_OWNED"
    assert count(second_connection, "knowledge_plane_registry", tenant) == before
    for name in ("reader one", "reader two"):
        register_plane(tenant, **REPOSITORY | {"plane_name": name, "config": {"shared_collections": [taken]}})


@pytest.mark.parametrize("key", ["owned_collection", "shared_collections"])
def test_a_collection_that_is_not_there_is_named(tenant: Tenant, other_tenant: Tenant, key: str) -> None:
    foreign = collection(other_tenant, "foreign")
    gone = collection(tenant, "gone")
    tenant.call("repository.collections.delete", {"collection_id": gone})
    for name in ("unknown", foreign, gone, "default"):
        config = {key: name if key == "owned_collection" else [name]}
        payload = {"plane_type": "t", "plane_name": "p", **REPOSITORY, "config": config}
        refused = tenant.dispatch("knowledge.planes.register", payload)
        assert refused.error_code == "REFERENCE_NOT_FOUND"
        assert refused.error is not None
        assert refused.error.errors[0]["field"].startswith(f"/config/{key}")


def test_a_type_and_a_name_belong_to_one_live_plane(tenant: Tenant, other_tenant: Tenant) -> None:
    payload = {
        "plane_type": "catalogue",
        "plane_name": "orders",
        "connector_type": "sql",
        "connector_id": "w",
        "config": SQL_CONFIG,
    }
    tenant.call("knowledge.planes.register", payload)
    assert tenant.dispatch("knowledge.planes.register", payload).error_code == "DUPLICATE_PLANE"
    # One name in another spelling of Unicode or with blanks around it is the same name; case is not.
    for same in (" orders ", "orders\t"):
        refused = tenant.dispatch("knowledge.planes.register", payload | {"plane_name": same})
        assert refused.error_code == "DUPLICATE_PLANE"
    for other in ({"plane_name": "Orders"}, {"plane_type": "other"}):
        tenant.call("knowledge.planes.register", payload | other)
    other_tenant.call("knowledge.planes.register", payload)


@pytest.mark.parametrize(
    "members",
    [
        {"plane_type": "Catalogue"},
        {"plane_type": ""},
        {"plane_type": "x" * 65},
        {"plane_name": "   "},
        {"plane_name": "x" * 129},
        {"plane_name": "a\u0007b"},
        {"plane_name": "a\u0000b"},
        {"connector_id": "no spaces"},
        {"connector_id": "x" * 65},
        {"config": []},
        {"plane_id": "kp_mine"},
        {"created_by": "mallory"},
        {"tenant_id": "other"},
    ],
)
def test_an_input_that_does_not_fit_is_refused(tenant: Tenant, members: dict[str, Any]) -> None:
    payload = {"plane_type": "t", "plane_name": "p", **REPOSITORY}
    assert tenant.dispatch("knowledge.planes.register", payload | members).error_code == "INVALID_INPUT"


def test_unknown_connectors_and_bad_configurations_are_refused(tenant: Tenant) -> None:
    payload = {"plane_type": "t", "plane_name": "p", **REPOSITORY}
    expected = {
        "UNKNOWN_CONNECTOR_TYPE": {"connector_type": "ldap"},
        "INVALID_CONFIG": {"config": {"retention_days": -1}},
        "RESERVED_CONFIG_KEY": {"config": {"purge_approved": True}},
        "SECRET_IN_CONFIG": {"config": {"password": "hunter2"}},
        "INVALID_CREDENTIAL_REF": {
            "connector_type": "sql",
            "config": SQL_CONFIG | {"credential_ref": "hunter2"},
        },
        "TOO_LARGE": {"config": {"description": "x" * 70000}},
    }
    for code, members in expected.items():
        assert tenant.dispatch("knowledge.planes.register", payload | members).error_code == code


def test_an_idempotency_key_registers_once(second_connection: sa.Connection, tenant: Tenant) -> None:
    payload = {"plane_type": "t", "plane_name": "p", **REPOSITORY}
    first = tenant.dispatch("knowledge.planes.register", payload, idempotency_key="k1")
    again = tenant.dispatch("knowledge.planes.register", payload, idempotency_key="k1")
    assert (first.replayed, again.replayed) == (False, True)
    assert first.unwrap().plane_id == again.unwrap().plane_id
    assert count(second_connection, "knowledge_plane_registry", tenant) == 1


def test_racing_registrations_make_one_plane(second_connection: sa.Connection, tenant: Tenant) -> None:
    payload = {"plane_type": "t", "plane_name": "p", **REPOSITORY}
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: tenant.dispatch("knowledge.planes.register", payload), range(4)))
    codes = sorted(str(result.error_code) for result in results)
    assert codes == ["DUPLICATE_PLANE"] * 3 + ["None"]
    assert count(second_connection, "knowledge_plane_registry", tenant) == 1
    assert count(second_connection, "plane_lifecycle_events", tenant) == 1


def test_planes_are_listed_by_id_page_by_page_and_filtered(tenant: Tenant, other_tenant: Tenant) -> None:
    made = [register_plane(tenant).plane_id for _ in range(4)]
    made.append(register_plane(tenant, **REPOSITORY | {"plane_type": "files"}).plane_id)
    register_plane(other_tenant)
    seen, cursor = [], None
    while True:
        page = tenant.call("knowledge.planes.list", {"limit": 2} | ({"cursor": cursor} if cursor else {}))
        seen += [plane.plane_id for plane in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == sorted(made)
    for wanted in ({"plane_type": "files"}, {"connector_type": "repository"}):
        assert [plane.plane_id for plane in tenant.call("knowledge.planes.list", wanted).items] == made[-1:]
    assert len(tenant.call("knowledge.planes.list", {"state": "draft"}).items) == 5
    assert tenant.call("knowledge.planes.list", {"state": "ACTIVE"}).items == []
    assert tenant.dispatch("knowledge.planes.list", {"state": "READY"}).error_code == "INVALID_INPUT"
    first = tenant.call("knowledge.planes.list", {"limit": 1, "plane_type": "catalogue"})
    elsewhere = {"limit": 1, "plane_type": "files", "cursor": first.next_cursor}
    assert tenant.dispatch("knowledge.planes.list", elsewhere).error_code == "INVALID_CURSOR"


def test_another_tenants_plane_does_not_exist(tenant: Tenant, other_tenant: Tenant) -> None:
    plane_id = register_plane(other_tenant).plane_id
    calls: dict[str, dict[str, Any]] = {
        "knowledge.planes.get": {},
        "knowledge.planes.events": {},
        "knowledge.planes.documents": {},
        "knowledge.planes.next_actions": {},
        "knowledge.planes.update_config": {"config": {}},
        "knowledge.planes.transition": {"action": "verify_knowledge_plane"},
        "knowledge.planes.bind_policy": {"policy_id": "rule-1"},
        "knowledge.planes.unbind_policy": {"policy_id": "rule-1"},
        "knowledge.planes.approve_purge": {"reason": "done"},
        "knowledge.planes.set_suspension": {"suspended": True, "reason": "leak"},
    }
    for name, payload in calls.items():
        foreign = tenant.dispatch(name, payload | {"plane_id": plane_id})
        unknown = tenant.dispatch(name, payload | {"plane_id": "kp_unknown"})
        assert foreign.error_code == unknown.error_code == "PLANE_NOT_FOUND", name
        assert foreign.error is not None
        assert unknown.error is not None
        assert foreign.error.detail == unknown.error.detail


def update(tenant: Tenant, plane_id: str, config: dict[str, Any], **context: Any) -> Any:
    payload = {"plane_id": plane_id, "config": config}
    return tenant.dispatch("knowledge.planes.update_config", payload, **context)


def test_operational_keys_change_at_once(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane = register_plane(tenant)
    changed = update(tenant, plane.plane_id, SQL_CONFIG | {"max_documents": 3}).unwrap()
    assert (changed.changed, changed.job_id, changed.version) == (True, None, 2)
    assert changed.config["max_documents"] == 3
    assert changed.config_digest != plane.config_digest
    event = events_of(second_connection, tenant, plane.plane_id)[-1]
    assert event["event_type"] == "PLANE_CONFIG_UPDATED"
    details = json.loads(event["details"])
    assert details == {
        "applied": True,
        "before_digest": plane.config_digest,
        "after_digest": changed.config_digest,
    }
    assert (event["config_digest"], event["plane_version"]) == (changed.config_digest, 2)


def test_the_same_configuration_again_changes_nothing(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane = register_plane(tenant)
    again = update(tenant, plane.plane_id, dict(reversed(SQL_CONFIG.items()))).unwrap()
    assert (again.changed, again.version) == (False, 1)
    assert len(events_of(second_connection, tenant, plane.plane_id)) == 1
    assert count(second_connection, "audit_ledger", tenant) == 1


def test_a_draft_changes_its_collections_at_once(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = register_plane(tenant, **REPOSITORY).plane_id
    named, shared = collection(tenant, "contracts"), collection(tenant, "manuals")
    own = f"plane-{plane_id}"
    update(tenant, plane_id, {"owned_collection": named, "shared_collections": [shared]}).unwrap()
    assert links(second_connection, tenant, plane_id) == {
        own: ("OWNED", False),
        named: ("OWNED", True),
        shared: ("SHARED", True),
    }
    # Back to its own collection: the link that was released is opened again.
    update(tenant, plane_id, {"shared_collections": [named]}).unwrap()
    assert links(second_connection, tenant, plane_id) == {
        own: ("OWNED", True),
        named: ("SHARED", True),
        shared: ("SHARED", False),
    }
    other = register_plane(tenant, **REPOSITORY | {"plane_name": "other"}).plane_id
    refused = update(tenant, other, {"owned_collection": own})
    assert refused.error_code == "COLLECTION_ALREADY_OWNED"


def test_new_sources_in_service_wait_for_a_refresh(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = make_active_plane(second_connection, tenant)
    before = tenant.call("knowledge.planes.get", {"plane_id": plane_id})
    template = SQL_CONFIG["templates"][0] | {"sql": "SELECT order_id FROM orders"}
    candidate = before.config | {"templates": [template]}
    queued = update(tenant, plane_id, candidate).unwrap()
    assert queued.job_id is not None
    assert queued.active_job_id == queued.job_id
    assert (queued.config, queued.config_digest) == (before.config, before.config_digest)
    assert (queued.changed, queued.version) == (True, before.version + 1)
    told = events_of(second_connection, tenant, plane_id)[-2:]
    assert [event["event_type"] for event in told] == ["PLANE_CONFIG_UPDATED", "LIFECYCLE_JOB_STARTED"]
    assert [event["job_id"] for event in told] == [queued.job_id] * 2
    assert json.loads(told[0]["details"])["applied"] is False
    job = one(
        second_connection,
        "SELECT * FROM knowledge_plane_jobs WHERE tenant_id = :tenant AND job_id = :job",
        tenant,
        job=queued.job_id,
    )
    assert (job["job_type"], job["status"], job["expected_state"]) == ("refresh_data", "QUEUED", 200)
    assert json.loads(job["config"]) == candidate
    refused = update(tenant, plane_id, before.config | {"max_documents": 4})
    assert refused.error_code == "JOB_ACTIVE"


def test_nothing_changes_under_an_open_job_or_on_the_way_out(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = register_plane(tenant).plane_id
    transition(tenant, plane_id, "verify_knowledge_plane").unwrap()
    assert update(tenant, plane_id, SQL_CONFIG | {"max_documents": 3}).error_code == "JOB_ACTIVE"
    end_job(second_connection, tenant, plane_id, "FAILED")
    changed = SQL_CONFIG | {"driver": "sqlite"}
    assert update(tenant, plane_id, changed).error_code == "CONFIG_NOT_MODIFIABLE"
    move_plane(second_connection, tenant, plane_id, *path_to(State.DEACTIVATED, State.PENDING_VERIFY))
    refused = update(tenant, plane_id, SQL_CONFIG | {"max_documents": 3})
    assert refused.error_code == "CONFIG_NOT_MODIFIABLE"


def test_if_match_guards_a_configuration(
    tenant: Tenant, precondition: Callable[[int], dict[str, Any]]
) -> None:
    plane_id = register_plane(tenant).plane_id
    stale = update(tenant, plane_id, {"bad": 1}, **precondition(7))
    assert stale.error_code == "VERSION_MISMATCH"
    assert stale.error is not None
    assert stale.error.extra["current_version"] == 1
    update(tenant, plane_id, SQL_CONFIG | {"max_documents": 3}, **precondition(1)).unwrap()


@pytest.fixture
def precondition() -> Callable[[int], dict[str, Any]]:
    from app.kernel.context import Precondition

    return lambda version: {"precondition": Precondition(frozenset({version}))}


def test_events_are_listed_in_order_and_filtered(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = register_plane(tenant).plane_id
    transition(tenant, plane_id, "activate_knowledge_plane")
    transition(
        tenant, plane_id, "verify_knowledge_plane", reason="because sk-abcdefghijklmnopqrstuvwxyz"
    ).unwrap()
    listed = tenant.call("knowledge.planes.events", {"plane_id": plane_id}).items
    assert [event.seq for event in listed] == [1, 2, 3, 4]
    assert [event.event_type for event in listed] == [
        "LIFECYCLE_TRANSITION",
        "LIFECYCLE_BLOCKED",
        "LIFECYCLE_TRANSITION",
        "LIFECYCLE_JOB_STARTED",
    ]
    assert (listed[2].from_state, listed[2].to_state) == ("DRAFT", "PENDING_VERIFY")
    assert listed[2].reason == "because <REDACTED_KEY>"
    assert {event.protected_state for event in listed} == {"INTACT"}
    blocked = tenant.call("knowledge.planes.events", {"plane_id": plane_id, "decision": "BLOCKED"}).items
    assert [event.seq for event in blocked] == [2]
    wanted = {"plane_id": plane_id, "event_type": "LIFECYCLE_TRANSITION", "limit": 1}
    first = tenant.call("knowledge.planes.events", wanted)
    second = tenant.call("knowledge.planes.events", wanted | {"cursor": first.next_cursor})
    assert [event.seq for event in (*first.items, *second.items)] == [1, 3]
    assert second.next_cursor is None


def test_a_plane_that_ingested_nothing_serves_no_document(tenant: Tenant) -> None:
    plane_id = register_plane(tenant).plane_id
    page = tenant.call("knowledge.planes.documents", {"plane_id": plane_id})
    assert (page.items, page.next_cursor) == ([], None)
