"""Database: the few differences between SQLite and PostgreSQL that drivers need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from app.db.connection import DriverConnection
from app.kernel.canonical_json import dumps

Insert = postgresql.Insert | sqlite.Insert
_FEW = 500


def insert(connection: DriverConnection, table: sa.Table) -> Insert:
    """Return the dialect's INSERT, with `on_conflict_do_nothing/_do_update` and `returning`."""
    return sqlite.insert(table) if connection.dialect_name == "sqlite" else postgresql.insert(table)


def bytewise(connection: DriverConnection, column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """Return the column under an order by UTF-8 bytes, equal on both dialects."""
    return column if connection.dialect_name == "sqlite" else sa.collate(column, "C")


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
