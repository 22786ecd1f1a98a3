"""Spine: use against limits: committed, reserved, exceeded, given back; counters are sums of entries."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from app.hoc_spine.operation_registry import OperationResult
from tests.factories.limits import counters, limit, record, rows, start
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant


def check(tenant: Tenant, run_id: str = "r-1", **members: Any) -> OperationResult:
    action = {"kind": "TOOL", "name": "send"}
    return tenant.dispatch("runs.check", {"run_id": run_id, "action": action, **members})


def entries(connection: sa.Connection, tenant: Tenant) -> list[tuple[str, str, int, str]]:
    found = rows(connection, tenant, "limit_entries")
    return sorted((row["limit_id"], row["kind"], row["amount"], row["source_ref"]) for row in found)


def test_use_beyond_a_limit_is_recorded_and_is_a_breach_with_all_that_follows(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    limit(tenant, consequence="INCIDENT", limit_id="l-1")
    start(tenant, "r-1")
    used = record(tenant, "u-1", usage={"COST_USD": 105.5})
    assert used.must_stop
    (stood,) = used.limits
    assert (stood.value, stood.max_value, stood.evaluation, stood.headroom) == (105.5, 100.0, "BREACH", 0.0)
    (breach,) = used.breaches
    assert (breach.breached_value, breach.threshold_value, breach.breach_type) == (105.5, 100.0, "BREACHED")
    (row,) = rows(second_connection, tenant, "limit_breaches")
    assert (row["value_at_breach"], row["limit_value"], row["run_key"]) == (105_500_000, 100_000_000, "r-1")
    (leaf,) = rows(second_connection, tenant, "log_leaves", "type = 'breach'")
    assert leaf["fact_id"] == row["fact_id"]
    (signal,) = rows(second_connection, tenant, "discovery_ledger")
    assert (signal["artifact"], signal["signal_type"], signal["last_run_id"]) == (
        "limit:l-1",
        "limit_breach",
        "r-1",
    )
    (entry,) = rows(second_connection, tenant, "audit_ledger", "event_type = 'LimitBreached'")
    assert (entry["entity_type"], entry["entity_id"], entry["run_id"]) == ("LIMIT", "l-1", "r-1")
    after = json.loads(entry["after_state"])
    assert (after["run_id"], after["max_value"], after["breach"]["value_at_breach"]) == (
        "r-1",
        100_000_000,
        105_500_000,
    )
    (incident,) = rows(second_connection, tenant, "incidents")
    assert (incident["severity"], incident["category"], incident["trigger_ref"], incident["dedupe_key"]) == (
        "MEDIUM",
        "BUDGET_EXCEEDED",
        "l-1",
        "r-1:1:l-1",
    )
    run = tenant.call("runs.get", {"run_id": "r-1"})
    assert (run.risk_level, run.incident_count, run.status) == ("AT_RISK", 1, "running")


def test_equal_to_the_limit_is_no_breach_and_the_first_crossing_is_the_only_one(tenant: Tenant) -> None:
    limit(tenant)
    start(tenant, "r-1")
    equal = record(tenant, "u-1", usage={"COST_USD": 100})
    assert (equal.must_stop, equal.breaches, equal.limits[0].evaluation) == (False, [], "NEAR_THRESHOLD")
    over = record(tenant, "u-2", usage={"COST_USD": "0.000001"})
    assert (over.must_stop, len(over.breaches)) == (True, 1)
    further = record(tenant, "u-3", usage={"COST_USD": 1})
    assert (further.must_stop, further.breaches) == (True, [])
    start(tenant, "r-2")
    other = record(tenant, "u-1", "r-2", usage={"COST_USD": 1})
    assert len(other.breaches) == 1
    listed = tenant.call("controls.breaches.list", {"limit_id": "l-1"}).items
    assert [item.run_id for item in listed] == ["r-2", "r-1"]
    assert len(tenant.call("controls.breaches.list", {"run_id": "r-1", "limit": 1}).items) == 1
    assert tenant.call("controls.breaches.list", {"since": "2100-01-01T00:00:00Z"}).items == []


def test_a_usage_id_replays_and_other_content_is_refused(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    limit(tenant)
    start(tenant, "r-1")
    first = record(tenant, "u-1", usage={"COST_USD": 150})
    again = record(tenant, "u-1", usage={"COST_USD": 150})
    assert (again.replayed, again.must_stop) == (True, True)
    assert [item.breach_id for item in again.breaches] == [item.breach_id for item in first.breaches]
    assert counters(second_connection, tenant)["l-1"] == (150_000_000, 0)
    for other in ({"usage": {"COST_USD": 151}}, {"usage": {"COST_USD": 150}, "step_index": 1}):
        refused = tenant.dispatch("runs.usage.record", {"run_id": "r-1", "usage_id": "u-1", **other})
        assert refused.error_code == "USAGE_CONFLICT"
    unknown = tenant.dispatch(
        "runs.usage.record", {"run_id": "r-1", "usage_id": "u-2", "usage": {"JOULES": 1}}
    )
    assert unknown.error_code == "INVALID_INPUT"
    missing = tenant.dispatch(
        "runs.usage.record", {"run_id": "r-0", "usage_id": "u-2", "usage": {"COST_USD": 1}}
    )
    assert missing.error_code == "RUN_NOT_FOUND"


def test_tokens_total_is_input_and_output_unless_it_is_given(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    limit(tenant, metric="TOKENS_TOTAL", max_value=1000)
    start(tenant, "r-1")
    record(tenant, "u-1", usage={"TOKENS_INPUT": 10, "TOKENS_OUTPUT": 5})
    record(tenant, "u-2", usage={"TOKENS_INPUT": 10, "TOKENS_TOTAL": 12})
    assert counters(second_connection, tenant)["l-1"] == (27_000_000, 0)
    shown = tenant.call("usage.get", {"run_id": "r-1"})
    assert shown.total == {"TOKENS_INPUT": 20.0, "TOKENS_OUTPUT": 5.0, "TOKENS_TOTAL": 27.0}
    trace = tenant.call("traces.get", {"run_id": "r-1", "attempt": 1})
    assert (trace.input_tokens, trace.output_tokens) == (20, 5)


def test_use_of_an_ended_run_counts_as_a_late_fact(tenant: Tenant, second_connection: sa.Connection) -> None:
    limit(tenant, halts_run=True)
    start(tenant, "r-1")
    tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    late = record(tenant, "u-1", usage={"COST_USD": 120})
    assert (late.must_stop, len(late.breaches), late.run_status) == (True, 1, "succeeded")
    (leaf,) = rows(second_connection, tenant, "log_leaves", "type = 'usage'")
    assert bool(leaf["late"])
    assert tenant.call("runs.get", {"run_id": "r-1"}).risk_level == "AT_RISK"
    assert tenant.call("attempts.list", {"run_id": "r-1"}).items[0].evaluation.outcome == "NO_VIOLATION"


def test_a_limit_that_halts_ends_the_run_in_the_transaction_of_its_breach(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    limit(tenant, halts_run=True, consequence="INCIDENT")
    start(tenant, "r-1")
    used = record(tenant, "u-1", usage={"COST_USD": 101})
    assert (used.must_stop, used.run_status) == (True, "halted")
    run = tenant.call("runs.get", {"run_id": "r-1"})
    assert (run.status, run.termination_reason) == ("halted", "budget_exceeded")
    (incident,) = rows(second_connection, tenant, "incidents")
    (evaluation,) = rows(second_connection, tenant, "policy_evaluations")
    assert (evaluation["outcome_kind"], evaluation["outcome_ref"]) == ("INCIDENT", incident["incident_id"])


def test_the_most_specific_limit_judges_and_the_others_count(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    limit(tenant, limit_id="of-tenant", name="a", max_value=10)
    limit(tenant, limit_id="of-agent", name="b", max_value=50, scope="AGENT", scope_id="agent-1")
    limit(tenant, limit_id="daily", name="c", max_value=20, reset_period="DAILY")
    start(tenant, "r-1")
    used = record(tenant, "u-1", usage={"COST_USD": 15})
    assert [(item.limit_id, item.evaluation) for item in used.limits] == [("daily", "OK"), ("of-agent", "OK")]
    assert counters(second_connection, tenant) == {
        "daily": (15_000_000, 0),
        "of-agent": (15_000_000, 0),
        "of-tenant": (15_000_000, 0),
    }


def test_use_counts_in_the_window_of_its_moment(
    tenant: Tenant, clock: SteerableClock, second_connection: sa.Connection
) -> None:
    for number, period in enumerate(("DAILY", "WEEKLY", "MONTHLY", "NONE")):
        limit(tenant, limit_id=f"l-{number}", name=period, reset_period=period)
    rate = {"category": "RATE", "reset_period": None, "window_seconds": 60}
    limit(tenant, limit_id="rate", name="rate", **rate)
    limit(tenant, limit_id="run", name="run", category="THRESHOLD", reset_period=None)
    clock.freeze(datetime(2026, 2, 1, 23, 59, 59, tzinfo=UTC))
    start(tenant, "r-1")
    record(tenant, "u-1", usage={"COST_USD": 1})
    clock.advance(seconds=1)
    record(tenant, "u-2", usage={"COST_USD": 2})
    found = {
        (row["limit_id"], row["window_key"]): row["committed"] // 1_000_000
        for row in rows(second_connection, tenant, "limit_counters")
    }
    minute = int(datetime(2026, 2, 2, tzinfo=UTC).timestamp()) // 60
    assert found == {
        ("l-0", "D:2026-02-01"): 1,
        ("l-0", "D:2026-02-02"): 2,
        ("l-1", "W:2026-W05"): 1,
        ("l-1", "W:2026-W06"): 2,
        ("l-2", "M:2026-02"): 3,
        ("l-3", "ALL"): 3,
        ("rate", f"R:{minute - 1}"): 1,
        ("rate", f"R:{minute}"): 2,
        ("run", "run:r-1"): 3,
    }


def test_the_run_time_is_read_from_the_clock(tenant: Tenant, clock: SteerableClock) -> None:
    run_time = {"category": "THRESHOLD", "metric": "RUN_TIME_MS", "reset_period": None}
    limit(tenant, max_value=1000, halts_run=True, **run_time)
    clock.freeze(datetime(2026, 2, 1, tzinfo=UTC))
    start(tenant, "r-1")
    clock.advance(seconds=1)
    assert record(tenant, "u-1", usage={"COST_USD": 1}).limits[0].evaluation == "NEAR_THRESHOLD"
    clock.advance(seconds=0.001)
    over = record(tenant, "u-2", usage={"COST_USD": 1})
    assert (over.limits[0].value, over.must_stop, over.run_status) == (1001.0, True, "halted")


def test_the_first_crossing_of_eighty_percent_is_a_signal(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    limit(tenant)
    start(tenant, "r-1")
    record(tenant, "u-1", usage={"COST_USD": "79.999999"})
    assert rows(second_connection, tenant, "discovery_ledger") == []
    record(tenant, "u-2", usage={"COST_USD": "0.000001"})
    record(tenant, "u-3", usage={"COST_USD": 1})
    (signal,) = rows(second_connection, tenant, "discovery_ledger")
    assert (signal["signal_type"], signal["artifact"], signal["seen_count"]) == (
        "limit_near_threshold",
        "limit:l-1",
        1,
    )
    assert tenant.call("runs.get", {"run_id": "r-1"}).risk_level == "NEAR_THRESHOLD"


def test_warn_and_audit_limits_are_exceeded_without_stopping_anybody(tenant: Tenant) -> None:
    limit(tenant, enforcement="WARN")
    limit(tenant, limit_id="l-2", name="b", metric="STEPS", enforcement="AUDIT", max_value=1)
    start(tenant, "r-1")
    used = record(tenant, "u-1", usage={"COST_USD": 101, "STEPS": 2})
    assert (used.must_stop, len(used.breaches)) == (False, 2)
