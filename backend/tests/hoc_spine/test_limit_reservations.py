"""Spine: what checks reserve: refused beyond a limit, redeemed, released, run out; exact under contention."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domains.controls.engines import ledger
from app.hoc_spine.spine import Spine
from tests.factories.limits import BUDGET, counters, limit, record, rows, start
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant, make_tenant


def check(tenant: Tenant, run_id: str = "r-1", **members: Any) -> Any:
    action = {"kind": "TOOL", "name": "send"}
    return tenant.call("runs.check", {"run_id": run_id, "action": action, **members})


def entered(connection: sa.Connection, tenant: Tenant) -> list[tuple[str, int]]:
    found = rows(connection, tenant, "limit_entries")
    return [
        (row["kind"], row["amount"] // 1_000_000) for row in sorted(found, key=lambda row: row["entry_id"])
    ]


def reservations(connection: sa.Connection, tenant: Tenant) -> list[str]:
    return [row["status"] for row in rows(connection, tenant, "usage_reservations")]


def test_an_estimate_is_held_and_use_redeems_it(tenant: Tenant, second_connection: sa.Connection) -> None:
    limit(tenant)
    start(tenant, "r-1")
    allowed = check(tenant, estimate={"COST_USD": 60})
    assert (allowed.verdict, allowed.reservation is not None) == ("ALLOW", True)
    assert counters(second_connection, tenant)["l-1"] == (0, 60_000_000)
    refused = check(tenant, estimate={"COST_USD": 41})
    assert (refused.verdict, refused.reservation) == ("BLOCK", None)
    assert counters(second_connection, tenant)["l-1"] == (0, 60_000_000)
    used = record(tenant, "u-1", usage={"COST_USD": 50}, reservation_id=allowed.reservation.reservation_id)
    assert (used.must_stop, used.limits[0].value) == (False, 50.0)
    assert counters(second_connection, tenant)["l-1"] == (50_000_000, 0)
    again = record(tenant, "u-2", usage={"COST_USD": 1}, reservation_id=allowed.reservation.reservation_id)
    assert again.limits[0].value == 51.0
    assert entered(second_connection, tenant) == [
        ("RESERVE", 60),
        ("RELEASE", 60),
        ("COMMIT", 50),
        ("COMMIT", 1),
    ]
    assert reservations(second_connection, tenant) == ["COMMITTED"]


def test_a_refusal_gives_back_what_other_limits_had_granted_and_is_a_breach_once(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    limit(tenant, limit_id="a", name="a", metric="TOKENS_INPUT", max_value=1000)
    limit(tenant, limit_id="b", name="b", max_value=10)
    limit(
        tenant, limit_id="c", name="c", category="RATE", reset_period=None, window_seconds=86_400, max_value=5
    )
    limit(tenant, limit_id="d", name="d", category="THRESHOLD", reset_period=None, max_value=3)
    start(tenant, "r-1")
    for _ in range(2):
        refused = check(tenant, estimate={"TOKENS_INPUT": 10, "COST_USD": 11})
        assert [reason.code for reason in refused.reasons] == ["LIMIT_EXCEEDED"] * 3
    found = {item.limit_id: (item.evaluation, item.value) for item in refused.limits}
    assert found["a"] == ("OK", 10.0)
    assert [found[name] for name in "bcd"] == [("BREACH", 11.0)] * 3
    assert counters(second_connection, tenant) == {}
    assert entered(second_connection, tenant) == []
    breaches = {row["limit_id"]: row for row in rows(second_connection, tenant, "limit_breaches")}
    assert {name: row["breach_type"] for name, row in breaches.items()} == {
        "b": "EXHAUSTED",
        "c": "THROTTLED",
        "d": "VIOLATED",
    }
    assert all(row["decision_id"] for row in breaches.values())
    assert breaches["b"]["value_at_breach"] == 11_000_000


def test_each_check_is_one_request(tenant: Tenant, second_connection: sa.Connection) -> None:
    rate = {"category": "RATE", "metric": "REQUESTS", "reset_period": None, "window_seconds": 86_400}
    limit(tenant, max_value=2, **rate)
    start(tenant, "r-1")
    verdicts = [check(tenant, check_id=f"c-{number}").verdict for number in (1, 2, 2, 3)]
    assert verdicts == ["ALLOW", "ALLOW", "ALLOW", "BLOCK"]
    assert counters(second_connection, tenant)["l-1"] == (2_000_000, 0)


def test_what_is_over_already_blocks_a_check_without_an_estimate(tenant: Tenant) -> None:
    limit(tenant, halts_run=True)
    start(tenant, "r-1")
    start(tenant, "r-2")
    assert check(tenant, "r-2").verdict == "ALLOW"
    record(tenant, "u-1", usage={"COST_USD": 101})
    refused = check(tenant, "r-2")
    assert (refused.verdict, refused.outcome, refused.run_status) == ("BLOCK", "STOPPED", "halted")


def test_a_reservation_is_given_back_by_call_by_time_and_at_the_end_of_its_attempt(
    tenant: Tenant, clock: SteerableClock, second_connection: sa.Connection
) -> None:
    clock.freeze()
    limit(tenant)
    start(tenant, "r-1")
    held = [check(tenant, estimate={"COST_USD": 10}, ttl_seconds=60).reservation for _ in range(3)]
    released = {"run_id": "r-1", "reservation_id": held[0].reservation_id}
    first = tenant.call("reservations.release", released)
    again = tenant.call("reservations.release", released)
    assert (first.status, again.status, again.closed_at) == ("RELEASED", "RELEASED", first.closed_at)
    assert counters(second_connection, tenant)["l-1"] == (0, 20_000_000)
    assert len(tenant.call("usage.get", {"run_id": "r-1"}).reservations) == 2
    missing = tenant.dispatch("reservations.release", released | {"reservation_id": "res_0"})
    assert missing.error_code == "RESERVATION_NOT_FOUND"
    clock.advance(seconds=61)
    assert tenant.dispatch("usage.expire_reservations", {"limit": 1}, door="worker").unwrap().more
    assert counters(second_connection, tenant)["l-1"] == (0, 10_000_000)
    tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    assert counters(second_connection, tenant)["l-1"] == (0, 0)
    assert sorted(reservations(second_connection, tenant)) == ["EXPIRED", "RELEASED", "RELEASED"]


def test_use_counts_in_the_window_of_its_reservation(
    tenant: Tenant, clock: SteerableClock, second_connection: sa.Connection
) -> None:
    limit(tenant, reset_period="DAILY")
    clock.freeze(clock.now().replace(hour=23, minute=59, second=50))
    today = f"D:{clock.now():%Y-%m-%d}"
    start(tenant, "r-1")
    held = check(tenant, estimate={"COST_USD": 10}).reservation
    clock.advance(seconds=20)
    record(tenant, "u-1", usage={"COST_USD": 12}, reservation_id=held.reservation_id)
    (row,) = rows(second_connection, tenant, "limit_counters")
    assert (row["window_key"], row["committed"], row["reserved"]) == (today, 12_000_000, 0)


def test_a_limit_that_cannot_be_evaluated_blocks(
    tenant: Tenant, second_connection: sa.Connection, spine: Spine
) -> None:
    limit(tenant)
    start(tenant, "r-1")
    assert check(tenant, estimate={"COST_USD": 1}).verdict == "ALLOW"
    broken = threading.local()

    @sa.event.listens_for(spine.transactions.engine, "before_cursor_execute")
    def _break(_c: Any, _k: Any, statement: str, *_: Any) -> None:
        if getattr(broken, "on", False) and "INSERT INTO limit_counters" in statement:
            raise sa.exc.OperationalError(statement, {}, Exception("the counter is away"))

    try:
        broken.on = True
        refused = check(tenant, estimate={"COST_USD": 1})
    finally:
        broken.on = False
        sa.event.remove(spine.transactions.engine, "before_cursor_execute", _break)
    assert (refused.verdict, [reason.code for reason in refused.reasons]) == ("BLOCK", ["LIMIT_UNAVAILABLE"])
    assert counters(second_connection, tenant)["l-1"] == (0, 1_000_000)
    assert check(tenant, estimate={"COST_USD": 1}).verdict == "ALLOW"


CLIENTS, CHECKS = 32, 2


def test_thirty_two_clients_never_hold_one_unit_more_than_a_limit(
    make_spine: Callable[..., Spine], second_connection: sa.Connection
) -> None:
    spine = make_spine(pool_size=8)
    tenant = make_tenant(spine)
    # 64 checks of 1 USD against 30 USD less one unit: 29 fit.
    limit(tenant, max_value="29.999999")
    for number in range(CLIENTS):
        start(tenant, f"r-{number}")
    barrier = threading.Barrier(CLIENTS)
    granted: list[bool] = []
    highest: list[int] = []

    def work(number: int) -> None:
        barrier.wait()
        for turn in range(CHECKS):
            result = check(tenant, f"r-{number}", estimate={"COST_USD": 1}, check_id=f"c-{turn}")
            granted.append(result.verdict == "ALLOW")
            highest.extend(int(item.value * 1_000_000) for item in result.limits if result.reservation)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == CLIENTS * CHECKS
    assert sum(granted) == 29
    assert max(highest) == 29_000_000
    assert counters(second_connection, tenant)["l-1"] == (0, 29_000_000)
    assert len(rows(second_connection, tenant, "usage_reservations")) == 29
    assert drift(tenant) == []


def test_clients_that_use_and_redeem_at_once_never_wait_for_each_other_in_a_circle(
    make_spine: Callable[..., Spine], second_connection: sa.Connection
) -> None:
    tenant = make_tenant(make_spine(pool_size=8))
    for number, metric in enumerate(("COST_USD", "TOKENS_INPUT", "STEPS")):
        limit(tenant, limit_id=f"l-{number}", name=metric, metric=metric, max_value=10_000)
    refused: list[str | None] = []

    def work(number: int) -> None:
        start(tenant, run_id := f"r-{number}")
        for turn in range(3):
            held = check(tenant, run_id, estimate={"TOKENS_INPUT": 5, "COST_USD": 1}).reservation
            redeemed = {"usage": {"COST_USD": 2, "TOKENS_INPUT": 7}, "reservation_id": held.reservation_id}
            step = {"step_index": turn, "skill_id": "s", "skill_name": "s", "status": "success"}
            wishes = (
                ("runs.usage.record", {"run_id": run_id, "usage_id": f"u-{turn}", **redeemed}),
                ("traces.steps.append", {"run_id": run_id, "steps": [step | {"usage": {"COST_USD": 1}}]}),
            )
            refused.extend(tenant.dispatch(name, payload).error_code for name, payload in wishes)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == [None] * 48
    assert counters(second_connection, tenant) == {
        "l-0": (72_000_000, 0),
        "l-1": (168_000_000, 0),
        "l-2": (24_000_000, 0),
        "plan-tokens-month": (168_000_000, 0),
    }
    assert drift(tenant) == []


def test_a_reservation_that_comes_to_eighty_percent_is_a_signal(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    limit(tenant)
    start(tenant, "r-1")
    near = check(tenant, estimate={"COST_USD": 80})
    assert [item.evaluation for item in near.limits if item.limit_id == "l-1"] == ["NEAR_THRESHOLD"]
    (signal,) = rows(second_connection, tenant, "discovery_ledger")
    assert (signal["signal_type"], signal["artifact"]) == ("limit_near_threshold", "limit:l-1")


def drift(tenant: Tenant) -> list[dict[str, Any]]:
    with tenant.spine.transactions.read(tenant.tenant_id) as unit:
        return ledger.find_drift(unit, tenant_id=tenant.tenant_id)


STEP = st.tuples(
    st.sampled_from(("check", "use", "redeem", "release", "expire", "steps", "retry")),
    st.integers(0, 40),
    st.integers(0, 3),
)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(walk=st.lists(STEP, min_size=4, max_size=14))
def test_counters_are_the_sums_of_their_entries_after_any_walk(
    spine: Spine, clock: SteerableClock, walk: list[tuple[str, int, int]]
) -> None:
    tenant = make_tenant(spine)
    limit(tenant)
    limit(tenant, limit_id="l-2", name="two", metric="STEPS", max_value=5, enforcement="WARN")
    limit(tenant, limit_id="l-3", name="three", category="RATE", reset_period=None, window_seconds=60)
    start(tenant, "r-1", max_attempts=20)
    held: list[str] = []
    steps, attempt = 0, 1
    for place, (deed, amount, which) in enumerate(walk):
        named = held[which % len(held)] if held else None
        if deed == "check":
            result = check(tenant, estimate={"COST_USD": amount, "STEPS": 1}, ttl_seconds=30)
            held += [result.reservation.reservation_id] if result.reservation else []
        elif deed in ("use", "redeem"):
            redeemed = {"reservation_id": named} if deed == "redeem" and named else {}
            record(tenant, f"u-{place}", usage={"COST_USD": amount}, **redeemed)
        elif deed == "release" and named:
            tenant.call("reservations.release", {"run_id": "r-1", "reservation_id": named})
        elif deed == "expire":
            clock.advance(seconds=20)
            tenant.dispatch("usage.expire_reservations", {}, door="worker").unwrap()
        elif deed == "steps":
            batch = [
                {
                    "step_index": steps + number,
                    "skill_id": "s",
                    "skill_name": "s",
                    "status": "success",
                    "usage": {"COST_USD": amount} if number else {},
                    "reservation_id": named,
                }
                for number in range(which + 1)
            ]
            tenant.call("traces.steps.append", {"run_id": "r-1", "steps": batch})
            steps += which + 1
        elif deed == "retry" and attempt < 20:
            tenant.call("runs.retry", {"run_id": "r-1", "from_attempt": attempt, "reason": "again"})
            steps, attempt, held = 0, attempt + 1, []
        assert drift(tenant) == []
    tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    assert drift(tenant) == []
    with tenant.spine.transactions.read(tenant.tenant_id) as unit:
        found = unit.execute(
            sa.text("SELECT sum(reserved) FROM limit_counters WHERE tenant_id = :t"), {"t": tenant.tenant_id}
        ).scalar_one()
    assert not found


@pytest.mark.parametrize("doctored", ["committed", "reserved"])
def test_a_counter_that_was_changed_is_found(
    tenant: Tenant, second_connection: sa.Connection, doctored: str
) -> None:
    limit(tenant, **BUDGET)
    start(tenant, "r-1")
    record(tenant, "u-1", usage={"COST_USD": 3})
    assert drift(tenant) == []
    statement = f"UPDATE limit_counters SET {doctored} = {doctored} + 1 WHERE tenant_id = :t"
    second_connection.execute(sa.text(statement), {"t": tenant.tenant_id})
    (found,) = tenant.dispatch("controls.counters.check", {}, door="worker").unwrap().drifting
    assert (found.limit_id, found.window_key, found.entered_committed) == ("l-1", "ALL", 3.0)
