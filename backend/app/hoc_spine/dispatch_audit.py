"""Spine: the dispatch record, telemetry about one dispatch (pure)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from app.kernel.clock import format_time
from app.kernel.context import RequestContext
from app.kernel.errors import HocError

Outcome = Literal["COMMITTED", "ROLLED_BACK", "REFUSED"]


@dataclass(frozen=True, slots=True)
class DispatchRecord:
    """What one dispatch did, made after its transaction ended; durations in milliseconds."""

    operation: str
    operation_version: int
    tenant_id: str
    success: bool
    outcome: Outcome
    duration_ms: float
    timestamp: datetime
    authority_allowed: bool
    authority_degraded: bool
    authority_reason: str | None
    authority_code: str | None
    error: str | None
    error_code: str | None
    request_id: str
    actor_id: str
    run_id: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON members; durations with 2 decimals, empty error fields left out."""
        members = asdict(self)
        members["duration_ms"] = round(self.duration_ms, 2)
        members["timestamp"] = format_time(self.timestamp)
        return {
            name: value
            for name, value in members.items()
            if value is not None or name not in ("error", "error_code", "authority_reason", "authority_code")
        }


def build_dispatch_record(
    operation: str,
    operation_version: int,
    context: RequestContext,
    *,
    committed: bool,
    began: bool,
    error: HocError | None,
    authority_refusal: HocError | None,
    authority_degraded: bool,
    duration_ms: float,
    now: datetime,
) -> DispatchRecord:
    """Build the record of a dispatch; a refusal that was recorded counts as committed work.

    REFUSED is what was turned away before its work: by authority, or before any unit began.
    """
    refused = authority_refusal is not None or not began
    outcome: Outcome = "COMMITTED" if committed else "REFUSED" if refused else "ROLLED_BACK"
    return DispatchRecord(
        operation=operation,
        operation_version=operation_version,
        tenant_id=context.tenant_id,
        success=error is None,
        outcome=outcome,
        duration_ms=duration_ms,
        timestamp=now,
        authority_allowed=authority_refusal is None,
        authority_degraded=authority_degraded,
        authority_reason=authority_refusal.detail if authority_refusal else None,
        authority_code=authority_refusal.code if authority_refusal else None,
        error=error.detail if error else None,
        error_code=error.code if error else None,
        request_id=context.request_id,
        actor_id=context.actor.id,
        run_id=context.run_id,
    )
