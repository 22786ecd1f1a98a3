"""Database: rows looked up by many pairs of values of two columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from app.db.connection import DriverConnection
from app.db.many_rows import array_text
from app.kernel.canonical_json import dumps


def among_pairs(
    connection: DriverConnection,
    first: sa.ColumnElement[Any],
    second: sa.ColumnElement[Any],
    pairs: Sequence[Sequence[Any]],
) -> sa.ColumnElement[bool]:
    """Return the condition that two columns, of texts or numbers, together are one of any number of pairs.

    Written out, hundreds of pairs are a list that SQLite expects to match so much that it reads another table
    of a join from end to end, and a condition each that PostgreSQL takes longer to plan than to answer.
    """
    if connection.dialect_name == "sqlite":
        value = sa.func.json_each(dumps([list(pair) for pair in pairs])).table_valued("value").c.value
        wanted = sa.select(sa.func.json_extract(value, "$[0]"), sa.func.json_extract(value, "$[1]"))
    else:
        arrays = (
            sa.cast(sa.literal(array_text([pair[at] for pair in pairs]), sa.Text), postgresql.ARRAY(kind))
            for at, kind in enumerate((first.type, second.type))
        )
        wanted = sa.select(*sa.func.unnest(*arrays).table_valued("first", "second").render_derived().c)
    return sa.tuple_(first, second).in_(wanted)
