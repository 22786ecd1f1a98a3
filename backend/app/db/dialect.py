"""Database: the few differences between SQLite and PostgreSQL that drivers need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from app.db.connection import DriverConnection
from app.kernel.canonical_json import dumps

ORDERS_BYTEWISE = "hoc_orders_bytewise"
"""What an engine says of its database in its SQLAlchemy dialect, once it is connected."""
Insert = postgresql.Insert | sqlite.Insert
# A statement for each length of a list is one that nobody has prepared.
_FEW = 50


def insert(connection: DriverConnection, table: sa.Table) -> Insert:
    """Return the dialect's INSERT, with `on_conflict_do_nothing/_do_update` and `returning`."""
    return sqlite.insert(table) if connection.dialect_name == "sqlite" else postgresql.insert(table)


class _Bytewise(FunctionElement[str]):
    """A text column under an order by UTF-8 bytes."""

    inherit_cache = True
    type = sa.Text()


@compiles(_Bytewise)
def _bytewise(element: _Bytewise, compiler: SQLCompiler, **options: Any) -> str:
    column = compiler.process(element.clauses, **options)
    # Under another collation than its own an index serves no order, even where both order by bytes.
    return column if getattr(compiler.dialect, ORDERS_BYTEWISE, False) else f'{column} COLLATE "C"'


def bytewise(connection: DriverConnection, column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """Return the column under an order by UTF-8 bytes, equal on both dialects."""
    return column if connection.dialect_name == "sqlite" else _Bytewise(column)


def different(found: sa.Select[tuple[str]]) -> sa.Select[tuple[str]]:
    """Return the different values that a query of one column finds.

    Asked for DISTINCT itself, SQLite reads an index of the column from end to end, whatever the conditions.
    """
    values = found.cte("found").prefix_with("MATERIALIZED")
    return sa.select(values.c[0]).distinct()


def among(
    connection: DriverConnection, column: sa.ColumnElement[Any], values: Sequence[str]
) -> sa.ColumnElement[bool]:
    """Return the condition that a text column is one of any number of values."""
    if len(values) <= _FEW:
        return column.in_(values)
    # One parameter for any number of values, which otherwise meets the parameter limit of the driver.
    if connection.dialect_name == "sqlite":
        listed = sa.func.json_each(dumps(list(values))).table_valued("value")
        return column.in_(sa.select(listed.c.value))
    return column == sa.any_(
        sa.cast(sa.literal(list(values), postgresql.ARRAY(sa.Text)), postgresql.ARRAY(sa.Text))
    )


def among_given(dialect_name: str, column: sa.ColumnElement[Any], parameter: str) -> sa.ColumnElement[bool]:
    """Return the condition that a text column is one of the values of a parameter (see `given_values`).

    For statements that are built once, whatever the number of values.
    """
    if dialect_name == "sqlite":
        listed = sa.func.json_each(sa.bindparam(parameter, type_=sa.Text)).table_valued("value")
        return column.in_(sa.select(listed.c.value))
    array = postgresql.ARRAY(sa.Text)
    return column == sa.any_(sa.cast(sa.bindparam(parameter, type_=array), array))


def given_values(dialect_name: str, values: Sequence[str]) -> Any:
    """Return values as the parameter that `among_given` reads them from."""
    return dumps(list(values)) if dialect_name == "sqlite" else list(values)
