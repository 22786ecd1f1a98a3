"""Spine: operations on workflow runs: create, show, list, change the status, hold, publish."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from app.domains.repository.engines import (
    bundles,
    manifests,
    operation_runs,
    outputs,
    publishing,
    workflow_steps,
)
from app.domains.repository.engines.changes import ChangeSet
from app.domains.repository.engines.publishing import Publication
from app.domains.repository.engines.views import change_view
from app.domains.repository.errors import reference_not_found
from app.domains.repository.models.runs import (
    ClaimRun,
    CreateOperationRun,
    ListOperationRuns,
    ListResumableRuns,
    ManifestView,
    OperationRunDetail,
    OperationRunRef,
    OperationRunView,
    PublishRun,
    ReleaseRun,
    RunLease,
    RunPublished,
    RunTransitioned,
    TransitionRun,
)
from app.domains.repository.models.vocabulary import Action, EntityType, OperationRunStatus
from app.hoc_spine.coordinators.repository_publish import Published, write_publication
from app.hoc_spine.coordinators.repository_runs import (
    EVENT,
    close_run_changes,
    find_producers,
    governed_among,
    insert_outputs,
    lock_governed,
    read_leavings,
    record_transition,
    run_views,
    seal,
)
from app.hoc_spine.coordinators.repository_writes import close_changes, open_changes, open_creation
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.canonical_json import dumps
from app.kernel.clock import parse_time
from app.kernel.errors import ErrorKind, HocError
from app.kernel.pages import Page, page_of, read_cursor

Row = operation_runs.Row
_WORKING_STATE = "working state, sealed by the manifest of the run"
# What stands in a cursor for a run that was never held.
_NEVER = ""


def create(ctx: OperationContext, request: CreateOperationRun) -> OperationRunView:
    """Create a pending run with its steps; refuse RUN_NOT_RUNNING for a governed run that has ended."""
    draft = operation_runs.read_run(request)
    steps = workflow_steps.read_specs(request.steps)
    governed = lock_governed(ctx, draft.run_id)
    change_set = open_creation(ctx, None)
    if draft.bundle_id is not None:
        bundle = bundles.find_bundle(ctx.connection, tenant_id=ctx.tenant_id, bundle_id=draft.bundle_id)
        if bundle is None:
            raise reference_not_found("bundle_id")
    run_id = draft.run_id or ctx.new_id("run")
    row = operation_runs.create_run(
        ctx.connection,
        draft,
        tenant_id=ctx.tenant_id,
        run_id=run_id,
        requested_by=ctx.actor.id,
        trace_id=draft.trace_id or ctx.request.trace_id,
        at=change_set.at,
    )
    workflow_steps.insert_steps(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id, rows=steps)
    change_set.add(
        ctx.new_id("chg"),
        EntityType.RUN,
        run_id,
        Action.CREATED,
        new={"version": 1},
        detail={"parameters_digest": draft.parameters.digest, "steps": len(steps)},
    )
    close_changes(ctx, change_set, event=EVENT, entity_id=run_id, version=1)
    return operation_runs.run_view(row, governed=governed)


def get(ctx: OperationContext, request: OperationRunRef) -> OperationRunDetail:
    """Return a run with its outputs and the digest of its manifest; refuse RUN_NOT_FOUND."""
    row = operation_runs.get_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=request.run_id)
    left = read_leavings(ctx, row["run_id"])
    governed = bool(governed_among(ctx, [row["run_id"]]))
    return OperationRunDetail(**operation_runs.view_members(row), governed=governed, **dict(left))


def list_page(ctx: OperationContext, request: ListOperationRuns) -> Page[OperationRunView]:
    """Return runs by status and operation, oldest first."""
    filters = request.model_dump(exclude={"limit", "cursor"}, exclude_none=True, mode="json")
    binding = dumps([ctx.tenant_id, ctx.operation, filters])
    after = read_cursor(request.cursor, binding, datetime, str)
    rows = operation_runs.list_runs(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        filters=filters,
        after=None if after is None else (after[0], after[1]),
        limit=request.limit + 1,
    )
    return _page(ctx, rows, request.limit, binding, "created_at")


def list_resumable(ctx: OperationContext, request: ListResumableRuns) -> Page[OperationRunView]:
    """Return running and waiting runs with an expired lease or none, by (lease_until, run_id)."""
    binding = dumps([ctx.tenant_id, ctx.operation])
    after = read_cursor(request.cursor, binding, str, str)
    rows = operation_runs.list_resumable(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        now=ctx.now,
        after=None if after is None else (None if after[0] == _NEVER else _moment(after[0]), after[1]),
        limit=request.limit + 1,
    )
    return _page(ctx, rows, request.limit, binding, "lease_until")


def _page(ctx: OperationContext, rows: Any, limit: int, binding: str, column: str) -> Page[OperationRunView]:
    page = page_of(
        rows,
        limit=limit,
        binding=binding,
        key=lambda row: (_NEVER if row[column] is None else row[column], row["run_id"]),
        view=lambda row: row,
    )
    return Page[OperationRunView](items=run_views(ctx, page.items), next_cursor=page.next_cursor)


def _moment(text: str) -> Any:
    try:
        return parse_time(text)
    except ValueError:
        raise HocError(
            ErrorKind.MALFORMED, "INVALID_CURSOR", "The cursor does not belong to this list and filter."
        ) from None


def transition(ctx: OperationContext, request: TransitionRun) -> RunTransitioned:
    """Change the status of a run; the same status again changes nothing.

    Refuses RUN_NOT_FOUND, VERSION_MISMATCH, INVALID_TRANSITION, and LEASE_HELD for all but a cancellation.
    """
    operation_runs.check_failure(request.status, request.error_code, request.error_message)
    change_set = open_changes(ctx, request.reason)
    run = operation_runs.lock_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=request.run_id)
    ctx.require_version(run["version"])
    if not _decide(ctx, run, request.status, request.worker):
        return RunTransitioned(run=run_views(ctx, [run])[0], changed=False, change=None)
    values = _values(request, run, request.status, change_set.at)
    after = operation_runs.set_run(ctx.connection, tenant_id=ctx.tenant_id, row=run, values=values)
    record_transition(ctx, change_set, run, request.status, version=run["version"])
    close_run_changes(ctx, change_set, run, after)
    return RunTransitioned(
        run=run_views(ctx, [after])[0], changed=True, change=change_view(change_set.records[0])
    )


def _decide(ctx: OperationContext, run: Row, wanted: OperationRunStatus, worker: str | None) -> bool:
    changes = operation_runs.decide_transition(OperationRunStatus(run["status"]), wanted)
    # Whoever holds a run, it can be stopped.
    if changes and wanted is not OperationRunStatus.CANCELLED:
        operation_runs.check_lease(run, worker, ctx.now)
    return changes


def claim(ctx: OperationContext, request: ClaimRun) -> RunLease:
    """Give a worker the run for some seconds, or again; refuse RUN_FINISHED and LEASE_HELD."""
    _require_version(ctx, request.run_id)
    row = operation_runs.claim(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        run_id=request.run_id,
        worker=request.worker,
        lease_seconds=request.lease_seconds,
        now=ctx.now,
    )
    return operation_runs.lease_view(row, changed=True)


def release(ctx: OperationContext, request: ReleaseRun) -> RunLease:
    """End a worker's lease; refuse LEASE_HELD while another has the run."""
    _require_version(ctx, request.run_id)
    row, changed = operation_runs.release(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        run_id=request.run_id,
        worker=request.worker,
        now=ctx.now,
    )
    return operation_runs.lease_view(row, changed=changed)


def _require_version(ctx: OperationContext, run_id: str) -> None:
    """Meet If-Match where there is one; a lease itself changes no version."""
    if ctx.request.precondition is not None:
        run = operation_runs.lock_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id)
        ctx.require_version(run["version"])


def prepare_publish(ctx: PrepareContext, request: PublishRun) -> Publication:
    """Check, canonicalise, hash and tokenise every item before the transaction."""
    settings = ctx.services.settings
    return publishing.read_publication(
        request,
        content_limit=settings.repository_max_content_bytes,
        item_limit=settings.repository_max_bulk_items,
        byte_limit=settings.repository_max_bulk_bytes,
    )


def publish(ctx: OperationContext, request: PublishRun) -> RunPublished:
    """Write all that a run brings about, its end and its manifest, in one transaction or not at all."""
    publication: Publication = ctx.prepared
    change_set = open_changes(ctx, request.reason)
    run = operation_runs.lock_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=request.run_id)
    ctx.require_version(run["version"])
    if publication.brings_outputs:
        operation_runs.check_running(find_producers(ctx, [run["run_id"]]))
    wanted = None if request.status is None else OperationRunStatus(request.status)
    ends = wanted is not None and _decide(ctx, run, wanted, request.worker)
    published = Published()
    if publication.brings_outputs:
        published = write_publication(ctx, change_set, publication, run_id=run["run_id"])
    insert_outputs(ctx, change_set, published.links)
    version = outputs.record_links(change_set, published.links, version=run["version"], new_id=ctx.new_id)
    values: dict[str, Any] = {}
    if ends and wanted is not None:
        values = _values(request, run, wanted, change_set.at)
        record_transition(ctx, change_set, run, wanted, version=version)
        version += 1
    manifest = None
    if publication.manifest is not None:
        manifest, new = seal(ctx, change_set, {**run, **values}, publication.manifest, version=version)
        version += int(new)
    after = run
    if version > run["version"]:
        rise = version - run["version"]
        after = operation_runs.set_run(
            ctx.connection, tenant_id=ctx.tenant_id, row=run, values=values, rise=rise
        )
        close_run_changes(ctx, change_set, run, after)
    return _published(ctx, change_set, after, published, manifest)


def _values(request: TransitionRun | PublishRun, run: Row, wanted: OperationRunStatus, at: datetime) -> Any:
    return operation_runs.transition_values(
        run, wanted, at=at, error_code=request.error_code, error_message=request.error_message
    )


def _published(
    ctx: OperationContext, change_set: ChangeSet, run: Row, published: Published, manifest: Row | None
) -> RunPublished:
    changed = bool(change_set.records)
    return RunPublished(
        run=run_views(ctx, [run])[0],
        changed=changed,
        change_set_id=change_set.origin.change_set_id if changed else None,
        first_seq=change_set.first_seq if changed else None,
        last_seq=change_set.last_seq if changed else None,
        artifacts=published.artifacts,
        updates=published.updates,
        outputs=published.outputs,
        manifest=None if manifest is None else ManifestView(**manifests.view_members(manifest)),
    )


declare = OperationsOf("repository")
OPERATIONS = (
    declare.write("repository.runs.create", CreateOperationRun, OperationRunView, create, creates=True),
    declare.read("repository.runs.get", OperationRunRef, OperationRunDetail, get, snapshot=True),
    declare.read("repository.runs.list", ListOperationRuns, Page[OperationRunView], list_page),
    declare.read("repository.runs.resumable", ListResumableRuns, Page[OperationRunView], list_resumable),
    declare.write("repository.runs.transition", TransitionRun, RunTransitioned, transition),
    declare.write("repository.runs.claim", ClaimRun, RunLease, claim, no_audit=_WORKING_STATE),
    declare.write("repository.runs.release", ReleaseRun, RunLease, release, no_audit=_WORKING_STATE),
    declare.write(
        "repository.runs.publish", PublishRun, RunPublished, publish, prepare=prepare_publish, creates=True
    ),
)
