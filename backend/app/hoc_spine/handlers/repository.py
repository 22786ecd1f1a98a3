"""Spine: the repository's bulk creation and its change feed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.domains.repository.engines import bulk, changes, collections, drafts, lifecycle, writing
from app.domains.repository.engines.bulk import Step, Surroundings
from app.domains.repository.engines.changes import ChangeSet
from app.domains.repository.engines.drafts import Draft
from app.domains.repository.engines.outputs import Link
from app.domains.repository.engines.search import IndexEntry, index_entry
from app.domains.repository.engines.views import change_view
from app.domains.repository.engines.writing import Batch
from app.domains.repository.errors import bulk_refused, invalid_input, too_large
from app.domains.repository.models.inputs import CreateArtifacts, ListChanges
from app.domains.repository.models.views import BulkItemResult, BulkResult, ChangePage
from app.domains.repository.models.vocabulary import DEFAULT_COLLECTION
from app.hoc_spine.coordinators.repository_runs import find_producers, link_outputs
from app.hoc_spine.coordinators.repository_writes import (
    close_changes,
    make_default_collection,
    open_creation,
    sealed_among,
)
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.errors import HocError

Items = list[tuple[str, Draft]]


def prepare_bulk(ctx: PrepareContext, request: CreateArtifacts) -> Items:
    """Check, canonicalise, hash and tokenise every item before the transaction."""
    settings = ctx.services.settings
    if not request.items:
        raise invalid_input("There is nothing to create.", "items")
    if len(request.items) > settings.repository_max_bulk_items:
        raise too_large(settings.repository_max_bulk_items, len(request.items), "The number of items")
    items: Items = []
    errors: list[tuple[int, HocError]] = []
    size = 0
    for index, item in enumerate(request.items):
        try:
            draft = drafts.read_item(item, content_limit=settings.repository_max_content_bytes)
        except HocError as error:
            errors.append((index, error))
            continue
        size += draft.content.size or 0
        items.append((draft.collection_id or request.collection_id or DEFAULT_COLLECTION, draft))
    if errors:
        shown = [bulk.error_item(index, error) for index, error in errors[: bulk.SHOWN_ERRORS]]
        raise bulk_refused(errors[0][1], shown)
    if size > settings.repository_max_bulk_bytes:
        raise too_large(settings.repository_max_bulk_bytes, size, "The content of all items")
    return items


def create_bulk(ctx: OperationContext, request: CreateArtifacts) -> BulkResult:
    """Create many artifacts, or with `on_existing=update` change those that are there: all or nothing."""
    items: Items = ctx.prepared
    change_set = open_creation(ctx, request.reason)
    around = _look_around(ctx, items)
    steps = bulk.decide_items(items, around, update=request.on_existing == "update")
    if around.known.default_unborn:
        make_default_collection(ctx, change_set)
    batch = Batch()
    results = [_plan(ctx, batch, change_set, step) for step in steps]
    if not change_set.records:
        return BulkResult(change_set_id=None, first_seq=None, last_seq=None, items=results)
    writing.write_batch(
        ctx.connection, batch, change_set, tenant_id=ctx.tenant_id, present=writing.present(around.blobs)
    )
    link_outputs(ctx, change_set, _links(steps, results))
    change_set_id = change_set.origin.change_set_id
    close_changes(ctx, change_set, event="RepositoryArtifactChanged", entity_id=change_set_id)
    return BulkResult(
        change_set_id=change_set_id,
        first_seq=change_set.first_seq,
        last_seq=change_set.last_seq,
        items=results,
    )


def _look_around(ctx: OperationContext, items: Items) -> Surroundings:
    connection, tenant_id = ctx.connection, ctx.tenant_id
    places = list(dict.fromkeys((collection_id, draft.name_key) for collection_id, draft in items))
    collection_ids = list(dict.fromkeys(collection_id for collection_id, _ in places))
    known = collections.look_up(connection, tenant_id=tenant_id, collection_ids=collection_ids)
    return Surroundings(
        known=known,
        sealed=sealed_among(ctx, sorted(known.live)),
        producers=find_producers(ctx, [draft.produced_by_run for _, draft in items]),
        used_ids=bulk.list_used_ids(
            connection,
            tenant_id=tenant_id,
            artifact_ids=list(dict.fromkeys(draft.id for _, draft in items if draft.id is not None)),
        ),
        holders=bulk.list_holders(
            connection, tenant_id=tenant_id, places=[place for place in places if place[0] in known.live]
        ),
        blobs=writing.list_blobs(
            connection,
            tenant_id=tenant_id,
            digests=[draft.content.digest for _, draft in items if draft.content.digest is not None],
        ),
    )


def _plan(ctx: OperationContext, batch: Batch, change_set: ChangeSet, step: Step) -> BulkItemResult:
    draft = step.draft
    if step.row is None or step.wanted is None:
        head = writing.plan_create(
            batch,
            change_set,
            draft,
            artifact_id=draft.id or ctx.new_id("art"),
            collection_id=step.collection_id,
            change_id=ctx.new_id("chg"),
        )
        return _result(head, "created")
    if not step.wanted.changed:
        return _result(step.row, "unchanged")
    head = writing.plan_update(
        batch,
        change_set,
        step.row,
        step.wanted,
        change_id=ctx.new_id("chg"),
        content=draft.content if draft.has_content else None,
        entry=_entry(ctx, step),
        produced_by_run=draft.produced_by_run,
    )
    return _result(head, "updated")


def _links(steps: Sequence[Step], results: Sequence[BulkItemResult]) -> list[Link]:
    """Return the links of the new revisions to the runs that brought them about."""
    return [
        Link(step.draft.produced_by_run, made.id, made.revision, made.revision_digest)
        for step, made in zip(steps, results, strict=True)
        if step.draft.produced_by_run is not None and made.result != "unchanged"
    ]


def _entry(ctx: OperationContext, step: Step) -> IndexEntry | None:
    draft, wanted = step.draft, step.wanted
    if wanted is None or step.row is None or not wanted.reindex:
        return None
    if not draft.has_content:
        return lifecycle.stored_entry(
            ctx.connection,
            tenant_id=ctx.tenant_id,
            row=step.row,
            name=wanted.name,
            media_type=wanted.media_type,
        )
    if wanted.media_type == draft.media_type:
        return draft.entry
    return index_entry(wanted.name, draft.content.data, wanted.media_type)


def _result(head: Any, result: Any) -> BulkItemResult:
    return BulkItemResult(
        id=head["id"],
        result=result,
        version=head["version"],
        revision=head["head_revision"],
        content_digest=head["content_digest"],
        revision_digest=head["revision_digest"],
    )


def list_changes(ctx: OperationContext, request: ListChanges) -> ChangePage:
    """Return the change feed after `since_seq`; unfiltered it has no gaps."""
    wanted = request.model_dump(exclude={"since_seq", "limit"}, exclude_none=True, mode="json")
    rows: Sequence[Any] = changes.list_changes(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        since_seq=request.since_seq,
        filters=wanted,
        limit=request.limit,
    )
    following = rows[-1]["seq"] if rows else request.since_seq
    return ChangePage(items=[change_view(row) for row in rows], next_since_seq=following)


declare = OperationsOf("repository")
OPERATIONS = (
    declare.write(
        "repository.artifacts.create_bulk",
        CreateArtifacts,
        BulkResult,
        create_bulk,
        prepare=prepare_bulk,
        creates=True,
    ),
    declare.read("repository.changes.list", ListChanges, ChangePage, list_changes),
)
