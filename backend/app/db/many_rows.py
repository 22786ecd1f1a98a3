"""Database: rows by the hundred, inserted by one statement on PostgreSQL and by one batch on SQLite.

To PostgreSQL each column goes as one array, in the text that the server reads: the driver would look at every
element by itself, which costs more than the insertion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from app.db.connection import DriverConnection, Row
from app.db.hot import HotStatement

# No statement shall take long.
_ROWS_AT_ONCE: Final = 2000


def array_text(values: Sequence[Any]) -> str:
    """Return an array of texts, numbers, times or nulls as PostgreSQL reads it; texts hold no U+0000."""
    if not values:
        return "{}"
    if all(type(value) is str for value in values):
        # All at once; U+0000 stands between them meanwhile, since it is in none.
        return '{"' + _escaped("\0".join(values)).replace("\0", '","') + '"}'
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(value)
    return f'"{_escaped(value.isoformat() if isinstance(value, datetime) else value)}"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def array_rows(columns: Mapping[str, Any]) -> sa.TableValuedAlias:
    """Return rows of these names and types, read from one parameter for each, made by `array_text`."""
    return (
        sa.func.unnest(
            *(
                sa.cast(sa.bindparam(name, type_=sa.Text), postgresql.ARRAY(kind))
                for name, kind in columns.items()
            )
        )
        .table_valued(*columns)
        .render_derived()
    )


class ManyRows:
    """The insertion of many rows into one table: some columns equal for all of them, the others for each."""

    def __init__(self, table: sa.Table, *, of_all: Sequence[str], of_each: Sequence[str]) -> None:
        each = array_rows({name: table.c[name].type for name in of_each})
        shared = (
            sa.cast(sa.bindparam(name, type_=table.c[name].type), table.c[name].type) for name in of_all
        )
        self._of_each = tuple(of_each)
        self._one: sa.Insert = table.insert()
        self._many = HotStatement(
            table.insert().from_select([*of_all, *of_each], sa.select(*shared, *each.c))
        )

    def insert(self, connection: DriverConnection, rows: Sequence[Row], **of_all: Any) -> None:
        """Insert the rows."""
        if connection.dialect_name == "sqlite":
            if rows:
                connection.execute(self._one, [{**of_all, **row} for row in rows])
            return
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            arrays = {name: array_text([row[name] for row in part]) for name in self._of_each}
            connection.hot(self._many, {**of_all, **arrays})
