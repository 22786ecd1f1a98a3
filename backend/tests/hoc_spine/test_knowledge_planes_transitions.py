"""Operations: transitions of planes, the order of their checks, and one event for each refused attempt."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.knowledge.engines.lifecycle import EDGES
from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState as State,
)
from app.kernel.context import Precondition
from tests.factories.lifecycle import (
    SQL_CONFIG,
    bind,
    end_job,
    events_of,
    make_active_plane,
    make_allow_rule,
    make_waiting_plane,
    plane_in,
    register_plane,
    rows_of,
    state_in_database,
    transition,
    unbind,
)
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant

REPOSITORY = {"connector_type": "repository", "connector_id": "documents", "config": {}}
WRITER = {"scopes": ("knowledge:write",)}


def snapshot(connection: sa.Connection, tenant: Tenant, plane_id: str) -> dict[str, Any]:
    """Everything a refused attempt must leave alone."""
    (plane,) = rows_of(connection, "knowledge_plane_registry", tenant, plane_id)
    plane.pop("event_seq")
    audit = sa.text("SELECT count(*) FROM audit_ledger WHERE tenant_id = :tenant")
    return {
        "plane": plane,
        "jobs": rows_of(connection, "knowledge_plane_jobs", tenant, plane_id),
        "bindings": rows_of(connection, "plane_policy_bindings", tenant, plane_id),
        "collections": rows_of(connection, "plane_collections", tenant, plane_id),
        "audit": connection.execute(audit, {"tenant": tenant.tenant_id}).scalar_one(),
    }


class Refused:
    """Tries an edge that is refused, and proves that exactly one event says so and nothing else changed."""

    def __init__(self, connection: sa.Connection, tenant: Tenant) -> None:
        self._connection = connection
        self._tenant = tenant

    def __call__(self, plane_id: str, *args: Any, **members: Any) -> dict[str, Any]:
        before = snapshot(self._connection, self._tenant, plane_id)
        known = events_of(self._connection, self._tenant, plane_id)
        result = transition(self._tenant, plane_id, *args, **members)
        assert not result.success
        assert result.committed
        assert snapshot(self._connection, self._tenant, plane_id) == before
        events = events_of(self._connection, self._tenant, plane_id)
        assert events[:-1] == known
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        event = events[-1]
        assert (event["event_type"], event["error_code"]) == ("LIFECYCLE_BLOCKED", result.error_code)
        assert result.error.extra["event_id"] == event["event_id"]
        assert self._fact_of(event) == "knowledge.transition"
        return event | {"gate": None if event["gate"] is None else json.loads(event["gate"])}

    def _fact_of(self, event: dict[str, Any]) -> str:
        statement = sa.text("SELECT type FROM log_leaves WHERE tenant_id = :tenant AND fact_id = :fact")
        values = {"tenant": self._tenant.tenant_id, "fact": event["fact_id"]}
        return str(self._connection.execute(statement, values).scalar_one())


@pytest.fixture
def refused(second_connection: sa.Connection, tenant: Tenant) -> Refused:
    return Refused(second_connection, tenant)


def test_a_misshapen_wish_is_no_attempt(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = register_plane(tenant).plane_id
    wishes: dict[str, dict[str, Any]] = {
        "MISSING_TRANSITION_INTENT": {},
        "AMBIGUOUS_TRANSITION_INTENT": {"action": "verify_knowledge_plane", "to_state": "PENDING_VERIFY"},
        "UNKNOWN_ACTION": {"action": "verify"},
        "INVALID_TARGET_STATE": {"to_state": "READY"},
        "REASON_REQUIRED": {"action": "fail_knowledge_plane"},
        "INVALID_INPUT": {"action": "verify_knowledge_plane", "actor_id": "mallory"},
    }
    for code, wish in wishes.items():
        assert transition(tenant, plane_id, **wish).error_code == code
        # The shape comes first: it is told even where there is no such plane.
        assert transition(tenant, "kp_unknown", **wish).error_code == code
    assert len(events_of(second_connection, tenant, plane_id)) == 1


def test_a_missing_scope_never_reaches_the_plane(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = register_plane(tenant).plane_id
    result = transition(tenant, plane_id, "verify_knowledge_plane", context={"scopes": ("knowledge:read",)})
    assert result.error_code == "INSUFFICIENT_SCOPE"
    assert len(events_of(second_connection, tenant, plane_id)) == 1


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_every_illegal_pair_is_refused_and_recorded(
    second_connection: sa.Connection, tenant: Tenant, refused: Refused, state: State
) -> None:
    plane_id = plane_in(second_connection, tenant, state)
    for target in State:
        if (state, target) in EDGES:
            continue
        event = refused(plane_id, to_state=target.name, reason="to see")
        assert (event["error_code"], event["decision"]) == ("INVALID_TRANSITION", "BLOCKED")
        assert (event["from_state_value"], event["to_state_value"]) == (int(state), int(target))
        assert event["reason"] == "to see"


def test_an_action_that_is_not_legal_here_is_refused(tenant: Tenant, refused: Refused) -> None:
    plane_id = register_plane(tenant).plane_id
    for action in ("activate_knowledge_plane", "job_complete", "register_knowledge_plane"):
        event = refused(plane_id, action)
        assert (event["error_code"], event["action"], event["to_state_value"]) == (
            "INVALID_ACTION",
            action,
            None,
        )


def test_an_inactive_tenant_is_refused_before_anything_else_of_the_plane(
    tenant: Tenant, refused: Refused
) -> None:
    plane_id = register_plane(tenant).plane_id
    tenant.suspend()
    event = refused(plane_id, "activate_knowledge_plane")
    assert event["error_code"] == "TENANT_INACTIVE"
    assert transition(tenant, "kp_unknown", "verify_knowledge_plane").error_code == "TENANT_INACTIVE"


def test_a_stale_version_is_told_and_not_recorded(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = register_plane(tenant).plane_id
    stale = {"precondition": Precondition(frozenset({7}))}
    result = transition(tenant, plane_id, "activate_knowledge_plane", context=stale)
    assert result.error_code == "VERSION_MISMATCH"
    assert result.error.extra["current_version"] == 1
    assert len(events_of(second_connection, tenant, plane_id)) == 1
    current = {"precondition": Precondition(frozenset({1}))}
    transition(tenant, plane_id, "verify_knowledge_plane", context=current).unwrap()


def test_an_async_edge_commits_state_events_ledger_facts_and_job_together(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane = register_plane(tenant)
    view = transition(tenant, plane.plane_id, "verify_knowledge_plane", reason="go").unwrap()
    assert (view.from_state, view.from_state_value) == ("DRAFT", 100)
    assert (view.to_state, view.to_state_value, view.action) == (
        "PENDING_VERIFY",
        110,
        "verify_knowledge_plane",
    )
    assert (view.version, view.event_seq, view.gate) == (2, 2, None)
    _, moved, started = events_of(second_connection, tenant, plane.plane_id)
    assert (moved["event_type"], moved["event_id"]) == ("LIFECYCLE_TRANSITION", view.event_id)
    assert (moved["reason"], moved["plane_version"]) == ("go", 2)
    assert (started["event_type"], started["seq"]) == ("LIFECYCLE_JOB_STARTED", 3)
    (job,) = rows_of(second_connection, "knowledge_plane_jobs", tenant, plane.plane_id)
    assert moved["job_id"] == started["job_id"] == job["job_id"] == view.job_id
    assert (job["job_type"], job["status"]) == ("verify_connectivity", "QUEUED")
    assert (job["expected_state"], job["target_state"], job["requested_by"]) == (110, 120, "user-1")
    (row,) = rows_of(second_connection, "knowledge_plane_registry", tenant, plane.plane_id)
    assert (row["lifecycle_state_value"], row["version"], row["event_seq"]) == (110, 2, 3)
    assert row["state_entered_at"] == row["updated_at"] != row["created_at"]
    assert row["fact_id"] != plane.fact_id
    statement = sa.text("SELECT ref_version FROM log_leaves WHERE tenant_id = :tenant AND fact_id = :fact")
    leaf = second_connection.execute(statement, {"tenant": tenant.tenant_id, "fact": row["fact_id"]})
    assert leaf.scalar_one() == 2
    entry = sa.text(
        "SELECT before_state, after_state, action_reason FROM audit_ledger"
        " WHERE tenant_id = :tenant AND event_type = 'PlaneTransitioned'"
    )
    (ledger,) = second_connection.execute(entry, {"tenant": tenant.tenant_id}).mappings()
    states = [json.loads(ledger[side])["lifecycle_state_value"] for side in ("before_state", "after_state")]
    assert (states, ledger["action_reason"]) == ([100, 110], "go")
    assert tenant.call("knowledge.planes.get", {"plane_id": plane.plane_id}).active_job_id == view.job_id


def test_leaving_a_state_cancels_its_job(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = register_plane(tenant).plane_id
    transition(tenant, plane_id, "verify_knowledge_plane").unwrap()
    back = transition(tenant, plane_id, "retry_knowledge_plane").unwrap()
    assert (back.to_state, back.job_id) == ("DRAFT", None)
    (job,) = rows_of(second_connection, "knowledge_plane_jobs", tenant, plane_id)
    assert job["status"] == "CANCELLED"
    assert events_of(second_connection, tenant, plane_id)[-1]["event_type"] == "LIFECYCLE_ROLLBACK"
    transition(tenant, plane_id, "verify_knowledge_plane").unwrap()
    assert len(rows_of(second_connection, "knowledge_plane_jobs", tenant, plane_id)) == 2


@pytest.mark.parametrize("status", [None, "FAILED", "CANCELLED"])
def test_a_stage_waits_for_its_own_job(
    second_connection: sa.Connection, tenant: Tenant, refused: Refused, status: str | None
) -> None:
    plane_id = register_plane(tenant).plane_id
    transition(tenant, plane_id, "verify_knowledge_plane").unwrap()
    if status is not None:
        end_job(second_connection, tenant, plane_id, status)
    event = refused(plane_id, to_state="VERIFIED")
    assert (event["error_code"], event["decision"]) == ("JOB_INCOMPLETE", "PENDING")
    assert event["required_action"] == "await_job"


def test_the_job_of_an_earlier_visit_does_not_count(
    second_connection: sa.Connection, tenant: Tenant, refused: Refused
) -> None:
    plane_id = register_plane(tenant).plane_id
    transition(tenant, plane_id, "verify_knowledge_plane").unwrap()
    end_job(second_connection, tenant, plane_id)
    transition(tenant, plane_id, "retry_knowledge_plane").unwrap()
    transition(tenant, plane_id, "verify_knowledge_plane").unwrap()
    assert refused(plane_id, to_state="VERIFIED")["error_code"] == "JOB_INCOMPLETE"
    end_job(second_connection, tenant, plane_id)
    view = transition(tenant, plane_id, to_state="verified").unwrap()
    assert (view.to_state, view.action) == ("VERIFIED", "job_complete")


def test_classification_without_content_or_declaration_fails(
    second_connection: sa.Connection, tenant: Tenant, refused: Refused
) -> None:
    plane_id = plane_in(second_connection, tenant, State.INDEXED)
    assert refused(plane_id, "classify_knowledge_plane")["error_code"] == "CLASSIFICATION_FAILED"
    config = SQL_CONFIG | {"declared_sensitivity": "confidential"}
    tenant.call("knowledge.planes.update_config", {"plane_id": plane_id, "config": config})
    transition(tenant, plane_id, "classify_knowledge_plane").unwrap()
    plane = tenant.call("knowledge.planes.get", {"plane_id": plane_id})
    assert (plane.sensitivity_level, plane.pii_detected, plane.pii_count) == ("confidential", False, 0)
    assert plane.classification["schema_version"] == 1


def test_activation_needs_a_bound_rule_that_allows(
    second_connection: sa.Connection, tenant: Tenant, refused: Refused
) -> None:
    plane_id = make_waiting_plane(second_connection, tenant)
    event = refused(plane_id, "activate_knowledge_plane")
    assert (event["error_code"], event["required_action"]) == ("POLICY_GATE_BLOCKED", "bind_policy")
    assert event["gate"]["checks"][0]["count"] == 0
    bind(tenant, plane_id, make_allow_rule(tenant, "deny", effect="DENY", condition="false")).unwrap()
    assert refused(plane_id, "activate_knowledge_plane")["error_code"] == "POLICY_GATE_BLOCKED"
    bind(tenant, plane_id, make_allow_rule(tenant, "allow")).unwrap()
    view = transition(tenant, plane_id, "activate_knowledge_plane").unwrap()
    assert (view.to_state, view.gate.decision) == ("ACTIVE", "ALLOWED")
    assert tenant.call("knowledge.planes.get", {"plane_id": plane_id}).allows.queries is True


def test_the_gate_is_in_the_body_of_the_refusal(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = make_waiting_plane(second_connection, tenant)
    error = transition(tenant, plane_id, "activate_knowledge_plane").error
    assert error.extra["gate"]["required_action"] == "bind_policy"
    assert [check["check"] for check in error.extra["gate"]["checks"]] == ["bound_policy"]


def test_nothing_goes_into_service_while_a_switch_is_engaged(
    second_connection: sa.Connection, tenant: Tenant, refused: Refused
) -> None:
    waiting = make_waiting_plane(second_connection, tenant)
    bind(tenant, waiting, make_allow_rule(tenant)).unwrap()
    leaving = plane_in(second_connection, tenant, State.PENDING_DEACTIVATE)
    draft = register_plane(tenant).plane_id
    tenant.call("tenants.freeze", {"reason": "incident"})
    # The switch is judged before authority and gate.
    assert refused(waiting, "activate_knowledge_plane")["error_code"] == "KILL_SWITCH_ACTIVE"
    cancelled = refused(leaving, "cancel_deregister_knowledge_plane", force=True, reason="x", context=WRITER)
    assert cancelled["error_code"] == "KILL_SWITCH_ACTIVE"
    # All else is repair work.
    transition(tenant, draft, "verify_knowledge_plane").unwrap()
    tenant.call("tenants.unfreeze", {"reason": "over"})
    transition(tenant, waiting, "activate_knowledge_plane").unwrap()


def test_forcing_and_purging_need_the_admin_scope(
    second_connection: sa.Connection, tenant: Tenant, refused: Refused
) -> None:
    leaving = plane_in(second_connection, tenant, State.PENDING_DEACTIVATE)
    forced = {"force": True, "reason": "now"}
    event = refused(leaving, "deactivate_knowledge_plane", **forced, context=WRITER)
    assert event["error_code"] == "INSUFFICIENT_SCOPE"
    archived = plane_in(second_connection, tenant, State.ARCHIVED)
    event = refused(archived, "purge_knowledge_plane", reason="gone", context=WRITER)
    assert event["error_code"] == "INSUFFICIENT_SCOPE"


def test_the_way_out_waits_for_bindings_and_the_grace_period(
    second_connection: sa.Connection, tenant: Tenant, refused: Refused, clock: SteerableClock
) -> None:
    clock.freeze()
    plane_id = make_active_plane(second_connection, tenant)
    rule_id = f"rule-{plane_id}"
    transition(tenant, plane_id, "deregister_knowledge_plane").unwrap()
    plane = tenant.call("knowledge.planes.get", {"plane_id": plane_id})
    assert plane.grace_until == clock.now() + timedelta(days=7)
    dependents = json.loads(events_of(second_connection, tenant, plane_id)[-1]["details"])["dependents"]
    assert dependents == {"binding_count": 1, "policy_ids": [rule_id], "running_run_ids": []}
    event = refused(plane_id, "deactivate_knowledge_plane")
    assert (event["error_code"], event["required_action"]) == ("POLICY_GATE_BLOCKED", "unbind_policies")
    unbind(tenant, plane_id, rule_id).unwrap()
    clock.advance(days=7, seconds=-1)
    event = refused(plane_id, "deactivate_knowledge_plane")
    assert (event["error_code"], event["decision"]) == ("POLICY_GATE_PENDING", "PENDING")
    assert event["required_action"] == "wait_grace_period"
    clock.advance(seconds=1)
    assert transition(tenant, plane_id, "deactivate_knowledge_plane").unwrap().to_state == "DEACTIVATED"


def test_force_ends_the_grace_period(
    second_connection: sa.Connection, tenant: Tenant, refused: Refused
) -> None:
    plane_id = make_active_plane(second_connection, tenant)
    transition(tenant, plane_id, "deregister_knowledge_plane").unwrap()
    forced = {"force": True, "reason": "court order"}
    # Force skips waiting, never bindings.
    assert refused(plane_id, "deactivate_knowledge_plane", **forced)["required_action"] == "unbind_policies"
    unbind(tenant, plane_id, f"rule-{plane_id}").unwrap()
    view = transition(tenant, plane_id, "deactivate_knowledge_plane", **forced).unwrap()
    assert [check["skipped"] for check in view.gate.checks] == [False, True, True]
    event = events_of(second_connection, tenant, plane_id)[-1]
    assert (json.loads(event["details"]), event["reason"]) == ({"forced": True}, "court order")


def test_a_cancelled_deregistration_needs_a_rule_that_allows(
    second_connection: sa.Connection, tenant: Tenant, refused: Refused
) -> None:
    plane_id = make_active_plane(second_connection, tenant)
    transition(tenant, plane_id, "deregister_knowledge_plane").unwrap()
    view = transition(tenant, plane_id, "cancel_deregister_knowledge_plane").unwrap()
    assert view.to_state == "ACTIVE"
    assert events_of(second_connection, tenant, plane_id)[-1]["event_type"] == "LIFECYCLE_ROLLBACK"
    assert tenant.call("knowledge.planes.get", {"plane_id": plane_id}).grace_until is None
    transition(tenant, plane_id, "deregister_knowledge_plane").unwrap()
    unbind(tenant, plane_id, f"rule-{plane_id}").unwrap()
    event = refused(plane_id, "cancel_deregister_knowledge_plane")
    assert (event["error_code"], event["required_action"]) == ("POLICY_GATE_BLOCKED", None)


def test_a_failed_plane_gives_its_collections_up(second_connection: sa.Connection, tenant: Tenant) -> None:
    tenant.call("repository.collections.create", {"id": "contracts", "name": "contracts"})
    config = {"owned_collection": "contracts"}
    plane_id = register_plane(tenant, **REPOSITORY | {"config": config}).plane_id
    transition(tenant, plane_id, "fail_knowledge_plane", reason="wrong source").unwrap()
    (link,) = rows_of(second_connection, "plane_collections", tenant, plane_id)
    assert link["released_at"] is not None
    register_plane(tenant, **REPOSITORY | {"config": config})
    for table in ("plane_documents", "plane_passages", "plane_terms"):
        assert rows_of(second_connection, table, tenant, plane_id) == []


def test_a_failed_plane_frees_the_rules_it_was_bound_to(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = make_waiting_plane(second_connection, tenant)
    bind(tenant, plane_id, make_allow_rule(tenant)).unwrap()
    version = sa.text("SELECT policy_version FROM tenant_state WHERE tenant_id = :tenant")
    before = second_connection.execute(version, {"tenant": tenant.tenant_id}).scalar_one()
    transition(tenant, plane_id, "fail_knowledge_plane", reason="wrong source").unwrap()
    assert second_connection.execute(version, {"tenant": tenant.tenant_id}).scalar_one() == before + 1


def test_a_purge_waits_for_archive_retention_and_consent(
    second_connection: sa.Connection, tenant: Tenant, refused: Refused, clock: SteerableClock
) -> None:
    clock.freeze()
    plane_id = make_active_plane(second_connection, tenant)
    transition(tenant, plane_id, "deregister_knowledge_plane").unwrap()
    unbind(tenant, plane_id, f"rule-{plane_id}").unwrap()
    transition(tenant, plane_id, "deactivate_knowledge_plane", force=True, reason="now").unwrap()
    assert transition(tenant, plane_id, "archive_knowledge_plane").unwrap().job_id is not None
    purge = {"reason": "the end"}
    assert refused(plane_id, "purge_knowledge_plane", **purge)["required_action"] == "await_job"
    end_job(second_connection, tenant, plane_id, "FAILED")
    assert refused(plane_id, "purge_knowledge_plane", **purge)["required_action"] == "retry_job"
    done = sa.text(
        "UPDATE knowledge_plane_jobs SET status = 'SUCCEEDED'"
        " WHERE tenant_id = :tenant AND job_type = 'archive_data'"
    )
    second_connection.execute(done, {"tenant": tenant.tenant_id})
    retain = sa.text(
        "UPDATE knowledge_plane_registry SET retention_until = grace_until WHERE tenant_id = :tenant"
    )
    second_connection.execute(retain, {"tenant": tenant.tenant_id})
    assert refused(plane_id, "purge_knowledge_plane", **purge)["required_action"] == "wait_retention"
    clock.advance(days=7)
    assert refused(plane_id, "purge_knowledge_plane", **purge)["required_action"] == "get_purge_approval"
    approve = {"plane_id": plane_id, "reason": "checked"}
    tenant.call("knowledge.planes.approve_purge", approve)
    assert refused(plane_id, "purge_knowledge_plane", **purge)["required_action"] == "get_purge_approval"
    tenant.call("knowledge.planes.approve_purge", approve, actor_id="bob")
    clock.advance(days=7)
    assert refused(plane_id, "purge_knowledge_plane", **purge)["required_action"] == "get_purge_approval"
    tenant.call("knowledge.planes.approve_purge", approve, actor_id="bob")
    assert transition(tenant, plane_id, "purge_knowledge_plane", **purge).unwrap().to_state == "PURGED"
    assert state_in_database(second_connection, tenant, plane_id) is State.PURGED


def test_next_actions_tell_every_legal_edge_with_its_gate(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = make_waiting_plane(second_connection, tenant)
    told = tenant.call("knowledge.planes.next_actions", {"plane_id": plane_id})
    assert (told.state, told.state_value) == ("PENDING_ACTIVATE", 160)
    assert [(item.action, item.to_state) for item in told.actions] == [
        ("activate_knowledge_plane", "ACTIVE"),
        ("retry_knowledge_plane", "CLASSIFIED"),
        ("fail_knowledge_plane", "FAILED"),
    ]
    gate = told.actions[0].gate
    assert gate is not None
    assert (gate.decision, gate.required_action) == ("BLOCKED", "bind_policy")
    assert told.actions[1].gate is None


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_next_actions_are_the_edges_of_the_matrix(
    second_connection: sa.Connection, tenant: Tenant, state: State
) -> None:
    plane_id = plane_in(second_connection, tenant, state)
    told = tenant.call("knowledge.planes.next_actions", {"plane_id": plane_id})
    assert {item.to_state for item in told.actions} == {
        target.name for source, target in EDGES if source is state
    }
    assert {item.open_job_id for item in told.actions} <= {None}


def test_next_actions_name_the_open_job(tenant: Tenant) -> None:
    plane_id = register_plane(tenant).plane_id
    job_id = transition(tenant, plane_id, "verify_knowledge_plane").unwrap().job_id
    told = tenant.call("knowledge.planes.next_actions", {"plane_id": plane_id})
    assert {item.open_job_id for item in told.actions} == {job_id}
    assert {item.action for item in told.actions} == {
        "job_complete",
        "retry_knowledge_plane",
        "fail_knowledge_plane",
    }


def test_a_refused_attempt_is_told_to_the_outbox(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = register_plane(tenant).plane_id
    transition(tenant, plane_id, "activate_knowledge_plane", reason="the reason stays inside")
    statement = sa.text(
        "SELECT body FROM outbox WHERE tenant_id = :tenant AND type = 'PlaneTransitionBlocked'"
    )
    (body,) = second_connection.execute(statement, {"tenant": tenant.tenant_id}).scalars()
    assert plane_id in body
    assert "INVALID_ACTION" in body
    assert "stays inside" not in body


def test_the_reason_of_an_event_is_committed_to_without_secrets(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = register_plane(tenant).plane_id
    secret = "sk-abcdefghijklmnopqrstuvwxyz"
    transition(tenant, plane_id, "fail_knowledge_plane", reason=f"leaked {secret}").unwrap()
    event = events_of(second_connection, tenant, plane_id)[-1]
    assert event["reason"] == "leaked <REDACTED_KEY>"
    assert event["protected_commit"].startswith("c1:")
    statement = sa.text("SELECT statement FROM log_leaves WHERE tenant_id = :tenant AND fact_id = :fact")
    values = {"tenant": tenant.tenant_id, "fact": event["fact_id"]}
    body = json.loads(second_connection.execute(statement, values).scalar_one())["body"]
    assert "reason" not in body
    assert body["protected_commit"] == event["protected_commit"]
    assert body["event_id"] == event["event_id"]


BUDGETS = {
    # Standing, plane, change, events, ledger, outbox, leaves; a job to queue or to cancel.
    "verify_knowledge_plane": (lambda connection, tenant: register_plane(tenant).plane_id, 8),
    "retry_knowledge_plane": (make_waiting_plane, 8),
    # Bindings and running runs are listed besides.
    "deregister_knowledge_plane": (make_active_plane, 10),
}


@pytest.mark.parametrize("action", BUDGETS)
def test_a_transition_stays_within_its_statements(
    second_connection: sa.Connection, tenant: Tenant, statements: list[str], action: str
) -> None:
    make, budget = BUDGETS[action]
    plane_id = make(second_connection, tenant)
    statements.clear()
    transition(tenant, plane_id, action).unwrap()
    assert len(statements) <= budget, statements


def test_a_plane_is_read_in_one_statement(tenant: Tenant, statements: list[str]) -> None:
    plane_id = register_plane(tenant).plane_id
    statements.clear()
    tenant.call("knowledge.planes.get", {"plane_id": plane_id})
    assert len(statements) == 1


@pytest.fixture
def statements(tenant: Tenant) -> Any:
    """The statements of the spine's engine so far, without those that begin and end a unit."""
    engine = tenant.spine.transactions.engine
    seen: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, _p: Any, _x: Any, _m: bool) -> None:
        if not statement.startswith(("BEGIN", "COMMIT")):
            seen.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(engine, "before_cursor_execute", note)
