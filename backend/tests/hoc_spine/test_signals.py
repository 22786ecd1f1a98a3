"""Signals: counted where they were seen before, part of the operation they were noticed in, acted on once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from app.hoc_spine.spine import Spine
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run

SEEN = {
    "artifact": "prompt:welcome",
    "signal_type": "drift",
    "evidence": {"score": 1, "kept": [1]},
    "detected_by": "watcher",
}


def notice(tenant: Tenant, **members: Any) -> Any:
    return tenant.call("activity.discovery.emit_signal", SEEN | members)


def test_what_is_seen_again_is_counted_and_keeps_its_first_words(
    tenant: Tenant, clock: SteerableClock
) -> None:
    clock.freeze(datetime(2026, 3, 1, tzinfo=UTC))
    run_id = start_run(tenant)
    first = notice(tenant, confidence=0.4, notes="as jane@example.org says", phase="ramp")
    assert (first.seen, first.seen_count, first.status, first.confidence) == (False, 1, "OBSERVED", 0.4)
    assert first.notes == "as <REDACTED_EMAIL> says"
    clock.advance(hours=1)
    again = notice(
        tenant, evidence={"score": 2, "token": "t"}, detected_by="other", phase="late", run_id=run_id
    )
    assert (again.seen, again.signal_id, again.seen_count) == (True, first.signal_id, 2)
    assert again.evidence == {"score": 2, "kept": [1], "token": "<REDACTED>"}
    assert (again.detected_by, again.phase, again.first_seen_at) == ("watcher", "ramp", first.first_seen_at)
    assert (again.confidence, again.last_run_id) == (0.4, run_id)
    assert (again.last_seen_at - first.last_seen_at).total_seconds() == 3600
    surer = notice(tenant, confidence=0.9)
    assert (surer.confidence, surer.last_run_id, surer.seen_count) == (0.9, run_id, 3)


def test_a_field_makes_another_signal_of_the_same_artifact(tenant: Tenant) -> None:
    bare, title = notice(tenant), notice(tenant, field="title")
    assert notice(tenant, field="title").signal_id == title.signal_id != bare.signal_id
    assert notice(tenant).seen_count == 2


def test_an_empty_member_is_refused_by_its_name(tenant: Tenant) -> None:
    for name in ("artifact", "signal_type", "evidence", "detected_by"):
        for empty in ({}, {name: {} if name == "evidence" else " "}):
            payload = {key: value for key, value in SEEN.items() if key != name} | empty
            code = tenant.dispatch("activity.discovery.emit_signal", payload).error_code
            assert code == f"MISSING_{name.upper()}"
    refused = tenant.dispatch("activity.discovery.emit_signal", {**SEEN, "run_id": "run_unknown"})
    assert refused.error_code == "REFERENCE_NOT_FOUND"
    assert tenant.call("activity.discovery.get_signals").items == []


def test_a_signal_of_an_operation_that_fails_is_not_left_behind(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    """G3: emission joins the open transaction, and a later failure leaves no signal."""
    count = sa.text("SELECT count(*) FROM discovery_ledger WHERE tenant_id = :t")

    def failing() -> None:
        with tenant.spine.unit(tenant.context()) as unit:
            made = unit.dispatch("activity.discovery.emit_signal", SEEN)
            assert made.success
            noticed = unit.dispatch("activity.discovery.get_signals", {}).unwrap().items
            assert [item.signal_id for item in noticed] == [made.unwrap().signal_id]
            raise ConnectionError("the operation failed after it noticed something")

    with pytest.raises(ConnectionError):
        failing()
    assert second_connection.execute(count, {"t": tenant.tenant_id}).scalar_one() == 0
    with tenant.spine.unit(tenant.context()) as unit:
        unit.dispatch("activity.discovery.emit_signal", SEEN).unwrap()
        assert not unit.dispatch("activity.discovery.emit_signal", {**SEEN, "evidence": {}}).success
    assert second_connection.execute(count, {"t": tenant.tenant_id}).scalar_one() == 1


def test_sightings_at_the_same_time_are_all_counted(tenant: Tenant, make_spine: Callable[..., Spine]) -> None:
    spine = make_spine(pool_size=4)
    here = Tenant(spine, tenant.tenant_id)
    with ThreadPoolExecutor(4) as pool:
        ids = set(pool.map(lambda number: notice(here, evidence={str(number): 1}).signal_id, range(12)))
    (signal,) = tenant.call("activity.discovery.get_signals").items
    assert ids == {signal.signal_id}
    assert signal.seen_count == len(signal.evidence) == 12


def test_what_is_seen_most_comes_first_and_filters_say_the_truth(tenant: Tenant) -> None:
    made = [notice(tenant, artifact=f"a:{number}", signal_type=f"t{number % 2}") for number in range(5)]
    for number in (1, 3, 3):
        notice(tenant, artifact=f"a:{number}", signal_type="t1")
    tenant.call("activity.signals.suppress", {"signal_id": made[0].signal_id})
    order = ["a:3", "a:1", "a:4", "a:2", "a:0"]
    seen: list[str] = []
    cursor = None
    while True:
        page = tenant.call("activity.discovery.get_signals", {"limit": 2, "cursor": cursor})
        seen += [item.artifact for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == order
    for query, expected in (
        ({"artifact": "a:2"}, ["a:2"]),
        ({"signal_type": "t1"}, ["a:3", "a:1"]),
        ({"status": "IGNORED"}, ["a:0"]),
        ({"status": "OBSERVED", "signal_type": "t0"}, ["a:4", "a:2"]),
    ):
        found = tenant.call("activity.discovery.get_signals", query)
        assert [item.artifact for item in found.items] == expected, query


def test_a_person_acknowledges_once_and_the_status_stays(tenant: Tenant) -> None:
    run_id = start_run(tenant)
    signal = notice(tenant, run_id=run_id)
    payload = {"signal_id": signal.signal_id}
    seen = tenant.call("activity.signals.acknowledge", payload, actor_id="jane")
    assert (seen.acked_by, seen.status, seen.version) == ("jane", "OBSERVED", signal.version + 1)
    assert tenant.call("activity.signals.acknowledge", payload, actor_id="joe") == seen
    (entry,) = tenant.call("logs.audit_list", {"entity_type": "SIGNAL"}).items
    detail = tenant.call("logs.audit_get", {"entry_id": entry.entry_id})
    assert (detail.event_type, detail.run_id) == ("SignalAcknowledged", run_id)
    assert detail.before_state["acked_by"] is None
    assert (detail.after_state["acked_by"], detail.after_state["run_id"]) == ("jane", run_id)


def test_a_suppressed_signal_is_counted_in_silence_until_its_time_is_over(
    tenant: Tenant, clock: SteerableClock
) -> None:
    clock.freeze(datetime(2026, 3, 1, tzinfo=UTC))
    payload = {"signal_id": notice(tenant).signal_id}
    ignored = tenant.call("activity.signals.suppress", {**payload, "minutes": 10})
    assert ignored.status == "IGNORED"
    clock.advance(minutes=9)
    assert (notice(tenant).status, notice(tenant).seen_count) == ("IGNORED", 3)
    clock.advance(minutes=1)
    back = notice(tenant)
    assert (back.status, back.suppressed_until, back.seen_count) == ("OBSERVED", None, 4)
    for minutes in (0, 43_201):
        refused = tenant.dispatch("activity.signals.suppress", {**payload, "minutes": minutes})
        assert refused.error_code == "INVALID_INPUT"


def test_an_escalated_signal_points_at_its_incident_for_good(tenant: Tenant) -> None:
    run_id = start_run(tenant)
    signal = notice(tenant, run_id=run_id, notes="look at this")
    payload = {"signal_id": signal.signal_id}
    raised = tenant.call("activity.signals.escalate", {**payload, "severity": "HIGH"})
    assert (raised.result, raised.status) == ("ESCALATED", "PROMOTED")
    incident = tenant.call("incidents.get", {"incident_id": raised.incident_id})
    assert (incident.severity, incident.source_type, incident.source_run_id) == ("HIGH", "SIGNAL", run_id)
    assert incident.description == "look at this"
    links = tenant.call("incidents.links", {"incident_id": raised.incident_id}).items
    assert [(link.kind, link.ref) for link in links] == [("SIGNAL", signal.signal_id)]
    for operation, more in (
        ("acknowledge", {}),
        ("suppress", {}),
        ("escalate", {"severity": "LOW"}),
    ):
        refused = tenant.dispatch(f"activity.signals.{operation}", payload | more)
        assert refused.error_code == "SIGNAL_PROMOTED"
    again = notice(tenant)
    assert (again.status, again.seen_count) == ("PROMOTED", 2)
    events = tenant.call("logs.run_governance", {"run_id": run_id}).events
    assert sorted(event.event_type for event in events) == ["IncidentCreated", "SignalEscalated"]


def test_a_rule_that_prevents_the_incident_leaves_the_signal_as_it_is(tenant: Tenant) -> None:
    rule = {
        "kind": "GUARD",
        "name": "No incidents of drift",
        "enforcement_mode": "BLOCK",
        "moments": ["INCIDENT"],
        "scope": "TENANT",
        "condition": 'incident.title.startsWith("drift")',
        "activate": True,
    }
    rule_id = tenant.call("policies.rules.create", rule).rule_id
    signal = notice(tenant)
    payload = {"signal_id": signal.signal_id, "severity": "HIGH"}
    first = tenant.call("activity.signals.escalate", payload)
    assert (first.result, first.rule_id, first.status) == ("PREVENTED", rule_id, "OBSERVED")
    assert first.incident_id is None
    assert tenant.call("activity.signals.escalate", payload).prevention_id == first.prevention_id
    assert tenant.call("incidents.list").items == []
    listed = tenant.call("policies.preventions.list", {"rule_id": rule_id}).items
    assert [item.outcome for item in listed] == ["PREVENTED"]


def test_over_http_a_first_sighting_is_created_and_the_next_is_not(
    client: TestClient, tenant: Tenant
) -> None:
    headers = tenant.headers(scopes=["signals:write"])
    first = client.post("/api/v1/signals", json=SEEN | {"confidence": 0.5}, headers=headers)
    again = client.post("/api/v1/signals", json=SEEN, headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    path = f"/api/v1/signals/{first.json()['signal_id']}"
    stale = client.post(f"{path}/acknowledge", headers=headers | {"If-Match": '"v1"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "VERSION_MISMATCH")
    assert client.post(f"{path}/acknowledge", headers=headers).status_code == 200
    assert client.get("/api/v1/signals", headers=headers).status_code == 403
    listed = client.get("/api/v1/signals", headers=tenant.headers(scopes=["signals:read"])).json()["items"]
    assert [(item["seen_count"], item["confidence"]) for item in listed] == [(2, 0.5)]
