"""Spine: what an error of the database means to a caller: come again, nothing was stored, or a bug."""

from __future__ import annotations

import sqlite3

import psycopg
import sqlalchemy as sa
from psycopg import errors as pg

from app.kernel.errors import ErrorKind, HocError

# Primary result codes of SQLite, and classes and codes of SQLSTATE, that are no bug of this program.
_SQLITE_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_SQLITE_STORAGE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
_BUSY_CLASSES = frozenset({"08", "40", "53", "57"})
_STORAGE_STATES = frozenset({"53100", "58030"})


def busy() -> HocError:
    """Somebody holds what this needs; the same call may succeed in a moment."""
    return HocError(ErrorKind.UNAVAILABLE, "BUSY", "The database is busy; try again.", retry_after=1)


def refusal_of(error: sa.exc.DBAPIError | sa.exc.TimeoutError, *, writing: bool = True) -> HocError | None:
    """Return the refusal that an outage or a lock means to the caller; None for a bug.

    A read-only database is an outage to a unit that writes; to one that reads, writing is the bug.
    """
    if isinstance(error, sa.exc.TimeoutError) or error.connection_invalidated:
        return busy()
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return _refusal_of_sqlite(cause, writing=writing)
    if isinstance(cause, psycopg.Error):
        return _refusal_of_postgresql(cause, writing=writing)
    return None


def outage(error: Exception) -> HocError | None:
    """Return the refusal that an exception inside an open write unit means to the caller; None for a bug."""
    if isinstance(error, sa.exc.DBAPIError | sa.exc.TimeoutError):
        return refusal_of(error)
    if isinstance(error, OverflowError) and "SQLite" in str(error):
        return beyond_storage()
    return None


def _refusal_of_sqlite(cause: sqlite3.Error, *, writing: bool) -> HocError | None:
    # The low byte of an extended code is the primary one; errors of the Python module itself have none.
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    if code in _SQLITE_BUSY:
        return busy()
    if code in _SQLITE_STORAGE or (code == sqlite3.SQLITE_READONLY and writing):
        return storage_failed()
    return None


def _refusal_of_postgresql(cause: psycopg.Error, *, writing: bool) -> HocError | None:
    state = cause.sqlstate
    if state is None:
        # No server has answered: it is away, or too slow to connect to.
        return busy() if isinstance(cause, psycopg.OperationalError) else None
    if isinstance(cause, pg.NumericValueOutOfRange):
        return beyond_storage()
    if state in _STORAGE_STATES or (isinstance(cause, pg.ReadOnlySqlTransaction) and writing):
        return storage_failed()
    if state[:2] in _BUSY_CLASSES or isinstance(cause, pg.LockNotAvailable):
        return busy()
    return None


def beyond_storage() -> HocError:
    """A number of the input is wider than its column: nothing with it can be stored or found."""
    return HocError(ErrorKind.INVALID, "INVALID_INPUT", "A number is beyond what can be stored.")


def storage_failed() -> HocError:
    """The disk is full or read-only; nothing was written."""
    return HocError(
        ErrorKind.UNAVAILABLE, "STORAGE_FAILED", "The database cannot store data now.", retry_after=30
    )
