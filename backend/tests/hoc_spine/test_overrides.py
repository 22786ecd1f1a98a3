"""Spine: overrides of limits: asked for, decided by somebody else, in force at once and for a while."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from app.hoc_spine.operation_registry import OperationResult
from tests.factories.limits import limit, record, rows, start
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant

VERBS = {
    "approve": "controls.overrides.approve",
    "reject": "controls.overrides.reject",
    "cancel": "controls.overrides.cancel",
}


def wish(tenant: Tenant, clock: SteerableClock, **members: Any) -> dict[str, Any]:
    expires_at = (clock.now() + timedelta(hours=1)).isoformat()
    return {
        "limit_id": "l-1",
        "override_value": 200,
        "expires_at": expires_at,
        "reason": "month end",
        **members,
    }


def request(tenant: Tenant, clock: SteerableClock, **members: Any) -> OperationResult:
    return tenant.dispatch("controls.overrides.request", wish(tenant, clock, **members))


def decide(tenant: Tenant, verb: str, override_id: str, **context: Any) -> OperationResult:
    payload = {"override_id": override_id, "notes": "seen by bob@example.com"}
    return tenant.dispatch(VERBS[verb], payload, **{"actor_id": "user-2", **context})


def check(tenant: Tenant, cost: int) -> Any:
    action = {"kind": "TOOL", "name": "send"}
    return tenant.call("runs.check", {"run_id": "r-1", "action": action, "estimate": {"COST_USD": cost}})


def test_an_approved_override_acts_in_running_runs_until_it_is_over(
    tenant: Tenant, clock: SteerableClock, second_connection: sa.Connection
) -> None:
    clock.freeze()
    limit(tenant)
    start(tenant, "r-1")
    asked = request(tenant, clock).unwrap()
    assert (asked.status, asked.override_value, asked.requested_by) == ("PENDING", 200.0, "user-1")
    assert check(tenant, 150).verdict == "BLOCK"
    approved = decide(tenant, "approve", asked.override_id).unwrap()
    assert (approved.status, approved.reviewed_by) == ("APPROVED", "user-2")
    assert approved.review_notes == "seen by <REDACTED_EMAIL>"
    allowed = check(tenant, 150)
    (stood,) = [item for item in allowed.limits if item.limit_id == "l-1"]
    assert (allowed.verdict, stood.evaluation, stood.max_value) == ("ALLOW", "OVERRIDDEN", 200.0)
    shown = tenant.call("controls.limits.get", {"limit_id": "l-1"})
    assert (shown.in_force_value, shown.override_id, shown.headroom) == (200.0, asked.override_id, 50.0)
    # The first crossing of r-1 was its refusal.
    start(tenant, "r-2")
    over = record(tenant, "u-1", "r-2", usage={"COST_USD": 201})
    assert (over.must_stop, over.breaches[0].threshold_value) == (True, 200.0)
    assert over.breaches[0].override_id == asked.override_id
    clock.advance(hours=1)
    assert tenant.call("controls.limits.get", {"limit_id": "l-1"}).in_force_value == 100.0
    assert tenant.dispatch("controls.overrides.expire", {}, door="worker").unwrap().count == 1
    assert tenant.call("controls.overrides.get", {"override_id": asked.override_id}).status == "EXPIRED"
    events = rows(second_connection, tenant, "audit_ledger", "entity_type = 'LIMIT_OVERRIDE'")
    assert [row["event_type"] for row in sorted(events, key=lambda row: row["entry_id"])] == [
        "LimitOverrideRequested",
        "LimitOverrideGranted",
        "LimitOverrideExpired",
    ]


def test_an_override_waits_for_its_time_and_ends_when_it_is_cancelled(
    tenant: Tenant, clock: SteerableClock
) -> None:
    clock.freeze()
    limit(tenant)
    start(tenant, "r-1")
    starts_at = (clock.now() + timedelta(minutes=10)).isoformat()
    asked = request(tenant, clock, starts_at=starts_at).unwrap()
    decide(tenant, "approve", asked.override_id).unwrap()
    assert check(tenant, 150).verdict == "BLOCK"
    clock.advance(minutes=10)
    assert check(tenant, 150).verdict == "ALLOW"
    by_other = decide(tenant, "cancel", asked.override_id, scopes=("controls:write",))
    assert by_other.error_code == "INSUFFICIENT_SCOPE"
    taken_back = decide(
        tenant, "cancel", asked.override_id, scopes=("controls:write",), actor_id="user-1"
    ).unwrap()
    assert (taken_back.status, taken_back.cancelled_by) == ("CANCELLED", "user-1")
    assert check(tenant, 20).verdict == "BLOCK"


def test_each_step_of_the_life_of_an_override_is_allowed_once(tenant: Tenant, clock: SteerableClock) -> None:
    limit(tenant)
    allowed = {
        (): {"approve", "reject", "cancel"},
        ("approve",): {"cancel"},
        ("reject",): set(),
        ("cancel",): set(),
    }
    for before, following in allowed.items():
        for verb in ("approve", "reject", "cancel"):
            asked = request(tenant, clock).unwrap()
            for done in before:
                decide(tenant, done, asked.override_id).unwrap()
            result = decide(tenant, verb, asked.override_id)
            assert result.error_code == (None if verb in following else "INVALID_TRANSITION")
            decide(tenant, "cancel", asked.override_id)


def test_the_requester_does_not_approve(new_tenant: Callable[..., Tenant], clock: SteerableClock) -> None:
    tenant = new_tenant()
    limit(tenant)
    asked = request(tenant, clock).unwrap()
    refused = decide(tenant, "approve", asked.override_id, actor_id="user-1")
    assert refused.error_code == "SELF_APPROVAL"
    by_write = decide(tenant, "approve", asked.override_id, scopes=("controls:write",))
    assert by_write.error_code == "INSUFFICIENT_SCOPE"
    trusting = new_tenant(allow_self_approval=True)
    limit(trusting)
    own = request(trusting, clock).unwrap()
    assert decide(trusting, "approve", own.override_id, actor_id="user-1").unwrap().status == "APPROVED"


def test_requests_that_go_too_far_are_refused(tenant: Tenant, clock: SteerableClock) -> None:
    clock.freeze()
    limit(tenant)
    now = clock.now()
    for members, code in (
        ({"limit_id": "l-0"}, "REFERENCE_NOT_FOUND"),
        ({"limit_id": "plan-tokens-month"}, "LIMIT_SYSTEM"),
        ({"expires_at": (now + timedelta(hours=168, seconds=1)).isoformat()}, "OVERRIDE_TOO_LONG"),
        ({"expires_at": now.isoformat()}, "INVALID_INPUT"),
        ({"starts_at": (now + timedelta(hours=2)).isoformat()}, "INVALID_INPUT"),
        ({"override_value": 0}, "INVALID_INPUT"),
        ({"reason": " "}, "INVALID_INPUT"),
    ):
        assert request(tenant, clock, **members).error_code == code, members
    first = request(tenant, clock, expires_at=(now + timedelta(hours=168)).isoformat()).unwrap()
    stacked = request(tenant, clock)
    assert stacked.error is not None
    assert (stacked.error_code, stacked.error.extra) == (
        "OVERRIDE_STACKING",
        {"override_id": first.override_id},
    )
    for number in range(2, 7):
        limit(tenant, limit_id=f"l-{number}", name=f"n-{number}")
        result = request(tenant, clock, limit_id=f"l-{number}")
        assert result.error_code == (None if number < 6 else "OVERRIDE_QUOTA")
    # What has run out makes room, whether maintenance has passed or not.
    clock.advance(hours=2)
    assert request(tenant, clock, limit_id="l-6").error_code is None
    assert request(tenant, clock, limit_id="l-2").error_code is None


def test_overrides_are_listed_by_status_and_limit(tenant: Tenant, clock: SteerableClock) -> None:
    limit(tenant)
    limit(tenant, limit_id="l-2", name="two")
    ids = []
    for limit_id in ("l-1", "l-2", "l-1"):
        asked = request(tenant, clock, limit_id=limit_id).unwrap()
        ids.append(asked.override_id)
        if limit_id == "l-1":
            decide(tenant, "reject", asked.override_id).unwrap()
    pages, cursor = [], None
    while True:
        page = tenant.call("controls.overrides.list", {"limit": 1, "limit_id": "l-1", "cursor": cursor})
        pages += [item.override_id for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert pages == [ids[2], ids[0]]
    pending = tenant.call("controls.overrides.list", {"status": "PENDING"}).items
    assert [item.override_id for item in pending] == [ids[1]]
