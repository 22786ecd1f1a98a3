"""Database: one engine for each dialect, in autocommit; the spine alone says BEGIN."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import orjson
import psycopg
import sqlalchemy as sa
from psycopg.pq import ExecStatus, TransactionStatus
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, StaticPool

from app.db.dialect import ORDERS_BYTEWISE
from app.db.hot import forget_prepared

# The product has more statements than the 500 that SQLAlchemy keeps compiled unless told otherwise.
_STATEMENTS = 2000
_SQLITE_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    # Durable before acknowledged, across a power failure too.
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA recursive_triggers=ON",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA cache_size=-16384",
)


class _Columns(Sequence[psycopg.Column]):
    """The columns of a result, described one by one when somebody asks."""

    __slots__ = ("_count", "_cursor")

    def __init__(self, cursor: psycopg.Cursor[Any], count: int) -> None:
        self._cursor = cursor
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> psycopg.Column: ...

    @overload
    def __getitem__(self, index: slice) -> list[psycopg.Column]: ...

    def __getitem__(self, index: int | slice) -> psycopg.Column | list[psycopg.Column]:
        places = range(self._count)[index]
        if isinstance(places, range):
            return [psycopg.Column(self._cursor, place) for place in places]
        return psycopg.Column(self._cursor, places)


class _Cursor(psycopg.Cursor[Any]):
    """A cursor that does not describe columns nobody looks at.

    SQLAlchemy reads the description of a statement's first result and keeps it; afterwards it only asks
    whether there is one, and describing forty columns costs more than reading their row.
    """

    @property
    def description(self) -> Sequence[psycopg.Column] | None:  # type: ignore[override]
        """Return the columns of the result, None when the statement has none."""
        result = self.pgresult
        if result is None or result.status != ExecStatus.TUPLES_OK:
            return super().description
        return _Columns(self, result.nfields)


def make_engine(url: str, *, pool_size: int = 8, busy_timeout_ms: int = 5000) -> sa.Engine:
    """Return an engine in autocommit whose pool holds exactly `pool_size` connections."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed, pool_size=pool_size, busy_timeout_ms=busy_timeout_ms)
    if parsed.get_backend_name() != "postgresql":
        raise ValueError(
            f"unsupported database {parsed.get_backend_name()!r}: use sqlite or postgresql+psycopg"
        )
    engine = sa.create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",
        query_cache_size=_STATEMENTS,
        # The spine ends every transaction that it begins; `_reset` looks after what nobody ended.
        skip_autocommit_rollback=True,
        # Parameters are the tenants' data; an error text goes to the log.
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=5,
        pool_pre_ping=False,
        connect_args={
            "connect_timeout": 5,
            "application_name": "hoc-spine",
            "options": "-c timezone=UTC",
            "cursor_factory": _Cursor,
        },
        json_serializer=lambda value: orjson.dumps(value).decode(),
    )

    @sa.event.listens_for(engine, "first_connect")
    def _look_at_order(connection: psycopg.Connection[Any], _record: object) -> None:
        # By libpq: the driver would begin a transaction, in which SQLAlchemy cannot make it ready.
        result = connection.pgconn.exec_(
            b"SELECT datcollate IN ('C', 'POSIX') AND datlocprovider = 'c' FROM pg_database"
            b" WHERE datname = current_database()"
        )
        setattr(engine.dialect, ORDERS_BYTEWISE, result.get_value(0, 0) == b"t")

    @sa.event.listens_for(engine, "reset")
    def _reset(connection: psycopg.Connection[Any], record: ConnectionPoolEntry, _state: object) -> None:
        if connection.pgconn.transaction_status != TransactionStatus.IDLE:
            forget_prepared(record.info)
            connection.rollback()  # gate: TXN-001 - the pool lends no connection in a transaction

    return engine


def _sqlite_engine(url: sa.URL, *, pool_size: int, busy_timeout_ms: int) -> sa.Engine:
    memory = url.database in (None, "", ":memory:")
    if not memory and "uri" not in url.query:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    pool: dict[str, Any] = (
        {"poolclass": StaticPool}
        if memory
        else {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": 5}
    )
    engine = sa.create_engine(
        url.set(drivername="sqlite+pysqlite"),
        isolation_level="AUTOCOMMIT",
        query_cache_size=_STATEMENTS,
        hide_parameters=True,
        connect_args={"check_same_thread": False, "timeout": busy_timeout_ms / 1000},
        **pool,
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in _SQLITE_PRAGMAS:
            cursor.execute(pragma)
        cursor.close()

    return engine


def make_migration_engine(url: str) -> sa.Engine:
    """Return an engine for migrations: no pool, the driver's own transactions."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "postgresql":
        return sa.create_engine(parsed.set(drivername="postgresql+psycopg"), poolclass=NullPool)
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(parsed.set(drivername="sqlite+pysqlite"), poolclass=NullPool)

    @sa.event.listens_for(engine, "connect")
    def _explicit(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(
            "BEGIN IMMEDIATE"
        )  # gate: TXN-002 - a migration is no operation of the spine

    return engine
