"""Spine: the only file that begins, commits, rolls back or sets a savepoint."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal, cast

import psycopg
import psycopg.sql
import sqlalchemy as sa
from psycopg import errors as pg
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus

from app.db.connection import Dialect, Hot, Parameters, Result, Row
from app.db.hot import forget_prepared
from app.hoc_spine.refusals import beyond_storage, busy, refusal_of
from app.kernel.errors import ErrorKind, HocError

Role = Literal["hoc_app", "hoc_maintenance"]
Mode = Literal["write", "read", "snapshot"]


class SpineConnection:
    """The connection that handlers, engines and drivers see: it executes inside the open unit."""

    __slots__ = ("_connection", "_savepoints", "dialect_name", "statements")

    def __init__(self, connection: sa.Connection, dialect_name: Dialect) -> None:
        self._connection = connection
        self._savepoints = itertools.count(1)
        self.dialect_name = dialect_name
        self.statements = 0

    def execute(self, statement: sa.Executable, parameters: Parameters | None = None) -> Result:
        """Execute one statement; a sequence of parameter mappings is one batch."""
        self.statements += 1
        try:
            return cast(Result, self._connection.execute(statement, parameters))
        except sa.exc.DBAPIError:
            self._end_if_over()
            raise

    def scalars(self, statement: sa.Executable, parameters: Parameters | None = None) -> sa.ScalarResult[Any]:
        """Execute one statement and return the first column of each row."""
        return self.execute(statement, parameters).scalars()

    def hot(self, statement: Hot, given: Mapping[str, Any]) -> Sequence[Row]:
        """Execute a statement of a hot path and return its rows."""
        if self.dialect_name == "sqlite" or self._connection.engine.dispatch.before_cursor_execute:
            # SQLite has no libpq, and who listens to statements hears of every one.
            result = self.execute(statement.on(self.dialect_name), given)
            return result.mappings().all() if statement.returns_rows else ()
        self.statements += 1
        try:
            return statement.run(_libpq(self._connection), self._connection.info, given)
        except pg.InvalidSqlStatementName as error:
            # Somebody gave up what was prepared here; the next try prepares it anew.
            forget_prepared(self._connection.info)
            raise busy() from error
        except psycopg.Error as error:
            raise _as_common(self._connection, statement.text.decode(), error) from error

    def _end_if_over(self) -> None:
        # SQLite takes the whole transaction back on some errors (a full disk, RAISE(ROLLBACK)), and would
        # commit each further statement by itself: nothing more may run here.
        if self.dialect_name == "sqlite" and not self._connection.invalidated:
            driver = cast(sqlite3.Connection, self._connection.connection.driver_connection)
            if not driver.in_transaction:
                self._connection.invalidate()


class CommitUnknownError(HocError):
    """The commit was sent and its outcome is not known: look before trying again."""

    def __init__(self) -> None:
        super().__init__(
            ErrorKind.UNAVAILABLE, "BUSY", "The outcome of the commit is not known.", retry_after=1
        )


class Transactions:
    """Units of work on one engine: write, read and savepoint, under the tenant's database role."""

    def __init__(self, engine: sa.Engine, *, statement_timeout_ms: int, lock_timeout_ms: int) -> None:
        self.engine = engine
        self.dialect_name: Dialect = "sqlite" if engine.dialect.name == "sqlite" else "postgresql"
        self._statement_timeout_ms = statement_timeout_ms
        self._lock_timeout_ms = lock_timeout_ms
        # SQLite has one writer at a time: threads of this process queue here, fairly and without polling.
        self._writer = threading.Lock() if self.dialect_name == "sqlite" else None

    @contextmanager
    def write(self, tenant_id: str, *, role: Role = "hoc_app") -> Iterator[SpineConnection]:
        """Open a write unit; commit at the end, roll back on any exception."""
        with self._one_writer(), self._open(tenant_id, role, "write") as connection:
            yield connection

    @contextmanager
    def read(
        self, tenant_id: str, *, snapshot: bool = False, role: Role = "hoc_app"
    ) -> Iterator[SpineConnection]:
        """Open a read-only unit; `snapshot` sees one moment through all its statements."""
        with self._open(tenant_id, role, "snapshot" if snapshot else "read") as connection:
            yield connection

    @contextmanager
    def savepoint(self, connection: SpineConnection) -> Iterator[None]:
        """Roll back to here when the block raises, and let the exception pass."""
        name = f"sp_{next(connection._savepoints)}"
        self._said(connection._connection, f"SAVEPOINT {name}")
        try:
            yield
        except BaseException:
            self._take_back(connection._connection, name)
            raise
        self._said(connection._connection, f"RELEASE SAVEPOINT {name}")

    @staticmethod
    def is_refused_by_rows(error: Exception) -> bool:
        """Tell whether the database refused a statement because of other rows: a key, a value, a trigger."""
        return isinstance(error, sa.exc.IntegrityError)

    def vacuum(self, tables: Sequence[str]) -> None:
        """Give back the space of deleted rows, outside of all transactions."""
        statements = ["VACUUM"] if self.dialect_name == "sqlite" else [f"VACUUM {name}" for name in tables]
        with self._one_writer(), self.engine.connect() as raw:
            apart = raw.execution_options(isolation_level="AUTOCOMMIT")
            for statement in statements:
                apart.exec_driver_sql(statement)

    def _said(self, raw: sa.Connection, text: str) -> None:
        if self.dialect_name == "sqlite" or not self._sent(raw, text):
            raw.exec_driver_sql(text)

    def _take_back(self, raw: sa.Connection, name: str) -> None:
        # Where the connection is gone, so is the work, and the error on its way says why.
        if raw.invalidated:
            return
        try:
            forget_prepared(raw.info)
            raw.exec_driver_sql(f"ROLLBACK TO SAVEPOINT {name}")
            raw.exec_driver_sql(f"RELEASE SAVEPOINT {name}")
        except sa.exc.DBAPIError:
            raw.invalidate()

    @contextmanager
    def _one_writer(self) -> Iterator[None]:
        if self._writer is None:
            yield
            return
        if not self._writer.acquire(timeout=self._lock_timeout_ms / 1000):
            raise busy()
        try:
            yield
        finally:
            self._writer.release()

    def _begin(self, tenant_id: str, role: Role, mode: Mode) -> str:
        if self.dialect_name == "sqlite":
            return "BEGIN IMMEDIATE" if mode == "write" else "BEGIN"
        return _begin_text(tenant_id, role, mode, self._statement_timeout_ms, self._lock_timeout_ms)

    @contextmanager
    def _open(self, tenant_id: str, role: Role, mode: Mode) -> Iterator[SpineConnection]:
        try:
            with self._started(self._begin(tenant_id, role, mode)) as raw:
                connection = SpineConnection(raw, self.dialect_name)
                before = 0 if mode == "write" else self._changes(raw)
                try:
                    yield connection
                    if mode != "write" and self._changes(raw) != before:
                        raise RuntimeError("a unit that is read-only has written; nothing was committed")
                except BaseException:
                    self._roll_back(raw)
                    raise
                if mode == "write" or not self._left(raw):
                    self._commit(raw)
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            refusal = refusal_of(error, writing=mode == "write")
            if refusal is None:
                raise
            raise refusal from error
        except OverflowError as error:
            # The sqlite3 module itself refuses to bind an integer of more than 64 bits.
            if "SQLite" not in str(error):
                raise
            raise beyond_storage() from error

    @contextmanager
    def _started(self, begin: str) -> Iterator[sa.Connection]:
        raw = self.engine.connect()
        try:
            self._start(raw, begin)
        except sa.exc.DBAPIError as error:
            raw.close()
            if not error.connection_invalidated:
                raise
            # The pool held a connection of a server that went away; nothing has begun, so begin anew.
            raw = self.engine.connect()
            with raw:
                self._start(raw, begin)
                yield raw
            return
        with raw:
            yield raw

    def _changes(self, raw: sa.Connection) -> int:
        """Return how many rows the connection has changed so far, on SQLite.

        It has no read-only transaction, and a connection that is made read-only and writable again forgets
        all its prepared statements, so that each unit would plan its statements anew.
        """
        if self.dialect_name == "postgresql" or raw.invalidated:
            return 0
        return cast(sqlite3.Connection, raw.connection.driver_connection).total_changes

    def _start(self, raw: sa.Connection, begin: str) -> None:
        if self.dialect_name == "sqlite" or not self._sent(raw, begin):
            raw.exec_driver_sql(begin.replace("%", "%%"))

    def _sent(self, raw: sa.Connection, text: str) -> bool:
        """Tell whether libpq itself did it, at a fifth of the cost; if not, the common way tells why."""
        if self.engine.dispatch.before_cursor_execute:
            return False  # Somebody listens to every statement.
        try:
            return _libpq(raw).exec_(text.encode()).status == ExecStatus.COMMAND_OK
        except psycopg.Error:
            return False

    def _left(self, raw: sa.Connection) -> bool:
        # What a unit that wrote nothing commits cannot be half done, so it needs no more than an attempt.
        if self.dialect_name == "sqlite" or _libpq(raw).transaction_status != TransactionStatus.INTRANS:
            return False
        return self._sent(raw, "COMMIT")

    def _commit(self, raw: sa.Connection) -> None:
        if self.dialect_name == "postgresql":
            # COMMIT of a failed transaction is a silent ROLLBACK.
            status = _libpq(raw).transaction_status
            if status != TransactionStatus.INTRANS:
                raise RuntimeError(
                    "a failed statement was swallowed without a savepoint; nothing was committed"
                )
            if not self.engine.dispatch.before_cursor_execute:
                _commit_by_libpq(raw)
                return
        try:
            raw.exec_driver_sql("COMMIT")
        except sa.exc.DBAPIError as error:
            if error.connection_invalidated:
                raise CommitUnknownError from error
            self._roll_back(raw)
            raise

    def _roll_back(self, raw: sa.Connection) -> None:
        if raw.invalidated or raw.closed:
            return
        try:
            forget_prepared(raw.info)
            raw.exec_driver_sql("ROLLBACK")
        except sa.exc.DBAPIError:
            raw.invalidate()


@lru_cache(maxsize=4096)
def _begin_text(tenant_id: str, role: Role, mode: Mode, statement_ms: int, lock_ms: int) -> str:
    start = {
        "write": "BEGIN",
        "read": "BEGIN READ ONLY",
        "snapshot": "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    }[mode]
    # One round trip, and LOCAL only: it works behind a pooler in transaction mode.
    return (
        f"{start}; SET LOCAL ROLE {role}; SET LOCAL hoc.tenant_id = {psycopg.sql.quote(tenant_id)}; "
        f"SET LOCAL statement_timeout = {statement_ms}; SET LOCAL lock_timeout = {lock_ms}"
    )


def _commit_by_libpq(raw: sa.Connection) -> None:
    try:
        result = _libpq(raw).exec_(b"COMMIT")
        if result.status != ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result)
    except psycopg.Error as error:
        common = _as_common(raw, "COMMIT", error)
        if common.connection_invalidated:
            raise CommitUnknownError from error
        raise common from error


def _as_common(raw: sa.Connection, text: str, error: psycopg.Error) -> sa.exc.DBAPIError:
    """Return the driver's error as SQLAlchemy tells it, and give up the connection if it is gone."""
    is_lost = _libpq(raw).status != ConnStatus.OK
    if is_lost:
        raw.invalidate(error)
    common = sa.exc.DBAPIError.instance(
        text, None, error, psycopg.Error, hide_parameters=True, connection_invalidated=is_lost
    )
    return cast(sa.exc.DBAPIError, common)


def _libpq(raw: sa.Connection) -> psycopg.pq.abc.PGconn:
    return cast("psycopg.Connection[Any]", raw.connection.driver_connection).pgconn


def statement_counter(engine: sa.Engine, listener: Callable[[str], None]) -> None:
    """Call `listener` with each SQL text that the engine executes (tests of statement budgets)."""

    @sa.event.listens_for(engine, "before_cursor_execute")
    def _executed(
        _c: sa.Connection,
        _cursor: Any,
        statement: str,
        _p: Mapping[str, Any] | Sequence[Any],
        _x: Any,
        _m: bool,
    ) -> None:
        listener(statement)
