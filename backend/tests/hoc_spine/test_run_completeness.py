"""Completeness of a run's governance: read from committed facts, watched over by maintenance."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from app.hoc_spine.maintenance import ACTOR, Maintenance
from app.hoc_spine.spine import Spine
from app.kernel.context import RequestContext
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant, make_tenant
from tests.factories.worlds import start_run, without_triggers


def test_a_run_is_complete_from_its_start_to_its_end(tenant: Tenant, clock: SteerableClock) -> None:
    clock.freeze()
    run_id = start_run(tenant)
    payload = {"run_id": run_id}
    for _ in range(2):
        found = tenant.call("runs.completeness", payload)
        assert (found.status, found.missing_actions, found.stale_run) == ("COMPLETE", [], False)
        clock.advance(seconds=6)
    tenant.call("runs.retry", {"run_id": run_id, "from_attempt": 1, "reason": "again"})
    clock.advance(seconds=6)
    tenant.call("runs.complete", {"run_id": run_id, "status": "succeeded"})
    clock.advance(seconds=6)
    found = tenant.call("runs.completeness", payload)
    assert found.status == "COMPLETE"
    told = {(item.domain, item.action, item.attempt): item.status.value for item in found.expectations}
    assert told == {
        ("logs", "start_trace", 1): "ACKED",
        ("policies", "evaluate_policy", 1): "ACKED",
        ("incidents", "create_incident", 1): "ACKED",
        ("logs", "start_trace", 2): "ACKED",
        ("policies", "evaluate_policy", 2): "ACKED",
        ("incidents", "create_incident", 2): "ACKED",
        ("orchestrator", "finalize_run", 2): "ACKED",
    }
    assert tenant.dispatch("runs.completeness", {"run_id": "run_unknown"}).error_code == "RUN_NOT_FOUND"


def test_maintenance_signals_each_run_that_is_not_complete(
    new_database: Callable[..., str], make_spine: Callable[..., Spine], clock: SteerableClock
) -> None:
    url = new_database()
    spine = make_spine(database_url=url)
    tenant = make_tenant(spine)
    clock.freeze()
    ended = [start_run(tenant, run_id=f"run-{number}") for number in range(4)]
    for run_id in ended:
        tenant.call("runs.complete", {"run_id": run_id, "status": "succeeded"})
    stale = start_run(tenant, run_id="run-stale", timeout_seconds=60)
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as owner:
        without_triggers(
            owner,
            "DELETE FROM policy_evaluations WHERE tenant_id = :t AND run_id = 'run-2'",
            t=tenant.tenant_id,
        )
    clock.advance(seconds=10)
    assert Maintenance(spine).run_round().done["runs.reconcile"] == 1
    clock.advance(seconds=60)
    worker = RequestContext(tenant_id=tenant.tenant_id, actor=ACTOR, request_id="req-1", door="worker")
    seen: list[str] = []
    payload: dict[str, object] = {"limit": 2}
    checked = 0
    while True:
        page = spine.dispatch("runs.reconcile", worker, payload).unwrap()
        seen += page.incomplete
        checked += page.checked
        if page.next_cursor is None:
            break
        payload["cursor"] = page.next_cursor
    assert (sorted(seen), checked) == (["run-2", stale], 5)
    signals = {item.artifact: item for item in tenant.call("activity.discovery.get_signals").items}
    assert set(signals) == {"run:run-2", "run:run-stale"}
    missing = signals["run:run-2"].evidence["missing_actions"]
    assert [(item["action"], item["attempt"]) for item in missing] == [
        ("evaluate_policy", 1),
        ("create_incident", 1),
    ]
    assert (signals["run:run-2"].seen_count, signals["run:run-2"].last_run_id) == (2, "run-2")
    assert signals["run:run-stale"].evidence["status"] == "STALE"
    # What is stale is ended by the same round, before it is looked at again.
    assert Maintenance(spine).run_round().runs_expired == 1
    assert tenant.call("runs.completeness", {"run_id": stale}).stale_run is False
    clock.advance(hours=2)
    assert Maintenance(spine).run_round().done["runs.reconcile"] == 0
