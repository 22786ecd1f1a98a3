"""Idempotency: one key is one execution for a day, whatever becomes of the connection."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.operation_registry import OperationResult, Refusal
from app.hoc_spine.spine import Spine
from app.kernel.errors import ErrorKind, HocError
from app.kernel.inputs import Output
from app.kernel.pages import Page
from app.kernel.result_json import render
from tests.factories.operations import Echo, Probe, probe, probe_spine
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant, operator_context
from tests.factories.worlds import start_run

KEY = {"idempotency_key": "key-1"}
NEW_KEY = {"name": "A key", "actor_type": "SYSTEM", "actor_id": "crm", "scopes": ["runs:read"]}


class Counter:
    """A creating operation that counts its executions and may fail."""

    def __init__(self, spine: Spine, tenant: Tenant, **members: Any) -> None:
        self.executions = 0
        self.fails: Exception | None = None
        self.refuses: HocError | None = None
        self._tenant = tenant
        self._operation = probe(self._handle, creates=True, **members)
        self._spine = probe_spine(spine, self._operation)

    def __call__(self, payload: Any = None, **context: Any) -> OperationResult:
        by = self._tenant.context(**(KEY | context))
        return self._spine.dispatch(self._operation.name, by, {} if payload is None else payload)

    def _handle(self, ctx: Any, payload: Probe) -> Any:
        self.executions += 1
        ctx.audit("TenantUpdated", "TENANT", ctx.tenant_id, after={"value": payload.value})
        if self.fails is not None:
            raise self.fails
        if self.refuses is not None:
            return Refusal(self.refuses)
        return Echo(value=self.executions, label=payload.label)


@pytest.fixture
def counter(spine: Spine, tenant: Tenant) -> Counter:
    return Counter(spine, tenant)


def stored(connection: sa.Connection, tenant: Tenant) -> list[dict[str, Any]]:
    query = sa.text("SELECT * FROM idempotency_keys WHERE tenant_id = :t")
    return [dict(row) for row in connection.execute(query, {"t": tenant.tenant_id}).mappings()]


def entries(connection: sa.Connection, tenant: Tenant) -> int:
    query = sa.text("SELECT count(*) FROM audit_ledger WHERE tenant_id = :t")
    return int(connection.execute(query, {"t": tenant.tenant_id}).scalar_one())


def test_the_same_request_is_executed_once_and_answered_twice(
    counter: Counter, tenant: Tenant, second_connection: sa.Connection
) -> None:
    first, second = counter({"label": "ä"}), counter({"label": "ä"})
    assert first.unwrap() == second.unwrap() == Echo(value=1, label="ä")
    assert (first.replayed, second.replayed) == (False, True)
    assert (counter.executions, entries(second_connection, tenant)) == (1, 1)


def test_without_a_key_each_request_is_executed(counter: Counter) -> None:
    assert not counter(idempotency_key=None).replayed
    assert not counter(idempotency_key=None).replayed
    assert counter.executions == 2


def test_an_operation_that_creates_nothing_takes_no_key(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    extended = probe_spine(spine, probe(lambda _ctx, _payload: Echo()))
    assert extended.dispatch("probe.do", tenant.context(**KEY), {}).success
    assert stored(second_connection, tenant) == []


@pytest.mark.parametrize("other", [{"value": 2}, {"value": 1, "label": "x"}])
def test_the_same_key_with_another_body_is_refused(counter: Counter, other: dict[str, Any]) -> None:
    assert counter({"value": 1}).success
    refused = counter(other)
    assert refused.error is not None
    assert (refused.error_code, refused.error.kind) == ("IDEMPOTENCY_KEY_REUSED", ErrorKind.INVALID)
    assert counter({"value": 1}).replayed


def test_the_same_request_written_differently_is_the_same(counter: Counter) -> None:
    assert counter({"value": 0}).success
    assert counter({"label": None}).replayed


def test_the_same_key_for_another_run_is_another_request(counter: Counter, tenant: Tenant) -> None:
    start_run(tenant, run_id="r-1")
    assert counter().success
    assert counter(run_id="r-1").error_code == "IDEMPOTENCY_KEY_REUSED"


def test_the_same_key_for_another_operation_is_refused(
    spine: Spine, counter: Counter, tenant: Tenant
) -> None:
    assert counter({"value": 1}).success
    # Its input is the same, to the byte.
    assert Counter(spine, tenant, name="probe.other")({"value": 1}).error_code == "IDEMPOTENCY_KEY_REUSED"


def test_tenants_have_keys_of_their_own(spine: Spine, counter: Counter, other_tenant: Tenant) -> None:
    assert counter().success
    assert Counter(spine, other_tenant)({"value": 5}).success


def test_a_key_is_forgotten_whole_after_a_day(
    counter: Counter, clock: SteerableClock, tenant: Tenant, second_connection: sa.Connection
) -> None:
    clock.freeze()
    assert counter({"value": 1}).success
    clock.advance(hours=24, seconds=-1)
    assert counter({"value": 1}).replayed
    clock.advance(seconds=1)
    again = counter({"value": 2})
    assert (again.success, again.replayed, counter.executions) == (True, False, 2)
    assert counter({"value": 2}).replayed
    (row,) = stored(second_connection, tenant)
    assert (row["status"], json.loads(row["response"])) == ("DONE", {"data": {"value": 2, "label": None}})


def test_what_was_rolled_back_is_tried_again(
    counter: Counter, tenant: Tenant, second_connection: sa.Connection
) -> None:
    for error in (HocError(ErrorKind.CONFLICT, "NO", "No."), ZeroDivisionError()):
        counter.fails = error
        assert not counter().success
        assert stored(second_connection, tenant) == []
    counter.fails = None
    assert counter().unwrap().value == 3


def test_a_recorded_refusal_is_replayed_as_it_was(counter: Counter) -> None:
    counter.refuses = HocError(
        ErrorKind.LIMITED,
        "LIMITED",
        "Enough.",
        errors=[{"field": "/value"}],
        extra={"gate": "G1", "n": 1.0},
    )
    first, second = counter(), counter()
    assert (first.replayed, second.replayed, counter.executions) == (False, True, 1)
    for result in (first, second):
        assert result.error is not None
        assert (result.error.kind, result.error_code, result.error.detail) == (
            ErrorKind.LIMITED,
            "LIMITED",
            "Enough.",
        )
        assert (result.error.errors, result.error.extra) == (
            ({"field": "/value"},),
            {"gate": "G1", "n": 1.0},
        )


def test_a_refusal_that_says_when_to_try_again_leaves_the_key_free(counter: Counter) -> None:
    counter.refuses = HocError(ErrorKind.LIMITED, "LIMITED", "Enough for now.", retry_after=7)
    assert counter().error_code == "LIMITED"
    counter.refuses = None
    assert counter().success
    assert (counter().replayed, counter.executions) == (True, 2)


def test_a_refused_request_uses_no_key(
    counter: Counter, tenant: Tenant, second_connection: sa.Connection
) -> None:
    assert counter(scopes=[]).error_code == "INSUFFICIENT_SCOPE"
    assert counter({"value": -1}).error_code == "INVALID_INPUT"
    assert counter(run_id="no-such-run").error_code == "RUN_NOT_FOUND"
    assert stored(second_connection, tenant) == []
    assert counter({"value": 2}).success


def test_racing_requests_are_executed_once(
    counter: Counter, tenant: Tenant, second_connection: sa.Connection
) -> None:
    results: list[OperationResult] = []
    barrier = threading.Barrier(6)

    def request() -> None:
        barrier.wait()
        results.append(counter({"value": 1}))

    threads = [threading.Thread(target=request) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.error_code for result in results] == [None] * 6
    assert [result.unwrap().value for result in results] == [1] * 6
    assert sorted(result.replayed for result in results) == [False] + [True] * 5
    assert (counter.executions, entries(second_connection, tenant)) == (1, 1)


def test_a_secret_is_shown_once_and_never_stored(tenant: Tenant, second_connection: sa.Connection) -> None:
    made = tenant.dispatch("keys.create", NEW_KEY, **KEY).unwrap()
    again = tenant.dispatch("keys.create", NEW_KEY, **KEY)
    assert made.api_key.startswith("hoc_")
    assert again.replayed
    assert again.unwrap().api_key is None
    assert again.unwrap() == made.model_copy(update={"api_key": None})
    (row,) = stored(second_connection, tenant)
    assert made.api_key not in row["response"]


def test_the_operators_keys_are_shown_once_too(spine: Spine, tenant: Tenant) -> None:
    payload = NEW_KEY | {"tenant_id": tenant.tenant_id}
    by = operator_context(idempotency_key=f"for-{tenant.tenant_id}")
    first, second = (spine.dispatch("ops.keys.create", by, payload).unwrap() for _ in range(2))
    assert (first.key_id, second.api_key) == (second.key_id, None)
    assert first.api_key is not None


class Item(Output):
    name: str


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        (Page[Item], Page[Item](items=[Item(name="a"), Item(name="b")], next_cursor="c")),
        (list[Item], [Item(name="a")]),
        (Page[Item], Page[Item](items=[], next_cursor=None)),
    ],
    ids=["page", "list", "empty"],
)
def test_an_answer_of_many_is_replayed_as_it_was(
    spine: Spine, tenant: Tenant, output: Any, answer: Any
) -> None:
    extended = probe_spine(spine, probe(lambda _ctx, _payload: answer, creates=True, output=output))
    first, second = (extended.dispatch("probe.do", tenant.context(**KEY), {}) for _ in range(2))
    assert (second.replayed, second.data) == (True, first.data)
    assert second.data == answer


def test_a_run_is_started_once(tenant: Tenant, second_connection: sa.Connection) -> None:
    run = {
        "agent_id": "a",
        "goal": "g",
        "actor_type": "SYSTEM",
        "origin_system_id": "crm",
        "labels": {"x": 1e16},
    }
    first, second = (tenant.dispatch("runs.start", run, **KEY) for _ in range(2))
    assert second.replayed
    assert second.unwrap() == first.unwrap()
    state = sa.text("SELECT running_runs FROM tenant_state WHERE tenant_id = :t")
    assert second_connection.execute(state, {"t": tenant.tenant_id}).scalar_one() == 1


def test_the_answer_is_stored_with_the_work_or_not_at_all(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    def handler(ctx: Any, payload: Probe) -> Echo:
        ctx.audit("TenantUpdated", "TENANT", ctx.tenant_id, after={"big": "x" * 70_000})
        return Echo(value=payload.value)

    extended = probe_spine(spine, probe(handler, creates=True))
    refused = extended.dispatch("probe.do", tenant.context(**KEY), {})
    assert refused.error_code == "STATEMENT_TOO_LARGE"
    assert stored(second_connection, tenant) == []


def test_what_the_creating_operations_answer_is_replayed_byte_for_byte(
    tenant: Tenant, make_replays: Callable[[str, dict[str, Any]], tuple[bytes, bytes]]
) -> None:
    rule = {
        "kind": "ACCESS",
        "name": "R",
        "effect": "ALLOW",
        "scope": "TENANT",
        "condition": 'request.purpose == "support"',
    }
    text = {"name": "a.md", "artifact_type": "document", "content": "ä", "metadata": {"n": 1e16, "z": -0.0}}
    plane = {
        "plane_type": "docs",
        "plane_name": "handbook",
        "connector_type": "repository",
        "connector_id": "repo",
        "config": {"owned_collection": "c-1"},
    }
    for name, payload in (
        ("policies.rules.create", rule),
        ("repository.collections.create", {"id": "c-1", "name": "handbook"}),
        ("repository.artifacts.create", {"collection_id": "c-1", **text}),
        ("repository.artifacts.create_bulk", {"collection_id": "c-1", "items": [text | {"name": "b.md"}]}),
        ("knowledge.planes.register", plane),
    ):
        first, second = make_replays(name, payload)
        assert first == second, name


@pytest.fixture
def make_replays(tenant: Tenant) -> Callable[[str, dict[str, Any]], tuple[bytes, bytes]]:
    def make(name: str, payload: dict[str, Any]) -> tuple[bytes, bytes]:
        first, second = (tenant.dispatch(name, payload, idempotency_key=f"k-{name}") for _ in range(2))
        assert second.replayed
        return render(first.unwrap()), render(second.unwrap())

    return make
