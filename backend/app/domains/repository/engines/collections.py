"""L5 engine of collections: look-ups with their refusals, and the conditional change of a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.repository.drivers import collections as driver
from app.domains.repository.engines import documents
from app.domains.repository.engines.changes import ChangeSet
from app.domains.repository.engines.values import chunks, is_id
from app.domains.repository.errors import (
    already_deleted,
    collection_bound,
    collection_not_empty,
    collection_sealed,
    duplicate_id,
    duplicate_name,
    gone,
    not_found,
    reference_not_found,
)
from app.domains.repository.models.vocabulary import DEFAULT_COLLECTION, Action, EntityType

Row = Mapping[str, Any]


def get_collection(
    connection: DriverConnection, *, tenant_id: str, collection_id: str, include_deleted: bool = False
) -> Row:
    """Return a collection; refuse COLLECTION_NOT_FOUND, and GONE for a deleted one unless it is asked for."""
    row = None
    if is_id(collection_id):
        row = driver.get_collection(connection, tenant_id=tenant_id, collection_id=collection_id)
    if row is None:
        raise not_found("COLLECTION")
    if row["deleted_at"] is not None and not include_deleted:
        raise gone(tombstone(row))
    return row


def tombstone(row: Row) -> dict[str, Any]:
    """Return what stays readable of a deleted collection."""
    return {name: row[name] for name in ("id", "version", "deleted_at", "deleted_by")}


def list_collections(
    connection: DriverConnection,
    *,
    tenant_id: str,
    name_key: str | None,
    include_deleted: bool,
    after: int,
    limit: int,
) -> Sequence[Row]:
    """Return up to `limit` collections after a creation number."""
    return driver.list_collections(
        connection,
        tenant_id=tenant_id,
        name_key=name_key,
        include_deleted=include_deleted,
        after=after,
        limit=limit,
    )


@dataclass(frozen=True, slots=True)
class Known:
    """Which collections are live, and whether the default collection has yet to be made."""

    live: frozenset[str]
    default_unborn: bool

    def check_live(self, collection_id: str) -> None:
        """Refuse REFERENCE_NOT_FOUND for a collection that is unknown, deleted or foreign."""
        if collection_id not in self.live:
            raise reference_not_found("collection_id")


def look_up(connection: DriverConnection, *, tenant_id: str, collection_ids: Sequence[str]) -> Known:
    """Return which of these ids are live; the default collection counts as live before it is made."""
    rows = [
        row
        for part in chunks([name for name in dict.fromkeys(collection_ids) if is_id(name)])
        for row in driver.list_known(connection, tenant_id=tenant_id, collection_ids=part)
    ]
    live = {row["id"] for row in rows if row["deleted_at"] is None}
    unborn = DEFAULT_COLLECTION in collection_ids and all(row["id"] != DEFAULT_COLLECTION for row in rows)
    return Known(frozenset(live | {DEFAULT_COLLECTION} if unborn else live), unborn)


def check_sealed(sealed: frozenset[str], collection_id: str) -> None:
    """Refuse COLLECTION_SEALED for a collection whose owning plane is being offboarded."""
    if collection_id in sealed:
        raise collection_sealed()


def check_removable(row: Row, *, owned: bool) -> None:
    """Refuse COLLECTION_NOT_EMPTY and COLLECTION_BOUND."""
    if row["live_artifacts"]:
        raise collection_not_empty(row["live_artifacts"])
    if owned:
        raise collection_bound()


def check_deletable(row: Row) -> None:
    """Refuse ALREADY_DELETED."""
    if row["deleted_at"] is not None:
        raise already_deleted(tombstone(row))


def create_collection(
    connection: DriverConnection,
    change_set: ChangeSet,
    *,
    tenant_id: str,
    collection_id: str,
    change_id: str,
    name: str,
    name_key: str,
    description: str | None,
    metadata: documents.Document,
) -> Row:
    """Insert a collection and its change record; refuse DUPLICATE_ID, DUPLICATE_NAME."""
    if driver.list_known(connection, tenant_id=tenant_id, collection_ids=[collection_id]):
        raise duplicate_id(collection_id)
    require_free_name(connection, tenant_id=tenant_id, name_key=name_key, collection_id=collection_id)
    row = {
        "id": collection_id,
        "name": name,
        "name_key": name_key,
        "description": description,
        "metadata": metadata.text,
        "version": 1,
        "created_seq": change_set.next_seq,
        "created_at": change_set.at,
        "created_by": change_set.origin.actor_id,
        "updated_at": change_set.at,
        "updated_by": change_set.origin.actor_id,
        "deleted_at": None,
        "deleted_by": None,
    }
    driver.insert_collection(connection, tenant_id=tenant_id, row=row)
    change_set.add(
        change_id,
        EntityType.COLLECTION,
        collection_id,
        Action.CREATED,
        new={"version": 1},
        detail={"metadata_digest": metadata.digest},
    )
    return {**row, "metadata_text": metadata.text, "live_artifacts": 0}


def require_free_name(
    connection: DriverConnection, *, tenant_id: str, name_key: str, collection_id: str
) -> None:
    """Refuse DUPLICATE_NAME when another live collection bears the name."""
    holder = driver.get_name_holder(connection, tenant_id=tenant_id, name_key=name_key)
    if holder is not None and holder != collection_id:
        raise duplicate_name(holder)


def set_collection(
    connection: DriverConnection,
    change_set: ChangeSet,
    *,
    tenant_id: str,
    row: Row,
    change_id: str,
    action: Action,
    values: Mapping[str, Any],
    changed_fields: Sequence[str] = (),
    detail: Mapping[str, Any] | None = None,
) -> Row:
    """Change a live collection and append the change record."""
    stamps = {"updated_at": change_set.at, "updated_by": change_set.origin.actor_id}
    changed = driver.set_collection(
        connection,
        tenant_id=tenant_id,
        collection_id=row["id"],
        version=row["version"],
        values={**values, **stamps},
    )
    if changed != 1:
        raise RuntimeError("a collection changed under the tenant's write lock")
    change_set.add(
        change_id,
        EntityType.COLLECTION,
        row["id"],
        action,
        old={"version": row["version"]},
        new={"version": row["version"] + 1},
        changed_fields=changed_fields,
        detail=detail,
    )
    after = {**row, **values, **stamps, "version": row["version"] + 1}
    return {**after, "metadata_text": values.get("metadata", row["metadata_text"])}


def deletion_values(moment: datetime, actor_id: str) -> dict[str, Any]:
    """Return the members of a tombstone."""
    return {"deleted_at": moment, "deleted_by": actor_id}
