"""Spine: operations on context packages."""

from __future__ import annotations

from app.domains.repository.engines import artifacts, context_packages, lifecycle, outputs
from app.domains.repository.engines.context_packages import PackageDraft
from app.domains.repository.errors import too_large
from app.domains.repository.models.packages import (
    MAX_ITEMS,
    ArtifactContext,
    ContextItem,
    ContextPackageRef,
    ContextPackageSummary,
    ContextPackageView,
    CreateContextPackage,
    ListContextPackages,
    PackageArtifact,
    RelationshipContext,
    RunContext,
)
from app.domains.repository.models.vocabulary import Action, EntityType
from app.hoc_spine.coordinators.repository_writes import close_changes, open_creation
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.canonical_json import dumps
from app.kernel.pages import Page, page_of, read_cursor


def create(ctx: OperationContext, request: CreateContextPackage) -> ContextPackageView:
    """Pin the items and keep them as a package for good; refuse REFERENCE_NOT_FOUND."""
    return _create(ctx, context_packages.read_package(request))


def _create(ctx: OperationContext, draft: PackageDraft) -> ContextPackageView:
    connection, tenant_id = ctx.connection, ctx.tenant_id
    change_set = open_creation(ctx, None)
    context_packages.require_superseded(connection, tenant_id=tenant_id, supersedes=draft.supersedes)
    items = context_packages.pin_items(connection, draft, tenant_id=tenant_id)
    row = context_packages.package_row(
        draft,
        package_id=ctx.new_id("ctx"),
        seq=change_set.next_seq,
        at=change_set.at,
        created_by=ctx.actor.id,
    )
    row["package_digest"] = context_packages.package_digest(row, items)
    row["fact_id"] = ctx.facts.add("context.package", row)
    context_packages.insert_package(connection, row, items, tenant_id=tenant_id)
    change_set.add(
        ctx.new_id("chg"),
        EntityType.CONTEXT_PACKAGE,
        row["id"],
        Action.CREATED,
        detail={"package_digest": row["package_digest"], "items": len(items)},
    )
    close_changes(ctx, change_set, event="RepositoryContextPackageChanged", entity_id=row["id"])
    return _view(ctx, row["id"], resolve=False)


def get(ctx: OperationContext, request: ContextPackageRef) -> ContextPackageView:
    """Return a package, with `resolve` what has become of each item; refuse CONTEXT_PACKAGE_NOT_FOUND."""
    return _view(ctx, request.package_id, resolve=request.resolve)


def _view(ctx: OperationContext, package_id: str, *, resolve: bool) -> ContextPackageView:
    row = context_packages.get_package(ctx.connection, tenant_id=ctx.tenant_id, package_id=package_id)
    items = context_packages.list_items(ctx.connection, tenant_id=ctx.tenant_id, package_id=row["id"])
    return context_packages.package_view(row, items, resolve=resolve)


def list_page(ctx: OperationContext, request: ListContextPackages) -> Page[ContextPackageSummary]:
    """Return packages that hold an artifact or an exact memory reference, oldest first."""
    filters = context_packages.item_filters(request)
    binding = dumps([ctx.tenant_id, ctx.operation, request.model_dump(exclude={"limit", "cursor"})])
    (after,) = read_cursor(request.cursor, binding, int) or (0,)
    rows = []
    if filters is not None:
        rows = list(
            context_packages.list_packages(
                ctx.connection,
                tenant_id=ctx.tenant_id,
                filters=filters,
                after=after,
                limit=request.limit + 1,
            )
        )
    return page_of(
        rows,
        limit=request.limit,
        binding=binding,
        key=lambda row: [row["created_seq"]],
        view=context_packages.summary_view,
    )


def for_artifact(ctx: OperationContext, request: PackageArtifact) -> ContextPackageView:
    """Make a package of an artifact's head, its live relationships by id, and the run that produced it.

    Refuses ARTIFACT_NOT_FOUND, GONE, and TOO_LARGE for more than a package holds.
    """
    # The lock comes first: what is read for the package is what the package pins.
    open_creation(ctx, None)
    head = artifacts.get_artifact(ctx.connection, tenant_id=ctx.tenant_id, artifact_id=request.artifact_id)
    artifacts.check_live(head)
    edges = lifecycle.list_live_edges(ctx.connection, tenant_id=ctx.tenant_id, artifact_id=head["id"])
    producer = outputs.find_producer(
        ctx.connection, tenant_id=ctx.tenant_id, artifact_id=head["id"], revision=head["head_revision"]
    )
    items: list[ContextItem] = [
        ArtifactContext(kind="artifact", artifact_id=head["id"], revision=head["head_revision"])
    ]
    items += [
        RelationshipContext(kind="relationship", relationship_id=name)
        for name in sorted(edge["id"] for edge in edges)
    ]
    if producer is not None:
        items.append(RunContext(kind="run", run_id=producer))
    if len(items) > MAX_ITEMS:
        raise too_large(MAX_ITEMS, len(items), "The number of items")
    wanted = CreateContextPackage(
        name=head["id"] if request.name is None else request.name, purpose=request.purpose, items=items
    )
    return _create(ctx, context_packages.read_package(wanted))


declare = OperationsOf("repository")
OPERATIONS = (
    declare.write(
        "repository.context_packages.create", CreateContextPackage, ContextPackageView, create, creates=True
    ),
    declare.read(
        "repository.context_packages.get", ContextPackageRef, ContextPackageView, get, snapshot=True
    ),
    declare.read(
        "repository.context_packages.list", ListContextPackages, Page[ContextPackageSummary], list_page
    ),
    declare.write(
        "repository.context_packages.for_artifact",
        PackageArtifact,
        ContextPackageView,
        for_artifact,
        creates=True,
    ),
)
