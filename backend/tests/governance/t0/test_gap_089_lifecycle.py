"""GAP-089: the six invariants of the plane lifecycle, each by the whole product on both dialects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.knowledge.engines import lifecycle
from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState as State,
)
from app.hoc_spine.spine import Spine
from app.kernel.context import RequestContext
from tests.factories.lifecycle import (
    bind,
    events_of,
    make_active_plane,
    make_allow_rule,
    make_waiting_plane,
    move_plane,
    plane_in,
    register_plane,
    state_in_database,
    transition,
    unbind,
)
from tests.factories.tenants import Tenant

ACTIONS = (
    "verify_knowledge_plane",
    "ingest_knowledge_plane",
    "index_knowledge_plane",
    "classify_knowledge_plane",
    "request_activation",
    "activate_knowledge_plane",
    "deregister_knowledge_plane",
    "cancel_deregister_knowledge_plane",
    "deactivate_knowledge_plane",
    "archive_knowledge_plane",
    "purge_knowledge_plane",
    "retry_knowledge_plane",
    "fail_knowledge_plane",
    "job_complete",
    "register_knowledge_plane",
)


def test_lifecycle_001_states_are_thirteen_ordered_values(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    assert sorted(State) == list(State)
    assert len(State) == 13
    plane_id = register_plane(tenant).plane_id
    for value in (0, 99, 105, 201, 501):
        with pytest.raises(sa.exc.DBAPIError):
            second_connection.execute(
                sa.text(
                    "UPDATE knowledge_plane_registry SET lifecycle_state_value = :value"
                    " WHERE tenant_id = :tenant AND plane_id = :plane"
                ),
                {"value": value, "tenant": tenant.tenant_id, "plane": plane_id},
            )


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_lifecycle_002_no_action_skips_a_step(
    second_connection: sa.Connection, tenant: Tenant, state: State
) -> None:
    plane_id = plane_in(second_connection, tenant, state)
    for action in ACTIONS:
        result = transition(tenant, plane_id, action, reason="to see")
        reached = state_in_database(second_connection, tenant, plane_id)
        if result.success:
            assert lifecycle.is_valid_transition(state, reached)
            plane_id = plane_in(second_connection, tenant, state)
        else:
            assert reached is state


@pytest.mark.parametrize("final", [State.PURGED, State.FAILED], ids=lambda state: state.name)
def test_lifecycle_003_purged_and_failed_are_final(
    second_connection: sa.Connection, tenant: Tenant, final: State
) -> None:
    plane_id = plane_in(second_connection, tenant, final)
    for action in ACTIONS:
        assert transition(tenant, plane_id, action, reason="to see").error_code == "INVALID_ACTION"
    for target in State:
        with pytest.raises(sa.exc.DBAPIError):
            move_plane(second_connection, tenant, plane_id, target)
    with pytest.raises(sa.exc.DBAPIError):
        second_connection.execute(
            sa.text("DELETE FROM knowledge_plane_registry WHERE tenant_id = :tenant AND plane_id = :plane"),
            {"tenant": tenant.tenant_id, "plane": plane_id},
        )
    assert state_in_database(second_connection, tenant, plane_id) is final


def test_lifecycle_004_an_active_plane_has_a_policy_bound(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = make_waiting_plane(second_connection, tenant)
    assert transition(tenant, plane_id, "activate_knowledge_plane").error_code == "POLICY_GATE_BLOCKED"
    rule_id = make_allow_rule(tenant)
    bind(tenant, plane_id, rule_id).unwrap()
    transition(tenant, plane_id, "activate_knowledge_plane").unwrap()
    assert unbind(tenant, plane_id, rule_id).error_code == "LAST_BINDING"
    retire = {"rule_id": rule_id, "reason": "old"}
    assert tenant.dispatch("policies.rules.retire", retire).error_code == "RULE_HAS_DEPENDENTS"


def test_lifecycle_005_every_attempt_to_move_leaves_one_event(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = register_plane(tenant).plane_id
    attempts = 0
    for action in ACTIONS:
        if action == "fail_knowledge_plane":
            continue
        transition(tenant, plane_id, action, reason="to see")
        attempts += 1
        events = events_of(second_connection, tenant, plane_id)
        moves = [event for event in events if event["event_type"] != "LIFECYCLE_JOB_STARTED"]
        assert len(moves) == 1 + attempts
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    facts = second_connection.execute(
        sa.text("SELECT fact_id FROM log_leaves WHERE tenant_id = :tenant AND type = 'knowledge.transition'"),
        {"tenant": tenant.tenant_id},
    ).scalars()
    assert {event["fact_id"] for event in events} == set(facts)


def test_lifecycle_006_offboarding_looks_at_dependents(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = make_active_plane(second_connection, tenant)
    transition(tenant, plane_id, "deregister_knowledge_plane").unwrap()
    forced = {"force": True, "reason": "now"}
    refused = transition(tenant, plane_id, "deactivate_knowledge_plane", **forced)
    assert refused.error_code == "POLICY_GATE_BLOCKED"
    assert refused.error is not None
    check = refused.error.extra["gate"]["checks"][0]
    assert (check["required_action"], check["count"]) == ("unbind_policies", 1)
    assert check["ids"] == [f"rule-{plane_id}"]
    unbind(tenant, plane_id, f"rule-{plane_id}").unwrap()
    transition(tenant, plane_id, "deactivate_knowledge_plane", **forced).unwrap()


def test_a_running_run_that_read_the_plane_holds_its_deactivation(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = make_active_plane(second_connection, tenant)
    run_id = start_run(tenant)
    put_evidence(second_connection, tenant, plane_id, run_id)
    transition(tenant, plane_id, "deregister_knowledge_plane").unwrap()
    unbind(tenant, plane_id, f"rule-{plane_id}").unwrap()
    end_grace(second_connection, tenant)
    refused = transition(tenant, plane_id, "deactivate_knowledge_plane")
    assert refused.error_code == "POLICY_GATE_PENDING"
    assert refused.error is not None
    waiting = refused.error.extra["gate"]["checks"][2]
    assert (waiting["required_action"], waiting["ids"]) == ("wait_running_runs", [run_id])
    tenant.call("runs.cancel", {"run_id": run_id, "reason": "over"})
    transition(tenant, plane_id, "deactivate_knowledge_plane").unwrap()


def test_another_process_sees_the_same_planes_and_goes_on_with_them(
    second_connection: sa.Connection, tenant: Tenant, make_spine: Callable[..., Spine]
) -> None:
    plane_id = make_active_plane(second_connection, tenant)
    there = make_spine()
    context: RequestContext = tenant.context()

    def call(name: str, **payload: Any) -> Any:
        return there.dispatch(name, context, {"plane_id": plane_id, **payload}).unwrap()

    assert call("knowledge.planes.get") == tenant.call("knowledge.planes.get", {"plane_id": plane_id})
    here = tenant.call("knowledge.planes.events", {"plane_id": plane_id})
    assert call("knowledge.planes.events") == here
    assert call("knowledge.planes.transition", action="deregister_knowledge_plane").to_state == (
        "PENDING_DEACTIVATE"
    )
    assert state_in_database(second_connection, tenant, plane_id) is State.PENDING_DEACTIVATE


def start_run(tenant: Tenant) -> str:
    payload = {
        "agent_id": "agent-1",
        "goal": "read",
        "actor_type": "SYSTEM",
        "origin_system_id": "tests",
    }
    return str(tenant.call("runs.start", payload).run_id)


def end_grace(connection: sa.Connection, tenant: Tenant) -> None:
    connection.execute(
        sa.text("UPDATE knowledge_plane_registry SET grace_until = created_at WHERE tenant_id = :tenant"),
        {"tenant": tenant.tenant_id},
    )


def put_evidence(connection: sa.Connection, tenant: Tenant, plane_id: str, run_id: str) -> None:
    """Put down one allowed access, with the plane's own leaf for its fact: only the reader counts here."""
    connection.execute(
        sa.text(
            "INSERT INTO retrieval_evidence (tenant_id, evidence_id, run_id, attempt, plane_id, action,"
            " actor_id, outcome, reason_code, revoked_in_flight, connector_id, plane_state_value,"
            " policy_snapshot_id, matched_rules, query_hash, documents, doc_count, token_count,"
            " bytes_returned, truncated,"
            " requested_at, completed_at, duration_ms, created_at, fact_id)"
            " SELECT tenant_id, 'ev_1', :run, 1, plane_id, 'search', 'user-1', 'ALLOWED', 'OK', :no,"
            " connector_id, 200, 'snap', '[]', :hash, '[]', 0, 0, 0, :no, created_at, created_at, 0,"
            " created_at, fact_id FROM knowledge_plane_registry"
            " WHERE tenant_id = :tenant AND plane_id = :plane"
        ),
        {"run": run_id, "tenant": tenant.tenant_id, "plane": plane_id, "no": False, "hash": "0" * 64},
    )
