"""Spine: allow and deny verdicts over scope, key, tenant status, kill switch and degraded mode."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from app.domains.tenants.models import KeyStatus, Standing, TenantStatus
from app.kernel.context import RequestContext, has_scope
from app.kernel.errors import ErrorKind, HocError

if TYPE_CHECKING:
    from app.hoc_spine.operation_registry import Operation


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the operation may run; `degraded` flags it in the dispatch record."""

    refusal: HocError | None = None
    degraded: bool = False

    @property
    def allowed(self) -> bool:
        return self.refusal is None


def judge_door(operation: Operation, context: RequestContext) -> Verdict:
    """Judge what needs no database: the door and the scope."""
    refusal: HocError | None = None
    if context.door != "worker" and operation.door != context.door:
        refusal = HocError(ErrorKind.FORBIDDEN, "INSUFFICIENT_SCOPE", "This credential cannot call this.")
    elif context.door == "tenant" and not has_scope(context.scopes, str(operation.scope)):
        refusal = insufficient_scope(str(operation.scope))
    return Verdict(refusal, context.degraded)


def judge_standing(
    operation: Operation, context: RequestContext, standing: Standing | None, *, now: datetime
) -> Verdict:
    """Judge a write against key, tenant and switches as they stand in its own transaction."""
    if standing is None:
        return Verdict(invalid_credentials())
    degraded = standing.degraded
    if context.key_id is not None and not _key_works(standing, now):
        return Verdict(invalid_credentials(), degraded)
    if operation.door == "operator" or operation.authority == "recorded":
        return Verdict(degraded=degraded)
    if standing.tenant_status != TenantStatus.ACTIVE and operation.door == "tenant":
        # A key of such a tenant is refused like any other that stopped working while it was on its way.
        by_key = context.key_id is not None
        return Verdict(invalid_credentials() if by_key else tenant_inactive(), degraded)
    if operation.gate == "guarded":
        if standing.halted:
            return Verdict(kill_switch_active(), degraded)
        if degraded:
            return Verdict(degraded_mode(), degraded)
    return Verdict(degraded=degraded)


def _key_works(standing: Standing, now: datetime) -> bool:
    expired = standing.key_expires_at is not None and standing.key_expires_at <= now
    return standing.key_status == KeyStatus.ACTIVE and not expired


def invalid_credentials() -> HocError:
    """One answer for every reason; the log keeps the reason."""
    return HocError(
        ErrorKind.UNAUTHENTICATED, "INVALID_CREDENTIALS", "The credential is missing or not valid."
    )


def insufficient_scope(scope: str) -> HocError:
    """The credential is valid and may not do this."""
    return HocError(ErrorKind.FORBIDDEN, "INSUFFICIENT_SCOPE", f"This needs the scope {scope}.")


def tenant_inactive() -> HocError:
    """The tenant is suspended or closed."""
    return HocError(ErrorKind.FORBIDDEN, "TENANT_INACTIVE", "The tenant is not active.")


def kill_switch_active() -> HocError:
    """The system's or the tenant's kill switch is engaged."""
    return HocError(ErrorKind.CONFLICT, "KILL_SWITCH_ACTIVE", "The kill switch is engaged.")


def degraded_mode() -> HocError:
    """The system runs degraded and takes no new runs."""
    return HocError(
        ErrorKind.UNAVAILABLE,
        "DEGRADED_MODE",
        "The system is in degraded mode; no new run starts.",
        retry_after=30,
    )
