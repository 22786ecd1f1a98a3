"""Spine: reads of an artifact's history."""

from __future__ import annotations

from typing import Any

from app.domains.repository.engines import revisions
from app.domains.repository.engines.views import revision_view
from app.domains.repository.models.inputs import DiffRevisions, ListRevisions, RevisionRef
from app.domains.repository.models.views import (
    ContentDiff,
    ContentView,
    MetadataDiff,
    RevisionDiff,
    RevisionView,
)
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.pages import Page, encode_cursor, read_cursor


def list_page(ctx: OperationContext, request: ListRevisions) -> Page[RevisionView]:
    """Return the revisions of an artifact, deleted or not, first to last."""
    binding = f"{ctx.tenant_id}:{ctx.operation}:{request.artifact_id!r}"
    (after,) = read_cursor(request.cursor, binding, int) or (0,)
    rows = revisions.list_revisions(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        artifact_id=request.artifact_id,
        after=after,
        limit=request.limit + 1,
    )
    shown = rows[: request.limit]
    more = encode_cursor(binding, [shown[-1]["revision"]]) if len(rows) > request.limit else None
    return Page(items=[revision_view(row) for row in shown], next_cursor=more)


def get(ctx: OperationContext, request: RevisionRef) -> RevisionView:
    """Return one revision; refuse ARTIFACT_NOT_FOUND and REVISION_NOT_FOUND."""
    return revision_view(_get(ctx, request.artifact_id, request.revision))


def get_content(ctx: OperationContext, request: RevisionRef) -> ContentView:
    """Return the content of a revision, hashed again before it leaves."""
    row, content = revisions.read_content(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        artifact_id=request.artifact_id,
        revision=request.revision,
    )
    return ContentView(
        artifact_id=request.artifact_id,
        revision=row["revision"],
        version=row["revision"],
        content=content.data,
        media_type=content.media_type,
        content_digest=content.digest,
    )


def diff(ctx: OperationContext, request: DiffRevisions) -> RevisionDiff:
    """Return the difference of two revisions; with `text`, a unified diff where both are short UTF-8."""
    old = _get(ctx, request.artifact_id, request.from_revision)
    new = _get(ctx, request.artifact_id, request.to_revision)
    state: Any = revisions.diff_state(old, new)
    text, truncated = None, False
    if request.text and state == "different" and revisions.is_short(old) and revisions.is_short(new):
        sides = [_content(ctx, request.artifact_id, row["revision"]) for row in (old, new)]
        text, truncated = revisions.unified_diff(*sides)
    return RevisionDiff(
        artifact_id=request.artifact_id,
        from_revision=request.from_revision,
        to_revision=request.to_revision,
        name_changed=old["name_digest"] != new["name_digest"],
        metadata=MetadataDiff(**revisions.diff_metadata(old, new)),
        content=ContentDiff(
            state=state,
            from_digest=old["content_digest"],
            to_digest=new["content_digest"],
            text=text,
            truncated=truncated,
        ),
    )


def _get(ctx: OperationContext, artifact_id: str, revision: int) -> Any:
    return revisions.get_revision(
        ctx.connection, tenant_id=ctx.tenant_id, artifact_id=artifact_id, revision=revision
    )


def _content(ctx: OperationContext, artifact_id: str, revision: int) -> bytes | None:
    _, content = revisions.read_content(
        ctx.connection, tenant_id=ctx.tenant_id, artifact_id=artifact_id, revision=revision
    )
    return content.data


declare = OperationsOf("repository")
OPERATIONS = (
    declare.read("repository.revisions.list", ListRevisions, Page[RevisionView], list_page),
    declare.read("repository.revisions.get", RevisionRef, RevisionView, get),
    declare.read("repository.revisions.content", RevisionRef, ContentView, get_content),
    declare.read("repository.revisions.diff", DiffRevisions, RevisionDiff, diff, snapshot=True),
)
