"""Spine: planes as answers show them after a write."""

from __future__ import annotations

from app.domains.knowledge.engines import planes
from app.domains.knowledge.models.planes import (
    PlaneChange,
    PlaneView,
)
from app.hoc_spine.operation_context import OperationContext


def get_view(ctx: OperationContext, plane_id: str) -> PlaneView:
    """Return the plane as answers show it; refuse PLANE_NOT_FOUND."""
    return planes.get_view(ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane_id, now=ctx.now)


def change_view(
    ctx: OperationContext, plane_id: str, *, changed: bool, job_id: str | None = None
) -> PlaneChange:
    """Return the plane after a write that may have been a no-op; job_id names the work it queued."""
    return PlaneChange(**dict(get_view(ctx, plane_id)), changed=changed, job_id=job_id)
