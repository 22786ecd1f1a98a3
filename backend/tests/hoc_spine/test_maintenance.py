"""Maintenance does what is due, for every tenant that has it, and asks nobody else."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from app.domains.retrieval.engines import attempts, evidence
from app.domains.retrieval.engines.access import Attempt
from app.domains.retrieval.engines.observations import record_observations
from app.domains.retrieval.models import AccessInput
from app.hoc_spine.coordinators.due_work import TENANT_WORK, FindTenants, find_undelivered
from app.hoc_spine.maintenance import Maintenance, drain
from app.hoc_spine.spine import Spine
from tests.factories import limits
from tests.factories.planes import work_jobs
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant, make_tenant, operator_context
from tests.factories.worlds import make_plane, start_run, without_triggers


def test_a_round_expires_the_runs_of_every_tenant_that_are_past_their_deadline(
    new_database: Callable[..., str], make_spine: Callable[..., Spine], clock: SteerableClock
) -> None:
    spine = make_spine(database_url=new_database())
    tenants = [make_tenant(spine) for _ in range(3)]
    short = [start_run(tenant, timeout_seconds=60) for tenant in tenants]
    long = [start_run(tenant, timeout_seconds=7200) for tenant in tenants]
    tenants[1].suspend()
    assert Maintenance(spine).run_round().runs_expired == 0
    clock.advance(minutes=2)
    jobs, report = drain(spine)
    assert (jobs, report.asked, report.runs_expired) == (0, 3, 3)
    for tenant, ended, running in zip(tenants, short, long, strict=True):
        if tenant is not tenants[1]:
            run = tenant.call("runs.get", {"run_id": ended})
            assert (run.status.value, run.termination_reason.value) == ("failed", "timeout")
            assert tenant.call("runs.get", {"run_id": running}).status.value == "running"
    assert Maintenance(spine).run_round().runs_expired == 0


class Deed(NamedTuple):
    """What makes one operation due in a tenant, and when it is due."""

    operation: str
    do: Callable[[World], None]
    after: timedelta = timedelta(0)


class World(NamedTuple):
    """A tenant, and the database past the spine."""

    tenant: Tenant
    owner: sa.Connection


def start_a_short_run(world: World) -> None:
    start_run(world.tenant, timeout_seconds=60)


def hold_a_reservation(world: World) -> None:
    limits.limit(world.tenant)
    limits.start(world.tenant, "r-1", timeout_seconds=7200)
    check = {"run_id": "r-1", "action": {"kind": "TOOL", "name": "send"}, "ttl_seconds": 60}
    assert world.tenant.call("runs.check", {**check, "estimate": {"COST_USD": 1}}).reservation is not None


def ask_for_an_override(world: World) -> None:
    until = world.tenant.spine.services.clock.now() + timedelta(hours=1)
    limits.limit(world.tenant)
    asked = {"limit_id": "l-1", "override_value": 200, "expires_at": until.isoformat(), "reason": "r"}
    world.tenant.call("controls.overrides.request", asked)


def lose_the_plans_limit(world: World) -> None:
    without_triggers(world.owner, "DELETE FROM limits WHERE tenant_id = :t", t=world.tenant.tenant_id)


def change_the_plan(world: World) -> None:
    change = "UPDATE tenants SET plan = 'PRO' WHERE tenant_id = :t"
    without_triggers(world.owner, change, t=world.tenant.tenant_id)


def defer_a_lesson(world: World) -> None:
    run_id = start_run(world.tenant)
    world.tenant.call("runs.complete", {"run_id": run_id, "status": "failed"})
    (lesson,) = world.tenant.call("lessons.list", {"source_run_id": run_id}).items
    until = world.tenant.spine.services.clock.now() + timedelta(days=2)
    world.tenant.call("lessons.defer", {"lesson_id": lesson.lesson_id, "until": until})


def end_a_run_that_nobody_judged(world: World) -> None:
    run_id = start_run(world.tenant)
    world.tenant.call("runs.complete", {"run_id": run_id, "status": "succeeded"})
    forget = "DELETE FROM policy_evaluations WHERE tenant_id = :t"
    without_triggers(world.owner, forget, t=world.tenant.tenant_id)


def change_what_a_plane_shows(world: World) -> None:
    (shown, *_) = world.tenant.call("repository.artifacts.query", {}).items
    changed = {"artifact_id": shown.id, "content": "Refunds are paid at once."}
    world.tenant.call("repository.artifacts.update", changed)


def be_seen_from_outside(world: World) -> None:
    at = world.tenant.spine.services.clock.now()
    span = {"trace_id": "a" * 32, "span_id": "b" * 16, "run_id": None, "operation": "retrieval"}
    span |= {"data_source_id": None, "document_ids": [], "claimed_evidence_id": None}
    tenant_id = world.tenant.tenant_id
    with world.tenant.spine.transactions.write(tenant_id) as connection:
        rows = [span | {"started_at": at, "ended_at": at}]
        record_observations(connection, tenant_id=tenant_id, rows=rows)


def lose_an_access(world: World) -> None:
    at, tenant_id = world.tenant.spine.services.clock.now(), world.tenant.tenant_id
    asked = AccessInput(run_id="r-1", plane_id="p-1", action="query", payload={})
    row = evidence.build(
        Attempt("ev_1", at, "0" * 64),
        asked,
        actor_id="user-1",
        request_id="req-1",
        trace_id=None,
        span_id=None,
        completed_at=at,
        recorded_at=at,
    )
    with world.tenant.spine.transactions.write(tenant_id) as connection:
        attempts.keep(connection, row, tenant_id=tenant_id, deadline_at=at)


def use_a_key(world: World) -> None:
    collection = {"name": "another"}
    world.tenant.call("repository.collections.create", collection, idempotency_key="key-1")


def keep_values_for_half_a_year(world: World) -> None:
    world.tenant.call("ops.retention.set", {"value_days": 183, "reason": "a value"}, door="worker")


DEEDS = (
    Deed("runs.expire", start_a_short_run, timedelta(minutes=2)),
    Deed("usage.expire_reservations", hold_a_reservation, timedelta(seconds=61)),
    Deed("controls.overrides.expire", ask_for_an_override, timedelta(minutes=61)),
    Deed("controls.limits.settle_plan", lose_the_plans_limit),
    Deed("controls.limits.settle_plan", change_the_plan),
    Deed("lessons.reactivate_due", defer_a_lesson, timedelta(days=2)),
    Deed("runs.reconcile", end_a_run_that_nobody_judged, timedelta(seconds=6)),
    Deed("knowledge.planes.tend", change_what_a_plane_shows),
    Deed("retrieval.recover", lose_an_access, timedelta(seconds=61)),
    Deed("retrieval.reconcile", be_seen_from_outside, timedelta(minutes=10)),
    Deed("idempotency.forget", use_a_key, timedelta(hours=25)),
    Deed("evidence.erase_over_age", keep_values_for_half_a_year, timedelta(days=184, seconds=1)),
)


def found(spine: Spine, find: FindTenants) -> set[str]:
    with spine.transactions.read("_system", role="hoc_maintenance") as connection:
        return set(find(connection, spine.services))


def test_what_is_due_in_a_tenant_is_found_and_done_and_an_idle_tenant_is_asked_for_nothing(
    new_database: Callable[..., str], make_spine: Callable[..., Spine], clock: SteerableClock
) -> None:
    assert {deed.operation for deed in DEEDS} == set(TENANT_WORK)
    url = new_database()
    spine = make_spine(database_url=url)
    with sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as owner:
        worlds = [World(make_tenant(spine), owner) for _ in DEEDS]
        for deed, world in zip(DEEDS, worlds, strict=True):
            if deed.do is change_what_a_plane_shows:
                make_plane(spine, world.tenant, rule_ids=(), active=False, auto_refresh=True)
        for deed, world in zip(DEEDS, worlds, strict=True):
            # Nobody has anything to do, planes and their collections notwithstanding.
            assert Maintenance(spine).run_round().asked == 0, deed
            deed.do(world)
            clock.advance(seconds=deed.after.total_seconds())
            find = TENANT_WORK[deed.operation].find
            assert found(spine, find) == {world.tenant.tenant_id}, deed
            report = Maintenance(spine).run_round()
            assert report.done[deed.operation] == 1, deed
            work_jobs(spine, world.tenant)
            # What was looked at of late is looked at again for an hour, and a key is kept for a day.
            clock.advance(days=2)
            Maintenance(spine).run_round()
            assert found(spine, find) == set(), deed


def test_generations_that_ended_of_late_are_found_after_a_minute(
    new_database: Callable[..., str], make_spine: Callable[..., Spine], clock: SteerableClock
) -> None:
    spine = make_spine(database_url=new_database())
    tenant = make_tenant(spine)
    plane_id, artifacts = make_plane(spine, tenant, rule_ids=(), active=False)
    tenant.call("repository.artifacts.update", {"artifact_id": artifacts["refunds.md"], "content": "new"})
    find = TENANT_WORK["knowledge.planes.tend"].find
    assert found(spine, find) == set()
    tenant.call("knowledge.planes.refresh", {"plane_id": plane_id})
    work_jobs(spine, tenant)
    assert found(spine, find) == set()
    clock.advance(seconds=61)
    assert found(spine, find) == {tenant.tenant_id}


def test_no_question_reads_a_table_that_grows_from_end_to_end(spine: Spine) -> None:
    finds = [work.find for work in TENANT_WORK.values()] + [find_undelivered]
    plans: list[str] = []

    def explain(connection: sa.Connection, cursor: Any, statement: str, given: Any, *_: Any) -> None:
        if statement in ("COMMIT", "ROLLBACK"):
            return
        # Without this PostgreSQL reads a small table whole, whatever its indexes.
        if connection.dialect.name == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off")
            plans.extend(row[0] for row in cursor.execute(f"EXPLAIN {statement}", given))
        else:
            plans.extend(row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", given))

    for find in finds:
        with spine.transactions.read("_system", role="hoc_maintenance") as connection:
            sa.event.listen(connection._connection, "before_cursor_execute", explain)
            find(connection, spine.services)
    assert len(plans) >= len(finds)
    # Each tenant's plan is compared with its limit, and the first leaf of each log that nobody has looked at
    # with the tenant's own days; the rest are results of what was searched.
    small = ("tenants", "log_heads", "tenant_retention", "found", "CONSTANT", "(subquery")
    whole = [
        match[1] or match[2] for plan in plans if (match := re.match(r"SCAN (\S+)|.*Seq Scan on (\S+)", plan))
    ]
    assert [table for table in whole if not table.startswith(small)] == []


def test_who_has_events_to_deliver_is_found(
    new_database: Callable[..., str], make_spine: Callable[..., Spine]
) -> None:
    spine = make_spine(database_url=new_database())
    tenants = [make_tenant(spine) for _ in range(2)]
    run_id = start_run(tenants[1])
    assert found(spine, find_undelivered) == set()
    tenants[1].call("runs.complete", {"run_id": run_id, "status": "succeeded"})
    assert found(spine, find_undelivered) == {tenants[1].tenant_id}


def test_the_keys_of_operators_are_forgotten_like_those_of_tenants(
    new_database: Callable[..., str], make_spine: Callable[..., Spine], clock: SteerableClock
) -> None:
    spine = make_spine(database_url=new_database())
    payload = {"tenant_id": "acme", "name": "Acme", "slug": "acme", "plan": "FREE"}
    context = operator_context(idempotency_key="key-1")
    spine.dispatch("ops.tenants.create", context, payload).unwrap()
    clock.advance(hours=25)
    assert found(spine, TENANT_WORK["idempotency.forget"].find) == {"_system"}
    assert Maintenance(spine).run_round().done["idempotency.forget"] == 1
    assert found(spine, TENANT_WORK["idempotency.forget"].find) == set()
