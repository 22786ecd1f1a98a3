"""L6 SQL of plane terms: in how many passages each term occurs, and what a running ingest changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from app.db.connection import DriverConnection
from app.db.dialect import insert
from app.domains.knowledge.tables import plane_terms as terms_table

_TERMS_AT_ONCE = 20_000
_FREQUENCIES = sa.select(terms_table.c.term, terms_table.c.passage_frequency).where(
    terms_table.c.tenant_id == sa.bindparam("tenant_id"),
    terms_table.c.plane_id == sa.bindparam("plane_id"),
    terms_table.c.term.in_(sa.bindparam("terms", expanding=True)),
    terms_table.c.passage_frequency > 0,
)


def list_frequencies(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, terms: Sequence[str]
) -> dict[str, int]:
    """Return the passage frequency of each of these terms that the plane knows."""
    given = {"tenant_id": tenant_id, "plane_id": plane_id, "terms": list(terms)}
    return {row.term: row.passage_frequency for row in connection.execute(_FREQUENCIES, given)}


def set_staged_changes(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, changes: Mapping[str, int]
) -> None:
    """Add changes of passage frequencies to those staged for the next generation."""
    if not changes:
        return
    # In key order, so that two writers of one plane could never wait for one another in a circle.
    terms = sorted(changes)
    new = insert(connection, terms_table)
    upsert = new.on_conflict_do_update(
        index_elements=["tenant_id", "plane_id", "term"],
        set_={"staged_change": terms_table.c.staged_change + new.excluded.staged_change},
    )
    if connection.dialect_name == "sqlite":
        keys = {"tenant_id": tenant_id, "plane_id": plane_id, "passage_frequency": 0}
        connection.execute(upsert, [{**keys, "term": term, "staged_change": changes[term]} for term in terms])
        return
    # A batch holds thousands of terms: two arrays in one statement cost a tenth of a statement for each.
    for start in range(0, len(terms), _TERMS_AT_ONCE):
        part = terms[start : start + _TERMS_AT_ONCE]
        given = (
            sa.func.unnest(
                sa.cast(part, postgresql.ARRAY(sa.Text)),
                sa.cast([changes[term] for term in part], postgresql.ARRAY(sa.Integer)),
            )
            .table_valued("term", "change")
            .render_derived()
        )
        rows = sa.select(
            sa.cast(tenant_id, sa.Text),
            sa.cast(plane_id, sa.Text),
            given.c.term,
            sa.literal(0),
            given.c.change,
        )
        columns = ["tenant_id", "plane_id", "term", "passage_frequency", "staged_change"]
        connection.execute(upsert.from_select(columns, rows))


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
