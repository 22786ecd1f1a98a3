"""L6 SQL of plane terms: in how many passages each term occurs, and what a running ingest changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from app.db.connection import DriverConnection
from app.db.dialect import Insert
from app.db.hot import HotStatement
from app.db.many_rows import array_rows, array_text
from app.domains.knowledge.tables import plane_terms as terms_table
from app.kernel.canonical_json import dumps

_known = sa.select(terms_table.c.term, terms_table.c.passage_frequency).where(
    terms_table.c.tenant_id == sa.bindparam("tenant_id"),
    terms_table.c.plane_id == sa.bindparam("plane_id"),
    terms_table.c.passage_frequency > sa.literal_column("0"),
)
# Seen by its planner, the terms would make PostgreSQL plan each look-up anew, which costs as much.
_wanted = sa.cast(
    sa.select(sa.bindparam("terms", type_=sa.Text)).scalar_subquery(), postgresql.ARRAY(sa.Text)
)
_wanted_sqlite = sa.func.json_each(sa.bindparam("terms", type_=sa.Text)).table_valued("value")
_FREQUENCIES = HotStatement(
    _known.where(terms_table.c.term == sa.any_(_wanted)),
    sqlite=_known.where(terms_table.c.term.in_(sa.select(_wanted_sqlite.c.value))),
)
# A batch holds thousands of terms: in one statement they cost a tenth of a statement for each.
_changes = array_rows({"term": sa.Text(), "change": sa.Integer()})
_changes_sqlite = sa.func.json_each(sa.bindparam("changes", type_=sa.Text)).table_valued("key", "value")


def _staging(new: Insert, term: Any, change: Any) -> Insert:
    rows = sa.select(
        sa.cast(sa.bindparam("tenant_id", type_=sa.Text), sa.Text),
        sa.cast(sa.bindparam("plane_id", type_=sa.Text), sa.Text),
        term,
        sa.literal_column("0"),
        change,
        # Without a condition SQLite reads ON CONFLICT as that of a join.
    ).where(sa.true())
    columns = ["tenant_id", "plane_id", "term", "passage_frequency", "staged_change"]
    return new.from_select(columns, rows).on_conflict_do_update(
        index_elements=["tenant_id", "plane_id", "term"],
        set_={"staged_change": terms_table.c.staged_change + new.excluded.staged_change},
    )


_STAGING = HotStatement(
    _staging(postgresql.insert(terms_table), _changes.c.term, _changes.c.change),
    sqlite=_staging(sqlite.insert(terms_table), _changes_sqlite.c.key, _changes_sqlite.c.value),
)


def list_frequencies(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, terms: Sequence[str]
) -> dict[str, int]:
    """Return the passage frequency of each of these terms that the plane knows."""
    as_text = dumps if connection.dialect_name == "sqlite" else array_text
    given = {"tenant_id": tenant_id, "plane_id": plane_id, "terms": as_text(list(terms))}
    return {row["term"]: row["passage_frequency"] for row in connection.hot(_FREQUENCIES, given)}


def set_staged_changes(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, changes: Mapping[str, int]
) -> None:
    """Add changes of passage frequencies to those staged for the next generation."""
    if not changes:
        return
    # In key order, so that two writers of one plane could never wait for one another in a circle.
    terms = sorted(changes)
    if connection.dialect_name == "sqlite":
        given = {"changes": orjson.dumps({term: changes[term] for term in terms}).decode()}
    else:
        given = {"term": array_text(terms), "change": array_text([changes[term] for term in terms])}
    connection.hot(_STAGING, {"tenant_id": tenant_id, "plane_id": plane_id, **given})


def set_changed(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    changes: Mapping[str, tuple[int, int]],
) -> None:
    """Add changes to the frequencies and to what is staged, for passages that are gone at once."""
    statement = (
        sa.update(terms_table)
        .where(
            terms_table.c.tenant_id == tenant_id,
            terms_table.c.plane_id == plane_id,
            terms_table.c.term == sa.bindparam("of_term"),
        )
        .values(
            passage_frequency=terms_table.c.passage_frequency + sa.bindparam("served"),
            staged_change=terms_table.c.staged_change + sa.bindparam("staged"),
        )
    )
    rows = [
        {"of_term": term, "served": changes[term][0], "staged": changes[term][1]} for term in sorted(changes)
    ]
    if rows:
        connection.execute(statement, rows)
        _delete_unused(connection, tenant_id=tenant_id, plane_id=plane_id)


def set_settled(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> None:
    """Move the staged changes into the frequencies and drop the terms that no passage holds any more."""
    connection.execute(
        sa.update(terms_table)
        .where(
            terms_table.c.tenant_id == tenant_id,
            terms_table.c.plane_id == plane_id,
            terms_table.c.staged_change != 0,
        )
        .values(
            passage_frequency=terms_table.c.passage_frequency + terms_table.c.staged_change, staged_change=0
        )
    )
    _delete_unused(connection, tenant_id=tenant_id, plane_id=plane_id)


def set_unstaged(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> None:
    """Forget the staged changes."""
    connection.execute(
        sa.update(terms_table)
        .where(
            terms_table.c.tenant_id == tenant_id,
            terms_table.c.plane_id == plane_id,
            terms_table.c.staged_change != 0,
        )
        .values(staged_change=0)
    )
    _delete_unused(connection, tenant_id=tenant_id, plane_id=plane_id)


def _delete_unused(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> None:
    connection.execute(
        sa.delete(terms_table).where(
            terms_table.c.tenant_id == tenant_id,
            terms_table.c.plane_id == plane_id,
            terms_table.c.passage_frequency <= 0,
            terms_table.c.staged_change == 0,
        )
    )


def delete_terms(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> int:
    """Delete every term of a plane and return how many there were."""
    return connection.execute(
        sa.delete(terms_table).where(terms_table.c.tenant_id == tenant_id, terms_table.c.plane_id == plane_id)
    ).rowcount
