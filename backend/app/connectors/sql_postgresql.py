"""Connectors: PostgreSQL, read inside READ ONLY transactions, through a few pooled connections."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.connectors.hosts import HostPolicy
from app.connectors.sql_source import Fetched, Question, row_of, weight
from app.connectors.sql_text import to_psycopg
from app.connectors.values import ConnectorFailedError

MAX_CONNECTIONS: Final = 4
IDLE_SECONDS: Final = 60.0
_BATCH: Final = 100
_PATIENCE_SECONDS: Final = 2.0
_KNOWN: Final = frozenset({"host", "port", "user", "password", "dbname", "sslmode", "application_name"})
_LASTING_CLASSES: Final = frozenset({"0A", "22", "25", "26", "28", "2F", "34", "3D", "3F", "42"})
Key = tuple[str, ...]
Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(slots=True)
class _Pool:
    """The connections of one plane and configuration; a permit for each that may exist."""

    permits: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(MAX_CONNECTIONS)
    )
    idle: list[tuple[float, Connection]] = field(default_factory=list)


class PostgresqlSource:
    """Reads databases that the host policy allows; the pools alone hold what a credential opened."""

    def __init__(self, hosts: HostPolicy, *, now: Callable[[], float] = time.monotonic) -> None:
        self._hosts = hosts
        self._now = now
        self._pools: dict[Key, _Pool] = {}
        self._lock = threading.Lock()

    def ask(self, key: Key, dsn: str, question: Question) -> Fetched:
        """Return the rows of a template within its bounds; raise ConnectorFailedError."""
        with self._reading(key, dsn, question) as cursor:
            names = [column.name for column in cursor.description or ()]
            rows: list[Mapping[str, Any]] = []
            size, batch = 0, 1
            while True:
                self._bound(cursor.connection, question)
                fetched = cursor.fetchmany(batch)
                for values in fetched:
                    size += weight(values)
                    if len(rows) == question.max_rows or size > question.max_bytes:
                        return Fetched(rows, more=True)
                    rows.append(row_of(names, values))
                if len(fetched) < batch:
                    return Fetched(rows)
                # Wide rows come a few at a time, so that no batch is much larger than what may be given.
                batch = max(1, min(_BATCH, question.max_bytes * len(rows) // max(size, 1)))

    def describe(self, key: Key, dsn: str, question: Question) -> list[str]:
        """Return the columns of a template without reading a row; raise ConnectorFailedError."""
        with self._reading(key, dsn, question) as cursor:
            return [column.name for column in cursor.description or ()]

    def start(self) -> None:
        """Do nothing: connections are opened at use."""

    def stop(self) -> None:
        """Close every idle connection."""
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            for _since, connection in pool.idle:
                connection.close()

    @contextmanager
    def _reading(
        self, key: Key, dsn: str, question: Question
    ) -> Iterator[psycopg.ServerCursor[tuple[Any, ...]]]:
        """Open a cursor in a transaction that cannot write, and roll back, always.

        The cursor is declared, which the server refuses for anything but a query, data-modifying CTEs too.
        """
        with self._failures(question), self._borrowed(key, dsn, question) as connection:
            connection.execute("BEGIN READ ONLY")  # gate: TXN-002 - of a foreign database, never of our own
            self._bound(connection, question)
            with connection.cursor(name="hoc") as cursor:
                cursor.execute(to_psycopg(question.sql).encode(), dict(question.params))
                yield cursor

    def _bound(self, connection: Connection, question: Question) -> None:
        """Set the server's own timeouts to what is left; a template may have changed them meanwhile."""
        left = max(1, int(question.seconds_left() * 1000))
        connection.execute(f"SET LOCAL statement_timeout = {left}; SET LOCAL lock_timeout = {left}".encode())

    @contextmanager
    def _borrowed(self, key: Key, dsn: str, question: Question) -> Iterator[Connection]:
        pool = self._pool(key)
        if not pool.permits.acquire(timeout=question.seconds_left()):
            raise ConnectorFailedError("CONNECTOR_BUSY", "every connection of the plane is in use")
        connection: Connection | None = None
        try:
            connection = self._idle(pool) or self._connect(dsn, question)
            with _watched(connection, question):
                yield connection
                self._give_back(key, pool, connection)
        except BaseException:
            # Whatever state it is in, the server takes its transaction back with the connection.
            if connection is not None:
                connection.close()
            raise
        finally:
            pool.permits.release()

    def _pool(self, key: Key) -> _Pool:
        """Return the pool of a plane's configuration; those of its earlier configurations are closed."""
        with self._lock:
            pool = self._pools.get(key)
            if pool is not None:
                return pool
            earlier = [self._pools.pop(other) for other in list(self._pools) if other[:2] == key[:2]]
            pool = self._pools[key] = _Pool()
        for old in earlier:
            for _since, connection in old.idle:
                connection.close()
        return pool

    def _idle(self, pool: _Pool) -> Connection | None:
        while True:
            with self._lock:
                since, connection = pool.idle.pop() if pool.idle else (0.0, None)
            if connection is None:
                return None
            if self._now() - since < IDLE_SECONDS and not connection.closed and not _has_ended(connection):
                return connection
            connection.close()

    def _give_back(self, key: Key, pool: _Pool, connection: Connection) -> None:
        try:
            connection.execute("ROLLBACK")  # gate: TXN-002 - of a foreign database, never of our own
            # Session settings, advisory locks and the like do not pass from one caller to the next.
            connection.execute("DISCARD ALL")
        except psycopg.Error:
            connection.close()
            return
        now = self._now()
        with self._lock:
            kept = self._pools.get(key) is pool
            if kept:
                pool.idle.append((now, connection))
            ended = [
                held for other in self._pools.values() for held in other.idle if now - held[0] >= IDLE_SECONDS
            ]
            for other in self._pools.values():
                other.idle = [held for held in other.idle if held not in ended]
        for _since, old in ended:
            old.close()
        if not kept:
            connection.close()

    def _connect(self, dsn: str, question: Question) -> Connection:
        members = self._members(dsn)
        host, port = members["host"], int(members["port"])
        address = self._hosts.pick(host, port)
        conninfo = make_conninfo(
            **members,
            hostaddr=address,
            connect_timeout=max(2, int(question.seconds_left())),
            # Nothing of this process's own environment or home joins in.
            options="",
            passfile=os.devnull,
            gssencmode="disable",
            client_encoding="UTF8",
        )
        return psycopg.connect(conninfo, autocommit=True, prepare_threshold=None)

    def _members(self, dsn: str) -> dict[str, str]:
        try:
            given = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
        except psycopg.Error as error:
            raise _no_dsn() from error
        if not set(given) <= _KNOWN or not given.get("host") or not given.get("user"):
            raise _no_dsn()
        members = {"port": "5432", "dbname": given["user"], "sslmode": "prefer", **given}
        if "," in members["host"] or members["host"].startswith(("/", "@")) or not members["port"].isdigit():
            raise ConnectorFailedError("HOST_NOT_ALLOWED", "the DSN names no single host", lasting=True)
        return members

    @contextmanager
    def _failures(self, question: Question) -> Iterator[None]:
        """Turn what the driver raises into failures that tell nothing of the database."""
        try:
            yield
        except psycopg.errors.QueryCanceled as error:
            raise ConnectorFailedError("CONNECTOR_TIMEOUT", "the server cancelled the statement") from error
        except psycopg.Error as error:
            state = error.sqlstate
            if state is None and time.monotonic() > question.deadline:
                raise ConnectorFailedError("CONNECTOR_TIMEOUT", "the server did not answer") from error
            if state is None and isinstance(error, psycopg.DataError):
                raise ConnectorFailedError(
                    "RESPONSE_INVALID", "a value has no form here", lasting=True
                ) from error
            raise ConnectorFailedError(
                "CONNECTOR_ERROR",
                f"the server refused: {state}",
                lasting=state is not None and state[:2] in _LASTING_CLASSES,
            ) from error


@contextmanager
def _watched(connection: Connection, question: Question) -> Iterator[None]:
    """Cut the connection when the server neither answers nor keeps its own timeout."""
    patience = question.seconds_left() + _PATIENCE_SECONDS
    handle = os.dup(connection.fileno())

    def cut() -> None:
        with socket.socket(fileno=os.dup(handle)) as line:
            line.shutdown(socket.SHUT_RDWR)

    watch = threading.Timer(patience, cut)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()
        watch.join()
        os.close(handle)


def _has_ended(connection: Connection) -> bool:
    """Tell whether the server has hung up on an idle connection: then there is something to read."""
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as line:
            line.setblocking(False)
            line.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except (OSError, psycopg.Error):
        return True
    return True


def _no_dsn() -> ConnectorFailedError:
    return ConnectorFailedError("CREDENTIAL_UNAVAILABLE", "the credential is no DSN", lasting=True)
