"""Mediated retrieval: deny by default, exactly one evidence row, no data before it is committed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.retrieval.engines import evidence as evidence_engine
from app.hoc_spine.coordinators import retrieval_access
from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import CommitUnknownError, Transactions, statement_counter
from app.kernel.errors import ErrorKind, HocError
from tests.factories.planes import move
from tests.factories.tenants import Tenant, make_tenant, operator_context
from tests.factories.worlds import World, make_plane, make_rule, make_world, start_run, without_triggers


@pytest.fixture(scope="module")
def home(spine: Spine) -> World:
    return make_world(spine, make_tenant(spine))


@pytest.fixture
def world(home: World) -> World:
    """A run of the test's own in the module's tenant, whose plane and rule it leaves as they are."""
    return home.with_run_of_its_own()


@pytest.fixture
def own_world(spine: Spine, tenant: Tenant) -> World:
    """A tenant, a plane and a rule of the test's own, too."""
    return make_world(spine, tenant)


def evidence_rows(connection: sa.Connection, world: World) -> list[Any]:
    """Return the evidence rows the tenant got since the run began, as another connection sees them."""
    statement = sa.text("SELECT * FROM retrieval_evidence WHERE tenant_id = :t ORDER BY evidence_id")
    rows = connection.execute(statement, {"t": world.tenant.tenant_id}).mappings()
    # Ids are in the order of their making.
    began = world.run_id.removeprefix("run_")
    return [row for row in rows if row["evidence_id"].removeprefix("ev_") > began]


def denied(world: World, connection: sa.Connection, code: str, **members: Any) -> None:
    """Ask, and expect this denial with its one evidence row and no data."""
    before = len(evidence_rows(connection, world))
    result = world.access(**members)
    rows = evidence_rows(connection, world)
    assert (result.error_code, result.data) == (code, None)
    assert len(rows) == before + 1
    assert (rows[-1]["outcome"], rows[-1]["reason_code"], rows[-1]["documents"]) == ("DENIED", code, "[]")
    assert result.error is not None
    assert result.error.extra["evidence_id"] == rows[-1]["evidence_id"]


def test_an_allowed_access_cites_what_it_returns(world: World, second_connection: sa.Connection) -> None:
    result = world.access("refund order").unwrap()
    (found,) = result.data["documents"]
    assert found["artifact_id"] == world.artifacts["refunds.md"]
    assert (found["revision"], found["name"]) == (1, "refunds.md")
    assert found["digest"].startswith("sha256:")
    (row,) = evidence_rows(second_connection, world)
    assert (row["outcome"], row["doc_count"], row["run_id"]) == ("ALLOWED", 1, world.run_id)
    assert row["token_count"] == result.tokens_consumed > 0
    cited = second_connection.execute(
        sa.text("SELECT doc_ref, revision, digest FROM retrieval_evidence_documents WHERE evidence_id = :e"),
        {"e": result.evidence_id},
    ).one()
    assert tuple(cited) == (found["artifact_id"], 1, found["digest"])


def test_an_allowed_search_takes_eight_statements_in_four_units(world: World) -> None:
    assert world.access("refund order").success
    spine = world.tenant.spine
    heard: list[str] = []
    statement_counter(spine.transactions.engine, heard.append)
    assert world.access("refund order").success
    begins = [place for place, text in enumerate(heard) if text.startswith("BEGIN")]
    units = [after - place - 2 for place, after in pairwise([*begins, len(heard)])]
    # SQLite has no statement that writes two tables.
    more = 2 if spine.transactions.dialect_name == "sqlite" else 0
    # What it is judged by; the journal; the search; the same again, the journal, evidence, leaf.
    assert units == [1, 1, 2, 4 + more], heard


def test_the_question_is_kept_only_as_a_keyed_hash_unless_the_plane_logs_it(
    spine: Spine, new_tenant: Callable[..., Tenant]
) -> None:
    for logs, kept in ((False, None), (True, {"text": "refund"})):
        world = make_world(spine, new_tenant(), log_queries=logs)
        given = world.access().unwrap()
        view = world.tenant.call("retrieval.evidence.get", {"evidence_id": given.evidence_id})
        assert view.query == kept
        assert view.query_hash == given.query_hash


def test_an_unknown_run_is_denied(world: World, second_connection: sa.Connection) -> None:
    denied(world, second_connection, "RUN_NOT_FOUND", run_id="run_unknown")


def test_an_ended_run_is_denied(world: World, second_connection: sa.Connection) -> None:
    world.complete()
    denied(world, second_connection, "RUN_NOT_RUNNING")


def test_another_attempt_is_denied(world: World, second_connection: sa.Connection) -> None:
    denied(world, second_connection, "ATTEMPT_MISMATCH", attempt=2)


def test_an_unknown_plane_is_denied(world: World, second_connection: sa.Connection) -> None:
    denied(world, second_connection, "PLANE_NOT_FOUND", plane_id="kp_unknown")


def test_a_plane_that_is_not_active_is_denied(own_world: World, second_connection: sa.Connection) -> None:
    move(own_world.tenant, own_world.plane_id, "deregister_knowledge_plane")
    denied(own_world, second_connection, "PLANE_NOT_ACTIVE")


def test_a_suspended_plane_is_denied_at_once(own_world: World, second_connection: sa.Connection) -> None:
    payload = {"plane_id": own_world.plane_id, "suspended": True, "reason": "leak"}
    own_world.tenant.call("knowledge.planes.set_suspension", payload)
    denied(own_world, second_connection, "PLANE_SUSPENDED")


def test_a_plane_bound_after_the_run_started_is_no_plane_of_its_snapshot(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    run_id = start_run(tenant)
    rule_id = make_rule(tenant)
    plane_id, artifacts = make_plane(spine, tenant, rule_ids=(rule_id,))
    world = World(tenant, plane_id, rule_id, run_id, artifacts)
    denied(world, second_connection, "NO_POLICY_BOUND")


def test_no_allow_rule_denies(world: World, second_connection: sa.Connection) -> None:
    denied(world, second_connection, "NO_MATCHING_RULE", purpose="marketing")


def test_a_deny_rule_denies_over_an_allow(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    allow = make_rule(tenant)
    deny = make_rule(tenant, "Never", effect="DENY", condition='request.action == "search"')
    plane_id, artifacts = make_plane(spine, tenant, rule_ids=(allow, deny))
    world = World(tenant, plane_id, allow, start_run(tenant), artifacts)
    denied(world, second_connection, "DENIED_BY_RULE")
    (row,) = evidence_rows(second_connection, world)
    assert allow in row["matched_rules"]
    assert deny in row["matched_rules"]


def test_an_action_the_rule_does_not_name_is_denied(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    world = make_world(spine, tenant, rule={"constraints": {"actions": ["retrieve"]}})
    denied(world, second_connection, "ACTION_NOT_ALLOWED")


def test_a_condition_that_cannot_be_judged_denies(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    world = make_world(spine, tenant, rule={"condition": 'run.labels.missing == "x"'})
    denied(world, second_connection, "POLICY_CONDITION_ERROR")


def test_a_revoked_rule_denies_running_runs(own_world: World, second_connection: sa.Connection) -> None:
    payload = {"rule_id": own_world.rule_id, "reason": "wrong", "revoke": True}
    own_world.tenant.call("policies.rules.retire", payload)
    denied(own_world, second_connection, "POLICY_REVOKED")


def test_a_snapshot_that_was_edited_denies(
    spine: Spine,
    make_spine: Callable[..., Spine],
    tenant: Tenant,
    second_connection: sa.Connection,
) -> None:
    world = make_world(spine, tenant)
    without_triggers(
        second_connection,
        "UPDATE policy_snapshots SET content = replace(content, 'support', 'supporT') WHERE tenant_id = :t",
        t=tenant.tenant_id,
    )
    # Another process has not verified the snapshot before.
    elsewhere = Tenant(make_spine(), tenant.tenant_id)
    world = World(elsewhere, world.plane_id, world.rule_id, world.run_id, world.artifacts)
    denied(world, second_connection, "SNAPSHOT_INVALID")


def test_the_kill_switch_denies_and_degraded_mode_does_not(
    spine: Spine, own_world: World, second_connection: sa.Connection
) -> None:
    own_world.tenant.call("tenants.freeze", {"reason": "stop"})
    denied(own_world, second_connection, "KILL_SWITCH")
    own_world.tenant.call("tenants.unfreeze", {"reason": "go on"})
    spine.dispatch("ops.degraded.enter", operator_context(), {"reason": "disk"}).unwrap()
    try:
        assert own_world.access().success
    finally:
        spine.dispatch("ops.degraded.exit", operator_context(), {"reason": "mended"}).unwrap()


def test_a_suspended_tenant_is_denied_with_evidence(
    own_world: World, second_connection: sa.Connection
) -> None:
    own_world.tenant.suspend()
    denied(own_world, second_connection, "TENANT_INACTIVE")


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"action": "query", "payload": {"text": "..."}}, "INVALID_PAYLOAD"),
        ({"payload": {"text": "refund", "raw_connection": "x"}}, "INVALID_PAYLOAD"),
        ({"payload": {}}, "INVALID_PAYLOAD"),
        ({"action": "retrieve", "payload": {"artifact_ids": []}}, "INVALID_PAYLOAD"),
    ],
)
def test_a_payload_that_does_not_fit_is_denied_last(
    world: World, second_connection: sa.Connection, members: dict[str, Any], code: str
) -> None:
    denied(world, second_connection, code, **members)


def test_what_is_no_attempt_leaves_no_evidence(world: World, second_connection: sa.Connection) -> None:
    big = {"text": "x" * 70_000}
    assert world.access(payload=big).error_code == "TOO_LARGE"
    assert world.access(action="steal").error_code == "INVALID_INPUT"
    key = {"idempotency_key": "k"}
    payload = {"run_id": world.run_id, "plane_id": world.plane_id, "action": "list", "payload": {}}
    repeated = world.tenant.dispatch("retrieval.access", payload, **key)
    assert repeated.error_code == "IDEMPOTENCY_NOT_SUPPORTED"
    unscoped = world.tenant.dispatch("retrieval.access", payload, scopes=("retrieval:read",))
    assert unscoped.error_code == "INSUFFICIENT_SCOPE"
    assert evidence_rows(second_connection, world) == []


def test_a_failing_connector_is_recorded_as_failed(
    world: World, second_connection: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The source breaks in the middle of a read: a fault from outside, planted where it would surface.
    connector = world.tenant.spine.services.connectors["repository"]

    def broken(*_: Any, **__: Any) -> Any:
        raise ConnectionError("the source went away")

    monkeypatch.setattr(type(connector), "execute", broken)
    result = world.access()
    (row,) = evidence_rows(second_connection, world)
    assert (result.error_code, row["outcome"], row["reason_code"]) == (
        "INTERNAL_ERROR",
        "FAILED",
        "INTERNAL_ERROR",
    )


def _between(monkeypatch: pytest.MonkeyPatch, change: Callable[[], Any]) -> None:
    """Let something happen after the documents were read and before the evidence is written."""
    judged = retrieval_access.execute

    def read_then_change(*arguments: Any, **named: Any) -> None:
        judged(*arguments, **named)
        change()

    monkeypatch.setattr(retrieval_access, "execute", read_then_change)


@pytest.mark.parametrize(
    ("code", "operation", "members"),
    [
        ("RUN_NOT_RUNNING", "runs.cancel", {"reason": "enough"}),
        ("PLANE_SUSPENDED", "knowledge.planes.set_suspension", {"suspended": True, "reason": "leak"}),
        ("PLANE_NOT_ACTIVE", "knowledge.planes.transition", {"action": "deregister_knowledge_plane"}),
        ("PLANE_CHANGED", "knowledge.planes.update_config", {"config": {"max_documents": 1}}),
        ("POLICY_REVOKED", "policies.rules.retire", {"reason": "wrong", "revoke": True}),
        ("KILL_SWITCH", "tenants.freeze", {"reason": "stop"}),
    ],
)
def test_a_change_between_reading_and_recording_drops_the_data(
    spine: Spine,
    tenant: Tenant,
    second_connection: sa.Connection,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    operation: str,
    members: dict[str, Any],
) -> None:
    if spine.transactions.dialect_name == "sqlite" and operation == "knowledge.planes.update_config":
        # The new configuration names the collection that the plane owns, as any whole configuration does.
        pass
    world = make_world(spine, tenant)
    named: dict[str, Any] = {
        "runs.cancel": {"run_id": world.run_id},
        "policies.rules.retire": {"rule_id": world.rule_id},
        "tenants.freeze": {},
    }.get(operation, {"plane_id": world.plane_id})
    if operation == "knowledge.planes.update_config":
        view = tenant.call("knowledge.planes.get", {"plane_id": world.plane_id})
        members = {"config": {**view.config, "max_documents": 1}}
    _between(monkeypatch, lambda: tenant.call(operation, {**named, **members}))
    result = world.access()
    (row,) = evidence_rows(second_connection, world)
    assert (result.error_code, result.data) == (code, None)
    assert (row["outcome"], row["reason_code"], row["documents"]) == ("DENIED", code, "[]")
    assert bool(row["revoked_in_flight"])


def test_a_run_that_ends_while_its_evidence_is_written_gains_no_allowed_row(
    world: World, second_connection: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    rechecked = evidence_engine.insert
    ended: list[bool] = []

    def end_then_insert(*arguments: Any, **named: Any) -> None:
        rechecked(*arguments, **named)
        if not ended and arguments[0].dialect_name == "postgresql":
            ended.append(True)
            world.complete()

    monkeypatch.setattr(evidence_engine, "insert", end_then_insert)
    result = world.access()
    (row,) = evidence_rows(second_connection, world)
    if ended:
        assert (result.error_code, row["reason_code"]) == ("RUN_NOT_RUNNING", "RUN_NOT_RUNNING")
        leaf = second_connection.execute(
            sa.text("SELECT late FROM log_leaves WHERE fact_id = :f"), {"f": row["fact_id"]}
        ).scalar_one()
        assert leaf
    else:
        # SQLite has one writer: the run cannot end while the evidence is being written.
        assert row["outcome"] == "ALLOWED"


def test_a_commit_whose_outcome_is_unknown_is_looked_up_before_anything_leaves(
    world: World, second_connection: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Transactions._commit
    lost: list[bool] = []

    def commit_and_lose(self: Transactions, raw: Any) -> None:
        commit(self, raw)
        if not lost:
            lost.append(True)
            raise CommitUnknownError

    connection_of_reads = world.tenant.spine.transactions
    monkeypatch.setattr(Transactions, "_commit", commit_and_lose)
    # The first commit is the read unit's; lose the write unit's.
    lost.append(True)
    original = evidence_engine.insert

    def arm(*arguments: Any, **named: Any) -> None:
        original(*arguments, **named)
        lost.clear()

    monkeypatch.setattr(evidence_engine, "insert", arm)
    result = world.access()
    assert connection_of_reads is world.tenant.spine.transactions
    assert result.success
    (row,) = evidence_rows(second_connection, world)
    assert row["evidence_id"] == result.unwrap().evidence_id


def test_data_is_dropped_when_its_evidence_cannot_be_recorded(
    world: World, second_connection: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise HocError(ErrorKind.UNAVAILABLE, "STORAGE_FAILED", "The disk is full.")

    monkeypatch.setattr(evidence_engine, "insert", full)
    result = world.access()
    assert (result.error_code, result.data) == ("EVIDENCE_NOT_RECORDED", None)
    assert evidence_rows(second_connection, world) == []


def test_caps_are_the_smallest_of_rule_and_plane(spine: Spine, tenant: Tenant) -> None:
    world = make_world(spine, tenant, rule={"constraints": {"max_documents": 2}}, max_documents=3)
    listed = world.access(
        action="retrieve", payload={"artifact_ids": list(world.artifacts.values())}
    ).unwrap()
    assert len(listed.data["documents"]) == 2
    assert listed.truncated


def test_explain_says_what_access_would_and_leaves_no_evidence(
    world: World, second_connection: sa.Connection
) -> None:
    ask = {"run_id": world.run_id, "plane_id": world.plane_id, "action": "search", "payload": {"text": "x"}}
    told = world.tenant.call("retrieval.explain", {**ask, "purpose": "support"})
    assert (told.allowed, told.reason_code.value) == (True, "OK")
    refused = world.tenant.call("retrieval.explain", {**ask, "purpose": "marketing"})
    assert (refused.allowed, refused.reason_code.value) == (False, "NO_MATCHING_RULE")
    assert evidence_rows(second_connection, world) == []


def test_evidence_is_listed_newest_first_filtered_and_paged(world: World) -> None:
    given = [world.access(purpose=purpose) for purpose in ("support", "marketing", "support")]
    assert [result.success for result in given] == [True, False, True]
    seen: list[str] = []
    cursor = None
    while True:
        page = world.tenant.call(
            "retrieval.evidence.list", {"run_id": world.run_id, "limit": 1, "cursor": cursor}
        )
        seen.extend(item.reason_code.value for item in page.items)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == ["OK", "NO_MATCHING_RULE", "OK"]
    only = world.tenant.call("retrieval.evidence.list", {"run_id": world.run_id, "outcome": "DENIED"})
    assert [item.reason_code.value for item in only.items] == ["NO_MATCHING_RULE"]


def test_evidence_of_another_tenant_is_not_found(world: World, other_tenant: Tenant) -> None:
    evidence_id = world.access().unwrap().evidence_id
    foreign = other_tenant.dispatch("retrieval.evidence.get", {"evidence_id": evidence_id})
    assert foreign.error_code == "EVIDENCE_NOT_FOUND"
    assert other_tenant.call("retrieval.evidence.list", {}).items == []


def test_the_database_refuses_to_change_evidence(world: World, second_connection: sa.Connection) -> None:
    world.access().unwrap()
    for statement in (
        "UPDATE retrieval_evidence SET outcome = 'DENIED' WHERE tenant_id = :t",
        "DELETE FROM retrieval_evidence WHERE tenant_id = :t",
        "DELETE FROM retrieval_evidence_documents WHERE tenant_id = :t",
    ):
        with pytest.raises(sa.exc.DBAPIError, match=r"append-only|never deleted"):
            second_connection.execute(sa.text(statement), {"t": world.tenant.tenant_id})


def test_a_foreign_key_refuses_evidence_without_its_leaf(
    world: World, second_connection: sa.Connection
) -> None:
    world.access().unwrap()
    copied = sa.text(
        "INSERT INTO retrieval_evidence SELECT tenant_id, 'ev_forged', run_id, attempt, plane_id, action,"
        " purpose, step_index, actor_id, request_id, trace_id, span_id, outcome, reason_code,"
        " revoked_in_flight, connector_id, plane_state_value, plane_version, config_digest,"
        " sensitivity_level, policy_snapshot_id, policy_snapshot_hash, matched_rules, query_hash, query,"
        " documents, doc_count, token_count, bytes_returned, truncated, requested_at, completed_at,"
        " duration_ms, created_at, 'fct_forged', protected_salt, protected_commit, erased_fact_id"
        " FROM retrieval_evidence WHERE tenant_id = :t"
    )
    if second_connection.dialect.name == "sqlite":
        second_connection.exec_driver_sql("PRAGMA foreign_keys=ON")
    with pytest.raises(sa.exc.IntegrityError):
        second_connection.execute(copied, {"t": world.tenant.tenant_id})
