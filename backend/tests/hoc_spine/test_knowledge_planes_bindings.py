"""Operations: policies are bound to planes, purges are consented to, planes are suspended."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.knowledge.engines import bindings
from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState as State,
)
from tests.factories.lifecycle import (
    bind,
    events_of,
    make_active_plane,
    make_allow_rule,
    make_waiting_plane,
    move_plane,
    plane_in,
    rows_of,
    transition,
    unbind,
)
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant

BINDABLE = {State.PENDING_ACTIVATE, State.ACTIVE}
UNBINDABLE = BINDABLE | {State.PENDING_DEACTIVATE}


def policy_version(connection: sa.Connection, tenant: Tenant) -> int:
    statement = sa.text("SELECT policy_version FROM tenant_state WHERE tenant_id = :tenant")
    return int(connection.execute(statement, {"tenant": tenant.tenant_id}).scalar_one())


def leaves(connection: sa.Connection, tenant: Tenant, kind: str) -> list[dict[str, Any]]:
    statement = sa.text(
        "SELECT fact_id, ref_version, statement FROM log_leaves"
        " WHERE tenant_id = :tenant AND type = :kind ORDER BY ref_version"
    )
    return [
        dict(row)
        for row in connection.execute(statement, {"tenant": tenant.tenant_id, "kind": kind}).mappings()
    ]


def set_suspended(tenant: Tenant, plane_id: str, suspended: bool, **context: Any) -> Any:
    payload = {"plane_id": plane_id, "suspended": suspended, "reason": "leak"}
    return tenant.dispatch("knowledge.planes.set_suspension", payload, **context)


def approve(tenant: Tenant, plane_id: str, **context: Any) -> Any:
    payload = {"plane_id": plane_id, "reason": "checked with legal"}
    return tenant.dispatch("knowledge.planes.approve_purge", payload, **context)


def test_a_binding_is_a_row_an_event_a_fact_and_a_policy_version(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = make_waiting_plane(second_connection, tenant)
    rule_id = make_allow_rule(tenant)
    before = tenant.call("knowledge.planes.get", {"plane_id": plane_id})
    version = policy_version(second_connection, tenant)
    view = bind(tenant, plane_id, rule_id).unwrap()
    assert (view.changed, view.bound_policy_ids, view.version) == (True, [rule_id], before.version + 1)
    assert policy_version(second_connection, tenant) == version + 1
    (row,) = rows_of(second_connection, "plane_policy_bindings", tenant, plane_id)
    assert (row["policy_id"], row["bound_by"], row["unbound_at"], row["version"]) == (
        rule_id,
        "user-1",
        None,
        1,
    )
    (leaf,) = leaves(second_connection, tenant, "policy.binding")
    assert (leaf["fact_id"], leaf["ref_version"]) == (row["fact_id"], 1)
    event = events_of(second_connection, tenant, plane_id)[-1]
    assert event["event_type"] == "PLANE_POLICY_BOUND"
    assert json.loads(event["details"]) == {"binding_id": row["binding_id"], "policy_id": rule_id}


def test_an_ended_binding_stays_as_a_record(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = make_waiting_plane(second_connection, tenant)
    rule_id = make_allow_rule(tenant)
    bind(tenant, plane_id, rule_id).unwrap()
    version = policy_version(second_connection, tenant)
    view = unbind(tenant, plane_id, rule_id, actor_id="bob").unwrap()
    assert (view.changed, view.bound_policy_ids) == (True, [])
    assert policy_version(second_connection, tenant) == version + 1
    (row,) = rows_of(second_connection, "plane_policy_bindings", tenant, plane_id)
    assert (row["unbound_by"], row["version"]) == ("bob", 2)
    first, second = leaves(second_connection, tenant, "policy.binding")
    assert (first["ref_version"], second["ref_version"], second["fact_id"]) == (1, 2, row["fact_id"])
    assert json.loads(second["statement"])["body"]["unbound_by"] == "bob"
    assert events_of(second_connection, tenant, plane_id)[-1]["event_type"] == "PLANE_POLICY_UNBOUND"
    bind(tenant, plane_id, rule_id).unwrap()
    assert len(rows_of(second_connection, "plane_policy_bindings", tenant, plane_id)) == 2


def test_binding_and_unbinding_again_change_nothing(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = make_waiting_plane(second_connection, tenant)
    rule_id = make_allow_rule(tenant)
    assert unbind(tenant, plane_id, rule_id).unwrap().changed is False
    bound = bind(tenant, plane_id, rule_id).unwrap()
    known = len(events_of(second_connection, tenant, plane_id))
    version = policy_version(second_connection, tenant)
    again = bind(tenant, plane_id, rule_id).unwrap()
    assert (again.changed, again.version) == (False, bound.version)
    assert len(events_of(second_connection, tenant, plane_id)) == known
    assert policy_version(second_connection, tenant) == version


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_bindings_open_and_close_with_the_state(
    second_connection: sa.Connection, tenant: Tenant, state: State
) -> None:
    plane_id = plane_in(second_connection, tenant, state)
    rule_id = make_allow_rule(tenant)
    expected = None if state in BINDABLE else "BINDING_NOT_ALLOWED"
    assert bind(tenant, plane_id, rule_id).error_code == expected
    other = make_allow_rule(tenant, "rule-other")
    expected = None if state in UNBINDABLE else "BINDING_NOT_ALLOWED"
    assert unbind(tenant, plane_id, other).error_code == expected


def test_only_an_active_access_rule_of_the_tenant_is_bound(
    second_connection: sa.Connection, tenant: Tenant, other_tenant: Tenant
) -> None:
    plane_id = make_waiting_plane(second_connection, tenant)
    make_allow_rule(other_tenant, "foreign")
    for unknown in ("foreign", "unknown"):
        assert bind(tenant, plane_id, unknown).error_code == "RULE_NOT_FOUND"
        assert unbind(tenant, plane_id, unknown).error_code == "RULE_NOT_FOUND"
    make_allow_rule(tenant, "draft", activate=False)
    assert bind(tenant, plane_id, "draft").error_code == "POLICY_NOT_ACTIVE"
    guard = bindings.RuleFacts("guard", "GUARD", "ACTIVE", None)
    refused = bindings.check_bindable(guard, bound=0)
    assert refused is not None
    assert refused.code == "POLICY_NOT_BINDABLE"


def test_a_plane_has_at_most_64_bindings() -> None:
    rule = bindings.RuleFacts("rule", "ACCESS", "ACTIVE", "DENY")
    assert bindings.check_bindable(rule, bound=63) is None
    refused = bindings.check_bindable(rule, bound=64)
    assert refused is not None
    assert (refused.code, refused.extra["limit"]) == ("TOO_MANY_BINDINGS", 64)


def test_an_active_plane_keeps_its_last_rule_that_allows(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = make_active_plane(second_connection, tenant)
    first = f"rule-{plane_id}"
    deny = make_allow_rule(tenant, "deny", effect="DENY", condition="false")
    bind(tenant, plane_id, deny).unwrap()
    assert unbind(tenant, plane_id, first).error_code == "LAST_BINDING"
    unbind(tenant, plane_id, deny).unwrap()
    second = make_allow_rule(tenant, "second")
    bind(tenant, plane_id, second).unwrap()
    unbind(tenant, plane_id, first).unwrap()
    assert unbind(tenant, plane_id, second).error_code == "LAST_BINDING"
    # On the way out the last one goes too.
    transition(tenant, plane_id, "deregister_knowledge_plane").unwrap()
    unbind(tenant, plane_id, second).unwrap()


def test_a_bound_rule_is_not_retired_but_a_failed_plane_holds_none(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = make_waiting_plane(second_connection, tenant)
    rule_id = make_allow_rule(tenant)
    bind(tenant, plane_id, rule_id).unwrap()
    retire = {"rule_id": rule_id, "reason": "old"}
    assert tenant.dispatch("policies.rules.retire", retire).error_code == "RULE_HAS_DEPENDENTS"
    transition(tenant, plane_id, "fail_knowledge_plane", reason="wrong").unwrap()
    tenant.call("policies.rules.retire", retire)


def test_snapshots_are_told_the_bindings_of_planes_that_can_serve(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    active, failed = (
        make_active_plane(second_connection, tenant),
        make_waiting_plane(second_connection, tenant),
    )
    bind(tenant, failed, make_allow_rule(tenant)).unwrap()
    bind(tenant, active, "rule-allow").unwrap()

    def live() -> list[tuple[str, str]]:
        with tenant.spine.transactions.read(tenant.tenant_id) as connection:
            return bindings.list_live(connection, tenant_id=tenant.tenant_id)

    expected = [(active, f"rule-{active}"), (active, "rule-allow"), (failed, "rule-allow")]
    assert live() == sorted(expected)
    transition(tenant, failed, "fail_knowledge_plane", reason="wrong").unwrap()
    assert live() == sorted(expected[:2])


def test_a_person_consents_to_a_purge_for_a_week(
    second_connection: sa.Connection, tenant: Tenant, clock: SteerableClock
) -> None:
    clock.freeze()
    plane_id = plane_in(second_connection, tenant, State.ARCHIVED)
    given = approve(tenant, plane_id, actor_id="bob").unwrap()
    assert (given.plane_id, given.approved_by) == (plane_id, "bob")
    assert given.expires_at == clock.now() + timedelta(days=7)
    (row,) = rows_of(second_connection, "plane_purge_approvals", tenant, plane_id)
    event = events_of(second_connection, tenant, plane_id)[-1]
    assert (row["approval_id"], row["event_id"]) == (given.approval_id, event["event_id"])
    assert (event["event_type"], event["approval_id"]) == ("LIFECYCLE_PURGE_APPROVED", given.approval_id)
    assert event["reason"] == "checked with legal"
    assert tenant.call("knowledge.planes.get", {"plane_id": plane_id}).purge_approved is True
    clock.advance(days=7)
    assert tenant.call("knowledge.planes.get", {"plane_id": plane_id}).purge_approved is False


@pytest.mark.parametrize("actor_type", ["SYSTEM", "AGENT"])
def test_only_a_person_consents(second_connection: sa.Connection, tenant: Tenant, actor_type: str) -> None:
    plane_id = plane_in(second_connection, tenant, State.ARCHIVED)
    assert approve(tenant, plane_id, actor_type=actor_type).error_code == "HUMAN_REQUIRED"
    assert approve(tenant, plane_id, scopes=("knowledge:write",)).error_code == "INSUFFICIENT_SCOPE"


@pytest.mark.parametrize(
    "state", [state for state in State if state is not State.ARCHIVED], ids=lambda s: s.name
)
def test_only_an_archived_plane_is_consented_to(
    second_connection: sa.Connection, tenant: Tenant, state: State
) -> None:
    plane_id = plane_in(second_connection, tenant, state)
    assert approve(tenant, plane_id).error_code == "PLANE_NOT_ARCHIVED"


def test_an_active_plane_is_suspended_and_resumed(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = make_active_plane(second_connection, tenant)
    before = tenant.call("knowledge.planes.get", {"plane_id": plane_id})
    stopped = set_suspended(tenant, plane_id, True, actor_id="bob").unwrap()
    assert (stopped.suspended, stopped.suspended_by, stopped.changed) == (True, "bob", True)
    assert (stopped.lifecycle_state, stopped.allows.queries) == ("ACTIVE", False)
    assert stopped.version == before.version + 1
    event = events_of(second_connection, tenant, plane_id)[-1]
    assert (event["event_type"], event["reason"]) == ("PLANE_SUSPENDED", "leak")
    again = set_suspended(tenant, plane_id, True).unwrap()
    assert (again.changed, again.suspended_by, again.version) == (False, "bob", stopped.version)
    resumed = set_suspended(tenant, plane_id, False).unwrap()
    assert (resumed.suspended, resumed.suspended_at, resumed.suspended_by) == (False, None, None)
    assert events_of(second_connection, tenant, plane_id)[-1]["event_type"] == "PLANE_RESUMED"


@pytest.mark.parametrize(
    "state", [state for state in State if state is not State.ACTIVE], ids=lambda s: s.name
)
def test_only_an_active_plane_is_suspended(
    second_connection: sa.Connection, tenant: Tenant, state: State
) -> None:
    plane_id = plane_in(second_connection, tenant, state)
    assert set_suspended(tenant, plane_id, True).error_code == "PLANE_NOT_ACTIVE"
    assert set_suspended(tenant, plane_id, False).unwrap().changed is False


def test_a_suspended_plane_stays_so_on_its_way_out_and_back(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = make_active_plane(second_connection, tenant)
    set_suspended(tenant, plane_id, True).unwrap()
    transition(tenant, plane_id, "deregister_knowledge_plane").unwrap()
    transition(tenant, plane_id, "cancel_deregister_knowledge_plane").unwrap()
    plane = tenant.call("knowledge.planes.get", {"plane_id": plane_id})
    assert (plane.lifecycle_state, plane.suspended) == ("ACTIVE", True)


def test_no_plane_is_resumed_while_a_switch_is_engaged(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = make_active_plane(second_connection, tenant)
    set_suspended(tenant, plane_id, True).unwrap()
    tenant.call("tenants.freeze", {"reason": "incident"})
    assert set_suspended(tenant, plane_id, False).error_code == "KILL_SWITCH_ACTIVE"
    tenant.call("tenants.unfreeze", {"reason": "over"})
    set_suspended(tenant, plane_id, False).unwrap()


def test_what_an_offboarding_plane_owns_is_sealed(second_connection: sa.Connection, tenant: Tenant) -> None:
    repository = {"connector_type": "repository", "connector_id": "documents", "config": {}}
    plane_id = plane_in(second_connection, tenant, State.ACTIVE, **repository)
    own = f"plane-{plane_id}"
    write = {"collection_id": own, "name": "n", "artifact_type": "note", "content": "text"}
    tenant.call("repository.artifacts.create", write)
    for state in (State.PENDING_DEACTIVATE, State.DEACTIVATED, State.ARCHIVED):
        move_plane(second_connection, tenant, plane_id, state)
        refused = tenant.dispatch("repository.artifacts.create", write | {"name": state.name})
        assert refused.error_code == "COLLECTION_SEALED"
    assert tenant.call("repository.collections.get", {"collection_id": own}).planes == [plane_id]
