"""L6 SQL of artifact heads: look-ups, the conditional change of a head, and what planes read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import bytewise, insert
from app.db.pairs import among_pairs
from app.domains.repository.tables import (
    HEAD_COLUMNS,
    artifact_revisions,
    artifacts,
    blobs,
    collections,
    head_with,
)

_A, _R = artifacts.c, artifact_revisions.c


# Built once, for what most writes and reads do.
_AT_HEAD = (
    sa.select(*HEAD_COLUMNS)
    .select_from(head_with(_A.head_revision))
    .where(_A.tenant_id == sa.bindparam("tenant"), _A.id == sa.bindparam("artifact"))
)
_KNOWN_IDS = sa.select(_A.id).where(
    _A.tenant_id == sa.bindparam("tenant"), _A.id.in_(sa.bindparam("ids", expanding=True))
)
_PLACE = sa.select(
    sa.select(collections.c.deleted_at.is_(None))
    .where(collections.c.tenant_id == sa.bindparam("tenant"), collections.c.id == sa.bindparam("collection"))
    .scalar_subquery(),
    sa.select(_A.id)
    .where(
        _A.tenant_id == sa.bindparam("tenant"),
        _A.collection_id == sa.bindparam("collection"),
        _A.name_key == sa.bindparam("key"),
        _A.deleted_at.is_(None),
    )
    .scalar_subquery(),
)


def get_artifact(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str, revision: int | None = None
) -> Mapping[str, Any] | None:
    """Return an artifact, deleted or not, with its head or another revision."""
    if revision is None:
        at_head = connection.execute(_AT_HEAD, {"tenant": tenant_id, "artifact": artifact_id})
        return at_head.mappings().one_or_none()
    statement = (
        sa.select(*HEAD_COLUMNS)
        .select_from(head_with(revision))
        .where(_A.tenant_id == tenant_id, _A.id == artifact_id)
    )
    return connection.execute(statement).mappings().one_or_none()


def get_artifact_for_content(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str, digest: str
) -> Mapping[str, Any] | None:
    """Return an artifact with its head, and what is known of `digest` (new_state, new_blocked)."""
    new = blobs.alias("new_blob")
    source = head_with(_A.head_revision).outerjoin(
        new, sa.and_(new.c.tenant_id == _A.tenant_id, new.c.digest == digest)
    )
    statement = (
        sa.select(*HEAD_COLUMNS, new.c.state.label("new_state"), new.c.blocked.label("new_blocked"))
        .select_from(source)
        .where(_A.tenant_id == tenant_id, _A.id == artifact_id)
    )
    return connection.execute(statement).mappings().one_or_none()


def list_live_by_name(
    connection: DriverConnection, *, tenant_id: str, places: Sequence[tuple[str, str]]
) -> Sequence[Mapping[str, Any]]:
    """Return the live heads at these (collection_id, name_key) pairs."""
    statement = (
        sa.select(*HEAD_COLUMNS)
        .select_from(head_with(_A.head_revision))
        .where(
            _A.tenant_id == tenant_id,
            among_pairs(connection, _A.collection_id, _A.name_key, places),
            _A.deleted_at.is_(None),
        )
    )
    return connection.execute(statement).mappings().all()


def list_known_ids(
    connection: DriverConnection, *, tenant_id: str, artifact_ids: Sequence[str]
) -> Sequence[str]:
    """Return which of these ids were ever used."""
    return connection.scalars(_KNOWN_IDS, {"tenant": tenant_id, "ids": list(artifact_ids)}).all()


def get_place(
    connection: DriverConnection, *, tenant_id: str, collection_id: str, name_key: str
) -> tuple[bool | None, str | None]:
    """Return whether a collection is live (null: unknown) and the live artifact that bears a name in it."""
    row = connection.execute(
        _PLACE, {"tenant": tenant_id, "collection": collection_id, "key": name_key}
    ).one()
    return (None if row[0] is None else bool(row[0])), row[1]


def insert_artifacts(
    connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert new artifacts."""
    connection.execute(insert(connection, artifacts), [{"tenant_id": tenant_id, **row} for row in rows])


def set_heads(
    connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]], live: bool = True
) -> int:
    """Change artifacts that are live (or deleted) and of the row's `version`; return how many were changed.

    Each row holds `id`, the expected `version` and the same further members.
    """
    members = [name for name in rows[0] if name not in ("id", "version")]
    statement = (
        sa.update(artifacts)
        .where(
            _A.tenant_id == tenant_id,
            _A.id == sa.bindparam("of_id"),
            _A.version == sa.bindparam("of_version"),
            _A.deleted_at.is_(None) if live else _A.deleted_at.is_not(None),
        )
        .values({"version": sa.bindparam("of_version") + 1, **{name: sa.bindparam(name) for name in members}})
    )
    parameters = [
        {"of_id": row["id"], "of_version": row["version"], **{name: row[name] for name in members}}
        for row in rows
    ]
    return connection.execute(statement, parameters).rowcount


def list_textual_candidates(
    connection: DriverConnection,
    *,
    tenant_id: str,
    collection_ids: Sequence[str],
    after_artifact_id: str | None,
    changed_after_seq: int | None,
    limit: int,
) -> Sequence[Mapping[str, Any]]:
    """Return live heads with readable content in order of id, of any media type."""
    statement = (
        sa.select(
            _A.id, _A.collection_id, _A.name, _A.updated_seq, _A.head_revision, _R.revision_digest,
            _R.content_digest, _R.media_type, _R.size,
        )
        .select_from(head_with(_A.head_revision))
        .where(
            _A.tenant_id == tenant_id,
            _A.collection_id.in_(collection_ids),
            _R.tenant_id == tenant_id,
            blobs.c.tenant_id == tenant_id,
            _A.deleted_at.is_(None),
            _R.redaction.is_(None),
            blobs.c.state == "PRESENT",
        )
        .order_by(bytewise(connection, _A.id))
        .limit(limit)
    )  # fmt: skip
    if after_artifact_id is not None:
        statement = statement.where(bytewise(connection, _A.id) > after_artifact_id)
    if changed_after_seq is not None:
        statement = statement.where(_A.updated_seq > changed_after_seq)
    return connection.execute(statement).mappings().all()


def list_contents(
    connection: DriverConnection, *, tenant_id: str, refs: Sequence[tuple[str, int]]
) -> Sequence[Mapping[str, Any]]:
    """Return the stored bytes of revisions that are still readable."""
    statement = (
        sa.select(_R.artifact_id, _R.revision, _R.content_digest, blobs.c.data)
        .join(blobs, sa.and_(blobs.c.tenant_id == _R.tenant_id, blobs.c.digest == _R.content_digest))
        .where(
            _R.tenant_id == tenant_id,
            among_pairs(connection, _R.artifact_id, _R.revision, refs),
            _R.redaction.is_(None),
            blobs.c.state == "PRESENT",
        )
    )
    return connection.execute(statement).mappings().all()


def list_live_ids(
    connection: DriverConnection, *, tenant_id: str, artifact_ids: Sequence[str]
) -> Sequence[str]:
    """Return which of these artifacts are live with an unredacted head."""
    statement = (
        sa.select(_A.id)
        .join(
            artifact_revisions,
            sa.and_(_R.tenant_id == _A.tenant_id, _R.artifact_id == _A.id, _R.revision == _A.head_revision),
        )
        .where(
            _A.tenant_id == tenant_id,
            _A.id.in_(artifact_ids),
            _A.deleted_at.is_(None),
            _R.redaction.is_(None),
        )
    )
    return connection.scalars(statement).all()
