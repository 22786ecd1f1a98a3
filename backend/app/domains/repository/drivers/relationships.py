"""L6 SQL of relationships, as far as the life of an artifact touches them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.domains.repository.tables import artifacts, relationships

_E = relationships.c
_COLUMNS = (_E.id, _E.source_id, _E.target_id, _E.type, _E.version)


def list_live(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str
) -> Sequence[Mapping[str, Any]]:
    """Return the live relationships that begin or end at an artifact, in order of creation."""
    ends = [
        sa.select(*_COLUMNS, _E.created_seq).where(
            _E.tenant_id == tenant_id, end == artifact_id, _E.deleted_at.is_(None)
        )
        for end in (_E.source_id, _E.target_id)
    ]
    # An edge never has both ends at one artifact, so the two halves share no row.
    return connection.execute(sa.union_all(*ends).order_by("created_seq")).mappings().all()


def list_detached(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str, change_set_id: str
) -> Sequence[Mapping[str, Any]]:
    """Return the edges of an artifact that one change set removed, each with `both_live` and `taken_by`."""
    source, target = artifacts.alias("source"), artifacts.alias("target")
    rival = relationships.alias("rival")
    taken = (
        sa.select(rival.c.id)
        .where(
            rival.c.tenant_id == _E.tenant_id,
            rival.c.source_id == _E.source_id,
            rival.c.type == _E.type,
            rival.c.target_id == _E.target_id,
            rival.c.deleted_at.is_(None),
        )
        .scalar_subquery()
    )
    statement = (
        sa.select(
            *_COLUMNS,
            sa.and_(source.c.deleted_at.is_(None), target.c.deleted_at.is_(None)).label("both_live"),
            taken.label("taken_by"),
        )
        .join(source, sa.and_(source.c.tenant_id == _E.tenant_id, source.c.id == _E.source_id))
        .join(target, sa.and_(target.c.tenant_id == _E.tenant_id, target.c.id == _E.target_id))
        .where(
            _E.tenant_id == tenant_id,
            sa.or_(_E.source_id == artifact_id, _E.target_id == artifact_id),
            _E.delete_change_set_id == change_set_id,
            _E.deleted_at.is_not(None),
        )
        .order_by(_E.created_seq)
    )
    return connection.execute(statement).mappings().all()


def set_relationships(
    connection: DriverConnection,
    *,
    tenant_id: str,
    relationship_ids: Sequence[str],
    values: Mapping[str, Any],
) -> None:
    """Change relationships and raise their version."""
    connection.execute(
        sa.update(relationships)
        .where(_E.tenant_id == tenant_id, _E.id.in_(relationship_ids))
        .values(version=_E.version + 1, **values)
    )
