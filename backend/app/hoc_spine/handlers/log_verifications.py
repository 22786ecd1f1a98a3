"""Spine L4: what verifications of the tenant's log have found, asking for one, and resuming a halted log."""

from __future__ import annotations

from app.domains.logs.engines import heads, verifications
from app.domains.logs.errors import invalid_log_state, log_not_sound, verify_running
from app.domains.logs.models.tree import (
    LogIntegrity,
    LogResumed,
    LogState,
    NoLogInput,
    ResumeLog,
    VerificationAccepted,
    VerificationStatus,
    VerificationView,
)
from app.hoc_spine.coordinators.verify_requests import VerifyRequest, VerifyRequests
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation, OperationsOf
from app.kernel.inputs import ListInput
from app.kernel.pages import Page, newest_first


def verify(ctx: OperationContext, _payload: NoLogInput) -> VerificationAccepted:
    """Have the whole log verified, in the background of this process; refuse VERIFY_RUNNING."""
    requests: VerifyRequests = ctx.services.caches["verify_requests"]
    request = VerifyRequest(ctx.tenant_id, ctx.new_id("ver"))
    if not requests.accept(request):
        raise verify_running()
    return VerificationAccepted(verification_id=request.verification_id)


def get_integrity(ctx: OperationContext, _payload: NoLogInput) -> LogIntegrity:
    """Sum up the stored results: FAILED while one stands that no later result of its stretch has lifted."""
    connection, tenant_id = ctx.connection, ctx.tenant_id
    head = heads.get_head(connection, tenant_id=tenant_id)
    epoch = heads.FIRST_EPOCH if head is None else head["epoch"]
    failed = verifications.open_failures(connection, tenant_id=tenant_id, epoch=epoch)
    at = verifications.last_verified_at(connection, tenant_id=tenant_id, epoch=epoch)
    status = VerificationStatus.UNSUPPORTED if at is None else VerificationStatus.VERIFIED
    return LogIntegrity(
        status=VerificationStatus.FAILED if failed else status,
        last_verified_at=at,
        last_verified_size=verifications.verified_size(connection, tenant_id=tenant_id, epoch=epoch),
        size=0 if head is None else head["size"],
        pending=heads.count_waiting(connection, tenant_id=tenant_id),
        failures=verifications.failures_of(failed),
    )


def list_verifications(ctx: OperationContext, payload: ListInput) -> Page[VerificationView]:
    """List results, newest first."""
    return newest_first(
        payload,
        tenant_id=ctx.tenant_id,
        operation="log.verifications.list",
        columns=("finished_at", "verification_id"),
        fetch=lambda before, limit: verifications.list_page(
            ctx.connection, tenant_id=ctx.tenant_id, before=before, limit=limit
        ),
        view=verifications.view,
    )


def resume(ctx: OperationContext, payload: ResumeLog) -> LogResumed:
    """Let a halted log grow again; refuse INVALID_LOG_STATE, LOG_NOT_SOUND unless it was verified."""
    connection, tenant_id = ctx.connection, payload.tenant_id
    head = heads.get_head(connection, tenant_id=tenant_id)
    if head is None or head["state"] != LogState.HALTED:
        raise invalid_log_state("not open" if head is None else str(head["state"]))
    if not verifications.is_sound(
        connection,
        tenant_id=tenant_id,
        epoch=head["epoch"],
        verification_id=payload.verification_id,
        size=head["signed_size"],
    ):
        raise log_not_sound(payload.verification_id)
    heads.resume(connection, tenant_id=tenant_id, epoch=head["epoch"], now=ctx.now)
    resumed = LogResumed(tenant_id=tenant_id, epoch=head["epoch"], state=LogState.ACTIVE, size=head["size"])
    ctx.audit(
        "LogResumed",
        "LOG",
        tenant_id,
        before={"state": head["state"], "halted_reason": head["halted_reason"]},
        after={**resumed.model_dump(mode="json"), "verification_id": payload.verification_id},
        reason=payload.reason,
    )
    return resumed


declare = OperationsOf("logs")
OPERATIONS = (
    Operation("ops.log.resume", "logs", "write", None, ResumeLog, LogResumed, resume, door="operator"),
    declare.write(
        "log.verify", NoLogInput, VerificationAccepted, verify, no_audit="the result's own row is the record"
    ),
    declare.read("log.integrity", NoLogInput, LogIntegrity, get_integrity, snapshot=True),
    declare.read("log.verifications.list", ListInput, Page[VerificationView], list_verifications),
)
