"""Operations: two callers race every edge of the lifecycle, and the writes around it; one wins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.knowledge.engines.lifecycle import EDGES, JOB_EDGES
from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState as State,
)
from app.hoc_spine.operation_registry import OperationResult
from tests.factories.lifecycle import (
    SQL_CONFIG,
    bind,
    end_job,
    events_of,
    make_active_plane,
    make_allow_rule,
    make_waiting_plane,
    plane_in,
    rows_of,
    state_in_database,
    transition,
    unbind,
)
from tests.factories.tenants import Tenant

LOSSES = {"TRANSITION_CONFLICT", "INVALID_ACTION", "INVALID_TRANSITION"}
CONFIG = SQL_CONFIG | {"declared_sensitivity": "internal"}


def plane_ready_for(connection: sa.Connection, tenant: Tenant, edge: tuple[State, State]) -> str:
    """Return a plane that may take the edge now."""
    source, target = edge
    if source is State.PENDING_ACTIVATE:
        plane_id = make_waiting_plane(connection, tenant)
        bind(tenant, plane_id, make_allow_rule(tenant)).unwrap()
        return plane_id
    if source is State.PENDING_DEACTIVATE and target is State.ACTIVE:
        plane_id = make_active_plane(connection, tenant)
        transition(tenant, plane_id, "deregister_knowledge_plane").unwrap()
        return plane_id
    if edge in JOB_EDGES:
        before = State.DRAFT if source is State.PENDING_VERIFY else State.VERIFIED
        plane_id = plane_in(connection, tenant, before, config=CONFIG)
        transition(tenant, plane_id, to_state=source.name).unwrap()
        end_job(connection, tenant, plane_id)
        return plane_id
    if target is State.PURGED:
        plane_id = plane_in(connection, tenant, State.DEACTIVATED, config=CONFIG)
        transition(tenant, plane_id, "archive_knowledge_plane").unwrap()
        end_job(connection, tenant, plane_id)
        approve = {"plane_id": plane_id, "reason": "seen"}
        tenant.call("knowledge.planes.approve_purge", approve, actor_id="bob")
        return plane_id
    return plane_in(connection, tenant, source, config=CONFIG)


@contextmanager
def both_have_read(tenant: Tenant, *, marks: str) -> Iterator[None]:
    """Let no writer go on to the statement that begins with `marks` before two are about to.

    On PostgreSQL both have then read the same plane. SQLite has one writer at a time, which reads after the
    other has committed: there is nothing to wait for.
    """
    engine = tenant.spine.transactions.engine
    if engine.dialect.name == "sqlite":
        yield
        return
    barrier = threading.Barrier(2, timeout=20)

    def wait(_c: Any, _cursor: Any, statement: str, _p: Any, _x: Any, _m: bool) -> None:
        if statement.startswith(marks) and not getattr(once, "done", False):
            once.done = True
            barrier.wait()

    once = threading.local()
    sa.event.listen(engine, "before_cursor_execute", wait)
    try:
        yield
    finally:
        sa.event.remove(engine, "before_cursor_execute", wait)


def race(
    tenant: Tenant, *calls: Callable[[], OperationResult], marks: str = "UPDATE knowledge_plane_registry"
) -> list[OperationResult]:
    with both_have_read(tenant, marks=marks), ThreadPoolExecutor(len(calls)) as threads:
        return [call.result() for call in [threads.submit(call) for call in calls]]


def facts_of(connection: sa.Connection, tenant: Tenant) -> int:
    statement = sa.text(
        "SELECT count(*) FROM log_leaves WHERE tenant_id = :tenant AND type = 'knowledge.plane'"
    )
    return int(connection.execute(statement, {"tenant": tenant.tenant_id}).scalar_one())


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: f"{edge[0].name}-{edge[1].name}")
def test_of_two_callers_that_take_an_edge_one_wins_and_the_other_is_recorded(
    second_connection: sa.Connection, tenant: Tenant, edge: tuple[State, State]
) -> None:
    plane_id = plane_ready_for(second_connection, tenant, edge)
    known = len(events_of(second_connection, tenant, plane_id))
    told = facts_of(second_connection, tenant)
    (before,) = rows_of(second_connection, "knowledge_plane_registry", tenant, plane_id)

    def take() -> OperationResult:
        return transition(tenant, plane_id, to_state=edge[1].name, reason="race", force=True)

    purges = edge[1] is State.PURGED
    # A purge holds the plane before it writes: two of them are never about to write it at once.
    results = race(tenant, take, take, marks="nothing" if purges else "UPDATE knowledge_plane_registry")
    (lost,) = [result for result in results if not result.success]
    assert lost.error_code in LOSSES
    if second_connection.dialect.name == "postgresql" and not purges:
        assert lost.error_code == "TRANSITION_CONFLICT"
    assert state_in_database(second_connection, tenant, plane_id) is edge[1]
    (after,) = rows_of(second_connection, "knowledge_plane_registry", tenant, plane_id)
    assert after["version"] == before["version"] + 1
    # The loser's fact went with its change.
    assert facts_of(second_connection, tenant) == told + 1
    events = events_of(second_connection, tenant, plane_id)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    new = [event["event_type"] for event in events[known:]]
    assert new.count("LIFECYCLE_BLOCKED") == 1
    assert new.count("LIFECYCLE_TRANSITION") + new.count("LIFECYCLE_ROLLBACK") == 1
    open_jobs = [
        job
        for job in rows_of(second_connection, "knowledge_plane_jobs", tenant, plane_id)
        if job["status"] in ("QUEUED", "RUNNING")
    ]
    assert len(open_jobs) == (1 if edge[1].requires_async_job or purges else 0)


def test_of_two_ways_out_of_a_state_one_is_taken(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = make_waiting_plane(second_connection, tenant)
    bind(tenant, plane_id, make_allow_rule(tenant)).unwrap()
    forward, back = race(
        tenant,
        lambda: transition(tenant, plane_id, "activate_knowledge_plane"),
        lambda: transition(tenant, plane_id, "retry_knowledge_plane"),
    )
    assert forward.success is not back.success
    taken = state_in_database(second_connection, tenant, plane_id)
    assert taken is (State.ACTIVE if forward.success else State.CLASSIFIED)


def test_a_rule_is_bound_once_by_two_callers(second_connection: sa.Connection, tenant: Tenant) -> None:
    plane_id = make_waiting_plane(second_connection, tenant)
    rule_id = make_allow_rule(tenant)
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda _: bind(tenant, plane_id, rule_id), range(2)))
    assert sorted(result.unwrap().changed for result in results) == [False, True]
    assert len(rows_of(second_connection, "plane_policy_bindings", tenant, plane_id)) == 1


def test_two_callers_do_not_unbind_the_last_two_rules_of_an_active_plane(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = make_active_plane(second_connection, tenant)
    other = make_allow_rule(tenant, "rule-other")
    bind(tenant, plane_id, other).unwrap()
    with ThreadPoolExecutor(2) as threads:
        rules = (f"rule-{plane_id}", other)
        results = list(threads.map(lambda rule_id: unbind(tenant, plane_id, rule_id), rules))
    assert sorted(str(result.error_code) for result in results) == ["LAST_BINDING", "None"]


def test_unbinding_and_activating_never_leave_an_active_plane_without_a_rule(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = make_waiting_plane(second_connection, tenant)
    rule_id = make_allow_rule(tenant)
    bind(tenant, plane_id, rule_id).unwrap()
    with ThreadPoolExecutor(2) as threads:
        activated = threads.submit(transition, tenant, plane_id, "activate_knowledge_plane")
        unbound = threads.submit(unbind, tenant, plane_id, rule_id)
    bound = tenant.call("knowledge.planes.get", {"plane_id": plane_id}).bound_policy_ids
    if activated.result().success:
        assert (unbound.result().error_code, bound) == ("LAST_BINDING", [rule_id])
    else:
        assert unbound.result().success
        assert bound == []


def test_retiring_and_binding_never_leave_a_retired_rule_bound(
    second_connection: sa.Connection, tenant: Tenant
) -> None:
    plane_id = make_waiting_plane(second_connection, tenant)
    rule_id = make_allow_rule(tenant)
    with ThreadPoolExecutor(2) as threads:
        retired = threads.submit(
            tenant.dispatch, "policies.rules.retire", {"rule_id": rule_id, "reason": "race"}
        )
        bound = threads.submit(bind, tenant, plane_id, rule_id)
    codes = {retired.result().error_code, bound.result().error_code}
    assert codes in ({None, "POLICY_NOT_ACTIVE"}, {None, "RULE_HAS_DEPENDENTS"})
