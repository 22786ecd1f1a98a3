"""Spine: operations on input bundles."""

from __future__ import annotations

from app.domains.repository.engines import bundles
from app.domains.repository.models.bundles import BundleCreated, BundleRef, BundleView, CreateBundle
from app.domains.repository.models.vocabulary import Action, EntityType
from app.hoc_spine.coordinators.repository_writes import close_changes, open_creation
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf


def create(ctx: OperationContext, request: CreateBundle) -> BundleCreated:
    """Pin the items and keep them as a bundle; the same items give the bundle that is there.

    Refuses REFERENCE_NOT_FOUND with the position.
    """
    connection, tenant_id = ctx.connection, ctx.tenant_id
    change_set = open_creation(ctx, None)
    items = bundles.pin_items(connection, request.items, tenant_id=tenant_id)
    digest = bundles.bundle_digest(items)
    known = bundles.find_by_digest(connection, tenant_id=tenant_id, digest=digest)
    if known is not None:
        return _created(ctx, known["id"], created=False)
    row = bundles.bundle_row(ctx.new_id("bnd"), digest, at=change_set.at, created_by=ctx.actor.id)
    row["fact_id"] = ctx.facts.add("run.input", row)
    bundles.insert_bundle(connection, row, items, tenant_id=tenant_id)
    change_set.add(
        ctx.new_id("chg"),
        EntityType.BUNDLE,
        row["id"],
        Action.CREATED,
        detail={"bundle_digest": digest, "items": len(items)},
    )
    close_changes(ctx, change_set, event="RepositoryBundleCreated", entity_id=row["id"])
    return _created(ctx, row["id"], created=True)


def get(ctx: OperationContext, request: BundleRef) -> BundleView:
    """Return a bundle by id or digest, with what has become of its items; refuse BUNDLE_NOT_FOUND."""
    return _view(ctx, request.bundle_id)


def _created(ctx: OperationContext, bundle_id: str, *, created: bool) -> BundleCreated:
    view = _view(ctx, bundle_id)
    return BundleCreated(**dict(view), created=created)


def _view(ctx: OperationContext, name: str) -> BundleView:
    row = bundles.get_bundle(ctx.connection, tenant_id=ctx.tenant_id, name=name)
    items = bundles.list_items(ctx.connection, tenant_id=ctx.tenant_id, bundle_id=row["id"])
    return bundles.bundle_view(row, items)


declare = OperationsOf("repository")
OPERATIONS = (
    declare.write("repository.bundles.create", CreateBundle, BundleCreated, create, creates=True),
    declare.read("repository.bundles.get", BundleRef, BundleView, get),
)
