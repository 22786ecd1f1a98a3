"""Retrieval seen from outside: what mediated access speaks for is matched, everything else is a bypass."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from app.domains.retrieval.engines.observations import record_observations
from app.hoc_spine.operation_registry import OperationResult
from app.hoc_spine.spine import Spine
from app.kernel.context import Actor, RequestContext
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant
from tests.factories.worlds import World, make_world, step


@pytest.fixture
def world(spine: Spine, tenant: Tenant, clock: SteerableClock) -> World:
    clock.freeze()
    return make_world(spine, tenant)


def observe(world: World, *, at: datetime, seconds: float = 1, **members: Any) -> str:
    """Record a span of the run as the ingest of spans does, and return its id."""
    row = {
        "trace_id": "a" * 32,
        "span_id": uuid4().hex[:16],
        "run_id": world.run_id,
        "operation": "retrieval",
        "data_source_id": None,
        "document_ids": [],
        "started_at": at,
        "ended_at": at + timedelta(seconds=seconds),
        "claimed_evidence_id": None,
    } | members
    tenant = world.tenant
    with tenant.spine.transactions.write(tenant.tenant_id) as connection:
        record_observations(connection, tenant_id=tenant.tenant_id, rows=[row])
    return str(row["span_id"])


def reconcile(world: World) -> Any:
    context = RequestContext(
        tenant_id=world.tenant.tenant_id, actor=Actor("SYSTEM", "w"), request_id="req-w", door="worker"
    )
    result: OperationResult = world.tenant.spine.dispatch("retrieval.reconcile", context, {})
    return result.unwrap()


def outcomes(world: World) -> dict[str, tuple[str, str | None, str | None]]:
    listed = world.tenant.call("retrieval.observations.list", {"limit": 500}).items
    return {row.span_id: (row.status.value, row.bypass_reason, row.evidence_id) for row in listed}


def signals_of(connection: sa.Connection, world: World) -> list[dict[str, Any]]:
    rows = connection.execute(
        sa.text("SELECT * FROM discovery_ledger WHERE tenant_id = :t ORDER BY signal_id"),
        {"t": world.tenant.tenant_id},
    )
    return [dict(row) for row in rows.mappings()]


def test_a_span_with_a_mediated_access_is_matched_and_one_without_raises_the_signal(
    world: World, clock: SteerableClock, second_connection: sa.Connection
) -> None:
    evidence_id = world.access().unwrap().evidence_id
    asked = clock.now()
    good = observe(world, at=asked)
    bad = observe(world, at=asked + timedelta(seconds=60), data_source_id="elsewhere")
    clock.advance(seconds=200)
    done = reconcile(world)
    assert (done.matched, done.bypasses, done.more) == (1, 1, False)
    found = outcomes(world)
    assert found[good] == ("MATCHED", None, evidence_id)
    assert found[bad] == ("BYPASS", "NO_MEDIATED_ACCESS", None)
    (signal,) = signals_of(second_connection, world)
    assert (signal["signal_type"], signal["artifact"], signal["field"]) == (
        "retrieval_bypass",
        "elsewhere",
        world.run_id,
    )
    assert signal["confidence"] == 90
    assert json.loads(signal["evidence"]) == {
        "run_id": world.run_id,
        "trace_id": "a" * 32,
        "span_id": bad,
        "reason": "NO_MEDIATED_ACCESS",
    }
    told = sa.text("SELECT count(*) FROM outbox WHERE tenant_id = :t AND type = 'RetrievalBypassDetected'")
    assert second_connection.execute(told, {"t": world.tenant.tenant_id}).scalar_one() == 1
    assert reconcile(world).bypasses == 0


def test_nothing_is_judged_before_its_grace_is_over(world: World, clock: SteerableClock) -> None:
    span = observe(world, at=clock.now(), seconds=1)
    clock.advance(seconds=30.9)
    assert reconcile(world).bypasses == 0
    clock.advance(seconds=0.1)
    assert reconcile(world).bypasses == 1
    assert outcomes(world)[span][1] == "NO_MEDIATED_ACCESS"


def test_each_reason_of_a_bypass(world: World, clock: SteerableClock) -> None:
    asked = clock.now()
    used = world.access().unwrap().evidence_id
    denied = world.access(purpose="marketing")
    assert denied.error is not None
    claimed = observe(world, at=asked - timedelta(seconds=1), claimed_evidence_id=used)
    refund = world.artifacts["refunds.md"]
    spans = {
        "again": observe(world, at=asked, claimed_evidence_id=used),
        "denied": observe(world, at=asked, claimed_evidence_id=denied.error.extra["evidence_id"]),
        "unknown": observe(world, at=asked, claimed_evidence_id="ev_nothing"),
        "no run but a claim": observe(world, at=asked, run_id=None, claimed_evidence_id=used),
        "no run": observe(world, at=asked, run_id=None),
        "another run": observe(world, at=asked, run_id="run-other"),
        "reading anyway": observe(world, at=asked),
    }
    clock.advance(minutes=5)
    later = clock.now()
    world.access().unwrap()
    spans["more documents"] = observe(world, at=later, document_ids=[refund, "another document"])
    spans["another source"] = observe(world, at=later, data_source_id="elsewhere")
    # Judged last: spans of one moment are judged by their ids, which are random here.
    after = later + timedelta(seconds=1)
    right = observe(world, at=after, data_source_id=world.plane_id, document_ids=[refund])
    clock.advance(minutes=5)
    reconcile(world)
    found = outcomes(world)
    assert {name: found[span][:2] for name, span in spans.items()} == {
        "again": ("BYPASS", "EVIDENCE_MISMATCH"),
        "denied": ("BYPASS", "EVIDENCE_MISMATCH"),
        "unknown": ("BYPASS", "EVIDENCE_MISMATCH"),
        "no run but a claim": ("BYPASS", "EVIDENCE_MISMATCH"),
        "no run": ("BYPASS", "NO_RUN"),
        "another run": ("BYPASS", "NO_MEDIATED_ACCESS"),
        "reading anyway": ("BYPASS", "NO_MEDIATED_ACCESS"),
        "more documents": ("BYPASS", "DOCUMENT_MISMATCH"),
        "another source": ("BYPASS", "NO_MEDIATED_ACCESS"),
    }
    assert found[claimed] == ("MATCHED", None, used)
    # A span that does not fit uses up nothing: the evidence is there for the one that does.
    assert found[right][0] == "MATCHED"


def test_an_access_counts_within_5_seconds_of_the_span(world: World, clock: SteerableClock) -> None:
    for before, after, status in ((6, 0, "BYPASS"), (5, 0, "MATCHED"), (0, 5, "MATCHED")):
        world.access().unwrap()
        asked = clock.now()
        ended = asked - timedelta(seconds=before) if before else asked + timedelta(seconds=after + 1)
        span = observe(world, at=ended - timedelta(seconds=1))
        clock.advance(minutes=1)
        reconcile(world)
        assert outcomes(world)[span][0] == status, (before, after)


def test_one_access_speaks_for_one_span_the_earliest(world: World, clock: SteerableClock) -> None:
    first = world.access().unwrap().evidence_id
    clock.advance(seconds=1)
    second = world.access().unwrap().evidence_id
    at = clock.now()
    spans = [observe(world, at=at + timedelta(seconds=number), data_source_id="repo") for number in (2, 0, 1)]
    clock.advance(minutes=1)
    reconcile(world)
    found = outcomes(world)
    assert [found[spans[1]], found[spans[2]]] == [("MATCHED", None, first), ("MATCHED", None, second)]
    assert found[spans[0]][:2] == ("BYPASS", "NO_MEDIATED_ACCESS")


def test_a_repeated_span_changes_nothing(world: World, clock: SteerableClock) -> None:
    at = clock.now()
    span = observe(world, at=at, data_source_id="one")
    observe(world, at=at, span_id=span, data_source_id="two")
    clock.advance(minutes=1)
    assert reconcile(world).bypasses == 1
    observe(world, at=at, span_id=span, data_source_id="three")
    (row,) = world.tenant.call("retrieval.observations.list", {"status": "BYPASS"}).items
    assert (row.data_source_id, row.operation) == ("one", "retrieval")
    assert reconcile(world).bypasses == 0


def test_a_tool_that_names_a_source_is_a_weaker_sign(
    world: World, clock: SteerableClock, second_connection: sa.Connection
) -> None:
    observe(world, at=clock.now(), operation="execute_tool", data_source_id="wiki")
    clock.advance(minutes=1)
    reconcile(world)
    assert [signal["confidence"] for signal in signals_of(second_connection, world)] == [60]


def test_observations_are_listed_by_filter_in_pages(world: World, clock: SteerableClock) -> None:
    at = clock.now()
    spans = [observe(world, at=at + timedelta(seconds=number)) for number in range(3)]
    observe(world, at=at, run_id=None)
    seen: list[str] = []
    cursor = None
    while True:
        question = {"run_id": world.run_id, "limit": 2, "cursor": cursor}
        page = world.tenant.call("retrieval.observations.list", question)
        seen += [row.span_id for row in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == spans
    assert world.tenant.call("retrieval.observations.list", {"status": "MATCHED"}).items == []


def test_a_judged_observation_never_changes(
    world: World, clock: SteerableClock, second_connection: sa.Connection
) -> None:
    observe(world, at=clock.now())
    clock.advance(minutes=1)
    reconcile(world)
    for statement in (
        "UPDATE retrieval_observations SET bypass_reason = 'NO_RUN' WHERE tenant_id = :t",
        "DELETE FROM retrieval_observations WHERE tenant_id = :t",
    ):
        with pytest.raises(sa.exc.DBAPIError):
            second_connection.execute(sa.text(statement), {"t": world.tenant.tenant_id})


def test_what_one_tenant_was_seen_doing_is_unknown_to_another(
    world: World, clock: SteerableClock, other_tenant: Tenant
) -> None:
    observe(world, at=clock.now())
    assert other_tenant.call("retrieval.observations.list", {}).items == []
    assert len(world.tenant.call("retrieval.observations.list", {}).items) == 1


def test_a_retrieval_that_arrives_as_a_step_is_matched_or_raises_the_signal(
    world: World, clock: SteerableClock, second_connection: sa.Connection
) -> None:
    retrieval = {"gen_ai.operation.name": "retrieval"}
    used = world.access().unwrap().evidence_id
    world.append(
        step(0, params={**retrieval, "hoc.evidence_id": used}),
        step(1, params=retrieval, occurred_at="2026-01-01T00:00:00Z"),
        step(2, params={"gen_ai.operation.name": "chat"}),
        step(3, params=retrieval),
    )
    # The same steps again tell nothing new.
    world.append(step(0, params={**retrieval, "hoc.evidence_id": used}))
    clock.advance(minutes=5)
    done = reconcile(world)
    assert (done.matched, done.bypasses) == (1, 2)
    assert outcomes(world) == {
        "0": ("MATCHED", None, used),
        "1": ("BYPASS", "NO_MEDIATED_ACCESS", None),
        "3": ("BYPASS", "NO_MEDIATED_ACCESS", None),
    }
    found = signals_of(second_connection, world)
    (signal,) = [row for row in found if row["signal_type"] == "retrieval_bypass"]
    assert signal["seen_count"] == 2
