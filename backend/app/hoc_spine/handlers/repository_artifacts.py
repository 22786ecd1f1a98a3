"""Spine: operations on single artifacts: create, get, change, delete, restore."""

from __future__ import annotations

from typing import Any

from app.domains.repository.engines import artifacts, bulk, drafts, lifecycle, revisions, writing
from app.domains.repository.engines.artifacts import Place
from app.domains.repository.engines.changes import ChangeSet
from app.domains.repository.engines.drafts import Draft, Revision
from app.domains.repository.engines.operation_runs import check_producer, check_running
from app.domains.repository.engines.outputs import link_to_head
from app.domains.repository.engines.search import IndexEntry, index_entry
from app.domains.repository.engines.values import check_name
from app.domains.repository.engines.views import artifact_view, change_view, past_view
from app.domains.repository.engines.writing import Batch, Wanted
from app.domains.repository.errors import duplicate_id, gone, invalid_query, not_found
from app.domains.repository.models.inputs import (
    ArtifactRef,
    ContentRef,
    CreateArtifact,
    DeleteArtifact,
    RestoreArtifact,
    UpdateArtifact,
)
from app.domains.repository.models.views import (
    ArtifactDeleted,
    ArtifactRestored,
    ArtifactUpdated,
    ArtifactView,
    ContentView,
)
from app.domains.repository.models.vocabulary import DEFAULT_COLLECTION, Action, BlobState
from app.hoc_spine.coordinators.repository_runs import find_producers, link_outputs
from app.hoc_spine.coordinators.repository_writes import (
    check_seals,
    check_version,
    close_changes,
    make_default_collection,
    open_changes,
    open_creation,
)
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.hoc_spine.operation_registry import OperationsOf

EVENT = "RepositoryArtifactChanged"


def prepare_create(ctx: PrepareContext, request: CreateArtifact) -> Draft:
    """Check, hash and tokenise before the transaction."""
    return drafts.read_item(request, content_limit=ctx.services.settings.repository_max_content_bytes)


def create(ctx: OperationContext, request: CreateArtifact) -> ArtifactView:
    """Create an artifact with its first revision."""
    draft: Draft = ctx.prepared
    collection_id = draft.collection_id or DEFAULT_COLLECTION
    change_set = open_creation(ctx, request.reason)
    place = _place(ctx, collection_id, draft.name_key)
    check_seals(ctx, collection_id)
    check_producer(draft.produced_by_run, find_producers(ctx, [draft.produced_by_run]))
    if draft.id is not None and bulk.list_used_ids(
        ctx.connection, tenant_id=ctx.tenant_id, artifact_ids=[draft.id]
    ):
        raise duplicate_id(draft.id)
    artifacts.check_name_free(place, None)
    digest = draft.content.digest
    known = writing.list_blobs(
        ctx.connection, tenant_id=ctx.tenant_id, digests=[] if digest is None else [digest]
    )
    writing.check_digest(draft.expected_digest, digest)
    writing.check_blocked(digest, known.get(digest or ""))
    if place.unborn:
        make_default_collection(ctx, change_set)
    batch = Batch()
    artifact_id = draft.id or ctx.new_id("art")
    head = writing.plan_create(
        batch,
        change_set,
        draft,
        artifact_id=artifact_id,
        collection_id=collection_id,
        change_id=ctx.new_id("chg"),
    )
    writing.write_batch(
        ctx.connection, batch, change_set, tenant_id=ctx.tenant_id, present=writing.present(known)
    )
    _link(ctx, change_set, head)
    close_changes(ctx, change_set, event=EVENT, entity_id=artifact_id, version=1)
    return artifact_view(head)


def get(ctx: OperationContext, request: ArtifactRef) -> ArtifactView:
    """Return an artifact now, at a revision, or as it was at a change number or time."""
    if request.as_of_seq is not None or request.as_of is not None:
        return _get_past(ctx, request)
    row = artifacts.get_artifact(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        artifact_id=request.artifact_id,
        revision=request.revision,
    )
    if not request.include_deleted:
        artifacts.check_live(row)
    return artifact_view(row, of_revision=request.revision is not None)


def _get_past(ctx: OperationContext, request: ArtifactRef) -> ArtifactView:
    if request.revision is not None or (request.as_of_seq is not None and request.as_of is not None):
        raise invalid_query("Give one of revision, as_of_seq and as_of.")
    change = revisions.state_at(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        artifact_id=request.artifact_id,
        seq=request.as_of_seq,
        moment=request.as_of,
    )
    if change is None:
        raise not_found("ARTIFACT")
    revision = change["new_revision"] or change["old_revision"]
    row = artifacts.get_artifact(
        ctx.connection, tenant_id=ctx.tenant_id, artifact_id=request.artifact_id, revision=revision
    )
    view = past_view(row, change)
    if view.deleted_at is not None and not request.include_deleted:
        raise gone(artifacts.tombstone(view.model_dump()))
    return view


def get_content(ctx: OperationContext, request: ContentRef) -> ContentView:
    """Return the content of the head, hashed again before it leaves."""
    row, content = revisions.read_content(
        ctx.connection, tenant_id=ctx.tenant_id, artifact_id=request.artifact_id, revision=None
    )
    return ContentView(
        artifact_id=request.artifact_id,
        revision=row["revision"],
        version=row["version"],
        content=content.data,
        media_type=content.media_type,
        content_digest=content.digest,
    )


def prepare_update(ctx: PrepareContext, request: UpdateArtifact) -> Revision:
    """Check, canonicalise and hash before the transaction."""
    return drafts.read_update(request, content_limit=ctx.services.settings.repository_max_content_bytes)


def update(ctx: OperationContext, request: UpdateArtifact) -> ArtifactUpdated:
    """Change an artifact; what changes nothing writes nothing."""
    wish: Revision = ctx.prepared
    change_set = open_changes(ctx, request.reason)
    row = artifacts.get_for_content(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        artifact_id=request.artifact_id,
        digest=None if wish.content is None else wish.content.digest,
    )
    artifacts.check_live(row)
    check_version(ctx, row["version"])
    wanted = writing.decide_update(row, wish)
    producers = find_producers(ctx, [wish.produced_by_run])
    check_running(producers)
    place = _check_move(ctx, row, wanted)
    check_producer(wish.produced_by_run, producers)
    if place is not None:
        artifacts.check_name_free(place, row["id"])
    writing.check_digest(wish.expected_digest, wanted.content_digest)
    if not wanted.changed:
        return ArtifactUpdated(artifact=artifact_view(row), changed=False, change=None)
    blocked = {"blocked": row.get("new_blocked")}
    writing.check_blocked(None if wish.content is None else wish.content.digest, blocked)
    if place is not None and place.unborn:
        make_default_collection(ctx, change_set)
    batch = Batch()
    head = writing.plan_update(
        batch,
        change_set,
        row,
        wanted,
        change_id=ctx.new_id("chg"),
        content=wish.content,
        entry=_entry(ctx, row, wish, wanted),
        produced_by_run=wish.produced_by_run,
    )
    there = row.get("new_state") == BlobState.PRESENT and wish.content is not None
    present = frozenset([str(wish.content.digest)]) if there and wish.content else frozenset()
    writing.write_batch(ctx.connection, batch, change_set, tenant_id=ctx.tenant_id, present=present)
    change = change_view(change_set.records[-1])
    _link(ctx, change_set, head)
    _close(ctx, change_set, row, head)
    return ArtifactUpdated(artifact=artifact_view(head), changed=True, change=change)


def _link(ctx: OperationContext, change_set: ChangeSet, head: artifacts.Row) -> None:
    """Make the new revision an output of the run that brought it about, if any."""
    if head["produced_by_run"] is not None:
        link_outputs(ctx, change_set, [link_to_head(head["produced_by_run"], head)])


def _check_move(ctx: OperationContext, row: artifacts.Row, wanted: Wanted) -> Place | None:
    """Check seals, then the place of a rename or move; null when the artifact stays where it is."""
    check_seals(ctx, row["collection_id"], wanted.collection_id)
    if {"name", "collection_id"}.isdisjoint(wanted.changed):
        return None
    return _place(ctx, wanted.collection_id, wanted.name_key)


def _place(ctx: OperationContext, collection_id: str, name_key: str) -> Place:
    return artifacts.get_place(
        ctx.connection, tenant_id=ctx.tenant_id, collection_id=collection_id, name_key=name_key
    )


def _entry(ctx: OperationContext, row: artifacts.Row, wish: Revision, wanted: Wanted) -> IndexEntry | None:
    if not wanted.reindex:
        return None
    if wish.content is not None:
        return index_entry(wanted.name, wish.content.data, wanted.media_type)
    return lifecycle.stored_entry(
        ctx.connection, tenant_id=ctx.tenant_id, row=row, name=wanted.name, media_type=wanted.media_type
    )


def _close(ctx: OperationContext, change_set: ChangeSet, row: artifacts.Row, head: artifacts.Row) -> None:
    close_changes(
        ctx,
        change_set,
        event=EVENT,
        entity_id=row["id"],
        before={"version": row["version"]},
        version=head["version"],
    )


def delete(ctx: OperationContext, request: DeleteArtifact) -> ArtifactDeleted:
    """Make a tombstone; refuse ALREADY_DELETED and, in mode restrict, ARTIFACT_HAS_RELATIONSHIPS."""
    change_set = open_changes(ctx, request.reason)
    row = artifacts.get_artifact(ctx.connection, tenant_id=ctx.tenant_id, artifact_id=request.artifact_id)
    lifecycle.check_deletable(row)
    check_version(ctx, row["version"])
    check_seals(ctx, row["collection_id"])
    edges = lifecycle.list_live_edges(ctx.connection, tenant_id=ctx.tenant_id, artifact_id=row["id"])
    lifecycle.check_detachable(edges, detach=request.mode == "detach")
    batch = Batch()
    head = lifecycle.delete_artifact(
        ctx.connection,
        batch,
        change_set,
        row,
        tenant_id=ctx.tenant_id,
        edges=edges,
        new_id=ctx.new_id,
    )
    writing.write_batch(ctx.connection, batch, change_set, tenant_id=ctx.tenant_id, present=frozenset())
    _close(ctx, change_set, row, head)
    return ArtifactDeleted(
        id=row["id"],
        version=head["version"],
        change=change_view(change_set.records[0]),
        detached=[edge["id"] for edge in edges],
    )


def restore(ctx: OperationContext, request: RestoreArtifact) -> ArtifactRestored:
    """Bring a deleted artifact back; refuse NOT_DELETED, RESTORE_IMPOSSIBLE and a name that is taken."""
    name_key = None if request.new_name is None else check_name(request.new_name)
    change_set = open_changes(ctx, request.reason)
    row = artifacts.get_artifact(ctx.connection, tenant_id=ctx.tenant_id, artifact_id=request.artifact_id)
    lifecycle.check_deleted(row)
    check_version(ctx, row["version"])
    check_seals(ctx, row["collection_id"])
    place = _place(ctx, row["collection_id"], name_key or row["name_key"])
    lifecycle.check_restorable(row)
    artifacts.check_name_free(place, None)
    batch = Batch()
    head = _restore_head(ctx, batch, change_set, row, request.new_name, name_key)
    writing.write_batch(
        ctx.connection, batch, change_set, tenant_id=ctx.tenant_id, present=frozenset(), live=False
    )
    back: list[str] = []
    skipped: list[str] = []
    if request.with_relationships:
        back, skipped = lifecycle.restore_edges(
            ctx.connection, change_set, row, tenant_id=ctx.tenant_id, new_id=ctx.new_id
        )
    _close(ctx, change_set, row, head)
    return ArtifactRestored(
        artifact=artifact_view(head),
        change=change_view(change_set.records[0]),
        relationships_restored=back,
        relationships_skipped=skipped,
    )


def _restore_head(
    ctx: OperationContext,
    batch: Batch,
    change_set: ChangeSet,
    row: artifacts.Row,
    new_name: str | None,
    name_key: str | None,
) -> dict[str, Any]:
    wanted = writing.decide_update(row, Revision(name=new_name, name_key=name_key))
    entry = lifecycle.stored_entry(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        row=row,
        name=wanted.name,
        media_type=row["media_type"],
    )
    change_id = ctx.new_id("chg")
    if not wanted.changed:
        return lifecycle.restore_head(batch, change_set, row, change_id=change_id, entry=entry)
    return writing.plan_update(
        batch,
        change_set,
        row,
        wanted,
        change_id=change_id,
        content=None,
        entry=entry,
        produced_by_run=None,
        action=Action.RESTORED,
        extra=lifecycle.ALIVE,
    )


declare = OperationsOf("repository")
OPERATIONS = (
    declare.write(
        "repository.artifacts.create",
        CreateArtifact,
        ArtifactView,
        create,
        prepare=prepare_create,
        creates=True,
    ),
    declare.read("repository.artifacts.get", ArtifactRef, ArtifactView, get),
    declare.read("repository.artifacts.content", ContentRef, ContentView, get_content),
    declare.write(
        "repository.artifacts.update", UpdateArtifact, ArtifactUpdated, update, prepare=prepare_update
    ),
    declare.write("repository.artifacts.delete", DeleteArtifact, ArtifactDeleted, delete),
    declare.write("repository.artifacts.restore", RestoreArtifact, ArtifactRestored, restore),
)
