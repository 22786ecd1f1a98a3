"""Spine: the two operations that destroy content: redaction of an artifact, purge of a collection."""

from __future__ import annotations

from app.domains.knowledge.engines import ingest
from app.domains.logs.engines import idempotency
from app.domains.repository.engines import artifacts, collections, origins, purge, redaction
from app.domains.repository.engines.changes import ChangeSet
from app.domains.repository.engines.purge import Purge
from app.domains.repository.engines.redaction import Plan
from app.domains.repository.engines.views import artifact_view, change_view
from app.domains.repository.models.upkeep import (
    ArtifactRedacted,
    CollectionPurged,
    PurgeCollection,
    RedactArtifact,
    RevisionPlace,
)
from app.domains.repository.models.vocabulary import Action
from app.hoc_spine.coordinators.legal_holds import holds_on_origins, lock_holds, refuse_held
from app.hoc_spine.coordinators.repository_writes import check_version, close_changes, open_changes
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.canonical_json import dumps

EVENT = "RepositoryRedacted"
ANSWERS = "repository."


def redact(ctx: OperationContext, request: RedactArtifact) -> ArtifactRedacted:
    """Destroy what revisions hold, of deleted artifacts and in sealed collections too.

    Refuse BLOB_SHARED, and LEGAL_HOLD for a hold on the tenant, an owning plane or a producing run.
    What planes hold of these revisions goes in the same transaction. Redacting again changes nothing.
    """
    holds = lock_holds(ctx)
    change_set = open_changes(ctx, request.reason)
    row = artifacts.get_artifact(ctx.connection, tenant_id=ctx.tenant_id, artifact_id=request.artifact_id)
    check_version(ctx, row["version"])
    plan = redaction.plan_redaction(ctx.connection, request, tenant_id=ctx.tenant_id)
    if plan.nothing:
        return _answer(row, plan, changed=False)
    places = [(request.artifact_id, number) for number in plan.revisions]
    found = origins.origins_of_places(ctx.connection, tenant_id=ctx.tenant_id, places=[*places, *plan.shared])
    refuse_held(holds_on_origins(ctx.connection, holds, found, tenant_id=ctx.tenant_id))
    outcome = redaction.redact(
        ctx.connection, change_set, row, request, plan, tenant_id=ctx.tenant_id, new_id=ctx.new_id
    )
    _drop_passages(ctx, request.artifact_id, plan)
    # Of what is redacted, answers to be replayed hold name, metadata and provenance; content they never hold.
    idempotency.forget_answers(
        ctx.connection, tenant_id=ctx.tenant_id, prefix=ANSWERS, texts=[dumps(request.artifact_id)]
    )
    after = artifacts.get_artifact(ctx.connection, tenant_id=ctx.tenant_id, artifact_id=row["id"])
    close_changes(
        ctx,
        change_set,
        event=EVENT,
        entity_id=row["id"],
        before={"version": row["version"]},
        version=after["version"],
    )
    return _answer(after, plan, changed=True, outcome=outcome, change_set=change_set)


def _drop_passages(ctx: OperationContext, artifact_id: str, plan: Plan) -> None:
    places: dict[str, list[int]] = {artifact_id: list(plan.revisions)}
    for other, revision in plan.shared:
        places.setdefault(other, []).append(revision)
    for identifier, revisions in places.items():
        ingest.forget_artifacts(
            ctx.connection, tenant_id=ctx.tenant_id, artifact_ids=[identifier], revisions=revisions
        )


def _answer(
    row: artifacts.Row,
    plan: Plan,
    *,
    changed: bool,
    outcome: redaction.Outcome | None = None,
    change_set: ChangeSet | None = None,
) -> ArtifactRedacted:
    return ArtifactRedacted(
        artifact=artifact_view(row),
        changed=changed,
        change=None if change_set is None else change_view(change_set.records[0]),
        revisions=list(plan.revisions),
        also_redacted=[
            RevisionPlace(artifact_id=identifier, revision=revision) for identifier, revision in plan.shared
        ],
        blobs_dropped=0 if outcome is None else len(outcome.dropped),
        blobs_kept=0 if outcome is None else outcome.kept,
    )


def purge_collection(ctx: OperationContext, request: PurgeCollection) -> CollectionPurged:
    """Redact every revision of a collection and tombstone its artifacts, their relationships and itself.

    Bytes that are cited from outside stay; every answer that a key would replay is forgotten. Refuse
    LEGAL_HOLD as a redaction does.
    """
    holds = lock_holds(ctx)
    change_set = open_changes(ctx, request.reason)
    row = collections.get_collection(
        ctx.connection, tenant_id=ctx.tenant_id, collection_id=request.collection_id, include_deleted=True
    )
    inside = origins.origins_of_collection(
        ctx.connection, tenant_id=ctx.tenant_id, collection_id=request.collection_id
    )
    refuse_held(holds_on_origins(ctx.connection, holds, inside, tenant_id=ctx.tenant_id))
    done = Purge(request.legal_basis)
    for heads in purge.list_batches(
        ctx.connection, tenant_id=ctx.tenant_id, collection_id=request.collection_id
    ):
        purge.purge_batch(ctx.connection, change_set, done, heads, tenant_id=ctx.tenant_id, new_id=ctx.new_id)
        ingest.forget_artifacts(
            ctx.connection, tenant_id=ctx.tenant_id, artifact_ids=[head["id"] for head in heads]
        )
    idempotency.forget_answers(ctx.connection, tenant_id=ctx.tenant_id, prefix=ANSWERS)
    deleted, shared = purge.drop_all(ctx.connection, change_set, done, tenant_id=ctx.tenant_id)
    if row["deleted_at"] is None:
        collections.set_collection(
            ctx.connection,
            change_set,
            tenant_id=ctx.tenant_id,
            row=row,
            change_id=ctx.new_id("chg"),
            action=Action.DELETED,
            values=collections.deletion_values(change_set.at, ctx.actor.id),
        )
    if change_set.records:
        close_changes(ctx, change_set, event=EVENT, entity_id=row["id"], before={"version": row["version"]})
    return CollectionPurged(
        collection_id=row["id"],
        change_set_id=change_set.origin.change_set_id if change_set.records else None,
        documents=done.documents,
        revisions_redacted=done.revisions,
        relationships_removed=done.edges,
        bytes_deleted=deleted,
        bytes_shared=shared,
    )


declare = OperationsOf("repository")
OPERATIONS = (
    declare.write("repository.artifacts.redact", RedactArtifact, ArtifactRedacted, redact, verb="admin"),
    declare.write(
        "repository.collections.purge", PurgeCollection, CollectionPurged, purge_collection, verb="admin"
    ),
)
