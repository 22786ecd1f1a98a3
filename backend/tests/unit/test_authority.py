"""Authority: who may call what, as the switches, the tenant and the key stand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.domains.tenants.models import NoInput, Standing, TenantView
from app.hoc_spine.authority import judge_door, judge_standing
from app.hoc_spine.operation_registry import Operation
from app.kernel.context import Actor, RequestContext

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WELL = Standing(
    tenant_status="ACTIVE",
    plan="FREE",
    allow_self_approval=False,
    tenant_frozen=False,
    policy_version=0,
    live_epoch=0,
    kill_engaged=False,
    degraded=False,
    key_status="ACTIVE",
    key_expires_at=None,
)


def operation(**members: Any) -> Operation:
    plain = Operation(
        "probe.do", "probe", "write", "runs:write", NoInput, TenantView, lambda _ctx, _payload: None
    )
    return replace(plain, **members)


def context(**members: Any) -> RequestContext:
    plain = RequestContext("t", Actor("HUMAN", "u"), "req", scopes=frozenset({"runs:write"}), key_id="key_1")
    return replace(plain, **members)


def door_code(asked: Operation, by: RequestContext) -> str | None:
    refusal = judge_door(asked, by).refusal
    return refusal.code if refusal else None


def standing_code(
    standing: Standing | None, asked: Operation | None = None, by: RequestContext | None = None
) -> str | None:
    refusal = judge_standing(asked or operation(), by or context(), standing, now=NOW).refusal
    return refusal.code if refusal else None


def test_the_scope_opens_the_operation() -> None:
    assert door_code(operation(), context()) is None
    assert judge_door(operation(), context()).allowed


@pytest.mark.parametrize("scopes", [set(), {"runs:read"}, {"keys:*"}])
def test_without_the_scope_it_stays_closed(scopes: set[str]) -> None:
    assert door_code(operation(), context(scopes=frozenset(scopes))) == "INSUFFICIENT_SCOPE"


@pytest.mark.parametrize(
    ("asked", "by"),
    [("operator", "tenant"), ("worker", "tenant"), ("tenant", "operator"), ("worker", "operator")],
)
def test_no_scope_opens_another_door(asked: Any, by: Any) -> None:
    all_scopes = context(scopes=frozenset({"*"}), door=by)
    assert door_code(operation(door=asked, scope=None), all_scopes) == "INSUFFICIENT_SCOPE"


@pytest.mark.parametrize("asked", ["tenant", "operator", "worker"])
def test_the_program_itself_may_call_everything(asked: Any) -> None:
    assert door_code(operation(door=asked), context(scopes=frozenset(), door="worker")) is None


def test_what_the_look_up_saw_of_degraded_mode_flags_a_read() -> None:
    assert judge_door(operation(), context(degraded=True)).degraded
    assert not judge_door(operation(), context()).degraded


def test_a_tenant_and_key_in_order_may_write() -> None:
    assert standing_code(WELL) is None


def test_an_unknown_tenant_is_no_credential() -> None:
    assert standing_code(None) == "INVALID_CREDENTIALS"


@pytest.mark.parametrize(
    "change",
    [
        {"key_status": None},
        {"key_status": "FROZEN"},
        {"key_status": "REVOKED"},
        {"key_expires_at": NOW},
        {"key_expires_at": NOW - timedelta(days=1)},
    ],
    ids=str,
)
@pytest.mark.parametrize("authority", ["enforced", "recorded"])
def test_a_key_that_stopped_working_is_refused_in_the_write_itself(
    change: dict[str, Any], authority: Any
) -> None:
    asked = operation(authority=authority)
    assert standing_code(replace(WELL, **change), asked) == "INVALID_CREDENTIALS"


def test_a_key_works_until_it_expires() -> None:
    assert standing_code(replace(WELL, key_expires_at=NOW + timedelta(microseconds=1))) is None


def test_without_a_key_no_key_is_judged() -> None:
    assert standing_code(replace(WELL, key_status=None), by=context(key_id=None)) is None


@pytest.mark.parametrize("status", ["SUSPENDED", "CLOSED"])
def test_a_tenant_that_is_not_active_may_not_write(status: str) -> None:
    inactive = replace(WELL, tenant_status=status)
    assert standing_code(inactive) == "INVALID_CREDENTIALS"
    assert standing_code(inactive, by=context(key_id=None)) == "TENANT_INACTIVE"
    assert standing_code(inactive, by=context(door="worker", key_id=None)) == "TENANT_INACTIVE"


@pytest.mark.parametrize("status", ["SUSPENDED", "CLOSED"])
@pytest.mark.parametrize(
    "asked", [{"authority": "recorded"}, {"door": "operator"}, {"door": "worker"}], ids=str
)
def test_who_records_refusals_operates_or_maintains_is_not_stopped_by_it(
    status: str, asked: dict[str, Any]
) -> None:
    assert standing_code(replace(WELL, tenant_status=status), operation(**asked)) is None


@pytest.mark.parametrize("switch", ["kill_engaged", "tenant_frozen"])
@pytest.mark.parametrize(
    ("gate", "code"), [("guarded", "KILL_SWITCH_ACTIVE"), ("fact", None), ("repair", None)]
)
def test_the_kill_switches_stop_guarded_work_alone(switch: str, gate: Any, code: str | None) -> None:
    assert standing_code(replace(WELL, **{switch: True}), operation(gate=gate)) == code


@pytest.mark.parametrize(("gate", "code"), [("guarded", "DEGRADED_MODE"), ("fact", None), ("repair", None)])
def test_degraded_mode_flags_all_and_stops_guarded_work(gate: Any, code: str | None) -> None:
    verdict = judge_standing(operation(gate=gate), context(), replace(WELL, degraded=True), now=NOW)
    assert verdict.degraded
    assert (verdict.refusal.code if verdict.refusal else None) == code


def test_a_start_in_degraded_mode_may_try_again_in_half_a_minute() -> None:
    degraded = replace(WELL, degraded=True)
    refusal = judge_standing(operation(gate="guarded"), context(), degraded, now=NOW).refusal
    assert refusal is not None
    assert refusal.retry_after == 30


def test_the_kill_switch_goes_before_degraded_mode() -> None:
    both = replace(WELL, degraded=True, kill_engaged=True)
    assert standing_code(both, operation(gate="guarded")) == "KILL_SWITCH_ACTIVE"
