"""Hot statements: past SQLAlchemy and the driver, yet the same rows, the same errors, on every connection."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from app.db.hot import HotStatement
from app.db.types import BigInt, Flag, Timestamp
from app.domains.tenants.tables import tenant_state
from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import CommitUnknownError, SpineConnection, statement_counter
from app.kernel.errors import HocError
from tests.factories.tenants import Tenant

VALUES: dict[str, Any] = {
    "words": 'a "quoted" text, ü and \\ too',
    "number": 2**62,
    "flag": True,
    "moment": datetime(2026, 1, 31, 23, 59, 59, 123456, tzinfo=UTC),
    "empty": None,
}
ECHO = HotStatement(
    sa.select(
        sa.bindparam("words", type_=sa.Text).label("words"),
        sa.bindparam("number", type_=BigInt).label("number"),
        sa.bindparam("flag", type_=Flag).label("flag"),
        sa.bindparam("moment", type_=Timestamp).label("moment"),
        sa.bindparam("empty", type_=sa.Text).label("empty"),
    )
)
STATE = tenant_state.c
FREEZE = HotStatement(
    sa.update(tenant_state)
    .where(STATE.tenant_id == sa.bindparam("tenant"))
    .values(frozen_reason=sa.bindparam("why", type_=sa.Text))
)
AGAIN = HotStatement(tenant_state.insert(), columns=["tenant_id", "runs_day", "created_at"])


def test_values_come_back_as_they_went_whoever_listens(
    make_spine: Callable[..., Spine], tenant: Tenant
) -> None:
    spine = make_spine()
    with spine.transactions.read(tenant.tenant_id) as connection:
        (quiet,) = connection.hot(ECHO, VALUES)
    # With a listener, as on SQLite, the statement goes the common way.
    statement_counter(spine.transactions.engine, lambda _text: None)
    with spine.transactions.read(tenant.tenant_id) as connection:
        (heard,) = connection.hot(ECHO, VALUES)
    assert dict(quiet) == dict(heard) == VALUES
    assert type(quiet["flag"]) is bool


def test_a_rollback_or_a_savepoint_forgets_no_statement_for_good(
    make_spine: Callable[..., Spine], tenant: Tenant
) -> None:
    spine = make_spine(pool_size=1)

    def fail() -> None:
        with spine.transactions.write(tenant.tenant_id) as connection:
            connection.hot(ECHO, VALUES)
            # The driver prepares what it executes often, and gives all of it up after a ROLLBACK.
            for _ in range(8):
                connection.execute(sa.select(STATE.frozen).where(STATE.tenant_id == tenant.tenant_id))
            with suppress(KeyError), spine.transactions.savepoint(connection):
                raise KeyError
            assert connection.hot(ECHO, VALUES)[0]["number"] == 2**62
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail()
    with spine.transactions.read(tenant.tenant_id) as connection:
        assert connection.hot(ECHO, VALUES)[0]["words"] == VALUES["words"]


def test_it_writes_and_a_refusal_of_the_database_is_the_common_one(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    with spine.transactions.write(tenant.tenant_id) as connection:
        assert list(connection.hot(FREEZE, {"tenant": tenant.tenant_id, "why": "w"})) == []
    kept = sa.select(STATE.frozen_reason).where(STATE.tenant_id == tenant.tenant_id)
    assert second_connection.scalars(kept).one() == "w"
    row = {"tenant_id": tenant.tenant_id, "runs_day": "2026-01-01", "created_at": VALUES["moment"]}
    with pytest.raises(sa.exc.IntegrityError), spine.transactions.write(tenant.tenant_id) as connection:
        connection.hot(AGAIN, row)
    # The pool lends the connection on, and it works.
    with spine.transactions.read(tenant.tenant_id) as connection:
        assert connection.hot(ECHO, VALUES)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_what_somebody_else_gave_up_is_prepared_anew(
    make_spine: Callable[..., Spine], tenant: Tenant
) -> None:
    spine = make_spine(pool_size=1)

    def ask() -> Any:
        with spine.transactions.write(tenant.tenant_id) as connection:
            return connection.hot(ECHO, VALUES)[0]["number"]

    assert ask() == 2**62
    with spine.transactions.engine.connect() as raw:
        raw.exec_driver_sql("DEALLOCATE ALL")
    with pytest.raises(HocError, match="BUSY"):
        ask()
    assert ask() == 2**62


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_lost_server_is_an_outage_and_at_the_commit_an_unknown_end(
    make_spine: Callable[..., Spine], tenant: Tenant, second_connection: sa.Connection
) -> None:
    spine = make_spine()
    own = HotStatement(sa.select(sa.func.pg_backend_pid().label("pid")))

    def lose(*, before: Callable[[SpineConnection], Any]) -> None:
        with spine.transactions.write(tenant.tenant_id) as connection:
            pid = connection.hot(own, {})[0]["pid"]
            second_connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
            before(connection)

    with pytest.raises(HocError, match="BUSY"):
        lose(before=lambda connection: connection.hot(ECHO, VALUES))
    with pytest.raises(CommitUnknownError):
        lose(before=lambda _connection: None)
    with spine.transactions.read(tenant.tenant_id) as connection:
        assert connection.hot(ECHO, VALUES)
