"""Evidence and governance log of a run: what is there, and what could not be read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from app.hoc_spine.coordinators import evidence_sources, run_evidence
from app.hoc_spine.coordinators.run_evidence import LISTS
from app.hoc_spine.spine import Spine
from tests.factories.tenants import Tenant, make_tenant
from tests.factories.worlds import World, make_rule, make_world, start_run, step

# Each source, and the tables without which it cannot be read.
TABLES = {
    "incidents": ("incidents",),
    "policies": ("prevention_records", "policy_rule_versions"),
    "limits": ("limit_breaches", "limits"),
    "decisions": ("decision_records", "decision_links"),
    "policy_evaluations": ("policy_evaluations",),
    "retrievals": ("retrieval_evidence",),
    "artifacts": ("operation_runs",),
}


@pytest.fixture(scope="module")
def world(spine: Spine) -> World:
    """An ended run, which is only read."""
    made = make_world(spine, make_tenant(spine))
    made.access()
    made.append(step(0))
    made.complete()
    return made


def test_every_source_answers_and_an_empty_list_means_none(world: World) -> None:
    found = world.tenant.call("runs.evidence", {"run_id": world.run_id})
    assert found.complete
    assert set(found.sources) == set(TABLES) == set(LISTS)
    for name, source in found.sources.items():
        items = getattr(found, LISTS[name])
        assert (source.status, source.error_code, source.truncated) == ("ok", None, False), name
        assert source.total == len(items), name
    assert found.sources["retrievals"].total == 1
    assert found.policy_evaluations[0].outcome.value == "NO_VIOLATION"
    assert found.incidents_caused == found.policies_evaluated == found.limits_hit == []


def test_any_source_that_fails_is_an_error_and_leaves_the_others_intact(
    new_database: Callable[..., str], make_spine: Callable[..., Spine]
) -> None:
    url = new_database()
    spine = make_spine(database_url=url)
    world = make_world(spine, make_tenant(spine))
    world.access()
    world.tenant.call(
        "decisions.emit",
        {
            "decision_type": "MEMORY",
            "facts": {"queried": False},
            "decision_reason": "there is none",
            "run_id": world.run_id,
        },
    )
    world.complete("failed")
    whole = world.tenant.call("runs.evidence", {"run_id": world.run_id})
    assert whole.complete
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    for name, tables in TABLES.items():
        for table in tables:
            rename(engine, table, "elsewhere")
            found = world.tenant.call("runs.evidence", {"run_id": world.run_id})
            rename(engine, "elsewhere", table)
            assert not found.complete, table
            status = found.sources[name]
            assert (status.status, status.total, status.error_code) == ("error", None, "SOURCE_FAILED"), table
            assert getattr(found, LISTS[name]) is None, table
            for other in TABLES.keys() - {name}:
                assert found.sources[other] == whole.sources[other], (table, other)
                assert getattr(found, LISTS[other]) == getattr(whole, LISTS[other]), (table, other)
    assert world.tenant.call("runs.evidence", {"run_id": world.run_id}).complete


def rename(engine: sa.Engine, table: str, to: str) -> None:
    with engine.begin() as owner:
        if owner.dialect.name == "sqlite":
            # What refers to the table keeps its name: else the triggers of others would follow it.
            owner.exec_driver_sql("PRAGMA legacy_alter_table=ON")
        owner.exec_driver_sql(f"ALTER TABLE {table} RENAME TO {to}")


def test_the_lists_are_newest_first_and_say_when_they_are_cut(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = start_run(tenant)
    made = []
    for number in range(3):
        payload = {
            "decision_type": "MEMORY",
            "facts": {"queried": bool(number)},
            "decision_reason": "as it is",
            "run_id": run_id,
        }
        made.append(tenant.call("decisions.emit", payload).decision)
    found = tenant.call("runs.evidence", {"run_id": run_id})
    assert [item.decision_id for item in found.decisions_made] == [d.decision_id for d in reversed(made)]
    newest = found.decisions_made[0]
    assert (newest.decision_type, newest.outcome, newest.attempt) == ("MEMORY", "NONE", 1)
    assert newest.decided_at == made[-1].decided_at
    for module in (evidence_sources, run_evidence):
        monkeypatch.setattr(module, "MAX_ITEMS", 2)
    cut = tenant.call("runs.evidence", {"run_id": run_id})
    assert cut.decisions_made == found.decisions_made[:2]
    assert (cut.sources["decisions"].total, cut.sources["decisions"].truncated) == (3, True)


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
