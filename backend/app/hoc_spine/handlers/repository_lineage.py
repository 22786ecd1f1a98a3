"""Spine: reads of the graph of artifacts: neighbours, lineage, consumers of a revision."""

from __future__ import annotations

from typing import Any

from app.domains.repository.engines import artifacts, lineage, revisions
from app.domains.repository.models.graph import (
    Consumer,
    Lineage,
    LineageQuery,
    ListConsumers,
    ListNeighbors,
    Neighbor,
)
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.pages import Page, page_of, read_cursor


def neighbors(ctx: OperationContext, request: ListNeighbors) -> Page[Neighbor]:
    """Return the live relationships of an artifact with what is at their other end."""
    wanted = f"{request.artifact_id!r}:{request.direction}:{request.type!r}"
    binding = f"{ctx.tenant_id}:{ctx.operation}:{wanted}"
    key = read_cursor(request.cursor, binding, str, str, str)
    return page_of(
        lineage.list_neighbors(
            ctx.connection,
            request,
            tenant_id=ctx.tenant_id,
            after=None if key is None else (key[0], key[1], key[2]),
        ),
        limit=request.limit,
        binding=binding,
        key=lambda row: (row["type"], row["other_id"], row["relationship_id"]),
        view=lineage.neighbor_view,
    )


def get_lineage(ctx: OperationContext, request: LineageQuery) -> Lineage:
    """Return what an artifact comes from and what comes from it; refuse a bound out of range."""
    lineage.check_bounds(request)
    root = artifacts.get_artifact(ctx.connection, tenant_id=ctx.tenant_id, artifact_id=request.artifact_id)
    if not request.include_deleted:
        artifacts.check_live(root)
    return lineage.walk(ctx.connection, root, request, tenant_id=ctx.tenant_id)


def consumers(ctx: OperationContext, request: ListConsumers) -> Page[Consumer]:
    """Return the bundles, runs and context packages that hold a revision; refuse REVISION_NOT_FOUND."""
    keys: dict[str, Any] = {
        "tenant_id": ctx.tenant_id,
        "artifact_id": request.artifact_id,
        "revision": request.revision,
    }
    binding = f"{ctx.tenant_id}:{ctx.operation}:{request.artifact_id!r}:{request.revision}"
    after = read_cursor(request.cursor, binding, str, str, int)
    revisions.get_revision(ctx.connection, **keys)
    return page_of(
        lineage.list_consumers(
            ctx.connection,
            **keys,
            after=None if after is None else (after[0], after[1], after[2]),
            limit=request.limit + 1,
        ),
        limit=request.limit,
        binding=binding,
        key=lambda row: (row["kind"], row["id"], row["position"]),
        view=lambda row: Consumer(**row),
    )


declare = OperationsOf("repository")
OPERATIONS = (
    declare.read("repository.artifacts.neighbors", ListNeighbors, Page[Neighbor], neighbors),
    declare.read("repository.artifacts.lineage", LineageQuery, Lineage, get_lineage, snapshot=True),
    declare.read("repository.revisions.consumers", ListConsumers, Page[Consumer], consumers),
)
