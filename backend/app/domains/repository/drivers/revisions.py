"""L6 SQL of revisions, their content, and an artifact's state in the past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import insert
from app.domains.repository.drivers.changes import CHANGE_COLUMNS
from app.domains.repository.tables import (
    artifact_revisions,
    artifacts,
    blobs,
    repository_changes,
    run_outputs,
)

_R, _A, _C = artifact_revisions.c, artifacts.c, repository_changes.c

_COLUMNS: tuple[sa.ColumnElement[Any], ...] = (
    *(column for column in artifact_revisions.columns if column.name not in ("tenant_id", "metadata")),
    _R.metadata.label("metadata_text"),
    blobs.c.state.label("blob_state"),
    run_outputs.c.run_id.label("produced_by"),
)


def _select() -> sa.Select[Any]:
    source = artifact_revisions.outerjoin(
        blobs, sa.and_(blobs.c.tenant_id == _R.tenant_id, blobs.c.digest == _R.content_digest)
    ).outerjoin(
        run_outputs,
        sa.and_(
            run_outputs.c.tenant_id == _R.tenant_id,
            run_outputs.c.artifact_id == _R.artifact_id,
            run_outputs.c.revision == _R.revision,
        ),
    )
    return sa.select(*_COLUMNS).select_from(source)


def get_revision(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str, revision: int
) -> Mapping[str, Any] | None:
    """Return one revision with the state of its bytes and its producing run."""
    statement = _select().where(
        _R.tenant_id == tenant_id, _R.artifact_id == artifact_id, _R.revision == revision
    )
    return connection.execute(statement).mappings().one_or_none()


def list_revisions(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str, after: int, limit: int
) -> Sequence[Mapping[str, Any]]:
    """Return revisions after a number, in order."""
    statement = (
        _select()
        .where(_R.tenant_id == tenant_id, _R.artifact_id == artifact_id, _R.revision > after)
        .order_by(_R.revision)
        .limit(limit)
    )
    return connection.execute(statement).mappings().all()


def get_content(
    connection: DriverConnection, *, tenant_id: str, artifact_id: str, revision: int | None
) -> Mapping[str, Any] | None:
    """Return a revision's bytes (the head's when `revision` is null) and the artifact's tombstone members."""
    source = artifacts.join(
        artifact_revisions,
        sa.and_(
            _R.tenant_id == _A.tenant_id,
            _R.artifact_id == _A.id,
            _R.revision == (_A.head_revision if revision is None else revision),
        ),
    ).outerjoin(blobs, sa.and_(blobs.c.tenant_id == _R.tenant_id, blobs.c.digest == _R.content_digest))
    statement = (
        sa.select(
            _A.id, _A.version, _A.head_revision, _A.deleted_at, _A.deleted_by, _R.revision,
            _R.revision_digest, _R.content_digest, _R.media_type, _R.redaction,
            blobs.c.state.label("blob_state"), blobs.c.data,
        )
        .select_from(source)
        .where(_A.tenant_id == tenant_id, _A.id == artifact_id)
    )  # fmt: skip
    return connection.execute(statement).mappings().one_or_none()


def insert_revisions(
    connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Append revisions."""
    connection.execute(
        insert(connection, artifact_revisions), [{"tenant_id": tenant_id, **row} for row in rows]
    )


def get_change_at(
    connection: DriverConnection,
    *,
    tenant_id: str,
    artifact_id: str,
    seq: int | None,
    moment: datetime | None,
) -> Mapping[str, Any] | None:
    """Return the newest change record of an artifact at a change number or a time."""
    statement = (
        sa.select(*CHANGE_COLUMNS)
        .where(_C.tenant_id == tenant_id, _C.entity_type == "ARTIFACT", _C.entity_id == artifact_id)
        .order_by(_C.seq.desc())
        .limit(1)
    )
    if seq is not None:
        statement = statement.where(_C.seq <= seq)
    if moment is not None:
        statement = statement.where(_C.occurred_at <= moment)
    return connection.execute(statement).mappings().one_or_none()
