"""Spine: incidents: reported, prevented, known again, and their life to the end."""

from __future__ import annotations

import json
import threading
from typing import Any

import sqlalchemy as sa

from app.hoc_spine.operation_registry import OperationResult
from app.kernel.hashing import protected_commit
from tests.factories.limits import rows
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run

WORKER: dict[str, Any] = {"door": "worker", "actor_type": "SYSTEM", "actor_id": "verifier"}


def report(tenant: Tenant, **members: Any) -> Any:
    return tenant.call("incidents.create", {"title": "Something broke", **members})


def guard(tenant: Tenant, rule_id: str, mode: str, condition: str | None, **members: Any) -> None:
    rule = {"rule_id": rule_id, "kind": "GUARD", "name": rule_id, "moments": ["INCIDENT"], "activate": True}
    tenant.call(
        "policies.rules.create", {**rule, "enforcement_mode": mode, "condition": condition, **members}
    )


def test_a_report_leaves_incident_event_entry_leaf_and_lesson(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    start_run(tenant, run_id="r-1")
    opened = report(
        tenant,
        incident_id="i-1",
        source_run_id="r-1",
        error_code="AGENT_CRASH",
        description="ask bob@example.com",
    )
    assert (opened.result, opened.replayed) == ("CREATED", False)
    incident = opened.incident
    assert (incident.severity, incident.category, incident.cause_type, incident.source_type) == (
        "CRITICAL",
        "MANUAL",
        "LLM_RUN",
        "MANUAL",
    )
    assert (incident.impact_scope, incident.affected_agent_id, incident.attempt) == (
        "SINGLE_RUN",
        "support-agent",
        1,
    )
    assert incident.description == "ask <REDACTED_EMAIL>"
    (event,) = tenant.call("incidents.events", {"incident_id": "i-1"}).items
    assert (event.seq, event.event_type, event.data) == (
        1,
        "CREATED",
        {"recurrence_count": 0, "severity": "CRITICAL"},
    )
    (entry,) = rows(second_connection, tenant, "audit_ledger", "entity_type = 'INCIDENT'")
    assert (entry["event_type"], entry["entity_id"], entry["run_id"]) == ("IncidentCreated", "i-1", "r-1")
    assert json.loads(entry["after_state"])["run_id"] == "r-1"
    assert "title" not in json.loads(entry["after_state"])
    found = rows(second_connection, tenant, "log_leaves", "run_id = 'r-1'")
    assert {"incident", "incident.event", "audit", "lesson"} <= {leaf["type"] for leaf in found}
    (lesson,) = tenant.call("lessons.list", {"source_run_id": "r-1"}).items
    assert (lesson.source_event_id, lesson.severity) == ("i-1", "CRITICAL")
    assert tenant.call("runs.get", {"run_id": "r-1"}).incident_count == 1
    (row,) = rows(second_connection, tenant, "incidents")
    names = ("title", "description", "error_message", "resolution_summary", "resolution_notes")
    assert row["protected_commit"] == protected_commit(
        row["protected_salt"], {name: row[name] for name in names}
    )


def test_the_same_report_replays_and_another_under_its_id_is_refused(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    given = {"incident_id": "i-1", "severity": "LOW", "description": "mail bob@example.com"}
    first = report(tenant, **given)
    tenant.call("incidents.escalate", {"incident_id": "i-1", "severity": "HIGH", "reason": "worse"})
    again = report(tenant, **given)
    assert (again.replayed, again.incident.incident_id) == (True, first.incident.incident_id)
    for other in ({"severity": "HIGH"}, {"description": "else"}, {"error_code": "E"}):
        refused = tenant.dispatch("incidents.create", {"title": "Something broke", **given, **other})
        assert refused.error_code == "INCIDENT_EXISTS"
    assert len(rows(second_connection, tenant, "incidents")) == 1


def test_a_report_that_a_rule_prevents_stays_prevented_under_its_id(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    guard(tenant, "p-1", "BLOCK", 'incident.error_code == "KNOWN"')
    start_run(tenant, run_id="r-1")
    for run in ({}, {"source_run_id": "r-1"}):
        given = {"incident_id": f"i-{len(run)}", "error_code": "KNOWN", **run}
        opened = report(tenant, **given)
        assert (opened.result, opened.incident, opened.rule_id) == ("PREVENTED", None, "p-1")
        again = report(tenant, **given)
        assert again.replayed
        assert (again.prevention_id, again.decision_id) == (opened.prevention_id, opened.decision_id)
        other = tenant.dispatch("incidents.create", {"title": "Else", **given})
        assert other.error_code == "INCIDENT_EXISTS"
    kept = rows(second_connection, tenant, "prevention_records")
    assert sorted(row["run_id"] or "" for row in kept) == ["", "r-1"]
    assert {row["outcome"] for row in kept} == {"PREVENTED"}
    decisions = rows(second_connection, tenant, "decision_records")
    assert sorted((row["run_id"] or "", row["causal_role"]) for row in decisions) == [
        ("", "POST_RUN"),
        ("r-1", "IN_RUN"),
    ]
    assert rows(second_connection, tenant, "incidents") == []
    assert tenant.call("runs.get", {"run_id": "r-1"}).incident_count == 0


def test_warning_rules_leave_the_incident_and_their_records(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    guard(tenant, "w-1", "WARN", 'incident.severity == "MEDIUM"', message="look here")
    guard(tenant, "a-1", "AUDIT", None)
    guard(tenant, "e-1", "BLOCK", 'run.labels["missing"] == "x"')
    start_run(tenant, run_id="r-1")
    opened = report(tenant, source_run_id="r-1")
    assert opened.result == "CREATED"
    kept = rows(second_connection, tenant, "prevention_records")
    assert {row["rule_id"]: row["outcome"] for row in kept} == {"w-1": "WARNED", "a-1": "AUDITED"}
    (decision,) = rows(second_connection, tenant, "decision_records")
    assert (decision["decision_outcome"], decision["decision_reason"]) == ("WARNED", "look here")
    links = tenant.call("incidents.links", {"incident_id": opened.incident.incident_id}).items
    assert [(link.kind, link.ref) for link in links] == sorted(
        ("PREVENTION", row["prevention_id"]) for row in kept
    )


def test_nothing_suppresses_a_violation_or_an_integrity_failure(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    guard(tenant, "all", "BLOCK", None)
    for category in ("POLICY_VIOLATION", "INTEGRITY"):
        assert report(tenant, category=category).result == "CREATED"
    assert report(tenant, category="EXECUTION_FAILURE").result == "PREVENTED"
    kept = rows(second_connection, tenant, "prevention_records")
    assert sorted(row["outcome"] for row in kept) == ["AUDITED", "AUDITED", "PREVENTED"]


def test_what_came_back_is_counted_and_listed_by_signature(tenant: Tenant, clock: SteerableClock) -> None:
    first = report(tenant, error_code="A").incident
    clock.advance(days=1)
    second = report(tenant, error_code="A").incident
    assert (second.recurrence_of, second.recurrence_count) == (first.incident_id, 1)
    clock.advance(days=29)
    third = report(tenant, error_code="A").incident
    assert (third.recurrence_of, third.recurrence_count) == (second.incident_id, 1)
    report(tenant, error_code="B")
    (found,) = tenant.call("incidents.signatures").items
    assert (found.recurrence_signature, found.count) == (third.recurrence_signature, 2)
    assert (found.latest_incident_id, found.error_code) == (third.incident_id, "A")
    (found,) = tenant.call("incidents.signatures", {"days": 90}).items
    assert found.count == 3
    assert tenant.call("incidents.signatures", {"days": 90, "min_count": 4}).items == []


def test_a_damaged_store_opens_one_incident_for_each_code_and_table(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    guard(tenant, "all", "BLOCK", None)
    given = {"code": "ROW_MISMATCH", "table": "runs", "detail": "run r-1 differs"}
    results: list[OperationResult] = []
    barrier = threading.Barrier(4)

    def open_it() -> None:
        barrier.wait()
        results.append(tenant.dispatch("incidents.open_integrity", given, **WORKER))

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.unwrap().replayed for result in results) == [False, True, True, True]
    (row,) = rows(second_connection, tenant, "incidents")
    assert (row["severity"], row["cause_type"], row["source_type"], row["category"]) == (
        "CRITICAL",
        "SYSTEM",
        "VERIFIER",
        "INTEGRITY",
    )
    assert row["dedupe_key"] == "integrity:ROW_MISMATCH:runs"
    policy = tenant.call("incidents.open_integrity", given | {"code": "POLICY_INTEGRITY"}, **WORKER).incident
    assert (policy.severity, policy.source_type) == ("HIGH", "POLICY")


def test_the_life_of_an_incident_is_in_its_row_its_events_and_the_ledger(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    start_run(tenant, run_id="r-1")
    report(tenant, incident_id="i-1", source_run_id="r-1", severity="LOW")
    acked = tenant.call("incidents.acknowledge", {"incident_id": "i-1"})
    assert (acked.lifecycle_state, acked.acked_by) == ("ACKED", "user-1")
    assert tenant.call("incidents.acknowledge", {"incident_id": "i-1"}).version == acked.version
    raised = tenant.call(
        "incidents.escalate", {"incident_id": "i-1", "severity": "CRITICAL", "reason": "bob@example.com"}
    )
    assert (raised.severity, raised.lifecycle_state) == ("CRITICAL", "ACKED")
    refused = tenant.dispatch("incidents.escalate", {"incident_id": "i-1", "severity": "HIGH", "reason": "x"})
    assert refused.error_code == "SEVERITY_NOT_HIGHER"
    done = tenant.call(
        "incidents.resolve",
        {
            "incident_id": "i-1",
            "resolution_method": "ROLLBACK",
            "type": "revert",
            "summary": "asked bob@example.com",
        },
    )
    assert (done.lifecycle_state, done.resolution_method, done.resolution_type) == (
        "RESOLVED",
        "ROLLBACK",
        "revert",
    )
    assert done.resolution_summary == "asked <REDACTED_EMAIL>"
    assert done.title == "Something broke"
    for name, more in (
        ("incidents.acknowledge", {}),
        ("incidents.escalate", {"severity": "HIGH", "reason": "x"}),
        ("incidents.resolve", {"resolution_method": "AUTO"}),
        ("incidents.close", {"reason": "x"}),
    ):
        assert tenant.dispatch(name, {"incident_id": "i-1", **more}).error_code == "INCIDENT_RESOLVED"
    events = tenant.call("incidents.events", {"incident_id": "i-1"}).items
    assert [(event.seq, event.event_type) for event in events] == [
        (1, "CREATED"),
        (2, "ACKNOWLEDGED"),
        (3, "ESCALATED"),
        (4, "RESOLVED"),
    ]
    assert events[2].description == "<REDACTED_EMAIL>"
    entries = rows(second_connection, tenant, "audit_ledger", "entity_type = 'INCIDENT'")
    ordered = sorted(entries, key=lambda row: str(row["entry_id"]))
    assert [row["event_type"] for row in ordered] == [
        "IncidentCreated",
        "IncidentAcknowledged",
        "IncidentEscalated",
        "IncidentResolved",
    ]
    assert {row["run_id"] for row in entries} == {"r-1"}


def test_an_incident_is_closed_by_hand_with_its_reason(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    opened = report(tenant).incident
    closed = tenant.call("incidents.close", {"incident_id": opened.incident_id, "reason": "a false alarm"})
    assert (closed.resolution_method, closed.resolution_notes) == ("MANUAL_CLOSURE", "a false alarm")
    (entry,) = rows(second_connection, tenant, "audit_ledger", "event_type = 'IncidentManuallyClosed'")
    assert entry["action_reason"] == "a false alarm"
    events = tenant.call("incidents.events", {"incident_id": opened.incident_id}).items
    assert events[-1].event_type == "MANUALLY_CLOSED"


def test_lists_are_filtered_and_paged_newest_first(tenant: Tenant, clock: SteerableClock) -> None:
    start_run(tenant, run_id="r-1")
    for number, severity in enumerate(("LOW", "HIGH", "HIGH")):
        clock.advance(seconds=1)
        run = {"source_run_id": "r-1"} if number else {}
        report(tenant, incident_id=f"i-{number}", severity=severity, **run)
    tenant.call("incidents.acknowledge", {"incident_id": "i-1"})

    def ids(**query: Any) -> list[str]:
        return [item.incident_id for item in tenant.call("incidents.list", query).items]

    assert ids() == ["i-2", "i-1", "i-0"]
    assert ids(severity="HIGH") == ["i-2", "i-1"]
    assert ids(lifecycle_state="ACKED") == ["i-1"]
    assert ids(source_run_id="r-1") == ["i-2", "i-1"]
    assert ids(category="INTEGRITY") == []
    signature = tenant.call("incidents.get", {"incident_id": "i-0"}).recurrence_signature
    assert ids(signature=signature) == ["i-0"]
    first = tenant.call("incidents.list", {"limit": 2})
    rest = tenant.call("incidents.list", {"limit": 2, "cursor": first.next_cursor})
    assert [item.incident_id for item in (*first.items, *rest.items)] == ["i-2", "i-1", "i-0"]
    assert rest.next_cursor is None


def test_a_report_about_a_run_that_is_not_there_is_refused(tenant: Tenant) -> None:
    refused = tenant.dispatch("incidents.create", {"title": "x", "source_run_id": "nobody"})
    assert refused.error_code == "REFERENCE_NOT_FOUND"
    assert refused.error is not None
    assert refused.error.extra == {"field": "source_run_id"}
