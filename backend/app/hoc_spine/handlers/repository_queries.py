"""Spine: lists, queries and counts of artifacts."""

from __future__ import annotations

from app.domains.repository.engines import queries
from app.domains.repository.engines.views import artifact_view
from app.domains.repository.models.inputs import ArtifactFilter, ArtifactQuery, ListArtifacts
from app.domains.repository.models.views import ArtifactView, CountView
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.hashing import text_hash
from app.kernel.pages import Page, encode_cursor


def query(ctx: OperationContext, request: ArtifactQuery) -> Page[ArtifactView]:
    """Return the artifacts that meet every condition, a page at a time."""
    selection = queries.read_selection(request)
    binding = (
        f"{ctx.tenant_id}:{ctx.operation}:{text_hash(request.model_dump_json(exclude={'limit', 'cursor'}))}"
    )
    order = queries.read_order(request, binding)
    rows = queries.list_matching(ctx.connection, tenant_id=ctx.tenant_id, selection=selection, order=order)
    shown = rows[: request.limit]
    more = None
    if len(rows) > request.limit:
        more = encode_cursor(binding, queries.cursor_key(shown[-1], request.order_by))
    return Page(items=[artifact_view(row) for row in shown], next_cursor=more)


def list_page(ctx: OperationContext, request: ListArtifacts) -> Page[ArtifactView]:
    """Return artifacts by the plain filters, in order of creation."""
    return query(ctx, ArtifactQuery(**request.model_dump(exclude_unset=True)))


def count(ctx: OperationContext, request: ArtifactFilter) -> CountView:
    """Return how many artifacts meet every condition."""
    selection = queries.read_selection(request)
    return CountView(
        count=queries.count_matching(ctx.connection, tenant_id=ctx.tenant_id, selection=selection)
    )


declare = OperationsOf("repository")
OPERATIONS = (
    declare.read("repository.artifacts.list", ListArtifacts, Page[ArtifactView], list_page),
    declare.read("repository.artifacts.query", ArtifactQuery, Page[ArtifactView], query),
    declare.read("repository.artifacts.count", ArtifactFilter, CountView, count),
)
