"""Spine: planes as answers show them: views after a write, and where a list goes on."""

from __future__ import annotations

import re

from app.domains.knowledge.engines import planes
from app.domains.knowledge.models import PlaneChange, PlaneView
from app.hoc_spine.operation_context import OperationContext
from app.kernel.errors import ErrorKind, HocError
from app.kernel.ids import ID_PATTERN
from app.kernel.pages import decode_cursor

_MAX_NUMBER = 2**63 - 1


def get_view(ctx: OperationContext, plane_id: str) -> PlaneView:
    """Return the plane as answers show it; refuse PLANE_NOT_FOUND."""
    return planes.get_view(ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane_id, now=ctx.now)


def change_view(
    ctx: OperationContext, plane_id: str, *, changed: bool, job_id: str | None = None
) -> PlaneChange:
    """Return the plane after a write that may have been a no-op; job_id names the work it queued."""
    return PlaneChange(**dict(get_view(ctx, plane_id)), changed=changed, job_id=job_id)


def read_id_cursor(cursor: str, binding: str) -> str:
    """Return the id that a list goes on after; refuse INVALID_CURSOR, a doctored one too."""
    match decode_cursor(cursor, binding):
        case [str(value)] if re.match(ID_PATTERN, value):
            return value
    raise _invalid_cursor()


def read_number_cursor(cursor: str, binding: str) -> int:
    """Return the number that a list goes on after; refuse INVALID_CURSOR, a doctored one too."""
    match decode_cursor(cursor, binding):
        case [int(value)] if 0 <= value <= _MAX_NUMBER:
            return value
    raise _invalid_cursor()


def _invalid_cursor() -> HocError:
    return HocError(
        ErrorKind.MALFORMED, "INVALID_CURSOR", "The cursor does not belong to this list and filter."
    )
