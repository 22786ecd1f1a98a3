"""Transactions: who the database sees, what a swallowed failure does, and how writers of one file queue."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from app.hoc_spine.spine import Spine
from app.kernel.errors import HocError
from tests.factories.tenants import Tenant

ROLE = sa.text("SELECT current_user, current_setting('hoc.tenant_id', true)")
FREEZE = sa.text("UPDATE tenant_state SET frozen_by = :who WHERE tenant_id = :tenant_id")
FROZEN_BY = sa.text("SELECT frozen_by FROM tenant_state WHERE tenant_id = :tenant_id")
BROKEN = sa.text("SELECT no_such_column FROM tenants")


def frozen_by(connection: sa.Connection, tenant: Tenant) -> str | None:
    found: str | None = connection.execute(FROZEN_BY, {"tenant_id": tenant.tenant_id}).scalar_one()
    return found


def set_frozen_by(connection: object, tenant: Tenant, who: str) -> int:
    result = connection.execute(FREEZE, {"who": who, "tenant_id": tenant.tenant_id})  # type: ignore[attr-defined]
    return int(result.rowcount)


def test_a_unit_has_the_role_and_the_tenant_and_gives_both_back(spine: Spine, tenant: Tenant) -> None:
    if spine.transactions.dialect_name == "sqlite":
        # SQLite knows no roles: the statements name the tenant, and the next test is the same for both.
        return
    with spine.transactions.write(tenant.tenant_id) as connection:
        assert connection.execute(ROLE).one() == ("hoc_app", tenant.tenant_id)
    with spine.transactions.read(tenant.tenant_id, role="hoc_maintenance") as connection:
        assert connection.execute(ROLE).one()[0] == "hoc_maintenance"
    with spine.transactions.engine.connect() as raw:
        assert raw.execute(ROLE).one()[0] not in ("hoc_app", "hoc_maintenance")
        assert raw.execute(ROLE).one()[1] in (None, "")


def test_row_security_hides_other_tenants_even_from_a_statement_that_forgets_them(
    spine: Spine, tenant: Tenant, other_tenant: Tenant
) -> None:
    if spine.transactions.dialect_name == "sqlite":
        return
    with spine.transactions.write(tenant.tenant_id) as connection:
        seen = connection.scalars(sa.text("SELECT tenant_id FROM tenant_state")).all()
        assert seen == [tenant.tenant_id]
        assert set_frozen_by(connection, other_tenant, "an intruder") == 0


@pytest.mark.parametrize("name", ["a'b", 'a"b', "a;b", "a%b", "a\\b"])
def test_a_tenant_id_is_a_value_and_never_sql(spine: Spine, name: str) -> None:
    with spine.transactions.read(name) as connection:
        assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1


def test_an_exception_takes_everything_back(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    with pytest.raises(ZeroDivisionError), spine.transactions.write(tenant.tenant_id) as connection:
        assert set_frozen_by(connection, tenant, "nobody") == 1
        raise ZeroDivisionError
    assert frozen_by(second_connection, tenant) is None


def test_a_savepoint_takes_its_own_block_back_and_nothing_else(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    with spine.transactions.write(tenant.tenant_id) as connection:
        set_frozen_by(connection, tenant, "before")
        with pytest.raises(sa.exc.DBAPIError), spine.transactions.savepoint(connection):
            set_frozen_by(connection, tenant, "inside")
            connection.execute(BROKEN)
        assert connection.execute(FROZEN_BY, {"tenant_id": tenant.tenant_id}).scalar_one() == "before"
    assert frozen_by(second_connection, tenant) == "before"


def test_a_failure_swallowed_without_a_savepoint_is_never_taken_for_a_commit(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    def swallow() -> None:
        with spine.transactions.write(tenant.tenant_id) as connection:
            set_frozen_by(connection, tenant, "lost")
            with pytest.raises(sa.exc.DBAPIError):
                connection.execute(BROKEN)

    if spine.transactions.dialect_name == "postgresql":
        # The server would answer COMMIT with a silent rollback.
        with pytest.raises(RuntimeError, match="without a savepoint"):
            swallow()
        assert frozen_by(second_connection, tenant) is None
    else:
        swallow()
        assert frozen_by(second_connection, tenant) == "lost"


def test_a_read_unit_cannot_write(spine: Spine, tenant: Tenant) -> None:
    if spine.transactions.dialect_name == "sqlite":
        return
    with (
        pytest.raises(sa.exc.DBAPIError, match="read-only"),
        spine.transactions.read(tenant.tenant_id) as connection,
    ):
        set_frozen_by(connection, tenant, "a reader")


def test_writers_of_one_process_queue_and_none_is_refused(
    make_spine: Callable[..., Spine], tenant: Tenant, second_connection: sa.Connection
) -> None:
    # SQLite's own lock would refuse within 300 ms; eight writers of many units wait longer together.
    spine = make_spine(pool_size=8, lock_timeout_ms=5000)
    adding = sa.text("UPDATE tenant_state SET runs_today = runs_today + 1 WHERE tenant_id = :tenant_id")
    ready = threading.Barrier(8)
    refused: list[HocError] = []

    def write() -> None:
        ready.wait(10)
        for _ in range(20):
            try:
                with spine.transactions.write(tenant.tenant_id) as connection:
                    connection.execute(adding, {"tenant_id": tenant.tenant_id})
            except HocError as error:
                refused.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert refused == []
    counted = sa.text("SELECT runs_today FROM tenant_state WHERE tenant_id = :tenant_id")
    assert second_connection.execute(counted, {"tenant_id": tenant.tenant_id}).scalar_one() == 160


def test_a_writer_that_waits_too_long_is_told_to_come_back(
    make_spine: Callable[..., Spine], tenant: Tenant
) -> None:
    spine = make_spine(pool_size=2, lock_timeout_ms=50)

    def wait() -> None:
        with spine.transactions.write(tenant.tenant_id) as second:
            set_frozen_by(second, tenant, "second")

    with spine.transactions.write(tenant.tenant_id) as first:
        set_frozen_by(first, tenant, "first")
        with pytest.raises(HocError) as refusal:
            wait()
    assert (refusal.value.code, refusal.value.retry_after) == ("BUSY", 1)


def test_a_reader_goes_on_beside_a_writer(make_spine: Callable[..., Spine], tenant: Tenant) -> None:
    spine = make_spine(pool_size=2)
    with spine.transactions.write(tenant.tenant_id) as writer:
        set_frozen_by(writer, tenant, "writer")
        with spine.transactions.read(tenant.tenant_id) as reader:
            seen = reader.execute(FROZEN_BY, {"tenant_id": tenant.tenant_id}).scalar_one()
    assert seen is None


def test_a_snapshot_sees_one_moment(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    with spine.transactions.read(tenant.tenant_id, snapshot=True) as reader:
        before = reader.execute(FROZEN_BY, {"tenant_id": tenant.tenant_id}).scalar_one()
        set_frozen_by(second_connection, tenant, "meanwhile")
        assert reader.execute(FROZEN_BY, {"tenant_id": tenant.tenant_id}).scalar_one() == before
    assert frozen_by(second_connection, tenant) == "meanwhile"
