"""Envelope, trace and replay window of a run: what the logs tell, and where they have it from."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run, step


def append(tenant: Tenant, run_id: str, *steps: object, **members: object) -> None:
    tenant.call("traces.steps.append", {"run_id": run_id, "steps": list(steps), **members})


def test_an_envelope_sums_what_all_attempts_used(tenant: Tenant) -> None:
    run_id = start_run(tenant, provider_type="acme", model="m-1", source="SDK")
    empty = tenant.call("logs.run_envelope", {"run_id": run_id})
    assert (empty.input_tokens, empty.cost_cents, empty.execution_status) == (None, 0, "RUNNING")
    append(tenant, run_id, step(0, cost_cents=1.5, usage={"TOKENS_INPUT": 10, "TOKENS_OUTPUT": 3}))
    tenant.call("runs.retry", {"run_id": run_id, "from_attempt": 1, "reason": "again"})
    append(tenant, run_id, step(0, cost_cents=2, usage={"TOKENS_INPUT": 5}))
    tenant.call("runs.complete", {"run_id": run_id, "status": "cancelled"})
    envelope = tenant.call("logs.run_envelope", {"run_id": run_id})
    assert (envelope.provider, envelope.model, envelope.source) == ("acme", "m-1", "SDK")
    assert (envelope.input_tokens, envelope.output_tokens, envelope.cost_cents) == (15, 3, 3.5)
    assert (envelope.execution_status, envelope.is_synthetic) == ("ABORTED", False)
    assert envelope.trace_id == envelope.metadata.trace_id == f"trace_{run_id}.2"
    run = tenant.call("runs.get", {"run_id": run_id})
    assert (envelope.started_at, envelope.completed_at) == (run.started_at, run.completed_at)
    metadata = envelope.metadata
    assert (metadata.tenant_id, metadata.run_id) == (tenant.tenant_id, run_id)
    assert (metadata.source_domain, metadata.timezone, metadata.immutable) == ("LOGS", "UTC", True)


def test_a_trace_is_paged_in_order_and_counted_whole(tenant: Tenant) -> None:
    run_id = start_run(tenant)
    append(tenant, run_id, *(step(n, duration_ms=1.5, cost_cents=0.25) for n in range(5)))
    tenant.call("runs.retry", {"run_id": run_id, "from_attempt": 1, "reason": "again"})
    append(tenant, run_id, step(0, skill_name="second try"))
    seen = []
    cursor = None
    while True:
        page = tenant.call("logs.run_trace", {"run_id": run_id, "attempt": 1, "limit": 2, "cursor": cursor})
        assert (page.total_steps, page.trace_id) == (5, f"trace_{run_id}")
        seen += page.steps
        cursor = page.next_cursor
        if cursor is None:
            break
    assert [item.step_index for item in seen] == [0, 1, 2, 3, 4]
    assert {(item.duration_ms, item.cost_cents, item.status) for item in seen} == {(1.5, 0.25, "success")}
    newest = tenant.call("logs.run_trace", {"run_id": run_id})
    assert [(item.skill_name, item.step_index) for item in newest.steps] == [("second try", 0)]
    refused = tenant.dispatch("logs.run_trace", {"run_id": run_id, "attempt": 3})
    assert refused.error_code == "TRACE_NOT_FOUND"


def test_a_replay_shows_what_happened_around_the_first_block(tenant: Tenant, clock: SteerableClock) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    clock.freeze(start)
    run_id = start_run(tenant)
    for index in range(7):
        clock.advance(seconds=10)
        append(tenant, run_id, step(index))
        if index in (3, 5):
            payload = {
                "decision_type": "POLICY",
                "facts": {"evaluated": True, "violated": True, "severity": "error"},
                "decision_reason": "not allowed",
                "run_id": run_id,
            }
            tenant.call("decisions.emit", payload)
    tenant.call("runs.halt", {"run_id": run_id, "reason": "enough"})
    replay = tenant.call("logs.run_replay", {"run_id": run_id, "window_seconds": 10})
    assert (replay.inflection_timestamp - start).total_seconds() == 40
    assert [(event.source, event.step_index, event.outcome) for event in replay.events] == [
        ("LLM", 2, "success"),
        ("LLM", 3, "success"),
        ("POLICY", None, "BLOCKED"),
        ("LLM", 4, "success"),
    ]
    assert not replay.truncated
    wide = tenant.call("logs.run_replay", {"run_id": run_id})
    assert [event.action for event in wide.events if event.source == "SYSTEM"] == [
        "IncidentCreated",
        "RunHalted",
        "run.completed",
    ]
    moments = [(event.timestamp, event.source) for event in wide.events]
    assert moments == sorted(moments)
    span = (wide.window.until - wide.window.since).total_seconds()
    assert span == 60
    incident = tenant.call("runs.evidence", {"run_id": run_id}).incidents_caused[0]
    assert wide.metadata.incident_ids == [incident.incident_id]


@pytest.mark.parametrize("operation", ["logs.run_envelope", "logs.run_trace", "logs.run_replay"])
def test_the_run_of_another_tenant_is_not_found(tenant: Tenant, other_tenant: Tenant, operation: str) -> None:
    run_id = start_run(tenant)
    assert tenant.dispatch(operation, {"run_id": run_id}).success
    assert other_tenant.dispatch(operation, {"run_id": run_id}).error_code == "RUN_NOT_FOUND"
