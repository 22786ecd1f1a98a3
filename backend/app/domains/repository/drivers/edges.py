"""L6 SQL of single relationships: look-ups, lists, and what their creation must know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import bytewise, insert
from app.db.pairs import among_pairs
from app.domains.repository.tables import artifact_revisions, artifacts, relationships

_E, _A, _R = relationships.c, artifacts.c, artifact_revisions.c
_COLUMNS = (
    *(column for column in relationships.columns if column.name not in ("tenant_id", "metadata")),
    _E.metadata.label("metadata_text"),
)
Row = Mapping[str, Any]


_SOURCE, _TARGET = artifacts.alias("source"), artifacts.alias("target")
_WITH_ENDS = (
    sa.select(
        *_COLUMNS,
        _SOURCE.c.collection_id.label("source_collection_id"),
        _TARGET.c.collection_id.label("target_collection_id"),
    )
    .join(_SOURCE, sa.and_(_SOURCE.c.tenant_id == _E.tenant_id, _SOURCE.c.id == _E.source_id))
    .join(_TARGET, sa.and_(_TARGET.c.tenant_id == _E.tenant_id, _TARGET.c.id == _E.target_id))
    .where(_E.tenant_id == sa.bindparam("tenant"), _E.id == sa.bindparam("relationship"))
)


def get_relationship(connection: DriverConnection, *, tenant_id: str, relationship_id: str) -> Row | None:
    """Return a relationship, deleted or not, with the collections of its ends."""
    found = connection.execute(_WITH_ENDS, {"tenant": tenant_id, "relationship": relationship_id})
    return found.mappings().one_or_none()


def list_relationships(
    connection: DriverConnection,
    *,
    tenant_id: str,
    equals: Mapping[str, Any],
    ids: Sequence[str] | None,
    include_deleted: bool,
    after: tuple[int, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return relationships whose columns equal the filters, in order of creation."""
    tail = bytewise(connection, _E.id)
    statement = (
        sa.select(*_COLUMNS)
        .where(
            _E.tenant_id == tenant_id, *_conditions(equals=equals, ids=ids, include_deleted=include_deleted)
        )
        .order_by(_E.created_seq, tail)
        .limit(limit)
    )
    if after is not None:
        seq, identifier = after
        statement = statement.where(_E.created_seq >= seq, sa.or_(_E.created_seq > seq, tail > identifier))
    return connection.execute(statement).mappings().all()


def count_relationships(
    connection: DriverConnection,
    *,
    tenant_id: str,
    equals: Mapping[str, Any],
    ids: Sequence[str] | None,
    include_deleted: bool,
) -> int:
    """Return how many relationships match."""
    statement = sa.select(sa.func.count()).where(
        _E.tenant_id == tenant_id, *_conditions(equals=equals, ids=ids, include_deleted=include_deleted)
    )
    return int(connection.execute(statement).scalar_one())


def _conditions(
    *, equals: Mapping[str, Any], ids: Sequence[str] | None, include_deleted: bool
) -> list[sa.ColumnElement[bool]]:
    found = [_E[name] == value for name, value in equals.items()]
    found += [] if ids is None else [_E.id.in_(ids)]
    return found if include_deleted else [*found, _E.deleted_at.is_(None)]


def list_live_ends(
    connection: DriverConnection, *, tenant_id: str, artifact_ids: Sequence[str]
) -> dict[str, str]:
    """Return the collection of each of these artifacts that is live."""
    statement = sa.select(_A.id, _A.collection_id).where(
        _A.tenant_id == tenant_id, _A.id.in_(artifact_ids), _A.deleted_at.is_(None)
    )
    return {row.id: row.collection_id for row in connection.execute(statement)}


def list_known_revisions(
    connection: DriverConnection, *, tenant_id: str, refs: Sequence[tuple[str, int]]
) -> frozenset[tuple[str, int]]:
    """Return which of these (artifact, revision) pairs exist."""
    statement = sa.select(_R.artifact_id, _R.revision).where(
        _R.tenant_id == tenant_id, among_pairs(connection, _R.artifact_id, _R.revision, refs)
    )
    return frozenset((row.artifact_id, row.revision) for row in connection.execute(statement))


def list_rivals(
    connection: DriverConnection,
    *,
    tenant_id: str,
    relationship_id: str,
    source_id: str,
    type_name: str,
    target_id: str,
) -> Sequence[str]:
    """Return the relationship that has the id, deleted or not, and the live one that has the triple."""
    same_id = sa.select(_E.id).where(_E.tenant_id == tenant_id, _E.id == relationship_id)
    same_triple = sa.select(_E.id).where(
        _E.tenant_id == tenant_id,
        _E.source_id == source_id,
        _E.type == type_name,
        _E.target_id == target_id,
        _E.deleted_at.is_(None),
    )
    return connection.scalars(sa.union(same_id, same_triple)).all()


def _reached(tenant_id: str, source_id: str, type_name: str) -> sa.CTE:
    """Return the artifacts that lead to the source over live edges of one type, the source among them."""
    reached = sa.select(sa.literal(source_id, sa.Text).label("id")).cte("reached", recursive=True)
    return reached.union(
        sa.select(_E.source_id).where(
            _E.tenant_id == tenant_id,
            _E.target_id == reached.c.id,
            _E.type == type_name,
            _E.deleted_at.is_(None),
        )
    )


def leads_back(
    connection: DriverConnection, *, tenant_id: str, source_id: str, type_name: str, target_id: str
) -> bool:
    """Tell whether the target leads to the source over live edges of one type."""
    reached = _reached(tenant_id, source_id, type_name)
    statement = sa.select(sa.exists().where(reached.c.id == target_id))
    return bool(connection.execute(statement).scalar_one())


def list_edges_towards(
    connection: DriverConnection, *, tenant_id: str, source_id: str, type_name: str
) -> Sequence[tuple[str, str]]:
    """Return (source, target) of every live edge of one type on a way to the source, by id."""
    reached = _reached(tenant_id, source_id, type_name)
    target = bytewise(connection, _E.target_id)
    statement = (
        sa.select(_E.source_id, _E.target_id)
        .where(
            _E.tenant_id == tenant_id,
            _E.target_id.in_(sa.select(reached.c.id)),
            _E.type == type_name,
            _E.deleted_at.is_(None),
        )
        .order_by(bytewise(connection, _E.source_id), target)
    )
    return [(row.source_id, row.target_id) for row in connection.execute(statement)]


def insert_relationship(connection: DriverConnection, *, tenant_id: str, row: Row) -> None:
    """Insert a new relationship."""
    connection.execute(insert(connection, relationships), {**row, "tenant_id": tenant_id})
