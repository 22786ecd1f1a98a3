"""L6 SQL of redaction: revisions through their erasure door, the bytes they cited, the heads they had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import among, bytewise
from app.domains.repository.models.vocabulary import BlobState, Redaction
from app.domains.repository.tables import (
    HEAD_COLUMNS,
    artifact_revisions,
    artifacts,
    blobs,
    head_with,
    relationships,
)

_A, _R, _B, _E = artifacts.c, artifact_revisions.c, blobs.c, relationships.c
_TARGET = (_R.artifact_id, _R.revision, _R.redaction, _R.content_digest, _R.size)
Row = Mapping[str, Any]
Place = tuple[str, int]


def list_revisions(
    connection: DriverConnection, *, tenant_id: str, artifact_ids: Sequence[str]
) -> Sequence[Row]:
    """Return what a redaction must know of every revision of these artifacts, in order."""
    statement = (
        sa.select(*_TARGET, _B.blocked, _B.state.label("blob_state"))
        .select_from(
            artifact_revisions.outerjoin(
                blobs, sa.and_(_B.tenant_id == _R.tenant_id, _B.digest == _R.content_digest)
            )
        )
        .where(_R.tenant_id == tenant_id, _R.artifact_id.in_(artifact_ids))
        .order_by(bytewise(connection, _R.artifact_id), _R.revision)
    )
    return connection.execute(statement).mappings().all()


def list_citations(
    connection: DriverConnection, *, tenant_id: str, digests: Sequence[str], limit: int | None
) -> Sequence[Row]:
    """Return the readable revisions that have one of these contents, in order."""
    statement = (
        sa.select(*_TARGET)
        .where(
            _R.tenant_id == tenant_id, among(connection, _R.content_digest, digests), _R.redaction.is_(None)
        )
        .order_by(bytewise(connection, _R.artifact_id), _R.revision)
        .limit(limit)
    )
    return connection.execute(statement).mappings().all()


def count_citations(connection: DriverConnection, *, tenant_id: str, digests: Sequence[str]) -> int:
    """Return how many readable revisions have one of these contents."""
    statement = sa.select(sa.func.count()).where(
        _R.tenant_id == tenant_id, among(connection, _R.content_digest, digests), _R.redaction.is_(None)
    )
    return int(connection.execute(statement).scalar_one())


def set_redacted(
    connection: DriverConnection,
    *,
    tenant_id: str,
    places: Sequence[Place],
    redaction: Redaction,
    at: datetime,
) -> None:
    """Destroy what revisions say (FULL), or note that their bytes are gone (CONTENT)."""
    values: dict[str, Any] = {"redaction": redaction.value, "redacted_at": at}
    if redaction is Redaction.FULL:
        values |= {"name": None, "metadata": None, "provenance": None}
    connection.execute(
        sa.update(artifact_revisions)
        .where(
            _R.tenant_id == tenant_id,
            # The pairs alone are no key that SQLite looks up; the ids are.
            _R.artifact_id.in_(sorted({artifact_id for artifact_id, _ in places})),
            sa.tuple_(_R.artifact_id, _R.revision).in_(places),
        )
        .values(**values)
    )


def _uncited(tenant_id: str) -> sa.ColumnElement[bool]:
    return ~sa.exists().where(
        _B.tenant_id == tenant_id,
        _R.tenant_id == tenant_id,
        _R.content_digest == _B.digest,
        _R.redaction.is_(None),
    )


def set_dropped(
    connection: DriverConnection, *, tenant_id: str, digests: Sequence[str], at: datetime
) -> list[int]:
    """Drop those of the bytes that no readable revision has; return their sizes."""
    statement = (
        sa.update(blobs)
        .where(
            _B.tenant_id == tenant_id,
            among(connection, _B.digest, digests),
            _B.state != BlobState.REDACTED.value,
            _uncited(tenant_id),
        )
        .values(data=None, state=BlobState.REDACTED.value, state_at=at)
        .returning(_B.size)
    )
    return list(connection.scalars(statement))


def set_blocked(connection: DriverConnection, *, tenant_id: str, digests: Sequence[str]) -> None:
    """Refuse these bytes from now on."""
    connection.execute(
        sa.update(blobs)
        .where(_B.tenant_id == tenant_id, among(connection, _B.digest, digests))
        .values(blocked=True)
    )


def list_heads(connection: DriverConnection, *, tenant_id: str, artifact_ids: Sequence[str]) -> Sequence[Row]:
    """Return these artifacts, deleted or not, with their heads, in order of id."""
    statement = (
        sa.select(*HEAD_COLUMNS)
        .select_from(head_with(_A.head_revision))
        .where(_A.tenant_id == tenant_id, among(connection, _A.id, artifact_ids))
        .order_by(bytewise(connection, _A.id))
    )
    return connection.execute(statement).mappings().all()


def list_collection_heads(
    connection: DriverConnection, *, tenant_id: str, collection_id: str, after: str | None, limit: int
) -> Sequence[Row]:
    """Return the artifacts of a collection, deleted or not, with their heads, after an id."""
    identifier = bytewise(connection, _A.id)
    statement = (
        sa.select(*HEAD_COLUMNS)
        .select_from(head_with(_A.head_revision))
        .where(_A.tenant_id == tenant_id, _A.collection_id == collection_id)
        .order_by(identifier)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(identifier > after)
    return connection.execute(statement).mappings().all()


def set_heads(connection: DriverConnection, *, tenant_id: str, rows: Sequence[Row]) -> int:
    """Give heads what their rows hold beside `id` and `old_version`; return how many changed."""
    members = [name for name in rows[0] if name not in ("id", "old_version")]
    statement = (
        sa.update(artifacts)
        .where(
            _A.tenant_id == tenant_id,
            _A.id == sa.bindparam("of_id"),
            _A.version == sa.bindparam("of_version"),
        )
        .values({name: sa.bindparam(f"new_{name}") for name in members})
    )
    parameters = [
        {
            "of_id": row["id"],
            "of_version": row["old_version"],
            **{f"new_{name}": row[name] for name in members},
        }
        for row in rows
    ]
    return connection.execute(statement, parameters).rowcount


def list_live_edges(
    connection: DriverConnection, *, tenant_id: str, artifact_ids: Sequence[str]
) -> Sequence[Row]:
    """Return the live relationships that begin or end at these artifacts, in order of creation."""
    statement = (
        sa.select(_E.id, _E.version)
        .where(
            _E.tenant_id == tenant_id,
            _E.deleted_at.is_(None),
            sa.or_(_E.source_id.in_(artifact_ids), _E.target_id.in_(artifact_ids)),
        )
        .order_by(_E.created_seq)
    )
    return connection.execute(statement).mappings().all()
