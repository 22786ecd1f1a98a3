"""Spine: the writes of a publication: everything that a run brings about, table by table, under one lock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.domains.repository.engines import artifacts, bulk, collections, outputs, publishing, writing
from app.domains.repository.engines import references as pins
from app.domains.repository.engines.bulk import Place, Surroundings
from app.domains.repository.engines.changes import ChangeSet
from app.domains.repository.engines.drafts import Draft
from app.domains.repository.engines.outputs import Link
from app.domains.repository.engines.publishing import ChangeStep, Publication
from app.domains.repository.engines.search import IndexEntry, index_entry
from app.domains.repository.engines.writing import Batch
from app.domains.repository.models.runs import RunOutputView
from app.domains.repository.models.views import BulkItemResult
from app.domains.repository.models.vocabulary import OperationRunStatus
from app.hoc_spine.coordinators.repository_writes import make_default_collection, sealed_among
from app.hoc_spine.operation_context import OperationContext

Row = Mapping[str, Any]
Contents = Mapping[tuple[str, int], bytes]


class Published:
    """What a publication wrote: results in the order of the request, and the links that are new."""

    def __init__(self) -> None:
        self.artifacts: list[BulkItemResult] = []
        self.updates: list[BulkItemResult] = []
        self.links: list[Link] = []
        self.outputs: list[RunOutputView] = []


def write_publication(
    ctx: OperationContext, change_set: ChangeSet, publication: Publication, *, run_id: str
) -> Published:
    """Write artifacts and changes in one batch and return what is to be linked; refuse all for any item."""
    connection, tenant_id = ctx.connection, ctx.tenant_id
    heads = pins.list_heads(
        connection, tenant_id=tenant_id, artifact_ids=[change.artifact_id for change in publication.changes]
    )
    steps = publishing.plan_changes(publication.changes, heads)
    around = _look_around(ctx, publication.creates, steps, run_id)
    creates = bulk.decide_items(publication.creates, around, update=False)
    taken: set[Place] = {(step.collection_id, step.draft.name_key) for step in creates}
    publishing.check_changes(steps, around, taken)
    links, known = _links(ctx, publication, run_id)
    if around.known.default_unborn:
        make_default_collection(ctx, change_set)
    published = Published()
    batch = Batch()
    for create, role in zip(creates, publication.roles, strict=True):
        head = writing.plan_create(
            batch,
            change_set,
            create.draft,
            artifact_id=create.draft.id or ctx.new_id("art"),
            collection_id=create.collection_id,
            change_id=ctx.new_id("chg"),
        )
        published.artifacts.append(item_result(head, "created"))
        published.links.append(outputs.link_to_head(run_id, head, role))
    _plan_changes(ctx, batch, change_set, steps, published, run_id)
    writing.write_batch(
        connection, batch, change_set, tenant_id=tenant_id, present=writing.present(around.blobs)
    )
    published.links += links
    published.outputs = [outputs.link_view(link, change_set.at) for link in published.links]
    published.outputs += [outputs.output_view(row) for row in known]
    return published


def _look_around(
    ctx: OperationContext, creates: Sequence[tuple[str, Draft]], steps: Sequence[ChangeStep], run_id: str
) -> Surroundings:
    connection, tenant_id = ctx.connection, ctx.tenant_id
    places = [(collection_id, draft.name_key) for collection_id, draft in creates]
    places = list(dict.fromkeys([*places, *(step.place for step in steps if step.moves)]))
    known = collections.look_up(
        connection, tenant_id=tenant_id, collection_ids=list(dict.fromkeys(place[0] for place in places))
    )
    touched = known.live.union(step.row["collection_id"] for step in steps)
    contents = [draft.content for _, draft in creates] + [step.change.wish.content for step in steps]
    return Surroundings(
        known=known,
        sealed=sealed_among(ctx, sorted(touched)),
        # The run itself, which was judged before.
        producers={run_id: str(OperationRunStatus.RUNNING)},
        used_ids=bulk.list_used_ids(
            connection,
            tenant_id=tenant_id,
            artifact_ids=list(dict.fromkeys(draft.id for _, draft in creates if draft.id is not None)),
        ),
        holders=bulk.list_holders(
            connection, tenant_id=tenant_id, places=[place for place in places if place[0] in known.live]
        ),
        blobs=writing.list_blobs(
            connection,
            tenant_id=tenant_id,
            digests=[content.digest for content in contents if content is not None and content.digest],
        ),
    )


def _links(ctx: OperationContext, publication: Publication, run_id: str) -> tuple[list[Link], list[Row]]:
    """Return the new links to revisions that are there, and the rows of those that were linked before."""
    refs = [(item.artifact_id, item.revision) for item in publication.outputs]
    pinned = pins.pin(ctx.connection, tenant_id=ctx.tenant_id, refs=refs)
    links = publishing.read_links(run_id, publication.outputs, pinned)
    fresh, known = outputs.split_known(ctx.connection, tenant_id=ctx.tenant_id, links=links)
    return fresh, list(known.values())


def _plan_changes(
    ctx: OperationContext,
    batch: Batch,
    change_set: ChangeSet,
    steps: Sequence[ChangeStep],
    published: Published,
    run_id: str,
) -> None:
    stored = artifacts.read_contents(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        refs=[(step.row["id"], step.row["head_revision"]) for step in steps if step.rereads],
    )
    for step in steps:
        if not step.wanted.changed:
            published.updates.append(item_result(step.row, "unchanged"))
            continue
        head = writing.plan_update(
            batch,
            change_set,
            step.row,
            step.wanted,
            change_id=ctx.new_id("chg"),
            content=step.change.wish.content,
            entry=_entry(step, stored),
            produced_by_run=run_id,
        )
        published.updates.append(item_result(head, "updated"))
        published.links.append(outputs.link_to_head(run_id, head, step.change.role))


def _entry(step: ChangeStep, stored: Contents) -> IndexEntry | None:
    wish, wanted = step.change.wish, step.wanted
    if not wanted.reindex:
        return None
    data = None if wish.content is None else wish.content.data
    if step.rereads:
        data = stored.get((step.row["id"], step.row["head_revision"]))
    return index_entry(wanted.name, data, wanted.media_type)


def item_result(head: Row, result: Any) -> BulkItemResult:
    """Return what became of one item."""
    return BulkItemResult(
        id=head["id"],
        result=result,
        version=head["version"],
        revision=head["head_revision"],
        content_digest=head["content_digest"],
        revision_digest=head["revision_digest"],
    )
