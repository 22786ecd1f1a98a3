"""Database: column types that read and write the same values on both dialects."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from app.kernel.clock import format_time, parse_time


class Timestamp(TypeDecorator[datetime]):
    """An aware UTC time: `timestamptz` on PostgreSQL, the fixed 27-character text on SQLite."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.DateTime(timezone=True))
        return dialect.type_descriptor(sa.Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without an offset is never stored")
        return value if dialect.name == "postgresql" else format_time(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.astimezone(UTC) if isinstance(value, datetime) else parse_time(value)


class AsStored(TypeDecorator[Any]):
    """A column of a row that is to be verified: a value that the column's own type refuses comes raw.

    SQLite keeps what it is given, whatever the column's type: bytes that are no UTF-8, a time that is none.
    """

    impl = sa.LargeBinary
    cache_ok = True

    def __init__(self, of: TypeEngine[Any]) -> None:
        super().__init__()
        self.of = of

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(sa.LargeBinary())
        return self.of.load_dialect_impl(dialect) if isinstance(self.of, Timestamp) else self.of

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return _Raw(column, self.of)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002
        if not isinstance(value, bytes):
            return value
        try:
            text = value.decode()
            if isinstance(self.of, Timestamp):
                return parse_time(text)
            if isinstance(self.of, sa.Boolean):
                return {"0": False, "1": True}.get(text, text)
            number = isinstance(self.of, sa.Integer) and str(int(text)) == text
        except ValueError:
            return value
        return int(text) if number else text


class _Raw(ColumnElement[Any]):
    """A column as bytes on SQLite; on PostgreSQL as it is, but for times beyond what Python knows."""

    inherit_cache = False

    def __init__(self, column: ColumnElement[Any], of: TypeEngine[Any]) -> None:
        self.column = column
        self.type = AsStored(of)
        self.is_time = isinstance(of, Timestamp)


@compiles(_Raw)
def _raw(element: _Raw, compiler: SQLCompiler, **options: Any) -> str:
    column = compiler.process(element.column, **options)
    if compiler.dialect.name == "sqlite":
        return f"CAST({column} AS BLOB)"
    if element.is_time:
        return f"CASE WHEN {column} BETWEEN '0001-01-02Z' AND '9999-12-30Z' THEN {column} END"
    return column


def as_stored(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Return a column to select in a row that is to be verified."""
    return sa.type_coerce(column, AsStored(column.type)).label(column.name)


CanonicalText = sa.Text
"""A J column: canonical JSON text (kcj-1), read and written as str."""

Flag = sa.Boolean
BigInt = sa.BigInteger
Bytes = sa.LargeBinary
