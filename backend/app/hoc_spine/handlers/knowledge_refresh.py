"""Spine: operations that keep planes up to date: refresh on demand, and what a worker tends by itself."""

from __future__ import annotations

from app.domains.knowledge.engines import jobs, planes
from app.domains.knowledge.engines.events import EventDraft
from app.domains.knowledge.engines.planes import PlaneRow
from app.domains.knowledge.errors import conflict, transition_conflict
from app.domains.knowledge.models.planes import (
    PlaneById,
    PlaneChange,
)
from app.domains.knowledge.models.vocabulary import (
    JobType,
    LifecycleEventType,
)
from app.hoc_spine.coordinators import plane_upkeep
from app.hoc_spine.coordinators.plane_lifecycle import write_plane
from app.hoc_spine.coordinators.plane_views import change_view
from app.hoc_spine.coordinators.plane_wake import wake_workers
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation, OperationsOf
from app.kernel.inputs import Input, Output


class TendPlanes(Input):
    """Input of knowledge.planes.tend: nothing, the tenant is the worker's."""


class PlanesTended(Output):
    """What was swept, and which planes are refreshed because their collections changed."""

    swept: int
    refreshed: list[str]


def refresh_plane(ctx: OperationContext, request: PlaneById) -> PlaneChange:
    """Queue a refresh of a plane from INDEXED to ACTIVE; refuse REFRESH_NOT_ALLOWED, JOB_ACTIVE."""
    plane = planes.require_plane(
        ctx.connection, tenant_id=ctx.tenant_id, plane_id=request.plane_id, lock=True
    )
    ctx.require_version(plane["version"])
    state = planes.state_of(plane)
    if not jobs.can_refresh(state):
        raise conflict("REFRESH_NOT_ALLOWED", f"A plane in {state.name} is not refreshed.")
    job_id = _queue(ctx, plane)
    return change_view(ctx, request.plane_id, changed=True, job_id=job_id)


def tend_planes(ctx: OperationContext, _request: TendPlanes) -> PlanesTended:
    """Queue the refreshes that planes ask for by themselves, and sweep what no access can see any more."""
    refreshed = []
    # Planes before the tenant's repository lock, which the sweep takes.
    for plane_id in plane_upkeep.list_outdated(ctx):
        plane = planes.require_plane(ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane_id, lock=True)
        open_job = jobs.get_open(ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane_id)
        if jobs.can_refresh(planes.state_of(plane)) and open_job is None:
            _queue(ctx, plane)
            refreshed.append(plane_id)
    return PlanesTended(swept=plane_upkeep.sweep_ended(ctx), refreshed=refreshed)


def _queue(ctx: OperationContext, plane: PlaneRow) -> str:
    job_id = ctx.new_id("job")
    state = planes.state_of(plane)
    started = EventDraft(
        event_type=LifecycleEventType.LIFECYCLE_JOB_STARTED,
        from_state=state,
        to_state=None,
        job_id=job_id,
        details={"job_type": JobType.REFRESH_DATA.value},
    )
    jobs.queue_job(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        plane_id=plane["plane_id"],
        job_type=JobType.REFRESH_DATA,
        expected_state=int(state),
        target_state=None,
        config=None,
        requested_by=ctx.actor.id,
        now=ctx.now,
        job_id=job_id,
    )
    if write_plane(ctx, plane, values={}, drafts=(started,), audit="PlaneRefreshRequested") is None:
        raise transition_conflict()
    wake_workers(ctx)
    return job_id


declare = OperationsOf("knowledge")
OPERATIONS = (
    declare.write("knowledge.planes.refresh", PlaneById, PlaneChange, refresh_plane),
    Operation(
        "knowledge.planes.tend",
        "knowledge",
        "write",
        None,
        TendPlanes,
        PlanesTended,
        tend_planes,
        door="worker",
    ),
)
