"""L6 SQL of plane passages: the indexed text of the documents that a plane serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from app.db.connection import DriverConnection
from app.db.dialect import bytewise
from app.domains.knowledge.tables import plane_documents as documents
from app.domains.knowledge.tables import plane_passages as passages

# The search index of SQLite and its rows, made by the migration and kept by triggers.
_fts = sa.table("plane_passages_fts", sa.column("rowid"), sa.column("plane_passages_fts"))
_fts_rows = sa.table(
    "plane_passages_fts_rows",
    sa.column("search_no"),
    sa.column("tenant_id"),
    sa.column("plane_id"),
    sa.column("artifact_id"),
    sa.column("gen_from"),
    sa.column("passage_no"),
)


Row = Mapping[str, Any]


def _visible(generation: Any) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        passages.c.gen_from <= generation,
        sa.or_(passages.c.gen_to.is_(None), passages.c.gen_to > generation),
    )


def _same(left: sa.FromClause, right: sa.FromClause, *names: str) -> sa.ColumnElement[bool]:
    return sa.and_(*(left.c[name] == right.c[name] for name in ("tenant_id", "plane_id", *names)))


# The three statements of a search are built once: building them would cost more than running them.
_OF_PLANE = (
    passages.c.tenant_id == sa.bindparam("tenant_id"),
    passages.c.plane_id == sa.bindparam("plane_id"),
    *_visible(sa.bindparam("generation", type_=sa.Integer)),
)
_found = (
    sa.func.plane_passage_candidates(
        sa.cast(sa.bindparam("tenant_id"), sa.Text),
        sa.cast(sa.bindparam("plane_id"), sa.Text),
        sa.cast(sa.bindparam("generation"), sa.Integer),
        sa.cast(sa.bindparam("keys"), postgresql.ARRAY(sa.Text)),
        sa.cast(sa.bindparam("every"), sa.Boolean),
        sa.cast(sa.bindparam("most"), sa.Integer),
    )
    .table_valued("artifact_id", "passage_no", "term_total", "terms")
    .alias("found")
)
_GIN_CANDIDATES = sa.select(*_found.c)
_FTS_CANDIDATES = (
    sa.select(passages.c.artifact_id, passages.c.passage_no, passages.c.term_total, passages.c.terms)
    .select_from(
        _fts.join(_fts_rows, _fts_rows.c.search_no == _fts.c.rowid).join(
            passages, _same(passages, _fts_rows, "artifact_id", "gen_from", "passage_no")
        )
    )
    .where(_fts.c.plane_passages_fts.op("MATCH")(sa.bindparam("match")), *_OF_PLANE)
    .order_by(passages.c.artifact_id, passages.c.passage_no)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_ROWS_AT_ONCE = 2000
_ARRAYS: Mapping[str, Any] = {
    name: passages.c[name].type
    for name in ("artifact_id", "passage_no", "start_char", "end_char", "text", "term_total", "terms")
}
_arrays = (
    sa.func.unnest(*(sa.cast(sa.bindparam(name), postgresql.ARRAY(kind)) for name, kind in _ARRAYS.items()))
    .table_valued(*_ARRAYS)
    .render_derived()
)
_INSERT_ARRAYS = sa.insert(passages).from_select(
    ["tenant_id", "plane_id", "gen_from", *_ARRAYS],
    sa.select(
        sa.cast(sa.bindparam("tenant_id"), sa.Text),
        sa.cast(sa.bindparam("plane_id"), sa.Text),
        sa.cast(sa.bindparam("gen_from"), sa.Integer),
        *_arrays.c,
    ),
)
_TEXTS = (
    sa.select(
        passages.c.artifact_id,
        passages.c.passage_no,
        passages.c.start_char,
        passages.c.end_char,
        passages.c.text,
        documents.c.revision,
        documents.c.revision_digest,
        documents.c.content_digest,
        documents.c.name,
        documents.c.media_type,
    )
    .join(documents, _same(documents, passages, "artifact_id", "gen_from"))
    .where(
        *_OF_PLANE,
        # The pairs alone are no key that SQLite looks up; the ids are.
        passages.c.artifact_id.in_(sa.bindparam("artifact_ids", expanding=True)),
        sa.tuple_(passages.c.artifact_id, passages.c.passage_no).in_(sa.bindparam("wanted", expanding=True)),
    )
)


def insert_passages(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    generation: int,
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Insert passages that are visible from a generation on."""
    if not rows:
        return
    of_all = {"tenant_id": tenant_id, "plane_id": plane_id, "gen_from": generation}
    if connection.dialect_name == "sqlite":
        connection.execute(sa.insert(passages), [{**of_all, **row} for row in rows])
        return
    # A batch holds hundreds of passages: one statement over arrays costs half of a statement for each. A long
    # document has thousands, and no statement shall take long.
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        connection.execute(
            _INSERT_ARRAYS, {**of_all, **{name: [row[name] for row in part] for name in _ARRAYS}}
        )


def list_candidates(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    generation: int,
    terms: Sequence[str],
    match_all: bool,
    limit: int,
) -> Sequence[Row]:
    """Return the visible passages that hold any or all of the encoded terms, in key order."""
    keys = [plane_id + term for term in terms]
    given: dict[str, Any] = {
        "tenant_id": tenant_id,
        "plane_id": plane_id,
        "generation": generation,
        "most": limit,
    }
    if connection.dialect_name == "sqlite":
        # Each key is one quoted word of letters, digits and `._:-`; nothing of the caller's is syntax here.
        given["match"] = (" AND " if match_all else " OR ").join([f'"{key}"' for key in keys])
        return connection.execute(_FTS_CANDIDATES, given).mappings().all()
    given |= {"keys": keys, "every": match_all}
    return connection.execute(_GIN_CANDIDATES, given).mappings().all()


def list_texts(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    generation: int,
    passages_wanted: Sequence[tuple[str, int]],
) -> Sequence[Row]:
    """Return these visible passages with the reference of their document."""
    given = {
        "tenant_id": tenant_id,
        "plane_id": plane_id,
        "generation": generation,
        "artifact_ids": list(dict.fromkeys(artifact_id for artifact_id, _ in passages_wanted)),
        "wanted": passages_wanted,
    }
    return connection.execute(_TEXTS, given).mappings().all()


def list_all_texts(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, keys: Sequence[tuple[str, int]]
) -> list[Row]:
    """Return every passage of these (artifact, generation) documents, in order of the text."""
    if not keys:
        return []
    statement = (
        sa.select(passages.c.artifact_id, passages.c.start_char, passages.c.end_char, passages.c.text)
        .where(
            passages.c.tenant_id == tenant_id,
            passages.c.plane_id == plane_id,
            passages.c.artifact_id.in_([artifact_id for artifact_id, _ in keys]),
            sa.tuple_(passages.c.artifact_id, passages.c.gen_from).in_(keys),
        )
        .order_by(bytewise(connection, passages.c.artifact_id), passages.c.passage_no)
    )
    return list(connection.execute(statement).mappings())


def count_visible(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, generation: int
) -> tuple[int, int]:
    """Return how many passages a generation shows, and how many terms they hold together."""
    statement = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(passages.c.term_total), 0)).where(
        passages.c.tenant_id == tenant_id, passages.c.plane_id == plane_id, *_visible(generation)
    )
    count, total = connection.execute(statement).one()
    return int(count), int(total)


def set_index_merged(connection: DriverConnection, *, tenant_id: str) -> None:  # noqa: ARG001 - of all tenants
    """Merge what waits to enter the search index, so that no search looks through it; FTS5 has no list."""
    if connection.dialect_name == "postgresql":
        connection.execute(sa.select(sa.func.plane_passages_merge()))


def set_retired(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    generation: int,
    artifact_ids: Sequence[str],
) -> list[str]:
    """Let the passages of these artifacts end before a generation and return the terms of each."""
    statement = (
        sa.update(passages)
        .where(
            passages.c.tenant_id == tenant_id,
            passages.c.plane_id == plane_id,
            passages.c.artifact_id.in_(artifact_ids),
            passages.c.gen_from < generation,
            passages.c.gen_to.is_(None),
        )
        .values(gen_to=generation)
        .returning(passages.c.terms)
    )
    return list(connection.scalars(statement))


def delete_ended(connection: DriverConnection, *, tenant_id: str, plane_id: str, generation: int) -> int:
    """Delete the passages that ended with or before a generation and return how many there were."""
    return connection.execute(
        sa.delete(passages).where(
            passages.c.tenant_id == tenant_id,
            passages.c.plane_id == plane_id,
            passages.c.gen_to <= generation,
        )
    ).rowcount


def delete_staged(connection: DriverConnection, *, tenant_id: str, plane_id: str, generation: int) -> None:
    """Take back what was written for generations after this one."""
    connection.execute(
        sa.delete(passages).where(
            passages.c.tenant_id == tenant_id,
            passages.c.plane_id == plane_id,
            passages.c.gen_from > generation,
        )
    )
    connection.execute(
        sa.update(passages)
        .where(
            passages.c.tenant_id == tenant_id, passages.c.plane_id == plane_id, passages.c.gen_to > generation
        )
        .values(gen_to=None)
    )


def delete_passages(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> int:
    """Delete every passage of a plane and return how many there were."""
    return connection.execute(
        sa.delete(passages).where(passages.c.tenant_id == tenant_id, passages.c.plane_id == plane_id)
    ).rowcount


def delete_artifact_passages(
    connection: DriverConnection,
    *,
    tenant_id: str,
    artifact_ids: Sequence[str],
    revisions: Sequence[int] | None,
) -> list[Row]:
    """Delete the passages of artifacts, at these revisions (None: all), in every plane.

    Returns plane_id, gen_from, gen_to and terms of each.
    """
    statement = (
        sa.delete(passages)
        .where(passages.c.tenant_id == tenant_id, passages.c.artifact_id.in_(artifact_ids))
        .returning(passages.c.plane_id, passages.c.gen_from, passages.c.gen_to, passages.c.terms)
    )
    if revisions is not None:
        pinned = sa.exists().where(
            documents.c.tenant_id == tenant_id,
            _same(documents, passages, "artifact_id", "gen_from"),
            documents.c.revision.in_(revisions),
        )
        statement = statement.where(pinned)
    return list(connection.execute(statement).mappings())
