"""The engine: what SQLAlchemy learns of a result, and what state a connection is lent in."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa

from app.db.engine import make_engine


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = make_engine(database_url, pool_size=1)
    yield engine
    engine.dispose()


def test_the_pool_lends_no_connection_that_is_in_a_transaction(engine: sa.Engine) -> None:
    with engine.connect() as left_open:
        left_open.exec_driver_sql("BEGIN")
        left_open.exec_driver_sql("CREATE TABLE left_behind (x integer)")
    with engine.connect() as next_one:
        assert not sa.inspect(next_one).has_table("left_behind")


def test_a_statement_that_runs_again_reads_its_columns_by_name(engine: sa.Engine) -> None:
    statement = sa.select(sa.literal("a").label("one"), sa.literal(2).label("two"))
    with engine.connect() as connection:
        rows = [dict(connection.execute(statement).mappings().one()) for _ in range(7)]
    assert rows == [{"one": "a", "two": 2}] * 7


def test_text_that_sqlalchemy_did_not_build_reads_its_columns_by_name(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        for name in ("one", "two"):
            row = connection.execute(sa.text(f"SELECT 1 AS {name}, 'b' AS last")).mappings().one()
            assert dict(row) == {name: 1, "last": "b"}
        assert connection.exec_driver_sql("SELECT 3 AS three").mappings().one()["three"] == 3


def test_columns_are_described_as_the_driver_describes_them(engine: sa.Engine) -> None:
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 1 AS x").keys() == ["x"]
        return
    with engine.connect() as connection:
        ours = connection.connection.driver_connection
        assert isinstance(ours, psycopg.Connection)
        mine = ours.cursor().execute("SELECT 1 AS x, 'b'::text AS y").description
        plain = psycopg.Cursor(ours).execute("SELECT 1 AS x, 'b'::text AS y").description
        assert mine is not None
        assert plain is not None
        assert [tuple(column) for column in mine] == [tuple(column) for column in plain]
        assert [column.name for column in mine[0:2]] == ["x", "y"]
        assert (len(mine), mine[-1].name) == (2, "y")
        assert ours.cursor().execute("SET search_path TO DEFAULT").description is None
