"""Spine: limits: made, changed, listed; what a plan sets; what a snapshot takes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.operation_registry import OperationResult
from app.kernel.context import Precondition
from app.kernel.errors import HocError
from tests.factories.limits import BUDGET, limit, rows, start, without_triggers
from tests.factories.tenants import Tenant, operator_context


def change(tenant: Tenant, version: int, **members: Any) -> OperationResult:
    payload = {"limit_id": "l-1", **members}
    return tenant.dispatch("controls.limits.update", payload, precondition=Precondition(frozenset({version})))


def test_a_limit_is_made_shown_and_told_to_the_ledger(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    made = limit(tenant, max_value="105.5", description="Money")
    assert (made.max_value, made.status, made.limit_version, made.source) == (105.5, "ACTIVE", 1, "MANUAL")
    shown = tenant.call("controls.limits.get", {"limit_id": "l-1"})
    assert (shown.window_key, shown.committed, shown.reserved, shown.headroom) == ("ALL", 0.0, 0.0, 105.5)
    (row,) = rows(second_connection, tenant, "limits", "limit_id = 'l-1'")
    assert row["max_value"] == 105_500_000
    (entry,) = rows(second_connection, tenant, "audit_ledger", "entity_type = 'LIMIT'")
    assert (entry["event_type"], entry["entity_id"]) == ("LimitCreated", "l-1")
    assert json.loads(entry["after_state"])["max_value"] == 105_500_000


def test_an_id_or_an_active_name_is_taken_once(tenant: Tenant) -> None:
    limit(tenant)
    for again, field in (({"limit_id": "l-1", "name": "other"}, "limit_id"), ({"limit_id": "l-2"}, "name")):
        refused = tenant.dispatch("controls.limits.create", {**BUDGET, **again}).error
        assert refused is not None
        assert (refused.code, refused.errors[0]["field"]) == ("LIMIT_EXISTS", f"/{field}")
    tenant.call("controls.limits.disable", {"limit_id": "l-1"})
    limit(tenant, limit_id="l-2")
    taken = tenant.dispatch("controls.limits.enable", {"limit_id": "l-1"})
    assert taken.error_code == "LIMIT_EXISTS"


def test_a_limit_that_does_not_fit_together_is_refused(tenant: Tenant) -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"max_value": 0},
        {"max_value": "0.0000001"},
        {"max_value": 9_000_000_001},
        {"max_value": True},
        {"reset_period": None},
        {"window_seconds": 60},
        {"scope": "AGENT"},
        {"scope_id": "a"},
        {"category": "RATE", "reset_period": None},
        {"category": "THRESHOLD"},
        {"metric": "RUN_TIME_MS"},
        {"enforcement": "WARN", "halts_run": True},
        {"metric": "JOULES"},
    )
    found = [tenant.dispatch("controls.limits.create", {**BUDGET, **change}).error_code for change in wrong]
    assert found == ["INVALID_INPUT"] * len(wrong)


def test_what_a_limit_counts_is_fixed_and_what_it_allows_is_not(tenant: Tenant) -> None:
    made = limit(tenant)
    assert (
        tenant.dispatch("controls.limits.update", {"limit_id": "l-1"}).error_code == "PRECONDITION_REQUIRED"
    )
    assert change(tenant, 7, max_value=5).error_code == "VERSION_MISMATCH"
    for fixed in ({"metric": "STEPS"}, {"scope": "AGENT", "scope_id": "a"}, {"reset_period": "DAILY"}):
        assert change(tenant, 1, **fixed).error_code == "IMMUTABLE_FIELD"
    assert change(tenant, 1, metric="COST_USD", max_value=100).unwrap().version == 1
    changed = change(tenant, 1, max_value=50, enforcement="WARN", description="less").unwrap()
    assert (changed.max_value, changed.enforcement, changed.limit_version, changed.version) == (
        50.0,
        "WARN",
        2,
        2,
    )
    assert changed.content_hash != made.content_hash
    assert change(tenant, 2, halts_run=True).error_code == "INVALID_INPUT"
    assert change(tenant, 2, description=None).unwrap().description is None


def test_every_change_reaches_the_runs_that_start_afterwards_and_no_other(tenant: Tenant) -> None:
    def members(run_id: str) -> list[dict[str, Any]]:
        run = start(tenant, run_id)
        content = tenant.call("policies.snapshots.get", {"snapshot_id": run.policy_snapshot_id}).content
        return [item for item in content["limits"] if item["limit_id"] == "l-1"]

    assert members("r-0") == []
    limit(tenant)
    (first,) = members("r-1")
    assert (first["max_value"], first["limit_version"]) == (100_000_000, 1)
    change(tenant, 1, max_value=500).unwrap()
    assert members("r-2")[0]["max_value"] == 500_000_000
    before = tenant.call("runs.get", {"run_id": "r-1"}).policy_snapshot_id
    content = tenant.call("policies.snapshots.get", {"snapshot_id": before}).content
    assert {item["limit_id"]: item["max_value"] for item in content["limits"]}["l-1"] == 100_000_000
    tenant.call("controls.limits.disable", {"limit_id": "l-1"})
    assert members("r-3") == []
    tenant.call("controls.limits.enable", {"limit_id": "l-1"})
    assert members("r-4")[0]["limit_version"] == 4


def test_a_snapshot_takes_the_limits_of_its_project_and_agent_alone(tenant: Tenant) -> None:
    limit(tenant, limit_id="of-agent", name="a", scope="AGENT", scope_id="agent-1")
    limit(tenant, limit_id="of-other", name="b", scope="AGENT", scope_id="agent-2")
    limit(tenant, limit_id="of-project", name="c", scope="PROJECT", scope_id="p-1")
    run = start(tenant, "r-1", project_id="p-1")
    content = tenant.call("policies.snapshots.get", {"snapshot_id": run.policy_snapshot_id}).content
    assert [item["limit_id"] for item in content["limits"]] == ["of-agent", "of-project", "plan-tokens-month"]


def test_a_list_is_filtered_and_paged_newest_first(tenant: Tenant) -> None:
    for number in range(3):
        limit(tenant, limit_id=f"l-{number}", name=f"n-{number}")
    limit(tenant, limit_id="steps", name="s", metric="STEPS")
    tenant.call("controls.limits.disable", {"limit_id": "l-0"})
    seen, cursor = [], None
    while True:
        page = tenant.call("controls.limits.list", {"limit": 2, "metric": "COST_USD", "cursor": cursor})
        seen += [item.limit_id for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == ["l-2", "l-1", "l-0"]
    disabled = tenant.call("controls.limits.list", {"status": "DISABLED"}).items
    assert [item.limit_id for item in disabled] == ["l-0"]


def test_the_plan_sets_a_limit_that_the_tenant_cannot_change(new_tenant: Callable[..., Tenant]) -> None:
    tenant = new_tenant(plan="FREE")
    shown = tenant.call("controls.limits.get", {"limit_id": "plan-tokens-month"})
    assert (shown.source, shown.metric, shown.reset_period, shown.max_value) == (
        "SYSTEM",
        "TOKENS_TOTAL",
        "MONTHLY",
        1_000_000.0,
    )
    for name in ("disable", "enable"):
        refused = tenant.dispatch(f"controls.limits.{name}", {"limit_id": "plan-tokens-month"})
        assert refused.error_code == "LIMIT_SYSTEM"
    for taken in ({"limit_id": "plan-tokens-month", "name": "x"}, {"name": "plan-tokens-month"}):
        assert tenant.dispatch("controls.limits.create", BUDGET | taken).error_code == "LIMIT_EXISTS"
    wanted = {"tenant_id": tenant.tenant_id, "plan": "PRO"}
    precondition = Precondition(frozenset({1}))
    tenant.spine.dispatch("ops.tenants.update", operator_context(precondition=precondition), wanted).unwrap()
    assert tenant.call("controls.limits.get", {"limit_id": "plan-tokens-month"}).max_value == 10_000_000.0


def test_a_tenant_from_before_the_limits_gets_its_plans_limit_in_maintenance(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    drop = sa.text("DELETE FROM limits WHERE tenant_id = :t")
    without_triggers(second_connection, "limits", drop, tenant.tenant_id)
    with pytest.raises(HocError, match="LIMIT_NOT_FOUND"):
        tenant.call("controls.limits.get", {"limit_id": "plan-tokens-month"})
    settled = tenant.dispatch("controls.limits.settle_plan", {}, door="worker").unwrap()
    again = tenant.dispatch("controls.limits.settle_plan", {}, door="worker").unwrap()
    assert (settled.count, again.count) == (1, 0)
    assert tenant.call("controls.limits.get", {"limit_id": "plan-tokens-month"}).max_value == 1_000_000_000.0


def test_a_limit_that_lost_its_content_hash_starts_no_run(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    limit(tenant)
    raised = sa.text("UPDATE limits SET max_value = 900000000 WHERE tenant_id = :t AND limit_id = 'l-1'")
    without_triggers(second_connection, "limits", raised, tenant.tenant_id)
    with pytest.raises(HocError, match="POLICY_INTEGRITY"):
        start(tenant, "r-1")
