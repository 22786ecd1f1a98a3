"""Writers of one process: on SQLite they queue before they take a connection, and nobody is refused early."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from app.hoc_spine.spine import Spine
from tests.factories.tenants import Tenant

ADD = sa.text("UPDATE tenant_state SET runs_today = runs_today + 1 WHERE tenant_id = :tenant_id")
COUNT = sa.text("SELECT runs_today FROM tenant_state WHERE tenant_id = :tenant_id")


def side_by_side(*jobs: Callable[[], None]) -> None:
    """Run the jobs in threads; raise what the first of them raises."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result(60)


def test_eight_writers_all_have_their_turn(
    make_spine: Callable[..., Spine], tenant: Tenant, second_connection: sa.Connection
) -> None:
    spine = make_spine(pool_size=8, lock_timeout_ms=10_000)
    ready = threading.Barrier(8)

    def write() -> None:
        ready.wait(10)
        for _ in range(20):
            with spine.transactions.write(tenant.tenant_id) as connection:
                connection.execute(ADD, {"tenant_id": tenant.tenant_id})

    side_by_side(*[write] * 8)
    assert second_connection.execute(COUNT, {"tenant_id": tenant.tenant_id}).scalar_one() == 160


def test_a_writer_of_sqlite_that_waits_holds_no_connection(
    make_spine: Callable[..., Spine], tenant: Tenant
) -> None:
    # Room for all: a writer that took a connection before its turn would get one.
    spine = make_spine(pool_size=5, lock_timeout_ms=10_000)
    if spine.transactions.dialect_name == "postgresql":
        # There writers of different rows do not wait at all.
        return
    ready = threading.Barrier(4)

    def write() -> None:
        ready.wait(10)
        with spine.transactions.write(tenant.tenant_id) as connection:
            connection.execute(ADD, {"tenant_id": tenant.tenant_id})

    def read_meanwhile() -> None:
        with spine.transactions.write(tenant.tenant_id):
            ready.wait(10)
            for _ in range(200):
                with spine.transactions.read(tenant.tenant_id) as reader:
                    reader.execute(COUNT, {"tenant_id": tenant.tenant_id}).scalar_one()
                assert spine.transactions.engine.pool.checkedout() == 1  # type: ignore[attr-defined]

    side_by_side(read_meanwhile, write, write, write)
