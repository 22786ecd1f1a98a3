"""Spine: a rule or limit that lost its content hash: what relies on it stops, and somebody is told."""

from __future__ import annotations

from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Refusal
from app.kernel.errors import HocError

OPEN_INTEGRITY = "incidents.open_integrity"


def record_broken_policy(ctx: OperationContext, refusal: HocError) -> Refusal:
    """Open the incident of a POLICY_INTEGRITY refusal and return it as one whose record is kept."""
    is_limit = "limit_id" in refusal.extra
    ctx.dispatch(
        OPEN_INTEGRITY,
        {
            "code": refusal.code,
            "table": "limits" if is_limit else "policy_rule_versions",
            "detail": refusal.detail,
        },
    )
    return Refusal(refusal)
