"""Database: a page of rows by time and id, the newest first."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa


def newest(
    statement: sa.Select[Any],
    at: sa.Column[Any],
    key: sa.ColumnElement[Any],
    *,
    equal: Mapping[str, Any],
    before: tuple[datetime, str] | None,
    limit: int,
) -> sa.Select[Any]:
    """Return the statement for rows before a (time, id) that have these values; None stands for any value.

    The two are compared as one, which tells PostgreSQL where in the index to begin. With an OR (an earlier
    time, or the same and a smaller id) it would read the index from its end.
    """
    for name, value in equal.items():
        if value is not None:
            statement = statement.where(at.table.c[name] == value)
    if before is not None:
        last = sa.tuple_(sa.literal(before[0], at.type), sa.literal(before[1], key.type))
        statement = statement.where(sa.tuple_(at, key) < last)
    return statement.order_by(at.desc(), key.desc()).limit(limit)
