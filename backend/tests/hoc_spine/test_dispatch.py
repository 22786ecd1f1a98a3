"""Dispatch: one order of steps, one unit of work, and always a result."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from app.hoc_spine.operation_registry import OperationResult, Refusal, Settlement
from app.hoc_spine.spine import Spine
from app.kernel.context import Precondition
from app.kernel.errors import ErrorKind, HocError
from tests.factories.operations import Echo, Probe, probe, probe_spine
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant, make_tenant, operator_context
from tests.factories.worlds import start_run

# Named here, so that no line of source in a trace holds them.
PERSON = "bob@example.com"
SECRET = "a secret value"
BUSY = HocError(ErrorKind.UNAVAILABLE, "BUSY", "Busy.")
NO = HocError(ErrorKind.CONFLICT, "NO", "No.", extra={"gate": "G1"})


class TakenBackError(Exception):
    """Ends a savepoint."""


class Desk:
    """Dispatches one probe as the tenant and looks at what it left."""

    def __init__(self, spine: Spine, tenant: Tenant, seen: sa.Connection) -> None:
        self._spine, self.tenant, self._seen = spine, tenant, seen
        self.last: Spine | None = None

    def run(
        self, handler: Callable[..., Any], payload: Any = None, *, context: Any = None, **members: Any
    ) -> OperationResult:
        self.last = probe_spine(self._spine, probe(handler, **members))
        by = self.tenant.context(**(context or {}))
        return self.last.dispatch("probe.do", by, {} if payload is None else payload)

    @property
    def record(self) -> dict[str, Any]:
        assert self.last is not None
        return self.last.audit_store.get_dispatch_records()[0]

    def count(self, table: str) -> int:
        query = sa.text(f"SELECT count(*) FROM {table} WHERE tenant_id = :t")
        return int(self._seen.execute(query, {"t": self.tenant.tenant_id}).scalar_one())

    @property
    def name(self) -> str:
        query = sa.text("SELECT name FROM tenants WHERE tenant_id = :t")
        return str(self._seen.execute(query, {"t": self.tenant.tenant_id}).scalar_one())


@pytest.fixture
def desk(spine: Spine, tenant: Tenant, second_connection: sa.Connection) -> Desk:
    return Desk(spine, tenant, second_connection)


def leave(ctx: Any, payload: Probe) -> Echo:
    """Change a row and record it in every way there is."""
    rename = sa.text("UPDATE tenants SET name = :name WHERE tenant_id = :t")
    ctx.connection.execute(rename, {"name": f"value {payload.value}", "t": ctx.tenant_id})
    ctx.audit("TenantUpdated", "TENANT", ctx.tenant_id, after={"value": payload.value}, reason="because")
    ctx.outbox("PlaneTransitioned", {"value": payload.value})
    return Echo(value=payload.value)


def never(_ctx: Any, _payload: Any) -> Echo:
    pytest.fail("the handler ran")


def test_a_success_commits_all_it_wrote(desk: Desk) -> None:
    result = desk.run(leave, {"value": 7})
    assert (result.success, result.committed, result.replayed, result.error) == (True, True, False, None)
    assert result.unwrap() == Echo(value=7)
    assert result.duration_ms > 0
    assert desk.name == "value 7"
    assert [desk.count(table) for table in ("audit_ledger", "outbox", "log_leaves")] == [1, 1, 1]
    assert desk.record["outcome"] == "COMMITTED"


def test_an_unknown_operation_is_a_result_too(desk: Desk, spine: Spine) -> None:
    result = spine.dispatch("no.such.operation", desk.tenant.context(), {})
    assert (result.error_code, result.committed, result.data) == ("UNKNOWN_OPERATION", False, None)
    newest = spine.audit_store.get_dispatch_records(operation="no.such.operation")[0]
    assert (newest["outcome"], newest["operation_version"]) == ("REFUSED", 0)


def test_authority_is_asked_before_the_input_is_looked_at(desk: Desk) -> None:
    result = desk.run(never, {"value": "no number", "unknown": 1}, context={"scopes": ["runs:read"]})
    assert result.error_code == "INSUFFICIENT_SCOPE"
    assert (desk.record["outcome"], desk.record["authority_allowed"]) == ("REFUSED", False)
    assert desk.record["authority_code"] == "INSUFFICIENT_SCOPE"


def test_an_input_that_does_not_fit_is_refused_with_every_reason(desk: Desk) -> None:
    result = desk.run(never, {"value": "7", "unknown": 1})
    assert result.error is not None
    assert result.error_code == "INVALID_INPUT"
    assert {item["field"] for item in result.error.errors} == {"/value", "/unknown"}
    assert (desk.record["outcome"], desk.record["authority_allowed"]) == ("REFUSED", True)


@pytest.mark.parametrize(
    "payload",
    [{"label": "\ud800"}, {"label": {1, 2}}, {"value": float("nan")}, {"label": object()}, {1: 2}],
    ids=["surrogate", "set", "nan", "object", "number key"],
)
def test_a_payload_that_no_json_holds_is_refused(desk: Desk, payload: Any) -> None:
    assert desk.run(never, payload).error_code == "INVALID_INPUT"


def test_a_payload_that_holds_itself_is_refused(desk: Desk) -> None:
    endless: dict[str, Any] = {}
    endless["label"] = endless
    assert desk.run(never, endless).error_code == "INVALID_INPUT"


def test_an_input_model_is_taken_as_it_is(desk: Desk) -> None:
    assert desk.run(leave, Probe(value=3)).unwrap().value == 3


def test_a_returned_refusal_commits_its_record(desk: Desk) -> None:
    def handler(ctx: Any, payload: Probe) -> Refusal:
        leave(ctx, payload)
        return Refusal(NO)

    result = desk.run(handler, {"value": 8})
    assert (result.success, result.committed, result.error_code) == (False, True, "NO")
    assert result.data is None
    assert desk.name == "value 8"
    assert [desk.count(table) for table in ("audit_ledger", "outbox", "log_leaves")] == [1, 1, 1]
    assert (desk.record["outcome"], desk.record["success"]) == ("COMMITTED", False)


def test_a_raised_refusal_takes_everything_back(desk: Desk) -> None:
    def handler(ctx: Any, payload: Probe) -> Echo:
        leave(ctx, payload)
        raise NO

    result = desk.run(handler)
    assert (result.success, result.committed, result.error_code) == (False, False, "NO")
    assert result.error is NO
    assert desk.name == "Test tenant"
    assert [desk.count(table) for table in ("audit_ledger", "outbox", "log_leaves")] == [0, 0, 0]
    assert desk.record["outcome"] == "ROLLED_BACK"


def test_a_bug_takes_everything_back_and_tells_only_its_class(desk: Desk) -> None:
    def handler(ctx: Any, payload: Probe) -> Echo:
        leave(ctx, payload)
        raise ZeroDivisionError(f"the salary of {PERSON} is 7000")

    with capture_logs() as logs:
        result = desk.run(handler)
    assert result.error is not None
    assert (result.error_code, result.committed) == ("HANDLER_EXCEPTION:ZeroDivisionError", False)
    assert (result.error.kind, result.error.detail) == (ErrorKind.INTERNAL, "The operation failed.")
    assert desk.name == "Test tenant"
    assert [desk.count(table) for table in ("audit_ledger", "outbox", "log_leaves")] == [0, 0, 0]
    assert desk.record["outcome"] == "ROLLED_BACK"
    (line,) = [line for line in logs if line["event"] == "dispatch.handler_exception"]
    assert "in handler" in line["trace"]
    assert PERSON not in line["trace"]


def test_a_database_error_in_the_log_shows_no_row(desk: Desk) -> None:
    def handler(ctx: Any, _payload: Probe) -> Echo:
        broken = sa.text("UPDATE tenant_state SET running_runs = -1, frozen_by = :by WHERE tenant_id = :t")
        ctx.connection.execute(broken, {"t": ctx.tenant_id, "by": SECRET})
        return Echo()

    with capture_logs() as logs:
        result = desk.run(handler)
    assert result.error_code == "HANDLER_EXCEPTION:IntegrityError"
    assert "running_runs" in str(logs)
    assert SECRET not in str(logs)


def test_a_handler_knows_who_asks_and_when(desk: Desk, clock: SteerableClock) -> None:
    moment = clock.freeze()
    seen: dict[str, Any] = {}

    def handler(ctx: Any, _payload: Probe) -> Echo:
        seen.update(t=ctx.tenant_id, actor=ctx.actor.id, now=ctx.now, plan=ctx.standing.plan)
        return Echo()

    desk.run(handler, context={"actor_type": "AGENT", "actor_id": "a-1"}).unwrap()
    assert seen == {"t": desk.tenant.tenant_id, "actor": "a-1", "now": moment, "plan": "ENTERPRISE"}


def test_prepare_runs_outside_the_unit_and_hands_over(desk: Desk) -> None:
    def prepare(ctx: Any, payload: Probe) -> int:
        with ctx.read_unit() as connection:
            query = sa.text("SELECT count(*) FROM tenants WHERE tenant_id = :t")
            return int(connection.execute(query, {"t": ctx.tenant_id}).scalar_one()) + payload.value

    def handler(ctx: Any, _payload: Probe) -> Echo:
        return Echo(value=ctx.prepared)

    assert desk.run(handler, {"value": 4}, prepare=prepare).unwrap().value == 5


def test_a_refusal_of_prepare_begins_nothing(desk: Desk) -> None:
    def prepare(_ctx: Any, _payload: Probe) -> None:
        raise NO

    assert desk.run(never, prepare=prepare).error_code == "NO"
    assert desk.record["outcome"] == "REFUSED"


def test_a_read_succeeds_without_a_commit_of_work(desk: Desk) -> None:
    result = desk.run(lambda _ctx, _payload: Echo(value=1), mode="read")
    assert (result.success, result.committed) == (True, False)
    assert (desk.record["outcome"], desk.record["success"]) == ("COMMITTED", True)


def test_a_read_that_records_is_a_bug(desk: Desk) -> None:
    def handler(ctx: Any, _payload: Probe) -> Echo:
        ctx.outbox("PlaneTransitioned", {})
        return Echo()

    assert desk.run(handler, mode="read").error_code == "HANDLER_EXCEPTION:RuntimeError"


def test_a_read_learns_the_standing_when_it_asks(desk: Desk) -> None:
    def handler(ctx: Any, _payload: Probe) -> Echo:
        return Echo(label=ctx.standing.tenant_status)

    assert desk.run(handler, mode="read").unwrap().label == "ACTIVE"


def test_the_records_of_a_dispatch_come_after_its_end(desk: Desk, spine: Spine) -> None:
    seen: list[int] = []

    class Look:
        name = "look"
        committed_only = True

        def handle(self, _record: Any) -> None:
            seen.append(desk.count("audit_ledger"))

    probe_spine(spine, probe(leave), adapters=(Look(),)).dispatch("probe.do", desk.tenant.context(), {})
    assert seen == [1]


def test_a_raising_store_and_adapter_change_nothing(desk: Desk, spine: Spine) -> None:
    class Broken:
        name = "broken"
        committed_only = False

        def handle(self, _record: Any) -> None:
            raise OSError("no")

    extended = probe_spine(spine, probe(leave), adapters=(Broken(),))
    extended.audit_store.record_dispatch = Broken().handle  # type: ignore[method-assign]
    with capture_logs() as logs:
        assert extended.dispatch("probe.do", desk.tenant.context(), {}).success
    assert desk.count("audit_ledger") == 1
    assert {line["event"] for line in logs} == {"dispatch.record_failed", "consequence.adapter_failed"}


def nested(desk: Desk, spine: Spine, outer: Callable[..., Any], inner: Callable[..., Any]) -> OperationResult:
    """Dispatch `outer`, which may call `inner` as the operation probe.inner."""
    desk.last = probe_spine(spine, probe(outer), probe(inner, name="probe.inner"))
    return desk.last.dispatch("probe.do", desk.tenant.context(), {"value": 1})


def test_a_nested_dispatch_joins_the_unit(desk: Desk, spine: Spine) -> None:
    def outer(ctx: Any, _payload: Probe) -> Echo:
        answer: Echo = ctx.dispatch("probe.inner", {"value": 2})
        assert desk.count("audit_ledger") == 0
        return answer

    assert nested(desk, spine, outer, leave).unwrap().value == 2
    assert (desk.name, desk.count("audit_ledger")) == ("value 2", 1)
    assert [record["operation"] for record in desk.last.audit_store.get_dispatch_records()] == ["probe.do"]  # type: ignore[union-attr]


def test_the_ledger_names_the_nested_operation(
    desk: Desk, spine: Spine, second_connection: sa.Connection
) -> None:
    nested(desk, spine, lambda ctx, _payload: ctx.dispatch("probe.inner", {}), leave).unwrap()
    query = sa.text("SELECT operation FROM audit_ledger WHERE tenant_id = :t")
    assert second_connection.execute(query, {"t": desk.tenant.tenant_id}).scalar_one() == "probe.inner"


@pytest.mark.parametrize("how", ["raised", "returned", "bug", "invalid"])
def test_a_nested_refusal_that_is_not_caught_takes_the_whole_back(desk: Desk, spine: Spine, how: str) -> None:
    def inner(ctx: Any, payload: Probe) -> Any:
        leave(ctx, payload)
        if how == "returned":
            return Refusal(NO)
        raise NO if how == "raised" else ZeroDivisionError

    def outer(ctx: Any, payload: Probe) -> Any:
        leave(ctx, payload)
        return ctx.dispatch("probe.inner", {"value": 5000} if how == "invalid" else {"value": 2})

    result = nested(desk, spine, outer, inner)
    codes = {"bug": "HANDLER_EXCEPTION:ZeroDivisionError", "invalid": "INVALID_INPUT"}
    assert (result.error_code, result.committed) == (codes.get(how, "NO"), False)
    assert (desk.name, desk.count("audit_ledger"), desk.count("log_leaves")) == ("Test tenant", 0, 0)


def test_a_nested_refusal_that_is_caught_takes_its_own_work_back(desk: Desk, spine: Spine) -> None:
    def inner(ctx: Any, payload: Probe) -> Refusal:
        leave(ctx, payload)
        return Refusal(NO)

    def outer(ctx: Any, payload: Probe) -> Echo:
        leave(ctx, payload)
        with pytest.raises(HocError):
            ctx.dispatch("probe.inner", {"value": 2})
        return Echo(value=payload.value)

    assert nested(desk, spine, outer, inner).success
    assert (desk.name, desk.count("audit_ledger"), desk.count("outbox")) == ("value 1", 1, 1)


def test_a_savepoint_takes_queued_facts_entries_events_and_callbacks_back(desk: Desk) -> None:
    woken: list[str] = []

    def handler(ctx: Any, payload: Probe) -> Echo:
        ctx.after_commit(lambda: woken.append("outer"))
        with suppress(TakenBackError), ctx.savepoint():
            leave(ctx, payload)
            ctx.after_commit(lambda: woken.append("inner"))
            raise TakenBackError
        return Echo()

    assert desk.run(handler).success
    assert [desk.count(table) for table in ("audit_ledger", "outbox", "log_leaves")] == [0, 0, 0]
    assert (desk.name, woken) == ("Test tenant", ["outer"])


def test_callbacks_run_after_the_commit_in_order(desk: Desk) -> None:
    seen: list[tuple[str, str]] = []

    def handler(ctx: Any, payload: Probe) -> Echo:
        ctx.after_commit(lambda: seen.append(("first", desk.name)))
        ctx.after_commit(lambda: seen.append(("second", desk.name)))
        return leave(ctx, payload)

    desk.run(handler, {"value": 1}).unwrap()
    assert seen == [("first", "value 1"), ("second", "value 1")]


def test_no_callback_runs_after_a_rollback(desk: Desk) -> None:
    def handler(ctx: Any, _payload: Probe) -> Echo:
        ctx.after_commit(lambda: pytest.fail("nothing was committed"))
        raise NO

    assert desk.run(handler).error_code == "NO"


@pytest.mark.parametrize("error", [OSError("no"), HocError(ErrorKind.UNAVAILABLE, "BUSY", "Busy.")])
def test_a_failing_callback_leaves_the_result_as_committed_as_it_is(desk: Desk, error: Exception) -> None:
    woken: list[int] = []

    def fail() -> None:
        raise error

    def handler(ctx: Any, payload: Probe) -> Echo:
        ctx.after_commit(fail)
        ctx.after_commit(lambda: woken.append(1))
        return leave(ctx, payload)

    with capture_logs() as logs:
        result = desk.run(handler, {"value": 1})
    assert (result.success, result.committed, result.error) == (True, True, None)
    assert (desk.name, desk.record["outcome"], woken) == ("value 1", "COMMITTED", [1])
    assert [line["event"] for line in logs] == ["dispatch.after_commit_failed"]


@pytest.mark.parametrize(
    ("versions", "required", "code"),
    [
        (None, False, None),
        (None, True, "PRECONDITION_REQUIRED"),
        ({3}, True, None),
        ({2, 3}, False, None),
        ({2}, False, "VERSION_MISMATCH"),
        ("*", True, None),
    ],
)
def test_if_match_is_met_or_refused(desk: Desk, versions: Any, required: bool, code: str | None) -> None:
    def handler(ctx: Any, _payload: Probe) -> Echo:
        ctx.require_version(3, required=required)
        return Echo()

    given = None
    if versions is not None:
        given = Precondition(None if versions == "*" else frozenset(versions))
    result = desk.run(handler, context={"precondition": given})
    assert result.error_code == code
    if code == "VERSION_MISMATCH":
        assert result.error is not None
        assert result.error.extra == {"current_version": 3}


def test_a_run_that_is_not_there_refuses_the_write(desk: Desk) -> None:
    result = desk.run(never, context={"run_id": "no-such-run"})
    assert (result.error_code, result.committed) == ("RUN_NOT_FOUND", False)


def test_another_tenants_run_is_not_there(desk: Desk, other_tenant: Tenant) -> None:
    start_run(other_tenant, run_id="r-1")
    assert desk.run(never, context={"run_id": "r-1"}).error_code == "RUN_NOT_FOUND"


def test_a_write_for_a_run_is_a_fact_of_it(desk: Desk, second_connection: sa.Connection) -> None:
    start_run(desk.tenant, run_id="r-1")
    assert desk.run(leave, context={"run_id": "r-1"}).success
    query = sa.text(
        "SELECT fact_no, late FROM log_leaves WHERE tenant_id = :t AND run_id = 'r-1' AND type = 'audit'"
    )
    assert tuple(second_connection.execute(query, {"t": desk.tenant.tenant_id}).one()) == (2, False)
    entry = sa.text("SELECT run_id, after_state FROM audit_ledger WHERE tenant_id = :t")
    assert tuple(second_connection.execute(entry, {"t": desk.tenant.tenant_id}).one()) == (
        "r-1",
        '{"run_id":"r-1","value":0}',
    )


def test_a_write_for_an_ended_run_is_a_late_fact_of_it(desk: Desk, second_connection: sa.Connection) -> None:
    start_run(desk.tenant, run_id="r-1")
    desk.tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    assert desk.run(leave, context={"run_id": "r-1"}).success
    query = sa.text(
        "SELECT fact_no, late FROM log_leaves WHERE tenant_id = :t AND run_id = 'r-1' AND type = 'audit'"
    )
    assert tuple(second_connection.execute(query, {"t": desk.tenant.tenant_id}).one()) == (1, True)


def test_an_entry_says_who_did_what_through_which_request(
    desk: Desk, second_connection: sa.Connection
) -> None:
    trace = "ab" * 16
    context = {"actor_type": "AGENT", "actor_id": "a-1", "traceparent": f"00-{trace}-{'cd' * 8}-01"}
    desk.run(leave, context={**context, "request_id": "req-1"}).unwrap()
    query = sa.text("SELECT * FROM audit_ledger WHERE tenant_id = :t")
    entry = second_connection.execute(query, {"t": desk.tenant.tenant_id}).mappings().one()
    assert (entry["actor_type"], entry["actor_id"], entry["actor_key_id"]) == ("AGENT", "a-1", None)
    assert (entry["operation"], entry["request_id"]) == ("probe.do", "req-1")
    assert (entry["correlation_id"], entry["action_reason"]) == (trace, "because")
    assert (entry["event_type"], entry["entity_type"], entry["entity_id"]) == (
        "TenantUpdated",
        "TENANT",
        desk.tenant.tenant_id,
    )


def test_reasons_are_redacted_before_they_are_committed_to(
    desk: Desk, second_connection: sa.Connection
) -> None:
    def handler(ctx: Any, _payload: Probe) -> Echo:
        ctx.audit("TenantUpdated", "TENANT", ctx.tenant_id, reason="asked by bob@example.com")
        return Echo()

    desk.run(handler).unwrap()
    query = sa.text("SELECT action_reason FROM audit_ledger WHERE tenant_id = :t")
    stored = second_connection.execute(query, {"t": desk.tenant.tenant_id}).scalar_one()
    assert stored == "asked by <REDACTED_EMAIL>"


@pytest.mark.parametrize(("event", "entity"), [("RunHalted", "TENANT"), ("Nonsense", "RUN")])
def test_an_event_outside_the_vocabulary_is_a_bug(desk: Desk, event: str, entity: str) -> None:
    def handler(ctx: Any, payload: Probe) -> Echo:
        leave(ctx, payload)
        ctx.audit(event, entity, "x")
        return Echo()

    assert desk.run(handler).error_code == "HANDLER_EXCEPTION:ValueError"
    assert desk.count("audit_ledger") == 0


def test_if_the_entry_fails_the_change_fails(desk: Desk) -> None:
    def handler(ctx: Any, payload: Probe) -> Echo:
        leave(ctx, payload)
        ctx.entries[0]["event_type"] = "NoSuchEvent"
        return Echo()

    assert desk.run(handler).error_code == "HANDLER_EXCEPTION:IntegrityError"
    assert (desk.name, desk.count("audit_ledger")) == ("Test tenant", 0)


@pytest.fixture
def switched_spine(make_spine: Callable[..., Spine], new_database: Callable[..., str]) -> Spine:
    """A spine on a database of its own: the switches of the system are everybody's."""
    return make_spine(database_url=new_database())


@pytest.mark.parametrize("mode", ["write", "read"])
def test_degraded_mode_is_flagged_in_the_record(
    switched_spine: Spine, second_connection: sa.Connection, mode: str
) -> None:
    own = Desk(switched_spine, make_tenant(switched_spine), second_connection)

    def handler(ctx: Any, _payload: Probe) -> Echo:
        return Echo(label=str(ctx.standing.degraded))

    switched_spine.dispatch("ops.degraded.enter", operator_context(), {"reason": "test"}).unwrap()
    assert own.run(handler, mode=mode).unwrap().label == "True"
    assert own.record["authority_degraded"] is True
    switched_spine.dispatch("ops.degraded.exit", operator_context(), {"reason": "test"}).unwrap()
    assert own.run(handler, mode=mode).success
    assert own.record["authority_degraded"] is False


class Settling:
    """A handler that fails as told, time after time, and what its settlement is asked and answers."""

    def __init__(self, *failures: Exception | None, recorded: bool | Exception = False) -> None:
        self.failures = list(failures)
        self.recorded = recorded
        self.looked: list[Any] = []
        self.settlement = Settlement(
            is_recorded=self._look, refusal=lambda: HocError(ErrorKind.UNAVAILABLE, "NOT_RECORDED", "Not.")
        )

    def __call__(self, ctx: Any, payload: Probe) -> Echo:
        answer = leave(ctx, payload)
        failure = self.failures.pop(0)
        if failure is not None:
            raise failure
        return answer

    def _look(self, ctx: Any, prepared: Any) -> bool:
        self.looked.append(prepared)
        with ctx.read_unit():
            pass
        if isinstance(self.recorded, Exception):
            raise self.recorded
        return self.recorded


def settle(desk: Desk, told: Settling) -> OperationResult:
    return desk.run(
        told, {"value": 9}, prepare=lambda _ctx, _payload: "what was prepared", settlement=told.settlement
    )


def test_work_that_an_outage_took_back_is_done_once_more(desk: Desk) -> None:
    told = Settling(BUSY, None)
    result = settle(desk, told)
    assert (result.unwrap().value, result.committed, told.failures) == (9, True, [])
    assert told.looked == ["what was prepared"]
    assert (desk.name, desk.count("audit_ledger")) == ("value 9", 1)


@pytest.mark.parametrize("recorded", [False, BUSY], ids=["not there", "nobody knows"])
def test_work_that_cannot_be_settled_answers_with_its_own_refusal(
    desk: Desk, recorded: bool | Exception
) -> None:
    result = settle(desk, Settling(BUSY, BUSY, recorded=recorded))
    assert (result.error_code, result.committed) == ("NOT_RECORDED", False)
    assert desk.count("audit_ledger") == 0


def test_a_run_that_ends_in_between_is_looked_at_anew(desk: Desk) -> None:
    told = Settling(HocError(ErrorKind.CONFLICT, "RUN_CLOSED", "Closed."), None)
    assert settle(desk, told).success
    assert (told.looked, desk.count("audit_ledger")) == ([], 1)


@pytest.mark.parametrize("failure", [NO, ZeroDivisionError()])
def test_a_refusal_or_a_bug_is_not_settled(desk: Desk, failure: Exception) -> None:
    told = Settling(failure)
    assert not settle(desk, told).success
    assert (told.looked, desk.count("audit_ledger")) == ([], 0)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
@pytest.mark.parametrize("recorded", [True, False])
def test_a_commit_without_an_answer_is_settled_by_looking(
    desk: Desk, second_connection: sa.Connection, recorded: bool
) -> None:
    kills = [True]

    def handler(ctx: Any, payload: Probe) -> Echo:
        if kills.pop() if kills else False:
            backend = ctx.connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
            ended = sa.text("SELECT pg_terminate_backend(:pid, 10000)")
            assert second_connection.execute(ended, {"pid": backend}).scalar_one()
        return Echo(value=payload.value)

    settlement = Settlement(is_recorded=lambda _ctx, _prepared: recorded, refusal=lambda: NO)
    result = desk.run(handler, {"value": 9}, settlement=settlement)
    assert (result.unwrap().value, result.committed) == (9, True)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_without_a_settlement_an_unknown_commit_is_busy(desk: Desk, second_connection: sa.Connection) -> None:
    def handler(ctx: Any, _payload: Probe) -> Echo:
        backend = ctx.connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        ended = sa.text("SELECT pg_terminate_backend(:pid, 10000)")
        assert second_connection.execute(ended, {"pid": backend}).scalar_one()
        return Echo()

    result = desk.run(handler)
    assert (result.error_code, result.committed) == ("BUSY", False)
