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


def insert_passages(
    connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert passages."""
    if rows:
        connection.execute(sa.insert(passages), [{"tenant_id": tenant_id, **row} for row in rows])


def list_candidates(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    generation: int,
    terms: Sequence[str],
    match_all: bool,
    limit: int,
) -> list[Row]:
    """Return the visible passages that hold any or all of the encoded terms, in key order."""
    find = _fts_candidates if connection.dialect_name == "sqlite" else _gin_candidates
    statement = find(tenant_id, plane_id, generation, [plane_id + term for term in terms], match_all, limit)
    return list(connection.execute(statement).mappings())


def _gin_candidates(
    tenant_id: str, plane_id: str, generation: int, keys: Sequence[str], match_all: bool, limit: int
) -> sa.Select[Any]:
    found = (
        sa.func.plane_passage_candidates(
            sa.cast(tenant_id, sa.Text),
            sa.cast(plane_id, sa.Text),
            generation,
            sa.cast(list(keys), postgresql.ARRAY(sa.Text)),
            match_all,
            limit,
        )
        .table_valued("artifact_id", "passage_no", "term_total", "terms")
        .alias("found")
    )
    return sa.select(*found.c)


def _fts_candidates(
    tenant_id: str, plane_id: str, generation: int, keys: Sequence[str], match_all: bool, limit: int
) -> sa.Select[Any]:
    # Each key is one quoted word of letters, digits and `._:-`; nothing of the caller's text is syntax here.
    match = (" AND " if match_all else " OR ").join([f'"{key}"' for key in keys])
    joined = _fts.join(_fts_rows, _fts_rows.c.search_no == _fts.c.rowid).join(
        passages,
        sa.and_(
            passages.c.tenant_id == _fts_rows.c.tenant_id,
            passages.c.plane_id == _fts_rows.c.plane_id,
            passages.c.artifact_id == _fts_rows.c.artifact_id,
            passages.c.gen_from == _fts_rows.c.gen_from,
            passages.c.passage_no == _fts_rows.c.passage_no,
        ),
    )
    return (
        sa.select(passages.c.artifact_id, passages.c.passage_no, passages.c.term_total, passages.c.terms)
        .select_from(joined)
        .where(
            _fts.c.plane_passages_fts.op("MATCH")(match),
            passages.c.tenant_id == tenant_id,
            passages.c.plane_id == plane_id,
            *_visible(generation),
        )
        .order_by(passages.c.artifact_id, passages.c.passage_no)
        .limit(limit)
    )


def list_texts(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    generation: int,
    passages_wanted: Sequence[tuple[str, int]],
) -> list[Row]:
    """Return these visible passages with the reference of their document."""
    statement = (
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
        .join(
            documents,
            sa.and_(
                documents.c.tenant_id == passages.c.tenant_id,
                documents.c.plane_id == passages.c.plane_id,
                documents.c.artifact_id == passages.c.artifact_id,
                documents.c.gen_from == passages.c.gen_from,
            ),
        )
        .where(
            passages.c.tenant_id == tenant_id,
            passages.c.plane_id == plane_id,
            sa.tuple_(passages.c.artifact_id, passages.c.passage_no).in_(passages_wanted),
            *_visible(generation),
        )
    )
    return list(connection.execute(statement).mappings())


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


def delete_artifact_passages(connection: DriverConnection, *, tenant_id: str, artifact_id: str) -> int:
    """Delete an artifact's passages in every plane of the tenant and return how many there were."""
    return connection.execute(
        sa.delete(passages).where(passages.c.tenant_id == tenant_id, passages.c.artifact_id == artifact_id)
    ).rowcount


def _visible(generation: int) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        passages.c.gen_from <= generation,
        sa.or_(passages.c.gen_to.is_(None), passages.c.gen_to > generation),
    )
