"""Evidence and governance log of a run: what is there, what is not available, and what failed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from app.hoc_spine.spine import Spine
from tests.factories.tenants import Tenant
from tests.factories.worlds import World, make_rule, make_world, start_run, step

NOT_BUILT = ("incidents", "policies", "limits", "decisions")


@pytest.fixture
def world(spine: Spine, tenant: Tenant) -> World:
    made = make_world(spine, tenant)
    made.access()
    made.append(step(0))
    made.complete()
    return made


def test_sources_answer_or_say_that_they_do_not(world: World) -> None:
    found = world.tenant.call("runs.evidence", {"run_id": world.run_id})
    assert (found.sources["retrievals"].status, found.sources["retrievals"].total) == ("ok", 1)
    assert found.policy_evaluations[0].outcome.value == "NO_VIOLATION"
    for name in NOT_BUILT:
        assert (found.sources[name].status, found.sources[name].error_code) == (
            "error",
            "SOURCE_NOT_AVAILABLE",
        )
    assert found.incidents_caused is found.policies_evaluated is found.limits_hit is None
    assert (found.sources["artifacts"].status, found.artifacts) == ("ok", [])
    assert not found.complete


def test_a_source_that_fails_is_an_error_and_leaves_the_others_intact(
    new_database: Callable[..., str], make_spine: Callable[..., Spine]
) -> None:
    from tests.factories.tenants import make_tenant

    url = new_database()
    spine = make_spine(database_url=url)
    world = make_world(spine, make_tenant(spine))
    world.access()
    world.complete()
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as owner:
        owner.execute(sa.text("ALTER TABLE retrieval_evidence RENAME TO elsewhere"))
    found = world.tenant.call("runs.evidence", {"run_id": world.run_id})
    assert (found.sources["retrievals"].status, found.sources["retrievals"].error_code) == (
        "error",
        "SOURCE_FAILED",
    )
    assert found.retrievals is None
    assert len(found.policy_evaluations) == 1
    assert not found.complete


def test_the_governance_log_holds_what_was_done_because_of_the_run(tenant: Tenant) -> None:
    run_id = start_run(tenant)
    make_rule(tenant, "unrelated")
    caused = tenant.call(
        "policies.rules.create",
        {"kind": "ACCESS", "name": "caused", "effect": "DENY", "scope": "TENANT", "condition": "false"},
        run_id=run_id,
    ).rule_id
    log = tenant.call("logs.run_governance", {"run_id": run_id})
    assert log.total_events == 1
    (event,) = log.events
    assert (event.event_type, event.policy_id, event.run_id) == ("PolicyRuleCreated", caused, run_id)
    entry = tenant.call("logs.audit_get", {"entry_id": event.entry_id})
    assert entry.after_state["run_id"] == run_id
    assert (log.metadata.source_domain, log.metadata.source_component, log.metadata.immutable) == (
        "LOGS",
        "AuditLedger",
        True,
    )


def test_the_governance_log_is_paged_in_order_and_counted_whole(tenant: Tenant) -> None:
    run_id = start_run(tenant)
    rule = {"kind": "ACCESS", "effect": "DENY", "scope": "TENANT", "condition": "false"}
    for number in range(3):
        tenant.call("policies.rules.create", {**rule, "name": f"rule {number}"}, run_id=run_id)
    seen: list[str] = []
    cursor = None
    while True:
        page = tenant.call("logs.run_governance", {"run_id": run_id, "limit": 2, "cursor": cursor})
        assert page.total_events == 3
        seen.extend(event.entry_id for event in page.events)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 3


@pytest.mark.parametrize("operation", ["runs.evidence", "runs.proof", "logs.run_governance"])
def test_the_run_of_another_tenant_is_not_found(world: World, other_tenant: Tenant, operation: str) -> None:
    assert other_tenant.dispatch(operation, {"run_id": world.run_id}).error_code == "RUN_NOT_FOUND"
    assert world.tenant.dispatch(operation, {"run_id": "run_unknown"}).error_code == "RUN_NOT_FOUND"
