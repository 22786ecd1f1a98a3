"""L6 SQL of the collections that planes own or share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import insert
from app.domains.knowledge.tables import knowledge_plane_registry, plane_collections

_links = plane_collections
# Written out, so that the partial index of owned collections is seen to fit.
_OWNED: sa.ColumnElement[str] = sa.literal_column("'OWNED'")
_registry = knowledge_plane_registry
# Built once: every write of the repository asks it.
_OWNED_STATES = (
    sa.select(_links.c.collection_id, _registry.c.plane_id, _registry.c.lifecycle_state_value)
    .join(
        _registry,
        sa.and_(_registry.c.tenant_id == _links.c.tenant_id, _registry.c.plane_id == _links.c.plane_id),
    )
    .where(
        _links.c.tenant_id == sa.bindparam("tenant"),
        _registry.c.tenant_id == sa.bindparam("tenant"),
        _links.c.collection_id.in_(sa.bindparam("collections", expanding=True)),
        _links.c.mode == _OWNED,
        _links.c.released_at.is_(None),
    )
)


def insert_owned(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    collection_id: str,
    bound_at: datetime,
    bound_by: str,
) -> bool:
    """Bind a collection to an owner; return False when it is owned, or the pair had a link before."""
    statement = (
        insert(connection, _links)
        .values(
            tenant_id=tenant_id,
            plane_id=plane_id,
            collection_id=collection_id,
            mode="OWNED",
            bound_at=bound_at,
            bound_by=bound_by,
        )
        .on_conflict_do_nothing()
        .returning(_links.c.collection_id)
    )
    return connection.execute(statement).one_or_none() is not None


def set_owned(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    collection_id: str,
    bound_at: datetime,
    bound_by: str,
) -> bool:
    """Open the former link of a pair again, as ownership; return False when the pair had none."""
    statement = (
        sa.update(_links)
        .where(
            _links.c.tenant_id == tenant_id,
            _links.c.plane_id == plane_id,
            _links.c.collection_id == collection_id,
        )
        .values(mode="OWNED", bound_at=bound_at, bound_by=bound_by, released_at=None)
    )
    return connection.execute(statement).rowcount == 1


def insert_shared(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    collection_id: str,
    bound_at: datetime,
    bound_by: str,
) -> None:
    """Note that a plane reads a collection; a former link of the pair is opened again."""
    values = {"mode": "SHARED", "bound_at": bound_at, "bound_by": bound_by, "released_at": None}
    statement = (
        insert(connection, _links)
        .values(tenant_id=tenant_id, plane_id=plane_id, collection_id=collection_id, **values)
        .on_conflict_do_update(index_elements=["tenant_id", "plane_id", "collection_id"], set_=values)
    )
    connection.execute(statement)


def get_owner(connection: DriverConnection, *, tenant_id: str, collection_id: str) -> str | None:
    """Return the plane that owns a collection now."""
    statement = sa.select(_links.c.plane_id).where(
        _links.c.tenant_id == tenant_id,
        _links.c.collection_id == collection_id,
        _links.c.mode == _OWNED,
        _links.c.released_at.is_(None),
    )
    return connection.scalars(statement).one_or_none()


def set_released(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    collection_ids: Sequence[str] | None,
    released_at: datetime,
) -> list[str]:
    """Release these collections of a plane (None: all) and return the ids that were held, sorted."""
    statement = (
        sa.update(_links)
        .where(_links.c.tenant_id == tenant_id, _links.c.plane_id == plane_id, _links.c.released_at.is_(None))
        .values(released_at=released_at)
        .returning(_links.c.collection_id)
    )
    if collection_ids is not None:
        statement = statement.where(_links.c.collection_id.in_(collection_ids))
    return sorted(connection.scalars(statement))


def list_links(connection: DriverConnection, *, tenant_id: str, plane_id: str) -> list[Row]:
    """Return collection_id and mode of every collection that a plane uses now, by id."""
    statement = (
        sa.select(_links.c.collection_id, _links.c.mode)
        .where(_links.c.tenant_id == tenant_id, _links.c.plane_id == plane_id, _links.c.released_at.is_(None))
        .order_by(_links.c.collection_id)
    )
    return list(connection.execute(statement).mappings())


def list_owned_states(
    connection: DriverConnection, *, tenant_id: str, collection_ids: Sequence[str]
) -> list[tuple[str, str, int]]:
    """Return (collection_id, plane_id, state value) of those collections that a plane owns now."""
    rows = connection.execute(_OWNED_STATES, {"tenant": tenant_id, "collections": list(collection_ids)})
    return [(row.collection_id, row.plane_id, row.lifecycle_state_value) for row in rows]


def list_planes_of_collections(
    connection: DriverConnection, *, tenant_id: str, collection_ids: Sequence[str]
) -> list[Row]:
    """Return collection_id and plane_id of every plane that uses one of the collections now."""
    statement = (
        sa.select(_links.c.collection_id, _links.c.plane_id)
        .where(
            _links.c.tenant_id == tenant_id,
            _links.c.collection_id.in_(collection_ids),
            _links.c.released_at.is_(None),
        )
        .order_by(_links.c.plane_id)
    )
    return list(connection.execute(statement).mappings())


def list_collection_planes(connection: DriverConnection, *, tenant_id: str, collection_id: str) -> list[Row]:
    """Return plane_id and mode of every plane that uses a collection now, by plane_id."""
    statement = (
        sa.select(_links.c.plane_id, _links.c.mode)
        .where(
            _links.c.tenant_id == tenant_id,
            _links.c.collection_id == collection_id,
            _links.c.released_at.is_(None),
        )
        .order_by(_links.c.plane_id)
    )
    return list(connection.execute(statement).mappings())


def list_owners(connection: DriverConnection, *, tenant_id: str, collection_ids: Sequence[str]) -> list[Row]:
    """Return collection_id and plane_id of every plane that owns or owned one of the collections."""
    statement = sa.select(_links.c.collection_id, _links.c.plane_id).where(
        _links.c.tenant_id == tenant_id,
        _links.c.collection_id.in_(collection_ids),
        _links.c.mode == _OWNED,
    )
    return list(connection.execute(statement).mappings())
