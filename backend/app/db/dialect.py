"""Database: the few differences between SQLite and PostgreSQL that drivers need."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from app.db.connection import DriverConnection

Insert = postgresql.Insert | sqlite.Insert


def insert(connection: DriverConnection, table: sa.Table) -> Insert:
    """Return the dialect's INSERT, with `on_conflict_do_nothing/_do_update` and `returning`."""
    return sqlite.insert(table) if connection.dialect_name == "sqlite" else postgresql.insert(table)


def bytewise(connection: DriverConnection, column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """Return the column under an order by UTF-8 bytes, equal on both dialects."""
    return column if connection.dialect_name == "sqlite" else sa.collate(column, "C")
