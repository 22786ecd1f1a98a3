"""L6 SQL of input bundles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import insert
from app.domains.repository.tables import artifact_revisions, artifacts, input_bundle_items, input_bundles

_B, _I, _R, _A = input_bundles.c, input_bundle_items.c, artifact_revisions.c, artifacts.c
_COLUMNS = (_B.id, _B.bundle_digest, _B.created_at, _B.created_by)


def get_bundle(connection: DriverConnection, *, tenant_id: str, bundle_id: str) -> Row | None:
    """Return a bundle by its id."""
    statement = sa.select(*_COLUMNS).where(_B.tenant_id == tenant_id, _B.id == bundle_id)
    return connection.execute(statement).mappings().one_or_none()


def get_bundle_by_digest(connection: DriverConnection, *, tenant_id: str, bundle_digest: str) -> Row | None:
    """Return a bundle by its digest."""
    statement = sa.select(*_COLUMNS).where(_B.tenant_id == tenant_id, _B.bundle_digest == bundle_digest)
    return connection.execute(statement).mappings().one_or_none()


def list_items(connection: DriverConnection, *, tenant_id: str, bundle_id: str) -> Sequence[Row]:
    """Return the items of a bundle in order, with the state of their targets."""
    statement = (
        sa.select(
            _I.position, _I.artifact_id, _I.revision, _I.revision_digest, _I.role, _R.redaction, _A.deleted_at
        )
        .join(
            artifact_revisions,
            sa.and_(
                _R.tenant_id == _I.tenant_id, _R.artifact_id == _I.artifact_id, _R.revision == _I.revision
            ),
        )
        .join(artifacts, sa.and_(_A.tenant_id == _I.tenant_id, _A.id == _I.artifact_id))
        .where(_I.tenant_id == tenant_id, _I.bundle_id == bundle_id)
        .order_by(_I.position)
    )
    return connection.execute(statement).mappings().all()


def insert_bundle(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> None:
    """Append a bundle."""
    connection.execute(insert(connection, input_bundles), {**row, "tenant_id": tenant_id})


def insert_items(connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append the items of a bundle."""
    connection.execute(
        insert(connection, input_bundle_items), [{"tenant_id": tenant_id, **row} for row in rows]
    )
