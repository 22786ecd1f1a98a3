"""Spine: operations on the relationships between artifacts."""

from __future__ import annotations

from typing import Any

from app.domains.repository.engines import documents, relationships
from app.domains.repository.engines.documents import MAX_PROVENANCE_BYTES, read_document
from app.domains.repository.engines.relationships import Row, relationship_view
from app.domains.repository.engines.values import check_id
from app.domains.repository.engines.views import change_view
from app.domains.repository.models.graph import (
    CreateRelationship,
    DeleteRelationship,
    ListRelationships,
    RelationshipDeleted,
    RelationshipFilter,
    RelationshipQuery,
    RelationshipRef,
    RelationshipUpdated,
    RelationshipView,
    UpdateRelationship,
)
from app.domains.repository.models.views import CountView
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
from app.kernel.hashing import text_hash
from app.kernel.pages import Page, page_of, read_cursor

EVENT = "RepositoryRelationshipChanged"


def create(ctx: OperationContext, request: CreateRelationship) -> RelationshipView:
    """Link two live artifacts."""
    relationship_id = ctx.new_id("rel") if request.id is None else check_id(request.id)
    metadata = read_document(request.metadata, field="metadata")
    provenance = read_document(request.provenance, field="provenance", limit=MAX_PROVENANCE_BYTES)
    relationships.check_ends_differ(request.source_id, request.target_id)
    change_set = open_creation(ctx, request.reason)
    keys: dict[str, Any] = {"tenant_id": ctx.tenant_id}
    ends = relationships.require_ends(
        ctx.connection, **keys, source_id=request.source_id, target_id=request.target_id
    )
    relationships.require_revisions(ctx.connection, request, **keys)
    check_seals(ctx, *ends)
    relationships.require_new(ctx.connection, request, **keys, relationship_id=relationship_id)
    row = relationships.create_relationship(
        ctx.connection,
        change_set,
        request,
        **keys,
        relationship_id=relationship_id,
        change_id=ctx.new_id("chg"),
        metadata=metadata,
        provenance=provenance,
    )
    close_changes(ctx, change_set, event=EVENT, entity_id=relationship_id, version=1)
    return relationship_view(row)


def get(ctx: OperationContext, request: RelationshipRef) -> RelationshipView:
    """Return a relationship; refuse RELATIONSHIP_NOT_FOUND and GONE."""
    return relationship_view(
        relationships.get_relationship(
            ctx.connection,
            tenant_id=ctx.tenant_id,
            relationship_id=request.relationship_id,
            include_deleted=request.include_deleted,
        )
    )


def list_page(ctx: OperationContext, request: ListRelationships) -> Page[RelationshipView]:
    """Return relationships by plain filters, oldest first."""
    return _page(ctx, request)


def query(ctx: OperationContext, request: RelationshipQuery) -> Page[RelationshipView]:
    """Return the relationships that meet every condition, oldest first."""
    return _page(ctx, request)


def _page(ctx: OperationContext, request: RelationshipQuery | ListRelationships) -> Page[RelationshipView]:
    wanted = text_hash(request.model_dump_json(exclude={"limit", "cursor"}))
    binding = f"{ctx.tenant_id}:{ctx.operation}:{wanted}"
    key = read_cursor(request.cursor, binding, int, str)
    return page_of(
        relationships.list_relationships(
            ctx.connection,
            request,
            tenant_id=ctx.tenant_id,
            after=None if key is None else (key[0], key[1]),
            limit=request.limit + 1,
        ),
        limit=request.limit,
        binding=binding,
        key=lambda row: (row["created_seq"], row["id"]),
        view=relationship_view,
    )


def count(ctx: OperationContext, request: RelationshipFilter) -> CountView:
    """Return how many relationships meet every condition."""
    return CountView(
        count=relationships.count_relationships(ctx.connection, request, tenant_id=ctx.tenant_id)
    )


def update(ctx: OperationContext, request: UpdateRelationship) -> RelationshipUpdated:
    """Change metadata (a merge patch) or provenance; what changes nothing writes nothing."""
    relationships.check_fixed(request)
    given = request.model_fields_set
    patch = documents.check_patch(request.metadata, field="metadata") if "metadata" in given else None
    new_provenance = None
    if "provenance" in given:
        new_provenance = read_document(request.provenance, field="provenance", limit=MAX_PROVENANCE_BYTES)
    change_set = open_changes(ctx, request.reason)
    row = _require(ctx, request.relationship_id)
    old = {
        "metadata": documents.stored_document(row["metadata_text"]),
        "provenance": documents.stored_document(row["provenance"]),
    }
    new = {"metadata": old["metadata"], "provenance": new_provenance or old["provenance"]}
    if patch is not None:
        merged = documents.merge_patch(old["metadata"].value, patch)
        new["metadata"] = read_document(merged, field="metadata")
    changed = [name for name in sorted(old) if old[name].digest != new[name].digest]
    if not changed:
        return RelationshipUpdated(relationship=relationship_view(row), changed=False, change=None)
    after = relationships.set_relationship(
        ctx.connection,
        change_set,
        row,
        tenant_id=ctx.tenant_id,
        change_id=ctx.new_id("chg"),
        action=Action.UPDATED,
        values={name: new[name].text for name in changed},
        changed_fields=changed,
        detail={f"{name}_digest": document.digest for name, document in new.items()},
    )
    _close(ctx, change_set, row, after)
    record = change_view(change_set.records[-1])
    return RelationshipUpdated(relationship=relationship_view(after), changed=True, change=record)


def delete(ctx: OperationContext, request: DeleteRelationship) -> RelationshipDeleted:
    """Make a tombstone of a relationship; refuse ALREADY_DELETED."""
    change_set = open_changes(ctx, request.reason)
    row = _require(ctx, request.relationship_id, deletable=True)
    after = relationships.set_relationship(
        ctx.connection,
        change_set,
        row,
        tenant_id=ctx.tenant_id,
        change_id=ctx.new_id("chg"),
        action=Action.UNLINKED,
        values=relationships.deletion_values(change_set),
    )
    _close(ctx, change_set, row, after)
    return RelationshipDeleted(
        id=row["id"], version=after["version"], change=change_view(change_set.records[-1])
    )


def _require(ctx: OperationContext, relationship_id: str, *, deletable: bool = False) -> Row:
    """Return a live relationship that may be written; refuse an absent one, another version, then a seal."""
    row = relationships.get_relationship(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        relationship_id=relationship_id,
        include_deleted=deletable,
    )
    if deletable:
        relationships.check_deletable(row)
    check_version(ctx, row["version"])
    check_seals(ctx, row["source_collection_id"], row["target_collection_id"])
    return row


def _close(ctx: OperationContext, change_set: Any, row: Row, after: Row) -> None:
    close_changes(
        ctx,
        change_set,
        event=EVENT,
        entity_id=row["id"],
        before={"version": row["version"]},
        version=after["version"],
    )


declare = OperationsOf("repository")
OPERATIONS = (
    declare.write(
        "repository.relationships.create", CreateRelationship, RelationshipView, create, creates=True
    ),
    declare.read("repository.relationships.get", RelationshipRef, RelationshipView, get),
    declare.read("repository.relationships.list", ListRelationships, Page[RelationshipView], list_page),
    declare.write("repository.relationships.update", UpdateRelationship, RelationshipUpdated, update),
    declare.write("repository.relationships.delete", DeleteRelationship, RelationshipDeleted, delete),
    declare.read("repository.relationships.query", RelationshipQuery, Page[RelationshipView], query),
    declare.read("repository.relationships.count", RelationshipFilter, CountView, count),
)
