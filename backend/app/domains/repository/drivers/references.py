"""L6 SQL that resolves what runs, bundles and packages point at: revisions, heads, relationships."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.pairs import among_pairs
from app.domains.repository.tables import (
    HEAD_COLUMNS,
    artifact_revisions,
    artifacts,
    head_with,
    relationships,
)

_A, _R, _E = artifacts.c, artifact_revisions.c, relationships.c
_JOIN = sa.and_(_A.tenant_id == _R.tenant_id, _A.id == _R.artifact_id)
_PINNED = (
    _R.artifact_id,
    _R.revision,
    _R.revision_digest,
    _R.redaction,
    _A.deleted_at,
)


def list_revisions(
    connection: DriverConnection, *, tenant_id: str, refs: Sequence[tuple[str, int]]
) -> Sequence[Row]:
    """Return those of the (artifact_id, revision) pairs that exist, of deleted artifacts too."""
    statement = (
        sa.select(*_PINNED)
        .join(artifacts, _JOIN)
        .where(
            _R.tenant_id == tenant_id,
            _A.tenant_id == tenant_id,
            among_pairs(connection, _R.artifact_id, _R.revision, refs),
        )
    )
    return connection.execute(statement).mappings().all()


def list_head_revisions(
    connection: DriverConnection, *, tenant_id: str, artifact_ids: Sequence[str]
) -> Sequence[Row]:
    """Return the head revisions of those of the artifacts that are live."""
    statement = (
        sa.select(*_PINNED)
        .join(artifacts, sa.and_(_JOIN, _A.head_revision == _R.revision))
        .where(
            _R.tenant_id == tenant_id,
            _A.tenant_id == tenant_id,
            _A.id.in_(artifact_ids),
            _A.deleted_at.is_(None),
        )
    )
    return connection.execute(statement).mappings().all()


def list_heads(connection: DriverConnection, *, tenant_id: str, artifact_ids: Sequence[str]) -> Sequence[Row]:
    """Return these artifacts, deleted or not, with their heads."""
    statement = (
        sa.select(*HEAD_COLUMNS)
        .select_from(head_with(_A.head_revision))
        .where(_A.tenant_id == tenant_id, _A.id.in_(artifact_ids))
    )
    return connection.execute(statement).mappings().all()


def list_relationship_ids(
    connection: DriverConnection, *, tenant_id: str, relationship_ids: Sequence[str]
) -> Sequence[str]:
    """Return which of these relationships exist, removed ones too."""
    statement = sa.select(_E.id).where(_E.tenant_id == tenant_id, _E.id.in_(relationship_ids))
    return connection.scalars(statement).all()
