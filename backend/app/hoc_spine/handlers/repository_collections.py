"""Spine: operations on the repository's collections."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from app.domains.knowledge.engines import plane_collections
from app.domains.knowledge.models.vocabulary import (
    CollectionMode,
)
from app.domains.repository.engines import collections as engine
from app.domains.repository.engines import documents
from app.domains.repository.engines.values import check_id, check_name
from app.domains.repository.engines.views import change_view, collection_view
from app.domains.repository.errors import invalid_input
from app.domains.repository.models.inputs import (
    CollectionRef,
    CreateCollection,
    DeleteCollection,
    ListCollections,
    UpdateCollection,
)
from app.domains.repository.models.views import CollectionDeleted, CollectionView
from app.domains.repository.models.vocabulary import Action
from app.hoc_spine.coordinators.repository_writes import (
    check_seals,
    check_version,
    close_changes,
    open_changes,
    open_creation,
)
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.pages import Page, encode_cursor, read_cursor

EVENT = "RepositoryCollectionChanged"


def create(ctx: OperationContext, request: CreateCollection) -> CollectionView:
    """Create a collection; refuse DUPLICATE_ID and DUPLICATE_NAME."""
    collection_id = ctx.new_id("col") if request.id is None else check_id(request.id)
    name_key = check_name(request.name)
    metadata = documents.read_document(request.metadata, field="metadata")
    change_set = open_creation(ctx, None)
    row = engine.create_collection(
        ctx.connection,
        change_set,
        tenant_id=ctx.tenant_id,
        collection_id=collection_id,
        change_id=ctx.new_id("chg"),
        name=request.name,
        name_key=name_key,
        description=request.description,
        metadata=metadata,
    )
    close_changes(ctx, change_set, event=EVENT, entity_id=collection_id, version=1)
    return collection_view(row, ())


def get(ctx: OperationContext, request: CollectionRef) -> CollectionView:
    """Return a collection; refuse COLLECTION_NOT_FOUND and GONE."""
    row = engine.get_collection(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        collection_id=request.collection_id,
        include_deleted=request.include_deleted,
    )
    return _views(ctx, [row])[0]


def list_page(ctx: OperationContext, request: ListCollections) -> Page[CollectionView]:
    """Return collections in order of creation."""
    binding = f"{ctx.tenant_id}:{ctx.operation}:{request.name!r}:{request.include_deleted}"
    (after,) = read_cursor(request.cursor, binding, int) or (0,)
    rows = engine.list_collections(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        name_key=None if request.name is None else unicodedata.normalize("NFC", request.name),
        include_deleted=request.include_deleted,
        after=after,
        limit=request.limit + 1,
    )
    shown = rows[: request.limit]
    more = encode_cursor(binding, [shown[-1]["created_seq"]]) if len(rows) > request.limit else None
    return Page(items=_views(ctx, shown), next_cursor=more)


def update(ctx: OperationContext, request: UpdateCollection) -> CollectionView:
    """Change name, description or metadata (a merge patch); what changes nothing writes nothing."""
    given = request.model_fields_set
    if "name" in given and request.name is None:
        raise invalid_input("name is never null.", "name")
    name_key = None if request.name is None else check_name(request.name)
    patch = documents.check_patch(request.metadata, field="metadata") if "metadata" in given else None
    change_set = open_changes(ctx, None)
    row = _require(ctx, request.collection_id)
    values: dict[str, Any] = {}
    if request.name is not None and request.name != row["name"]:
        values |= {"name": request.name, "name_key": name_key}
    if "description" in given and request.description != row["description"]:
        values["description"] = request.description
    old = documents.stored_document(row["metadata_text"])
    new = old
    if patch is not None:
        new = documents.read_document(documents.merge_patch(old.value, patch), field="metadata")
    if new.digest != old.digest:
        values["metadata"] = new.text
    if not values:
        return _views(ctx, [row])[0]
    if name_key is not None:
        engine.require_free_name(
            ctx.connection, tenant_id=ctx.tenant_id, name_key=name_key, collection_id=row["id"]
        )
    after = engine.set_collection(
        ctx.connection,
        change_set,
        tenant_id=ctx.tenant_id,
        row=row,
        change_id=ctx.new_id("chg"),
        action=Action.UPDATED,
        values=values,
        changed_fields=[name for name in values if name != "name_key"],
        detail={"old_metadata_digest": old.digest, "new_metadata_digest": new.digest},
    )
    close_changes(
        ctx,
        change_set,
        event=EVENT,
        entity_id=row["id"],
        before={"version": row["version"]},
        version=after["version"],
    )
    return _views(ctx, [after])[0]


def delete(ctx: OperationContext, request: DeleteCollection) -> CollectionDeleted:
    """Delete an empty collection that no plane owns; refuse COLLECTION_NOT_EMPTY, COLLECTION_BOUND."""
    change_set = open_changes(ctx, request.reason)
    row = _require(ctx, request.collection_id, deletable=True)
    users = plane_collections.list_users(
        ctx.connection, tenant_id=ctx.tenant_id, collection_id=request.collection_id
    )
    engine.check_removable(row, owned=any(user["mode"] == CollectionMode.OWNED for user in users))
    after = engine.set_collection(
        ctx.connection,
        change_set,
        tenant_id=ctx.tenant_id,
        row=row,
        change_id=ctx.new_id("chg"),
        action=Action.DELETED,
        values={"deleted_at": change_set.at, "deleted_by": ctx.actor.id},
    )
    close_changes(
        ctx,
        change_set,
        event=EVENT,
        entity_id=row["id"],
        before={"version": row["version"]},
        version=after["version"],
    )
    return CollectionDeleted(
        id=row["id"], version=after["version"], change=change_view(change_set.records[0])
    )


def _require(ctx: OperationContext, collection_id: str, *, deletable: bool = False) -> engine.Row:
    """Return a live collection that may be written; refuse an absent one, another version, then a seal."""
    row = engine.get_collection(
        ctx.connection, tenant_id=ctx.tenant_id, collection_id=collection_id, include_deleted=deletable
    )
    if deletable:
        engine.check_deletable(row)
    check_version(ctx, row["version"])
    check_seals(ctx, collection_id)
    return row


def _views(ctx: OperationContext, rows: Sequence[engine.Row]) -> list[CollectionView]:
    planes = plane_collections.planes_by_collection(
        ctx.connection, tenant_id=ctx.tenant_id, collection_ids=[row["id"] for row in rows]
    )
    return [collection_view(row, planes[row["id"]]) for row in rows]


declare = OperationsOf("repository")
OPERATIONS = (
    declare.write("repository.collections.create", CreateCollection, CollectionView, create, creates=True),
    declare.read("repository.collections.get", CollectionRef, CollectionView, get),
    declare.read("repository.collections.list", ListCollections, Page[CollectionView], list_page),
    declare.write("repository.collections.update", UpdateCollection, CollectionView, update),
    declare.write("repository.collections.delete", DeleteCollection, CollectionDeleted, delete),
)
