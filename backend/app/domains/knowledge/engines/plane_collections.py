"""L5 collections of planes: ownership, sharing, and the seal on what an offboarding plane owns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.knowledge.drivers import plane_collections as driver
from app.domains.knowledge.errors import conflict
from app.domains.knowledge.models.vocabulary import (
    CollectionMode,
    KnowledgePlaneLifecycleState,
)

State = KnowledgePlaneLifecycleState
OWN_PREFIX = "plane-"


def own_collection_id(plane_id: str) -> str:
    """Return the id of the collection that is made for a plane which names none."""
    return OWN_PREFIX + plane_id


def own(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    collection_id: str,
    now: datetime,
    actor_id: str,
) -> None:
    """Bind a collection to a plane, or raise COLLECTION_ALREADY_OWNED when another plane owns it."""
    link: dict[str, Any] = {
        "plane_id": plane_id,
        "collection_id": collection_id,
        "bound_at": now,
        "bound_by": actor_id,
    }
    if driver.insert_owned(connection, tenant_id=tenant_id, **link):
        return
    owner = driver.get_owner(connection, tenant_id=tenant_id, collection_id=collection_id)
    if owner == plane_id or (owner is None and driver.set_owned(connection, tenant_id=tenant_id, **link)):
        return
    raise conflict(
        "COLLECTION_ALREADY_OWNED", "Another plane owns this collection.", collection_id=collection_id
    )


def share(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    collection_id: str,
    now: datetime,
    actor_id: str,
) -> None:
    """Note that a plane reads a collection."""
    driver.insert_shared(
        connection,
        tenant_id=tenant_id,
        plane_id=plane_id,
        collection_id=collection_id,
        bound_at=now,
        bound_by=actor_id,
    )


def release(
    connection: DriverConnection,
    *,
    tenant_id: str,
    plane_id: str,
    now: datetime,
    collection_ids: Sequence[str] | None = None,
) -> list[str]:
    """Release these collections of a plane (None: all) and return the ids that were held, sorted."""
    return driver.set_released(
        connection, tenant_id=tenant_id, plane_id=plane_id, collection_ids=collection_ids, released_at=now
    )


def list_held(
    connection: DriverConnection, *, tenant_id: str, plane_id: str
) -> tuple[str | None, tuple[str, ...]]:
    """Return the collection that a plane owns and those that it shares, by id."""
    rows = driver.list_links(connection, tenant_id=tenant_id, plane_id=plane_id)
    owned = next((row["collection_id"] for row in rows if row["mode"] == CollectionMode.OWNED), None)
    return owned, tuple(row["collection_id"] for row in rows if row["mode"] == CollectionMode.SHARED)


def sealed_collections(
    connection: DriverConnection, *, tenant_id: str, collection_ids: Sequence[str]
) -> frozenset[str]:
    """Return those of the collections that a plane in 300..320 owns: nobody writes them."""
    if not collection_ids:
        return frozenset()
    rows = driver.list_owned_states(connection, tenant_id=tenant_id, collection_ids=collection_ids)
    return frozenset(collection for collection, _plane, value in rows if State(value).is_offboarding)


def list_users(
    connection: DriverConnection, *, tenant_id: str, collection_id: str
) -> list[Mapping[str, Any]]:
    """Return plane_id and mode of every plane that uses a collection now: a bound one is not deleted."""
    return list(driver.list_collection_planes(connection, tenant_id=tenant_id, collection_id=collection_id))


def planes_by_collection(
    connection: DriverConnection, *, tenant_id: str, collection_ids: Sequence[str]
) -> dict[str, list[str]]:
    """Return the planes that use each of the collections now, by id."""
    planes: dict[str, list[str]] = {collection_id: [] for collection_id in collection_ids}
    if planes:
        for row in driver.list_planes_of_collections(
            connection, tenant_id=tenant_id, collection_ids=list(planes)
        ):
            planes[row["collection_id"]].append(row["plane_id"])
    return planes


def owners_of(
    connection: DriverConnection, *, tenant_id: str, collection_ids: Sequence[str]
) -> dict[str, set[str]]:
    """Return the planes that own each of the collections or owned it before they were released."""
    owners: dict[str, set[str]] = {}
    if collection_ids:
        for row in driver.list_owners(connection, tenant_id=tenant_id, collection_ids=collection_ids):
            owners.setdefault(row["collection_id"], set()).add(row["plane_id"])
    return owners
