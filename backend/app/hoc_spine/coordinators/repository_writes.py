"""Spine: one unit of repository writing: lock, records, ledger entry, fact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.domains.knowledge.engines import plane_collections
from app.domains.repository.engines import changes, collections
from app.domains.repository.engines.changes import ChangeSet, Origin
from app.domains.repository.engines.documents import stored_document
from app.domains.repository.engines.values import is_id
from app.domains.repository.errors import no_version_here
from app.domains.repository.models.vocabulary import DEFAULT_COLLECTION
from app.hoc_spine.operation_context import OperationContext, PrepareContext

FACT = "repository.changed"


def refuse_version(ctx: OperationContext | PrepareContext) -> None:
    """Refuse If-Match where there is no version to compare: no write ignores it."""
    if ctx.request.precondition is not None:
        raise no_version_here()


def open_creation(ctx: OperationContext, reason: str | None) -> ChangeSet:
    """Take the tenant's write lock for what is not there yet; refuse If-Match."""
    refuse_version(ctx)
    return open_changes(ctx, reason)


def open_changes(ctx: OperationContext, reason: str | None, *, run_id: str | None = None) -> ChangeSet:
    """Take the tenant's write lock; every record of the transaction bears one change set id.

    The records name the run that is given, else the one that the request is made under.
    """
    earlier = [fact for fact in ctx.facts.queued if fact.type == FACT]
    change_set_id = earlier[0].body["change_set_id"] if earlier else ctx.new_id("cset")
    origin = Origin(
        change_set_id=change_set_id,
        actor_id=ctx.actor.id,
        reason=reason,
        run_id=run_id or ctx.request.run_id or ctx.request.operation_run_id,
        trace_id=ctx.request.trace_id,
        request_id=ctx.request.request_id,
    )
    return changes.open_change_set(ctx.connection, tenant_id=ctx.tenant_id, now=ctx.now, origin=origin)


def close_changes(
    ctx: OperationContext,
    change_set: ChangeSet,
    *,
    event: str,
    entity_id: str,
    before: Mapping[str, Any] | None = None,
    version: int | None = None,
) -> None:
    """Write the records, queue one ledger entry, and queue the fact that covers them."""
    changes.write_change_set(ctx.connection, change_set, tenant_id=ctx.tenant_id)
    after = {
        **({} if version is None else {"version": version}),
        "change_set_id": change_set.origin.change_set_id,
        "first_seq": change_set.first_seq,
        "last_seq": change_set.last_seq,
        "change_hash": change_set.head_hash,
    }
    ctx.audit(event, "REPOSITORY", entity_id, before=before, after=after, reason=change_set.origin.reason)
    ctx.facts.add(
        FACT,
        {},
        key=[change_set.last_seq],
        body=changes.fact_body(change_set),
        join=changes.merge_bodies,
    )


def make_default_collection(ctx: OperationContext, change_set: ChangeSet) -> None:
    """Make the collection `default`, for the first write that needs it."""
    collections.create_collection(
        ctx.connection,
        change_set,
        tenant_id=ctx.tenant_id,
        collection_id=DEFAULT_COLLECTION,
        change_id=ctx.new_id("chg"),
        name=DEFAULT_COLLECTION,
        name_key=DEFAULT_COLLECTION,
        description=None,
        metadata=stored_document("{}"),
    )


def check_version(ctx: OperationContext, version: int) -> None:
    """Refuse VERSION_MISMATCH, and PRECONDITION_REQUIRED where the setting demands If-Match."""
    ctx.require_version(version, required=ctx.services.settings.repository_require_if_match)


def check_seals(ctx: OperationContext, *collection_ids: str) -> None:
    """Refuse COLLECTION_SEALED when one of the collections belongs to a plane that is being offboarded."""
    sealed = sealed_among(ctx, collection_ids)
    for collection_id in collection_ids:
        collections.check_sealed(sealed, collection_id)


def sealed_among(ctx: OperationContext, collection_ids: Sequence[str]) -> frozenset[str]:
    """Return which of the collections belong to a plane that is being offboarded."""
    known = [collection_id for collection_id in dict.fromkeys(collection_ids) if is_id(collection_id)]
    return plane_collections.sealed_collections(ctx.connection, tenant_id=ctx.tenant_id, collection_ids=known)
