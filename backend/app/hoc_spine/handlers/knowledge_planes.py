"""Spine: operations that register planes, configure them and show them."""

from __future__ import annotations

from typing import Any

from app.domains.knowledge.engines import events, jobs, planes
from app.domains.knowledge.engines.events import EventDraft
from app.domains.knowledge.engines.plane_config import (
    CheckedConfig,
    check_config,
    decide_config_change,
    read_config,
    read_connector_type,
)
from app.domains.knowledge.engines.planes import PlaneRow
from app.domains.knowledge.errors import conflict, duplicate_plane
from app.domains.knowledge.models.planes import (
    ListPlaneDocuments,
    ListPlaneEvents,
    ListPlanes,
    PlaneById,
    PlaneChange,
    PlaneDocumentView,
    PlaneEventView,
    PlaneView,
    RegisterPlane,
    UpdatePlaneConfig,
)
from app.domains.knowledge.models.vocabulary import (
    ConfigChange,
    ConnectorType,
    JobType,
    KnowledgePlaneLifecycleState,
    LifecycleAction,
    LifecycleEventType,
)
from app.hoc_spine.coordinators.plane_lifecycle import append_events, outbox_body, write_plane
from app.hoc_spine.coordinators.plane_sources import hold_collections, require_collections
from app.hoc_spine.coordinators.plane_views import (
    change_view,
    get_view,
)
from app.hoc_spine.coordinators.plane_wake import wake_workers
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.canonical_json import dumps, loads
from app.kernel.pages import Page, encode_cursor, read_cursor

State = KnowledgePlaneLifecycleState


def register_plane(ctx: OperationContext, request: RegisterPlane) -> PlaneView:
    """Register a plane in DRAFT and bind its collections; refuse DUPLICATE_PLANE and a bad config."""
    connector_type = read_connector_type(request.connector_type)
    checked = check_config(connector_type, request.config)
    row = planes.new_plane(
        plane_id=ctx.new_id("kp"),
        plane_type=request.plane_type,
        plane_name=request.plane_name,
        connector_type=connector_type.value,
        connector_id=request.connector_id,
        config=checked.text,
        config_digest=checked.digest,
        created_by=ctx.actor.id,
        now=ctx.now,
    )
    row["fact_id"] = ctx.facts.add("knowledge.plane", row)
    if not planes.insert_plane(ctx.connection, tenant_id=ctx.tenant_id, row=row):
        raise duplicate_plane()
    held = hold_collections(ctx, row["plane_id"], checked.model)
    draft = EventDraft(
        event_type=LifecycleEventType.LIFECYCLE_TRANSITION,
        from_state=None,
        to_state=State.DRAFT,
        action=LifecycleAction.REGISTER,
        details={"collections": held} if held else {},
    )
    (event,) = append_events(ctx, row, (draft,))
    ctx.audit("PlaneRegistered", "PLANE", row["plane_id"], after=planes.audit_image(row))
    ctx.outbox("PlaneRegistered", outbox_body(row, event))
    return get_view(ctx, row["plane_id"])


def get_plane(ctx: OperationContext, request: PlaneById) -> PlaneView:
    """Return one plane; refuse PLANE_NOT_FOUND."""
    return get_view(ctx, request.plane_id)


def list_planes(ctx: OperationContext, request: ListPlanes) -> Page[PlaneView]:
    """Return planes by plane_id."""
    binding = _binding(ctx, request.model_dump(mode="json", exclude={"limit", "cursor"}))
    (after,) = read_cursor(request.cursor, binding, str) or (None,)
    found = planes.list_views(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        wanted=request,
        state=None if request.state is None else KnowledgePlaneLifecycleState[request.state],
        now=ctx.now,
        after=after,
        limit=request.limit + 1,
    )
    more = len(found) > request.limit
    items = found[: request.limit]
    return Page(items=items, next_cursor=encode_cursor(binding, [items[-1].plane_id]) if more else None)


def update_config(ctx: OperationContext, request: UpdatePlaneConfig) -> PlaneChange:
    """Replace the configuration at once; from INDEXED on, new sources wait for the refresh this queues."""
    plane = planes.require_plane(
        ctx.connection, tenant_id=ctx.tenant_id, plane_id=request.plane_id, lock=True
    )
    ctx.require_version(plane["version"])
    checked = check_config(ConnectorType(plane["connector_type"]), request.config)
    if checked.digest == plane["config_digest"]:
        return change_view(ctx, request.plane_id, changed=False)
    open_job = jobs.get_open(ctx.connection, tenant_id=ctx.tenant_id, plane_id=request.plane_id)
    change = decide_config_change(
        planes.state_of(plane),
        before=read_config(plane["connector_type"], plane["config"]),
        after=checked.model,
        has_open_job=open_job is not None,
    )
    if change is ConfigChange.CANDIDATE:
        require_collections(ctx, checked.model)
        return _queue_candidate(ctx, plane, checked)
    held = hold_collections(ctx, request.plane_id, checked.model) if change is ConfigChange.SOURCE else {}
    draft = _config_event(plane, checked, applied=True, collections=held)
    _write(ctx, plane, {"config": checked.text, "config_digest": checked.digest}, (draft,))
    return change_view(ctx, request.plane_id, changed=True)


def _queue_candidate(ctx: OperationContext, plane: PlaneRow, checked: CheckedConfig) -> PlaneChange:
    job_id = ctx.new_id("job")
    started = EventDraft(
        event_type=LifecycleEventType.LIFECYCLE_JOB_STARTED,
        from_state=planes.state_of(plane),
        to_state=None,
        job_id=job_id,
        details={"job_type": JobType.REFRESH_DATA.value},
    )
    _write(ctx, plane, {}, (_config_event(plane, checked, applied=False, job_id=job_id), started))
    jobs.queue_job(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        plane_id=plane["plane_id"],
        job_type=JobType.REFRESH_DATA,
        expected_state=plane["lifecycle_state_value"],
        target_state=None,
        config=loads(checked.text),
        requested_by=ctx.actor.id,
        now=ctx.now,
        job_id=job_id,
    )
    wake_workers(ctx)
    return change_view(ctx, plane["plane_id"], changed=True, job_id=job_id)


def _config_event(
    plane: PlaneRow,
    checked: CheckedConfig,
    *,
    applied: bool,
    job_id: str | None = None,
    collections: dict[str, Any] | None = None,
) -> EventDraft:
    state = planes.state_of(plane)
    details: dict[str, Any] = {
        "applied": applied,
        "before_digest": plane["config_digest"],
        "after_digest": checked.digest,
    }
    if collections:
        details["collections"] = collections
    return EventDraft(
        event_type=LifecycleEventType.PLANE_CONFIG_UPDATED,
        from_state=state,
        to_state=None,
        job_id=job_id,
        details=details,
    )


def _write(
    ctx: OperationContext, plane: PlaneRow, values: dict[str, Any], drafts: tuple[EventDraft, ...]
) -> None:
    if write_plane(ctx, plane, values=values, drafts=drafts, audit="PlaneConfigUpdated") is None:
        raise conflict("TRANSITION_CONFLICT", "The plane changed at the same moment.")


def list_events(ctx: OperationContext, request: ListPlaneEvents) -> Page[PlaneEventView]:
    """Return a plane's lifecycle events by seq; refuse PLANE_NOT_FOUND."""
    planes.require_plane(ctx.connection, tenant_id=ctx.tenant_id, plane_id=request.plane_id)
    binding = _binding(ctx, request.model_dump(mode="json", exclude={"limit", "cursor"}))
    (after,) = read_cursor(request.cursor, binding, int) or (0,)
    found = events.list_events(
        ctx.connection, tenant_id=ctx.tenant_id, wanted=request, after=after, limit=request.limit + 1
    )
    more = len(found) > request.limit
    items = found[: request.limit]
    return Page(items=items, next_cursor=encode_cursor(binding, [items[-1].seq]) if more else None)


def list_documents(ctx: OperationContext, request: ListPlaneDocuments) -> Page[PlaneDocumentView]:
    """Return the documents that a plane serves, by artifact_id; refuse PLANE_NOT_FOUND."""
    plane = planes.require_plane(ctx.connection, tenant_id=ctx.tenant_id, plane_id=request.plane_id)
    binding = _binding(ctx, {"plane_id": request.plane_id})
    (after,) = read_cursor(request.cursor, binding, str) or (None,)
    found = planes.list_documents(
        ctx.connection, tenant_id=ctx.tenant_id, plane=plane, after=after, limit=request.limit + 1
    )
    more = len(found) > request.limit
    items = found[: request.limit]
    return Page(items=items, next_cursor=encode_cursor(binding, [items[-1].artifact_id]) if more else None)


def _binding(ctx: OperationContext, filters: dict[str, Any]) -> str:
    return f"{ctx.tenant_id} {ctx.operation} {dumps(filters)}"


declare = OperationsOf("knowledge")
OPERATIONS = (
    declare.write("knowledge.planes.register", RegisterPlane, PlaneView, register_plane, creates=True),
    declare.write("knowledge.planes.update_config", UpdatePlaneConfig, PlaneChange, update_config),
    declare.read("knowledge.planes.get", PlaneById, PlaneView, get_plane),
    declare.read("knowledge.planes.list", ListPlanes, Page[PlaneView], list_planes),
    declare.read("knowledge.planes.events", ListPlaneEvents, Page[PlaneEventView], list_events),
    declare.read("knowledge.planes.documents", ListPlaneDocuments, Page[PlaneDocumentView], list_documents),
)
