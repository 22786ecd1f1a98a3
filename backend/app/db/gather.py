"""Database: small questions of several slices, asked of the database in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.types import BigInt


@dataclass(frozen=True, slots=True)
class Question:
    """One slice's part of a gathering, made by its driver; only drivers look inside."""

    select: sa.Select[Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of an answer; what `ref`, `word`, `text` and `number` hold is the question's to say."""

    source: str
    ref: str | None
    word: str | None
    text: str | None
    number: int | None


def finding(
    source: str,
    *,
    ref: sa.ColumnElement[Any] | None = None,
    word: sa.ColumnElement[Any] | None = None,
    text: sa.ColumnElement[Any] | None = None,
    number: sa.ColumnElement[Any] | None = None,
) -> tuple[sa.ColumnElement[Any], ...]:
    """Return the columns that a question selects, equal in number and type for all questions."""
    return (
        sa.literal(source, sa.Text, literal_execute=True).label("source"),
        *(
            sa.cast(sa.null() if column is None else column, sa.Text).label(name)
            for name, column in (("ref", ref), ("word", word), ("text", text))
        ),
        sa.cast(sa.null() if number is None else number, BigInt).label("number"),
    )


def gather(connection: DriverConnection, questions: Sequence[Question]) -> list[Finding]:
    """Return the answers to all questions, read by one statement at one moment."""
    statement = sa.union_all(*(question.select for question in questions))
    return [Finding(**row) for row in connection.execute(statement).mappings()]
