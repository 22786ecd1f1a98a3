"""Transactions: what a unit of work commits, takes back, refuses, and says of an outage."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.refusals import refusal_of
from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import CommitUnknownError, SpineConnection, statement_counter
from app.kernel.errors import HocError
from tests.factories.operations import Echo, probe, probe_spine
from tests.factories.tenants import Tenant

RENAME = sa.text("UPDATE tenants SET name = :name WHERE tenant_id = :t")
NAME = sa.text("SELECT name FROM tenants WHERE tenant_id = :t")
BROKEN = sa.text("UPDATE tenant_state SET running_runs = -1 WHERE tenant_id = :t")
on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)


@pytest.fixture
def quick(make_spine: Callable[..., Spine]) -> Spine:
    """A spine that does not wait long for a lock."""
    return make_spine(lock_timeout_ms=50, pool_size=2)


def rename(connection: SpineConnection, tenant: Tenant, name: str) -> None:
    connection.execute(RENAME, {"name": name, "t": tenant.tenant_id})


def name_of(connection: sa.Connection, tenant: Tenant) -> str:
    return str(connection.execute(NAME, {"t": tenant.tenant_id}).scalar_one())


@contextmanager
def failing(
    error: type[BaseException] | tuple[type[BaseException], ...], match: str | None = None
) -> Iterator[None]:
    with pytest.raises(error, match=match):
        yield


@contextmanager
def code(wanted: str) -> Iterator[None]:
    with pytest.raises(HocError) as caught:
        yield
    assert caught.value.code == wanted


def test_a_unit_commits_at_its_end(spine: Spine, tenant: Tenant, second_connection: sa.Connection) -> None:
    with spine.transactions.write(tenant.tenant_id) as connection:
        rename(connection, tenant, "new")
        assert name_of(second_connection, tenant) == "Test tenant"
    assert name_of(second_connection, tenant) == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_rolls_back_and_passes(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection, error: type[BaseException]
) -> None:
    with failing(error), spine.transactions.write(tenant.tenant_id) as connection:
        rename(connection, tenant, "new")
        raise error
    assert name_of(second_connection, tenant) == "Test tenant"


def test_a_savepoint_takes_back_its_block_alone(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    with spine.transactions.write(tenant.tenant_id) as connection:
        rename(connection, tenant, "outer")
        with failing(sa.exc.IntegrityError), spine.transactions.savepoint(connection):
            rename(connection, tenant, "inner")
            connection.execute(BROKEN, {"t": tenant.tenant_id})
    assert name_of(second_connection, tenant) == "outer"


def test_savepoints_nest(spine: Spine, tenant: Tenant, second_connection: sa.Connection) -> None:
    with (
        spine.transactions.write(tenant.tenant_id) as connection,
        spine.transactions.savepoint(connection),
    ):
        rename(connection, tenant, "first")
        with failing(ValueError, "taken back"), spine.transactions.savepoint(connection):
            rename(connection, tenant, "second")
            raise ValueError("taken back")
    assert name_of(second_connection, tenant) == "first"


def test_an_error_swallowed_without_a_savepoint_never_commits_half(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    def work() -> None:
        with spine.transactions.write(tenant.tenant_id) as connection:
            rename(connection, tenant, "half")
            with pytest.raises(sa.exc.IntegrityError):
                connection.execute(BROKEN, {"t": tenant.tenant_id})

    if spine.transactions.dialect_name == "postgresql":
        # COMMIT would answer ROLLBACK, and nobody would notice.
        with pytest.raises(RuntimeError, match="swallowed"):
            work()
        assert name_of(second_connection, tenant) == "Test tenant"
    else:
        work()
        assert name_of(second_connection, tenant) == "half"
    with spine.transactions.write(tenant.tenant_id) as connection:
        rename(connection, tenant, "the connection is well again")
    assert name_of(second_connection, tenant) == "the connection is well again"


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_read_cannot_write(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection, snapshot: bool
) -> None:
    with (
        failing((sa.exc.DBAPIError, RuntimeError), "read-?only"),
        spine.transactions.read(tenant.tenant_id, snapshot=snapshot) as connection,
    ):
        rename(connection, tenant, "written by a read")
    assert name_of(second_connection, tenant) == "Test tenant"


def test_a_read_operation_that_writes_is_a_bug_and_no_outage(spine: Spine, tenant: Tenant) -> None:
    def handler(ctx: Any, _payload: Any) -> Echo:
        rename(ctx.connection, tenant, "written by a read")
        return Echo()

    extended = probe_spine(spine, probe(handler, mode="read", scope="runs:read"))
    result = extended.dispatch("probe.do", tenant.context(), {})
    assert result.error_code is not None
    assert result.error_code.startswith("HANDLER_EXCEPTION:")


def test_a_connection_that_read_can_write_again(
    quick: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    for number in range(4):
        with quick.transactions.read(tenant.tenant_id) as connection:
            connection.execute(NAME, {"t": tenant.tenant_id})
        with quick.transactions.write(tenant.tenant_id) as connection:
            rename(connection, tenant, f"name {number}")
    assert name_of(second_connection, tenant) == "name 3"


def test_a_snapshot_sees_one_moment(spine: Spine, tenant: Tenant) -> None:
    with spine.transactions.read(tenant.tenant_id, snapshot=True) as reading:
        before = reading.execute(NAME, {"t": tenant.tenant_id}).scalar_one()
        with spine.transactions.write(tenant.tenant_id) as writing:
            rename(writing, tenant, "changed meanwhile")
        assert reading.execute(NAME, {"t": tenant.tenant_id}).scalar_one() == before
    with spine.transactions.read(tenant.tenant_id) as reading:
        assert reading.execute(NAME, {"t": tenant.tenant_id}).scalar_one() == "changed meanwhile"


def test_a_lock_that_is_not_given_up_is_busy(spine: Spine, quick: Spine, tenant: Tenant) -> None:
    with spine.transactions.write(tenant.tenant_id) as holding:
        rename(holding, tenant, "held")
        with code("BUSY"), quick.transactions.write(tenant.tenant_id) as waiting:
            rename(waiting, tenant, "never")


@on_sqlite
def test_the_second_writer_of_one_process_waits_its_turn(
    quick: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    with quick.transactions.write(tenant.tenant_id) as connection:
        rename(connection, tenant, "first")
        with code("BUSY"), quick.transactions.write(tenant.tenant_id):
            pytest.fail("two writers at once")
    with quick.transactions.write(tenant.tenant_id) as connection:
        rename(connection, tenant, "second")
    assert name_of(second_connection, tenant) == "second"


def test_a_pool_without_a_free_connection_is_busy(make_spine: Callable[..., Spine], tenant: Tenant) -> None:
    spine = make_spine(pool_size=1)
    spine.transactions.engine.pool._timeout = 0.05  # type: ignore[attr-defined]
    with spine.transactions.read(tenant.tenant_id), code("BUSY"), spine.transactions.read(tenant.tenant_id):
        pytest.fail("the pool gave more than it has")


@on_postgresql
def test_a_refused_begin_gives_its_connection_back(make_spine: Callable[..., Spine], tenant: Tenant) -> None:
    spine = make_spine(pool_size=1)
    broken: Any = "no_such_role"
    for _ in range(3):
        with pytest.raises(sa.exc.DBAPIError), spine.transactions.read(tenant.tenant_id, role=broken):
            pytest.fail("a role that does not exist")
    with spine.transactions.read(tenant.tenant_id) as connection:
        assert connection.execute(NAME, {"t": tenant.tenant_id}).scalar_one() == "Test tenant"


@on_postgresql
@pytest.mark.parametrize("tenant_id", ["t'; DROP TABLE tenants; --", "t\\'x", "100%", "ä%(x)s"])
def test_a_tenant_id_is_quoted(spine: Spine, tenant_id: str) -> None:
    with spine.transactions.read(tenant_id) as connection:
        setting = sa.text("SELECT current_setting('hoc.tenant_id')")
        assert connection.execute(setting).scalar_one() == tenant_id


def backend_of(connection: SpineConnection) -> int:
    return int(connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())


def kill(connection: sa.Connection, backend: int) -> None:
    ended = sa.text("SELECT pg_terminate_backend(:pid, 10000)")
    assert connection.execute(ended, {"pid": backend}).scalar_one()


@on_postgresql
def test_a_commit_without_an_answer_is_not_known(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    with failing(CommitUnknownError, "BUSY"), spine.transactions.write(tenant.tenant_id) as connection:
        rename(connection, tenant, "nobody knows")
        kill(second_connection, backend_of(connection))


@on_postgresql
def test_a_connection_that_died_in_the_pool_is_replaced(
    make_spine: Callable[..., Spine], tenant: Tenant, second_connection: sa.Connection
) -> None:
    spine = make_spine(pool_size=1)
    with spine.transactions.read(tenant.tenant_id) as connection:
        backend = backend_of(connection)
    kill(second_connection, backend)
    with spine.transactions.write(tenant.tenant_id) as connection:
        rename(connection, tenant, "after the restart")
    assert name_of(second_connection, tenant) == "after the restart"


@on_postgresql
def test_a_connection_that_dies_at_work_is_busy_and_replaced(
    make_spine: Callable[..., Spine], tenant: Tenant, second_connection: sa.Connection
) -> None:
    spine = make_spine(pool_size=1)
    with code("BUSY"), spine.transactions.write(tenant.tenant_id) as connection:
        kill(second_connection, backend_of(connection))
        rename(connection, tenant, "too late")
    with spine.transactions.write(tenant.tenant_id) as connection:
        rename(connection, tenant, "after the restart")
    assert name_of(second_connection, tenant) == "after the restart"


@on_postgresql
def test_a_connection_that_dies_within_a_savepoint_is_busy(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    with (
        code("BUSY"),
        spine.transactions.write(tenant.tenant_id) as connection,
        spine.transactions.savepoint(connection),
    ):
        kill(second_connection, backend_of(connection))
        rename(connection, tenant, "too late")


@on_sqlite
@pytest.mark.parametrize("within_savepoint", [False, True])
def test_nothing_runs_on_after_sqlite_took_the_transaction_back(
    make_spine: Callable[..., Spine], new_database: Callable[..., str], within_savepoint: bool
) -> None:
    spine = make_spine(database_url=new_database(), pool_size=1)
    with spine.transactions.engine.connect() as raw:
        raw.exec_driver_sql(
            "CREATE TRIGGER gone BEFORE UPDATE OF degraded ON system_state BEGIN"
            " SELECT RAISE(ROLLBACK, 'gone'); END"
        )

    def explain(connection: SpineConnection, text: str) -> None:
        connection.execute(sa.text("UPDATE system_state SET kill_reason = :text"), {"text": text})

    def work() -> None:
        with spine.transactions.write("_system") as connection:
            explain(connection, "before")
            guard = spine.transactions.savepoint(connection) if within_savepoint else nullcontext()
            with suppress(sa.exc.DBAPIError), guard:
                connection.execute(sa.text("UPDATE system_state SET degraded = 1"))
            explain(connection, "after")

    with pytest.raises(sa.exc.PendingRollbackError):
        work()
    with spine.transactions.write("_system") as connection:
        assert connection.execute(sa.text("SELECT kill_reason FROM system_state")).scalar_one() is None
        explain(connection, "well again")


FULL_DISK = {
    "sqlite": ("PRAGMA max_page_count = 1",),
    "postgresql": (
        """CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$""",
        """CREATE TRIGGER full_disk BEFORE UPDATE ON system_state FOR EACH ROW
            EXECUTE FUNCTION full_disk()""",
    ),
}


def test_a_full_disk_is_a_storage_failure_and_writes_nothing(
    make_spine: Callable[..., Spine], new_database: Callable[..., str], dialect: str
) -> None:
    spine = make_spine(database_url=new_database(), pool_size=1)
    with spine.transactions.engine.connect() as raw:
        for statement in FULL_DISK[dialect]:
            raw.exec_driver_sql(statement)
    with code("STORAGE_FAILED"), spine.transactions.write("_system", role="hoc_maintenance") as connection:
        connection.execute(sa.text("UPDATE system_state SET kill_reason = :text"), {"text": "x" * 1_000_000})
    with spine.transactions.read("_system", role="hoc_maintenance") as connection:
        assert connection.execute(sa.text("SELECT kill_reason FROM system_state")).scalar_one() is None


@on_postgresql
def test_a_database_that_became_read_only_is_a_storage_failure(
    make_spine: Callable[..., Spine], new_database: Callable[..., str]
) -> None:
    spine = make_spine(database_url=new_database())
    with (
        code("STORAGE_FAILED"),
        spine.transactions.write("_system", role="hoc_maintenance") as connection,
    ):
        connection.execute(sa.text("SET TRANSACTION READ ONLY"))
        connection.execute(sa.text("UPDATE system_state SET kill_reason = 'x'"))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT locked_at, full_name, busy FROM tenants",
        "SELECT readonly FROM no_such_table",
        "SELECT FROM FROM",
    ],
)
def test_a_bug_is_never_taken_for_an_outage(spine: Spine, tenant: Tenant, statement: str) -> None:
    with pytest.raises(sa.exc.DBAPIError) as caught, spine.transactions.write(tenant.tenant_id) as connection:
        connection.execute(sa.text(statement))
    assert refusal_of(caught.value) is None


def test_errors_show_no_parameters(spine: Spine, tenant: Tenant) -> None:
    with pytest.raises(sa.exc.DBAPIError) as caught, spine.transactions.write(tenant.tenant_id) as connection:
        connection.execute(sa.text("UPDATE no_such_table SET x = :x"), {"x": "a secret value"})
    assert "a secret value" not in str(caught.value)


def test_the_listener_hears_every_statement_of_the_engine(
    make_spine: Callable[..., Spine], tenant: Tenant
) -> None:
    spine = make_spine()
    heard: list[str] = []
    statement_counter(spine.transactions.engine, heard.append)
    with spine.transactions.write(tenant.tenant_id) as connection:
        rename(connection, tenant, "heard")
        connection.scalars(NAME, {"t": tenant.tenant_id})
    assert connection.statements == 2
    verbs = [text.split()[0].rstrip(";") for text in heard]
    assert verbs == ["BEGIN", "UPDATE", "SELECT", "COMMIT"]


def test_threads_have_units_of_their_own(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    counted = sa.text("UPDATE tenant_state SET policy_version = policy_version + 1 WHERE tenant_id = :t")

    def count() -> None:
        for _ in range(10):
            with spine.transactions.write(tenant.tenant_id) as connection:
                connection.execute(counted, {"t": tenant.tenant_id})

    total = sa.text("SELECT policy_version FROM tenant_state WHERE tenant_id = :t")
    before = second_connection.execute(total, {"t": tenant.tenant_id}).scalar_one()
    threads = [threading.Thread(target=count) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert second_connection.execute(total, {"t": tenant.tenant_id}).scalar_one() == before + 60


def test_times_of_the_database_are_aware_utc(spine: Spine, tenant: Tenant) -> None:
    made = tenant.call("tenants.get").created_at
    assert made.tzinfo is UTC
    assert abs((made - datetime.now(UTC)).total_seconds()) < 60
