"""L6 SQL of plane passages: the indexed text of the documents that a plane serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import bytewise
from app.db.many_rows import ManyRows
from app.domains.knowledge.tables import plane_documents as documents
from app.domains.knowledge.tables import plane_passages as passages

Row = Mapping[str, Any]


def _visible(generation: Any) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        passages.c.gen_from <= generation,
        sa.or_(passages.c.gen_to.is_(None), passages.c.gen_to > generation),
    )


def _same(left: sa.FromClause, right: sa.FromClause, *names: str) -> sa.ColumnElement[bool]:
    return sa.and_(*(left.c[name] == right.c[name] for name in ("tenant_id", "plane_id", *names)))


_INSERTION = ManyRows(
    passages,
    of_all=("tenant_id", "plane_id", "gen_from"),
    of_each=("artifact_id", "passage_no", "start_char", "end_char", "text", "term_total", "terms"),
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
    _INSERTION.insert(connection, rows, tenant_id=tenant_id, plane_id=plane_id, gen_from=generation)


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
