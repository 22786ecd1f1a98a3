"""Spine: tie a plane's configuration to the collections of the repository that it owns and shares."""

from __future__ import annotations

from typing import Any

from app.db.connection import DriverConnection
from app.domains.knowledge.engines import plane_collections
from app.domains.knowledge.engines.config_shapes import PlaneConfig, RepositoryConfig
from app.domains.knowledge.engines.plane_config import wanted_collections
from app.domains.knowledge.errors import reference_not_found
from app.domains.repository.engines import changes, collections
from app.domains.repository.engines.changes import Origin
from app.hoc_spine.operation_context import OperationContext
from app.kernel.errors import HocError


def require_collections(ctx: OperationContext, config: PlaneConfig) -> None:
    """Refuse REFERENCE_NOT_FOUND for a named collection that is unknown, foreign or deleted."""
    owned, shared = wanted_collections(config)
    named = [("/config/owned_collection", owned)] if owned is not None else []
    named += [(f"/config/shared_collections/{index}", name) for index, name in enumerate(shared)]
    if not named:
        return
    known = collections.look_up(
        ctx.connection, tenant_id=ctx.tenant_id, collection_ids=[name for _, name in named]
    )
    unborn = {"default"} if known.default_unborn else set()
    for pointer, name in named:
        if name not in known.live - unborn:
            raise reference_not_found(pointer)


def read_collections(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, candidate: PlaneConfig | None
) -> tuple[str | None, tuple[str, ...]]:
    """Return the collection that a plane owns and those it shares; of a candidate, what it asks for."""
    if candidate is None:
        return plane_collections.list_held(connection, tenant_id=tenant_id, plane_id=plane_id)
    owned, shared = wanted_collections(candidate)
    return owned or plane_collections.own_collection_id(plane_id), shared


def make_own_collection(ctx: OperationContext, plane_id: str, candidate: PlaneConfig) -> None:
    """Make the plane's own collection when a candidate names none; it is bound when the candidate applies."""
    owned, _shared = wanted_collections(candidate)
    held, _ = plane_collections.list_held(ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane_id)
    own = plane_collections.own_collection_id(plane_id)
    if isinstance(candidate, RepositoryConfig) and owned is None and held != own:
        _ensure_own(ctx, own)


def hold_collections(ctx: OperationContext, plane_id: str, config: PlaneConfig) -> dict[str, Any]:
    """Make the plane hold exactly what its configuration names, and return that for the event.

    A repository plane that names no collection gets one of its own. Refuses REFERENCE_NOT_FOUND and
    COLLECTION_ALREADY_OWNED.
    """
    if not isinstance(config, RepositoryConfig):
        return {}
    # Under the tenant's repository lock no collection is deleted, and no other plane takes one, meanwhile.
    changes.open_change_set(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        now=ctx.now,
        origin=Origin(ctx.new_id("cset"), ctx.actor.id),
    )
    require_collections(ctx, config)
    held, held_shared = plane_collections.list_held(
        ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane_id
    )
    owned, shared = wanted_collections(config)
    if owned is None:
        owned = plane_collections.own_collection_id(plane_id)
        if held != owned:
            _ensure_own(ctx, owned)
    return _link(ctx, plane_id, owned, shared, held, held_shared)


def _link(
    ctx: OperationContext,
    plane_id: str,
    owned: str,
    shared: tuple[str, ...],
    held: str | None,
    held_shared: tuple[str, ...],
) -> dict[str, Any]:
    connection, tenant_id, by = ctx.connection, ctx.tenant_id, ctx.actor.id
    at: dict[str, Any] = {"tenant_id": tenant_id, "plane_id": plane_id, "now": ctx.now}
    before = {*held_shared, *(() if held is None else (held,))}
    gone = sorted(before - {owned, *shared})
    if gone:
        plane_collections.release(connection, **at, collection_ids=gone)
    for name in shared:
        if name not in held_shared:
            plane_collections.share(connection, **at, collection_id=name, actor_id=by)
    if held != owned:
        plane_collections.own(connection, **at, collection_id=owned, actor_id=by)
    return {"owned": owned, "shared": list(shared), "released": gone}


def _ensure_own(ctx: OperationContext, collection_id: str) -> None:
    try:
        ctx.dispatch("repository.collections.create", {"id": collection_id, "name": collection_id})
    except HocError as error:
        # A plane that goes back to its own collection finds it where it left it.
        if error.code != "DUPLICATE_ID":
            raise
