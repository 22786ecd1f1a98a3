"""Spine: operations on what a workflow run leaves behind: its steps, outputs and manifest."""

from __future__ import annotations

from typing import Any

from app.domains.repository.engines import manifests, operation_runs, outputs, workflow_steps
from app.domains.repository.engines.references import pin
from app.domains.repository.errors import reference_not_found
from app.domains.repository.models.runs import (
    AddOutput,
    ListWorkflowSteps,
    ManifestSealed,
    ManifestView,
    OperationRunRef,
    OutputAdded,
    PutStep,
    SealManifest,
    StepPut,
    WorkflowStepView,
)
from app.hoc_spine.coordinators.repository_runs import (
    close_run_changes,
    find_producers,
    link_outputs,
    seal,
)
from app.hoc_spine.coordinators.repository_writes import open_changes
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.canonical_json import dumps
from app.kernel.pages import Page, page_of, read_cursor


def put_step(ctx: OperationContext, request: PutStep) -> StepPut:
    """Make a step or change it; what changes nothing writes nothing. It takes no lock but the run's row.

    Refuses RUN_NOT_FOUND, VERSION_MISMATCH, RUN_FINISHED, LEASE_HELD, INVALID_STEP, INVALID_TRANSITION and
    IMMUTABLE_FIELD.
    """
    wish = workflow_steps.read_put(request)
    connection, tenant_id = ctx.connection, ctx.tenant_id
    run = operation_runs.lock_run(connection, tenant_id=tenant_id, run_id=request.run_id)
    ctx.require_version(run["version"])
    operation_runs.check_open(run)
    operation_runs.check_lease(run, request.worker, ctx.now)
    row = workflow_steps.get_step(connection, tenant_id=tenant_id, run_id=run["run_id"], step_id=wish.step_id)
    created = row is None
    changes: dict[str, Any] = {}
    if row is None:
        row = workflow_steps.add_step(
            connection, wish, tenant_id=tenant_id, run_id=run["run_id"], now=ctx.now
        )
    else:
        changes = workflow_steps.decide_step(row, wish, ctx.now)
    if changes:
        row = workflow_steps.set_step(connection, row, changes, tenant_id=tenant_id)
    changed = created or bool(changes)
    if changed:
        run = operation_runs.set_run(connection, tenant_id=tenant_id, row=run, values={})
    return StepPut(
        step=workflow_steps.step_view(row), created=created, changed=changed, version=run["version"]
    )


def list_steps(ctx: OperationContext, request: ListWorkflowSteps) -> Page[WorkflowStepView]:
    """Return the steps of a run by position; refuse RUN_NOT_FOUND."""
    operation_runs.get_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=request.run_id)
    binding = dumps([ctx.tenant_id, ctx.operation, request.run_id])
    (after,) = read_cursor(request.cursor, binding, int) or (-1,)
    rows = workflow_steps.list_steps(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        run_id=request.run_id,
        after=after,
        limit=request.limit + 1,
    )
    return page_of(
        rows,
        limit=request.limit,
        binding=binding,
        key=lambda row: [row["position"]],
        view=workflow_steps.step_view,
    )


def add_output(ctx: OperationContext, request: AddOutput) -> OutputAdded:
    """Link a revision to the run that brought it about; the same link again changes nothing.

    Refuses RUN_NOT_FOUND, VERSION_MISMATCH, RUN_NOT_RUNNING, REFERENCE_NOT_FOUND and ALREADY_PRODUCED.
    """
    connection, tenant_id = ctx.connection, ctx.tenant_id
    change_set = open_changes(ctx, None)
    run = operation_runs.lock_run(connection, tenant_id=tenant_id, run_id=request.run_id)
    ctx.require_version(run["version"])
    producers = find_producers(ctx, [run["run_id"]])
    ref = (request.artifact_id, request.revision)
    pinned = pin(connection, tenant_id=tenant_id, refs=[ref]).get(ref)
    if pinned is None:
        operation_runs.check_running(producers)
        raise reference_not_found("artifact_id")
    link = outputs.link_to(run["run_id"], pinned, request.role)
    known = outputs.find_link(connection, link, tenant_id=tenant_id)
    if known is not None and outputs.is_same(link, known):
        output = outputs.output_view(known)
        return OutputAdded(run_id=run["run_id"], output=output, changed=False, version=run["version"])
    operation_runs.check_running(producers)
    outputs.check_unproduced(link, known)
    link_outputs(ctx, change_set, [link])
    after = {**run, "version": run["version"] + 1}
    close_run_changes(ctx, change_set, run, after)
    output = outputs.link_view(link, change_set.at)
    return OutputAdded(run_id=run["run_id"], output=output, changed=True, version=after["version"])


def seal_manifest(ctx: OperationContext, request: SealManifest) -> ManifestSealed:
    """Seal the manifest of an ended run, once; the same body again changes nothing.

    Refuses RUN_NOT_FOUND, VERSION_MISMATCH, RUN_NOT_FINISHED and SEALED.
    """
    said = manifests.read_manifest(request)
    change_set = open_changes(ctx, None)
    run = operation_runs.lock_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=request.run_id)
    ctx.require_version(run["version"])
    row, changed = seal(ctx, change_set, run, said, version=run["version"])
    after = run
    if changed:
        after = operation_runs.set_run(ctx.connection, tenant_id=ctx.tenant_id, row=run, values={})
        close_run_changes(ctx, change_set, run, after)
    return ManifestSealed(**manifests.view_members(row), changed=changed, version=after["version"])


def get_manifest(ctx: OperationContext, request: OperationRunRef) -> ManifestView:
    """Return the manifest of a run; refuse RUN_NOT_FOUND and MANIFEST_NOT_FOUND."""
    run = operation_runs.get_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=request.run_id)
    row = manifests.get_manifest(ctx.connection, tenant_id=ctx.tenant_id, run_id=run["run_id"])
    return ManifestView(**manifests.view_members(row))


declare = OperationsOf("repository")
OPERATIONS = (
    declare.write(
        "repository.steps.put",
        PutStep,
        StepPut,
        put_step,
        no_audit="working state, sealed by the manifest of the run",
    ),
    declare.read("repository.steps.list", ListWorkflowSteps, Page[WorkflowStepView], list_steps),
    declare.write("repository.outputs.add", AddOutput, OutputAdded, add_output, creates=True),
    declare.write("repository.manifests.seal", SealManifest, ManifestSealed, seal_manifest),
    declare.read("repository.manifests.get", OperationRunRef, ManifestView, get_manifest),
)
