"""L6 SQL of where revisions come from: the run that made them, and the collections that they lie in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among
from app.db.pairs import among_pairs
from app.domains.repository.tables import artifact_revisions, artifacts

_A, _R = artifacts.c, artifact_revisions.c
_REVISIONS = artifact_revisions.join(
    artifacts, sa.and_(_A.tenant_id == _R.tenant_id, _A.id == _R.artifact_id)
)
# An artifact may have moved since: the revision lies where it was made, and where its artifact is now.
_ORIGIN = (_R.produced_by_run, _R.collection_id, _A.collection_id.label("head_collection_id"))


def list_of_places(
    connection: DriverConnection, *, tenant_id: str, places: Sequence[tuple[str, int]]
) -> Sequence[Row]:
    """Return the origins of these revisions, each given as artifact and number."""
    named = among_pairs(connection, _R.artifact_id, _R.revision, places)
    return connection.execute(_origins(tenant_id).where(named)).mappings().all()


def list_of_collection(connection: DriverConnection, *, tenant_id: str, collection_id: str) -> Sequence[Row]:
    """Return the origins of all revisions of a collection's artifacts."""
    inside = _A.collection_id == collection_id
    return connection.execute(_origins(tenant_id).where(inside)).mappings().all()


def list_of_contents(
    connection: DriverConnection, *, tenant_id: str, digests: Sequence[str]
) -> Sequence[Row]:
    """Return the origins of all readable revisions that have one of these contents, with its digest."""
    statement = _origins(tenant_id, _R.content_digest).where(
        among(connection, _R.content_digest, digests), _R.redaction.is_(None)
    )
    return connection.execute(statement).mappings().all()


def _origins(tenant_id: str, *more: sa.ColumnElement[Any]) -> sa.Select[Any]:
    return (
        sa.select(*more, *_ORIGIN)
        .distinct()
        .select_from(_REVISIONS)
        .where(_R.tenant_id == tenant_id, _A.tenant_id == tenant_id)
    )
