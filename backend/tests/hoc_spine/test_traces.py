"""Spine: steps in batches: redacted, chained, replayed, refused, and verified from what is stored."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.traces.engines import steps as step_engine
from app.domains.traces.engines import traces as trace_engine
from app.domains.traces.engines.verification import TraceVerdict, summarise, verify_traces
from app.hoc_spine.operation_registry import OperationResult
from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import statement_counter
from tests.factories.tenants import Tenant

START: dict[str, Any] = {
    "run_id": "r-1",
    "agent_id": "agent-1",
    "goal": "Summarise the contract",
    "actor_type": "HUMAN",
    "actor_id": "user-7",
    "origin_system_id": "crm",
}


def step(index: int, **changes: Any) -> dict[str, Any]:
    return {"step_index": index, "skill_id": "s", "skill_name": "search", "status": "success", **changes}


def append(tenant: Tenant, *steps: Mapping[str, Any], **members: Any) -> OperationResult:
    return tenant.dispatch("traces.steps.append", {"run_id": "r-1", "steps": list(steps), **members})


@pytest.fixture
def run(tenant: Tenant) -> Any:
    return tenant.call("runs.start", START)


def stored(connection: sa.Connection, tenant: Tenant) -> list[dict[str, Any]]:
    query = "SELECT * FROM aos_trace_steps WHERE tenant_id = :t ORDER BY trace_id, step_index"
    return [dict(row) for row in connection.execute(sa.text(query), {"t": tenant.tenant_id}).mappings()]


def facts(connection: sa.Connection, tenant: Tenant) -> list[dict[str, Any]]:
    query = "SELECT type, statement FROM log_leaves WHERE tenant_id = :t AND run_id = 'r-1' "
    query += " ORDER BY late, fact_no"
    return [dict(row) for row in connection.execute(sa.text(query), {"t": tenant.tenant_id}).mappings()]


def verdicts(spine: Spine, tenant: Tenant, connection: sa.Connection) -> list[TraceVerdict]:
    """Verify what the database holds now, read by a unit of its own."""
    run_row = connection.execute(
        sa.text("SELECT policy_snapshot_id FROM runs WHERE tenant_id = :t AND run_id = 'r-1'"),
        {"t": tenant.tenant_id},
    ).one()
    with spine.transactions.read(tenant.tenant_id, snapshot=True) as unit:
        traces = trace_engine.list_traces(unit, tenant_id=tenant.tenant_id, run_id="r-1")
        steps = step_engine.list_run_steps(unit, tenant_id=tenant.tenant_id, run_id="r-1")
    full = [{**trace, "policy_snapshot_id": run_row[0]} for trace in traces]
    return verify_traces(full, steps, facts(connection, tenant))


@pytest.mark.usefixtures("run")
def test_a_batch_is_redacted_chained_and_covered_by_one_fact(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    result = append(
        tenant,
        step(0, params={"to": "bob@example.com", "password": "x"}, outcome_data=["4111 1111 1111 1111"]),
        step(1, cost_cents=0.0001, duration_ms="1.5", usage={"TOKENS_INPUT": 12, "COST_USD": "0.5"}),
    ).unwrap()
    assert (result.appended, result.replayed, result.step_count) == (2, 0, 2)
    assert (result.breaches, result.must_stop) == ([], False)
    first, second = stored(second_connection, tenant)
    assert first["params"] == '{"password":"<REDACTED>","to":"<REDACTED_EMAIL>"}'
    assert (first["outcome_data"], first["redactions"]) == ('["<REDACTED_CARD>"]', 3)
    assert (second["prev_hash"], second["step_hash"]) == (first["step_hash"], result.head_hash)
    assert (second["cost_micro"], second["duration_us"]) == (1, 1500)
    assert second["usage"] == '{"COST_USD":500000,"TOKENS_INPUT":12000000}'
    extended = facts(second_connection, tenant)[-1]
    assert extended["type"] == "trace.extended"
    assert json.loads(extended["statement"])["body"] == {
        "trace_id": "trace_r-1",
        "attempt": 1,
        "from_index": 0,
        "to_index": 1,
        "head_hash": result.head_hash,
    }
    trace = tenant.call("traces.get", {"run_id": "r-1", "attempt": 1})
    assert (trace.step_count, trace.input_tokens, trace.output_tokens) == (2, 12, None)
    assert trace.cost_cents == 50.0


@pytest.mark.usefixtures("run")
def test_steps_are_shown_as_they_were_reported(tenant: Tenant) -> None:
    reported = step(
        0,
        params={"q": "x", "n": 1e16},
        outcome_data={"rows": [1, None]},
        outcome_category="OK",
        outcome_code="200",
        cost_cents=1.25,
        duration_ms=12.345,
        retry_count=2,
        input_hash="a",
        output_hash="b",
        rng_state_before="c",
        replay_behavior="check",
        level="WARN",
        side_effect=True,
        reservation_id="res_1",
        usage={"TOKENS_TOTAL": 100, "COST_USD": 105.5},
        external_id="otlp:1:2",
        occurred_at="2026-02-09T01:00:00+01:00",
    )
    append(tenant, reported).unwrap()
    (shown,) = tenant.call("traces.steps.list", {"run_id": "r-1"}).items
    view = shown.model_dump(mode="json")
    assert {name: view[name] for name in reported} == {
        **reported,
        "occurred_at": "2026-02-09T00:00:00.000000Z",
    }
    assert view["protected_state"] == "INTACT"


@pytest.mark.usefixtures("run")
def test_a_batch_sent_again_changes_nothing(tenant: Tenant, second_connection: sa.Connection) -> None:
    batch = [step(0, params={"a": 1}), step(1)]
    first = append(tenant, *batch).unwrap()
    before = (stored(second_connection, tenant), facts(second_connection, tenant))
    again = append(tenant, *batch).unwrap()
    assert (again.appended, again.replayed, again.head_hash) == (0, 2, first.head_hash)
    assert (stored(second_connection, tenant), facts(second_connection, tenant)) == before
    longer = append(tenant, step(1), step(2)).unwrap()
    assert (longer.appended, longer.replayed, longer.step_count) == (1, 1, 3)


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("batch", "code", "extra"),
    [
        ([step(0), step(1, external_id="e-1"), step(2, params={"x": 1})], "STEP_CONFLICT", {"step_index": 2}),
        ([step(4)], "STEP_GAP", {"expected_index": 3}),
        ([step(3), step(5)], "STEP_BATCH_NOT_CONTIGUOUS", {}),
        ([step(3), step(3)], "STEP_BATCH_NOT_CONTIGUOUS", {}),
        ([step(3, external_id="e-1")], "STEP_CONFLICT", {"step_index": 1}),
        ([step(3, external_id="e"), step(4, external_id="e")], "INVALID_INPUT", {}),
        ([step(3, decision_id="dec_1")], "REFERENCE_NOT_FOUND", {"field": "/steps/0/decision_id"}),
        ([step(3, status="ok")], "INVALID_INPUT", {}),
        ([step(3, usage={"FOO": 1})], "INVALID_INPUT", {}),
        ([step(3, usage={"COST_USD": 0.0000001})], "INVALID_INPUT", {}),
        ([step(3, cost_cents=0.00001)], "INVALID_INPUT", {}),
        ([step(3, duration_ms=-1)], "INVALID_INPUT", {}),
        ([step(3, cost_cents="1e400")], "INVALID_INPUT", {}),
        ([step(3, cost_cents="NaN")], "INVALID_INPUT", {}),
        ([step(3, surprise=1)], "INVALID_INPUT", {}),
        ([step(-1)], "INVALID_INPUT", {}),
        ([], "INVALID_INPUT", {}),
        ([step(3, params={"text": "x" * 70_000})], "INVALID_INPUT", {}),
    ],
)
def test_a_refused_batch_writes_nothing(
    tenant: Tenant,
    second_connection: sa.Connection,
    batch: list[dict[str, Any]],
    code: str,
    extra: dict[str, Any],
) -> None:
    append(tenant, step(0), step(1, external_id="e-1"), step(2)).unwrap()
    before = stored(second_connection, tenant)
    refused = append(tenant, *batch)
    assert refused.error_code == code
    assert refused.error is not None
    assert refused.error.extra == extra
    assert stored(second_connection, tenant) == before


@pytest.mark.usefixtures("run")
def test_params_nested_too_deeply_are_refused(tenant: Tenant) -> None:
    deep: Any = {}
    for _ in range(40):
        deep = {"a": deep}
    assert append(tenant, step(0, params=deep)).error_code == "INVALID_INPUT"


@pytest.mark.usefixtures("run")
def test_steps_of_ended_attempts_and_runs_are_replayed_or_refused(tenant: Tenant) -> None:
    append(tenant, step(0)).unwrap()
    tenant.call("runs.retry", {"run_id": "r-1", "from_attempt": 1, "reason": "again"})
    assert append(tenant, step(0), attempt=1).unwrap().replayed == 1
    refused = append(tenant, step(1), attempt=1)
    assert (refused.error_code, refused.error and refused.error.extra) == ("ATTEMPT_CLOSED", {"attempt": 2})
    assert append(tenant, step(0, level="WARN"), attempt=1).error_code == "ATTEMPT_CLOSED"
    assert append(tenant, step(0), attempt=3).error_code == "TRACE_NOT_FOUND"
    append(tenant, step(0)).unwrap()
    tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    assert append(tenant, step(0)).unwrap().replayed == 1
    assert append(tenant, step(1)).error_code == "TRACE_SEALED"
    assert append(tenant, step(0, level="WARN")).error_code == "TRACE_SEALED"
    assert append(tenant, step(5)).error_code == "TRACE_SEALED"


def test_steps_of_another_tenant_are_not_found(tenant: Tenant, other_tenant: Tenant) -> None:
    other_tenant.call("runs.start", START)
    for name, payload in (
        ("traces.steps.append", {"steps": [step(0)]}),
        ("traces.steps.list", {}),
        ("traces.get", {"attempt": 1}),
        ("attempts.list", {}),
        ("runs.get", {}),
        ("runs.retry", {"from_attempt": 1, "reason": "x"}),
        ("runs.complete", {"status": "succeeded"}),
        ("runs.halt", {"reason": "x"}),
    ):
        assert tenant.dispatch(name, {"run_id": "r-1", **payload}).error_code == "RUN_NOT_FOUND", name


@pytest.mark.usefixtures("run")
def test_steps_are_listed_by_page_and_status(tenant: Tenant) -> None:
    append(
        tenant, *(step(number, status="failure" if number % 2 else "success") for number in range(5))
    ).unwrap()
    query: dict[str, Any] = {"run_id": "r-1", "limit": 2}
    seen = []
    while True:
        page = tenant.call("traces.steps.list", query)
        seen += [item.step_index for item in page.items]
        if page.next_cursor is None:
            break
        query["cursor"] = page.next_cursor
    assert seen == [0, 1, 2, 3, 4]
    failed = tenant.call("traces.steps.list", {"run_id": "r-1", "status": "failure"})
    assert [item.step_index for item in failed.items] == [1, 3]


@pytest.fixture
def statements(spine: Spine) -> Iterator[list[str]]:
    heard: list[str] = []
    active = threading.Event()
    active.set()
    statement_counter(spine.transactions.engine, lambda text: heard.append(text) if active.is_set() else None)
    yield heard
    active.clear()


def _work(statements: list[str]) -> list[str]:
    """The statements of the work: without opening and closing the unit and reading the tenant's standing."""
    ends = ("BEGIN", "COMMIT", "ROLLBACK")
    return [text for text in statements if not text.startswith(ends) and "kill_engaged" not in text]


@pytest.mark.usefixtures("run")
def test_a_batch_costs_at_most_seven_statements_whatever_its_size(
    tenant: Tenant, statements: list[str], dialect: str
) -> None:
    used = {"usage": {"TOKENS_INPUT": 3, "COST_USD": "0.5"}}
    append(tenant, step(0, **used)).unwrap()
    costs = []
    for batch in (
        [step(number) for number in range(1, 11)],
        [step(number, **used) for number in range(11, 21)],
        [step(number, **used, external_id=f"e-{number}") for number in range(21, 1021)],
        [step(number, **used, external_id=f"e-{number}") for number in range(1020, 1040)],
    ):
        statements.clear()
        append(tenant, *batch).unwrap()
        costs.append(len([text for text in statements if not text.startswith(("BEGIN", "COMMIT"))]))
    # Run, trace, standing; steps, trace; counters, entries; fact counter, leaf. What a batch meets is asked
    # with the first of them on SQLite alone, which in turn has no statement that writes two tables at once.
    assert costs == ([5, 7, 7, 7] if dialect == "sqlite" else [4, 5, 6, 6])


@pytest.mark.usefixtures("run")
def test_a_start_costs_at_most_seven_statements_with_a_cached_snapshot(
    tenant: Tenant, statements: list[str]
) -> None:
    statements.clear()
    tenant.call("runs.start", START | {"run_id": "r-2"})
    assert len(_work(statements)) <= 7


@pytest.mark.usefixtures("run")
def test_a_completion_costs_at_most_sixteen_statements(tenant: Tenant, statements: list[str]) -> None:
    append(tenant, step(0)).unwrap()
    statements.clear()
    tenant.call("runs.halt", {"run_id": "r-1", "reason": "stop"})
    assert len(_work(statements)) <= 16


@pytest.mark.usefixtures("run")
def test_racing_batches_make_one_chain(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    results: list[OperationResult] = []
    barrier = threading.Barrier(8)

    def send(number: int) -> None:
        barrier.wait()
        results.append(append(tenant, step(0, params={"sender": number}), step(1)))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(str(result.error_code) for result in results) == ["None"] + ["STEP_CONFLICT"] * 7
    assert len(stored(second_connection, tenant)) == 2
    (verdict,) = verdicts(spine, tenant, second_connection)
    assert (verdict.code, verdict.chain_length) == (None, 2)


@pytest.mark.usefixtures("run")
def test_what_was_stored_verifies_across_attempts(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    append(tenant, step(0, params={"float": 1.0, "big": 10**30, "text": "ü\u2028"}), step(1)).unwrap()
    append(tenant, step(2, usage={"COST_USD": 1})).unwrap()
    tenant.call("runs.retry", {"run_id": "r-1", "from_attempt": 1, "reason": "again"})
    append(tenant, step(0, outcome_data=[])).unwrap()
    found = verdicts(spine, tenant, second_connection)
    assert [(verdict.code, verdict.sealed) for verdict in found] == [(None, True), (None, False)]
    assert summarise("r-1", found, stored(second_connection, tenant))["failure_reason"] == "Trace not sealed"
    ended = tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    found = verdicts(spine, tenant, second_connection)
    integrity = summarise("r-1", found, stored(second_connection, tenant))
    assert integrity["verification_status"] == "VERIFIED"
    assert (integrity["chain_length"], integrity["root_hash"]) == (4, ended.root_hash)
    assert [verdict.values for verdict in found] == [{"intact": 3}, {"intact": 1}]
