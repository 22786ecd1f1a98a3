"""Database: statements of hot paths, executed on PostgreSQL by libpq itself, elsewhere as any other.

SQLAlchemy and the driver spend ten times as long on a small statement as libpq does. A hot statement is
built once; its text and its types come from SQLAlchemy, and only its execution goes past it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from psycopg.pq import ExecStatus
from sqlalchemy.dialects import postgresql

from app.db.connection import Dialect, Row
from app.db.types import Timestamp

_DIALECT: Final = postgresql.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
_NUMBERS = itertools.count(1)
_PREPARED: Final = "hot_statements"
_FORGOTTEN: Final = "hot_forgotten"
_DONE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)
Decode = Callable[[bytes], Any]


class HotRows(Sequence[Row]):
    """The rows of a hot statement, all of them in memory."""

    __slots__ = ("_rows",)

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def one_or_none(self) -> Row | None:
        """Return the only row, None without one."""
        if len(self._rows) > 1:
            raise LookupError("more than one row")
        return self._rows[0] if self._rows else None


class HotStatement:
    """One statement, written as a Core expression and made ready for libpq."""

    def __init__(
        self,
        statement: sa.Executable,
        *,
        sqlite: sa.Executable | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        compiled = statement.compile(  # type: ignore[attr-defined]
            dialect=_DIALECT, column_keys=columns, compile_kwargs={"render_postcompile": True}
        )
        self._statements: Mapping[str, sa.Executable] = {
            "postgresql": statement,
            "sqlite": statement if sqlite is None else sqlite,
        }
        self._number = next(_NUMBERS)
        self.text: bytes = compiled.string.encode()
        self._order: tuple[str, ...] = tuple(compiled.positiontup or ())
        self._fixed: Mapping[str, Any] = {
            name: value for name, value in compiled.params.items() if value is not None
        }
        self._columns = tuple(
            (entry.keyname, _decoder(entry.type)) for entry in compiled._result_columns or ()
        )

    @property
    def returns_rows(self) -> bool:
        return bool(self._columns)

    def on(self, dialect_name: Dialect) -> sa.Executable:
        """Return the statement for a dialect, to be executed like any other."""
        return self._statements[dialect_name]

    def run(self, pgconn: psycopg.pq.abc.PGconn, kept: dict[str, Any], given: Mapping[str, Any]) -> HotRows:
        """Execute on a connection, preparing the statement there once; raise the driver's own errors.

        `kept` is what the pool keeps with the connection, whoever has it.
        """
        prepared: dict[int, bytes] = kept.setdefault(_PREPARED, {})
        name = prepared.get(self._number)
        if name is None:
            name = b"hoc_%d_%d" % (self._number, kept.get(_FORGOTTEN, 0))
            _check(pgconn.prepare(name, self.text))
            prepared[self._number] = name
        fixed = self._fixed
        values: Any = [_encoded(given[name] if name in given else fixed.get(name)) for name in self._order]
        result = _check(pgconn.exec_prepared(name, values))
        return HotRows(
            [
                {
                    name: None if (raw := result.get_value(row, place)) is None else decode(raw)
                    for place, (name, decode) in enumerate(self._columns)
                }
                for row in range(result.ntuples)
            ]
        )


def forget_prepared(kept: dict[str, Any]) -> None:
    """Prepare anew on this connection, under other names: psycopg deallocates all after a ROLLBACK."""
    if kept.pop(_PREPARED, None):
        kept[_FORGOTTEN] = kept.get(_FORGOTTEN, 0) + 1


def _check(result: psycopg.pq.abc.PGresult) -> psycopg.pq.abc.PGresult:
    if result.status not in _DONE:
        raise psycopg.errors.error_from_result(result)
    return result


def _encoded(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a time without an offset is never stored")
        return value.isoformat().encode()
    return str(value).encode()


def _decoder(column_type: Any) -> Decode:
    if isinstance(column_type, Timestamp):
        return lambda raw: datetime.fromisoformat(raw.decode())
    if isinstance(column_type, sa.Boolean):
        return lambda raw: raw == b"t"
    if isinstance(column_type, sa.Integer):
        return int
    if isinstance(column_type, sa.Numeric | sa.LargeBinary):
        raise TypeError(f"a hot statement cannot read {column_type}")
    return lambda raw: raw.decode()
