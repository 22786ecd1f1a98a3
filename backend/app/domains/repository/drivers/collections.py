"""L6 SQL of collections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import insert
from app.domains.repository.tables import artifacts, collections

_C = collections.c
_COLUMNS = tuple(column for column in collections.columns if column.name not in ("tenant_id", "metadata"))
_LIVE_ARTIFACTS = (
    sa.select(sa.func.count())
    .where(
        artifacts.c.tenant_id == _C.tenant_id,
        artifacts.c.collection_id == _C.id,
        artifacts.c.deleted_at.is_(None),
    )
    .scalar_subquery()
    .label("live_artifacts")
)


def get_collection(
    connection: DriverConnection, *, tenant_id: str, collection_id: str
) -> Mapping[str, Any] | None:
    """Return a collection, deleted or not, with the number of its live artifacts."""
    statement = sa.select(*_COLUMNS, _C.metadata.label("metadata_text"), _LIVE_ARTIFACTS).where(
        _C.tenant_id == tenant_id, _C.id == collection_id
    )
    return connection.execute(statement).mappings().one_or_none()


def list_collections(
    connection: DriverConnection,
    *,
    tenant_id: str,
    name_key: str | None,
    include_deleted: bool,
    after: int,
    limit: int,
) -> Sequence[Mapping[str, Any]]:
    """Return collections after a creation number, in order of creation."""
    statement = (
        sa.select(*_COLUMNS, _C.metadata.label("metadata_text"), _LIVE_ARTIFACTS)
        .where(_C.tenant_id == tenant_id, _C.created_seq > after)
        .order_by(_C.created_seq)
        .limit(limit)
    )
    if name_key is not None:
        statement = statement.where(_C.name_key == name_key)
    if not include_deleted:
        statement = statement.where(_C.deleted_at.is_(None))
    return connection.execute(statement).mappings().all()


def list_known(
    connection: DriverConnection, *, tenant_id: str, collection_ids: Sequence[str]
) -> Sequence[Mapping[str, Any]]:
    """Return id and deleted_at of the collections that exist among these ids."""
    statement = sa.select(_C.id, _C.deleted_at).where(_C.tenant_id == tenant_id, _C.id.in_(collection_ids))
    return connection.execute(statement).mappings().all()


def get_name_holder(connection: DriverConnection, *, tenant_id: str, name_key: str) -> str | None:
    """Return the id of the live collection that bears a name."""
    statement = sa.select(_C.id).where(
        _C.tenant_id == tenant_id, _C.name_key == name_key, _C.deleted_at.is_(None)
    )
    return connection.scalars(statement).one_or_none()


def insert_collection(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> None:
    """Insert a new collection."""
    connection.execute(insert(connection, collections), {**row, "tenant_id": tenant_id})


def set_collection(
    connection: DriverConnection,
    *,
    tenant_id: str,
    collection_id: str,
    version: int,
    values: Mapping[str, Any],
) -> int:
    """Change a live collection of this version; return the number of rows changed."""
    statement = (
        sa.update(collections)
        .where(
            _C.tenant_id == tenant_id, _C.id == collection_id, _C.version == version, _C.deleted_at.is_(None)
        )
        .values(version=version + 1, **values)
    )
    return connection.execute(statement).rowcount
