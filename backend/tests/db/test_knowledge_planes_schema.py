"""Database: what the tables of knowledge planes themselves refuse, by raw SQL on both dialects."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.knowledge.engines.lifecycle import EDGES
from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState as State,
)
from tests.factories.lifecycle import (
    events_of,
    move_plane,
    path_to,
    plane_in,
    register_plane,
    state_in_database,
)
from tests.factories.tenants import Tenant

FIXED = {
    "tenant_id": "'other'",
    "plane_id": "'kp_other'",
    "plane_type": "'other'",
    "plane_name": "'other'",
    "connector_type": "'http'",
    "connector_id": "'other'",
    "created_by": "'other'",
}


def execute(connection: sa.Connection, statement: str, tenant: Tenant, **values: Any) -> Any:
    return connection.execute(sa.text(statement), {"tenant": tenant.tenant_id, **values})


@pytest.mark.parametrize("source", State, ids=lambda state: state.name)
def test_the_database_takes_the_legal_edges_and_refuses_every_other_pair(
    second_connection: sa.Connection, tenant: Tenant, source: State
) -> None:
    refused = []
    plane_id = plane_in(second_connection, tenant, source)
    for target in State:
        if (source, target) in EDGES:
            continue
        with pytest.raises(sa.exc.DBAPIError, match="illegal lifecycle transition"):
            move_plane(second_connection, tenant, plane_id, target)
        refused.append(target)
        assert state_in_database(second_connection, tenant, plane_id) is source
    for target in set(State) - set(refused):
        walked = plane_in(second_connection, tenant, source)
        move_plane(second_connection, tenant, walked, target)
        assert state_in_database(second_connection, tenant, walked) is target


def test_the_pairs_of_the_raw_sql_test_are_all_169() -> None:
    assert len(list(product(State, State))) == 169
    assert all(path_to(state) or state is State.DRAFT for state in State)


def test_a_state_outside_the_vocabulary_is_refused(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = register_plane(tenant).plane_id
    with pytest.raises(sa.exc.DBAPIError):
        execute(
            second_connection,
            "UPDATE knowledge_plane_registry SET lifecycle_state_value = 111"
            " WHERE tenant_id = :tenant AND plane_id = :plane",
            tenant,
            plane=plane_id,
        )
    assert state_in_database(second_connection, tenant, plane_id) is State.DRAFT


@pytest.mark.parametrize("column", FIXED)
def test_the_identity_of_a_plane_never_changes(
    second_connection: sa.Connection, tenant: Tenant, column: str
) -> None:
    plane_id = register_plane(tenant).plane_id
    with pytest.raises(sa.exc.DBAPIError, match="never change"):
        execute(
            second_connection,
            f"UPDATE knowledge_plane_registry SET {column} = {FIXED[column]}"
            " WHERE tenant_id = :tenant AND plane_id = :plane",
            tenant,
            plane=plane_id,
        )


def test_the_creation_time_of_a_plane_never_changes(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = register_plane(tenant).plane_id
    with pytest.raises(sa.exc.DBAPIError, match="never change"):
        execute(
            second_connection,
            "UPDATE knowledge_plane_registry SET created_at = :moment"
            " WHERE tenant_id = :tenant AND plane_id = :plane",
            tenant,
            plane=plane_id,
            moment="2001-01-01T00:00:00.000000Z",
        )


@pytest.mark.parametrize(
    "table",
    ["knowledge_plane_registry", "plane_lifecycle_events", "plane_purge_approvals", "plane_policy_bindings"],
)
def test_rows_of_planes_are_not_deleted(second_connection: sa.Connection, tenant: Tenant, table: str) -> None:
    plane_id = register_plane(tenant).plane_id
    if table == "plane_purge_approvals":
        _insert_approval(second_connection, tenant, plane_id)
    if table == "plane_policy_bindings":
        _insert_binding(second_connection, tenant, plane_id)
    with pytest.raises(sa.exc.DBAPIError, match="never deleted"):
        execute(second_connection, f"DELETE FROM {table} WHERE tenant_id = :tenant", tenant)


@pytest.mark.parametrize(
    "table",
    ["knowledge_plane_registry", "plane_lifecycle_events", "plane_purge_approvals", "plane_policy_bindings"],
)
def test_tables_of_planes_are_not_truncated(
    second_connection: sa.Connection, tenant: Tenant, table: str
) -> None:
    if second_connection.dialect.name == "sqlite":
        # SQLite has no TRUNCATE: a DELETE of every row stands for it, and a table with rows refuses it.
        register_plane(tenant)
        assert _refuses_emptying(second_connection) is True
        return
    with pytest.raises(sa.exc.DBAPIError, match="never deleted"):
        second_connection.execute(sa.text(f"TRUNCATE {table} CASCADE"))


def _refuses_emptying(connection: sa.Connection) -> bool:
    try:
        connection.execute(sa.text("DELETE FROM knowledge_plane_registry"))
    except sa.exc.DBAPIError:
        return True
    return False


def test_events_are_append_only(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = register_plane(tenant).plane_id
    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        execute(
            second_connection,
            "UPDATE plane_lifecycle_events SET decision = 'BLOCKED' WHERE tenant_id = :tenant",
            tenant,
        )
    assert [event["decision"] for event in events_of(second_connection, tenant, plane_id)] == ["ALLOWED"]


def test_approvals_are_append_only(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = register_plane(tenant).plane_id
    _insert_approval(second_connection, tenant, plane_id)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        execute(
            second_connection,
            "UPDATE plane_purge_approvals SET approved_by = 'mallory' WHERE tenant_id = :tenant",
            tenant,
        )


def test_a_binding_ends_once_and_changes_in_nothing_else(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = register_plane(tenant).plane_id
    _insert_binding(second_connection, tenant, plane_id)
    with pytest.raises(sa.exc.DBAPIError, match="never change"):
        execute(
            second_connection,
            "UPDATE plane_policy_bindings SET policy_id = 'rule-2' WHERE tenant_id = :tenant",
            tenant,
        )
    end = (
        "UPDATE plane_policy_bindings SET unbound_by = :who, unbound_at = bound_at WHERE tenant_id = :tenant"
    )
    execute(second_connection, end, tenant, who="alice")
    with pytest.raises(sa.exc.DBAPIError, match="stays unbound"):
        execute(second_connection, end, tenant, who="mallory")


def test_a_live_name_is_taken_once_and_freed_by_failing(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = plane_in(second_connection, tenant, State.DRAFT, plane_name="prices")
    refused = tenant.dispatch(
        "knowledge.planes.register",
        {"plane_type": "catalogue", "plane_name": "prices", "connector_type": "http", "connector_id": "c"}
        | {"config": _http()},
    )
    assert refused.error_code == "DUPLICATE_PLANE"
    move_plane(second_connection, tenant, plane_id, State.FAILED)
    assert register_plane(tenant, plane_name="prices").plane_id != plane_id


def _http() -> dict[str, Any]:
    endpoint = {"id": "e", "path": "/items", "key_fields": ["id"]}
    return {"base_url": "https://example.org", "health_path": "/health", "endpoints": [endpoint]}


def _insert_approval(connection: sa.Connection, tenant: Tenant, plane_id: str) -> None:
    execute(
        connection,
        "INSERT INTO plane_purge_approvals"
        " (tenant_id, approval_id, plane_id, approved_by, approved_at, expires_at, event_id)"
        " SELECT tenant_id, 'kpa_1', plane_id, 'bob', created_at, created_at, 'kpe_1'"
        " FROM knowledge_plane_registry WHERE tenant_id = :tenant AND plane_id = :plane",
        tenant,
        plane=plane_id,
    )


def _insert_binding(connection: sa.Connection, tenant: Tenant, plane_id: str) -> None:
    tenant.call(
        "policies.rules.create",
        {"rule_id": "rule-1", "name": "rule 1", "kind": "ACCESS", "effect": "ALLOW", "scope": "TENANT"},
    )
    execute(
        connection,
        "INSERT INTO plane_policy_bindings"
        " (tenant_id, binding_id, plane_id, policy_id, bound_by, bound_at, version, fact_id)"
        " SELECT tenant_id, 'kpb_1', plane_id, 'rule-1', 'bob', created_at, 1, fact_id"
        " FROM knowledge_plane_registry WHERE tenant_id = :tenant AND plane_id = :plane",
        tenant,
        plane=plane_id,
    )
