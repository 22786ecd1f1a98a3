"""Connectors: SQLite files of one folder, opened read-only; nothing but reading is authorised."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from app.connectors.sql_source import Fetched, Question, row_of, weight
from app.connectors.values import ConnectorFailedError

_SCHEME: Final = "sqlite:///"
_STEPS: Final = 1000
_BATCH: Final = 100
_READING: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)


class SqliteSource:
    """Reads files under HOC_CONNECTOR_SQLITE_DIR; a DSN is `sqlite:///<path inside it>`."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def ask(self, key: tuple[str, ...], dsn: str, question: Question) -> Fetched:  # noqa: ARG002
        """Return the rows of a template within its bounds; raise ConnectorFailedError."""
        with self._opened(dsn, question) as connection, _failures(question):
            cursor = connection.execute(question.sql, _bindable(question))
            names = [column[0] for column in cursor.description or ()]
            rows: list[Mapping[str, Any]] = []
            size = 0
            while batch := cursor.fetchmany(_BATCH):
                question.seconds_left()
                for values in batch:
                    size += weight(values)
                    if len(rows) == question.max_rows or size > question.max_bytes:
                        return Fetched(rows, more=True)
                    rows.append(row_of(names, values))
            return Fetched(rows)

    def describe(self, key: tuple[str, ...], dsn: str, question: Question) -> list[str]:  # noqa: ARG002
        """Return the columns of a template without reading a row; raise ConnectorFailedError."""
        with self._opened(dsn, question) as connection, _failures(question):
            # The template is the operator's own text; no value of a caller is in it.
            probe = f"SELECT * FROM ({question.sql}\n) LIMIT 0"  # noqa: S608
            cursor = connection.execute(probe, _bindable(question))
            return [column[0] for column in cursor.description]

    @contextmanager
    def _opened(self, dsn: str, question: Question) -> Iterator[sqlite3.Connection]:
        path = self._path(dsn)
        question.seconds_left()
        with _failures(question):
            connection = sqlite3.connect(
                f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
            )
        with closing(connection):
            connection.execute("PRAGMA query_only = ON")
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(question.max_bytes, 1_000_000))
            connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
            connection.set_authorizer(_authorise)
            connection.set_progress_handler(lambda: time.monotonic() > question.deadline, _STEPS)
            yield connection

    def _path(self, dsn: str) -> Path:
        if not dsn.startswith(_SCHEME):
            raise ConnectorFailedError("CREDENTIAL_UNAVAILABLE", "the credential is no DSN", lasting=True)
        if self._folder is None:
            raise ConnectorFailedError("HOST_NOT_ALLOWED", "no folder of SQLite files is set", lasting=True)
        folder = self._folder.resolve()
        try:
            path = (folder / dsn.removeprefix(_SCHEME)).resolve()
        except (OSError, ValueError) as error:
            raise ConnectorFailedError("CONNECTOR_ERROR", "the path has no file", lasting=True) from error
        if not path.is_relative_to(folder):
            raise ConnectorFailedError("HOST_NOT_ALLOWED", "the file is outside the folder", lasting=True)
        if not path.is_file():
            raise ConnectorFailedError("CONNECTOR_ERROR", "there is no such file", lasting=True)
        return path


def _authorise(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    loads = action == sqlite3.SQLITE_FUNCTION and "load_extension" in (first, second)
    return sqlite3.SQLITE_OK if action in _READING and not loads else sqlite3.SQLITE_DENY


def _bindable(question: Question) -> dict[str, object]:
    plain: dict[str, object] = {}
    for name, value in question.params.items():
        if isinstance(value, list):
            raise ConnectorFailedError("CONNECTOR_ERROR", "SQLite binds no list", lasting=True)
        plain[name] = value if isinstance(value, str | int | float | None) else str(value)
    return plain


@contextmanager
def _failures(question: Question) -> Iterator[None]:
    """Turn what SQLite raises into failures that tell nothing of the database."""
    try:
        yield
    except (sqlite3.Error, sqlite3.Warning, OverflowError, MemoryError) as error:
        if time.monotonic() > question.deadline:
            raise ConnectorFailedError("CONNECTOR_TIMEOUT", "the deadline passed") from error
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_TOOBIG or isinstance(error, MemoryError | sqlite3.DataError):
            raise ConnectorFailedError("RESPONSE_TOO_LARGE", "a value is too large", lasting=True) from error
        if isinstance(error, sqlite3.OperationalError) and "decode" in str(error):
            raise ConnectorFailedError("RESPONSE_INVALID", "a text is no UTF-8", lasting=True) from error
        passing = code is not None and (code & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        raise ConnectorFailedError(
            "CONNECTOR_ERROR", f"SQLite refused: {type(error).__name__} {code}", lasting=not passing
        ) from error
