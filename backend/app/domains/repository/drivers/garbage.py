"""L6 SQL of bytes that nothing live or cited needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import among
from app.domains.repository.models.vocabulary import BlobState
from app.domains.repository.tables import (
    artifact_revisions,
    artifacts,
    blobs,
    context_items,
    input_bundle_items,
    run_outputs,
)

_A, _R, _B = artifacts.c, artifact_revisions.c, blobs.c
_O, _I, _P = run_outputs.c, input_bundle_items.c, context_items.c


def _linked(tenant_id: str) -> sa.ColumnElement[bool]:
    """Return the condition that a run, a bundle or a context package holds the revision."""
    made = sa.exists().where(
        _O.tenant_id == tenant_id,
        _R.tenant_id == tenant_id,
        _O.artifact_id == _R.artifact_id,
        _O.revision == _R.revision,
    )
    given = sa.exists().where(
        _I.tenant_id == tenant_id,
        _R.tenant_id == tenant_id,
        _I.artifact_id == _R.artifact_id,
        _I.revision == _R.revision,
    )
    packed = sa.exists().where(
        _P.tenant_id == tenant_id,
        _R.tenant_id == tenant_id,
        _P.artifact_id == _R.artifact_id,
        _P.revision == _R.revision,
    )
    return sa.or_(made, given, packed)


def _needed(tenant_id: str, deleted_before: datetime) -> sa.ColumnElement[bool]:
    """Return the condition that a readable revision of the bytes is live, deleted lately, or linked."""
    return sa.exists().where(
        _B.tenant_id == tenant_id,
        _R.tenant_id == tenant_id,
        _R.content_digest == _B.digest,
        _R.redaction.is_(None),
        _A.tenant_id == tenant_id,
        _A.id == _R.artifact_id,
        sa.or_(_A.deleted_at.is_(None), _A.deleted_at > deleted_before, _linked(tenant_id)),
    )


def list_unneeded(
    connection: DriverConnection,
    *,
    tenant_id: str,
    deleted_before: datetime,
    digests: Sequence[str] | None,
    after: str | None,
    limit: int,
) -> Sequence[Mapping[str, Any]]:
    """Return digest and size of bytes that the repository does not need, by digest; of these, or of all."""
    statement = (
        sa.select(_B.digest, _B.size)
        .where(
            _B.tenant_id == tenant_id,
            _B.state == BlobState.PRESENT.value,
            _B.created_at <= deleted_before,
            ~_needed(tenant_id, deleted_before),
        )
        .order_by(_B.digest)
        .limit(limit)
    )
    if digests is not None:
        statement = statement.where(among(connection, _B.digest, digests))
    if after is not None:
        statement = statement.where(_B.digest > after)
    return connection.execute(statement).mappings().all()


def set_collected(
    connection: DriverConnection, *, tenant_id: str, digests: Sequence[str], at: datetime
) -> int:
    """Give bytes up; their row stays as a stub. Return how many there were."""
    statement = (
        sa.update(blobs)
        .where(
            _B.tenant_id == tenant_id,
            among(connection, _B.digest, digests),
            _B.state == BlobState.PRESENT.value,
        )
        .values(data=None, state=BlobState.COLLECTED.value, state_at=at)
    )
    return connection.execute(statement).rowcount
