"""Spine L4: mediated retrieval and its evidence; no data before its evidence is committed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Any

from prometheus_client import Counter, Histogram

from app.domains.retrieval.engines import attempts
from app.domains.retrieval.engines import evidence as engine
from app.domains.retrieval.engines.access import MAX_PAYLOAD_BYTES, Attempt, check_unchanged
from app.domains.retrieval.errors import (
    access_refused,
    evidence_not_recorded,
    idempotency_not_supported,
    payload_too_large,
)
from app.domains.retrieval.models import (
    AccessInput,
    AccessResult,
    EvidencePath,
    EvidenceView,
    ExplainResult,
    ListEvidence,
    Outcome,
    Reason,
    Recover,
    Recovered,
)
from app.hoc_spine.coordinators import retrieval_access as coordinator
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.hoc_spine.operation_registry import Operation, OperationsOf, Refusal, Settlement
from app.kernel.canonical_json import dumps
from app.kernel.errors import HocError
from app.kernel.pages import Page

ATTEMPTS = Counter("hoc_retrieval_attempts", "Recorded access attempts", ["outcome", "reason"])
SECONDS = Histogram("hoc_retrieval_seconds", "From asking to the end of reading")
UNRECORDED = Counter("hoc_retrieval_unrecorded", "Accesses whose evidence could not be recorded")
LOST_AT_ONCE = 200


def prepare_access(ctx: PrepareContext, payload: AccessInput) -> Attempt:
    """Judge and read, holding no write unit; refuse only what is no attempt at all."""
    if ctx.request.idempotency_key is not None:
        raise idempotency_not_supported()
    size = len(dumps(payload.payload).encode())
    if size > MAX_PAYLOAD_BYTES:
        raise payload_too_large(size, MAX_PAYLOAD_BYTES)
    attempt: Attempt | None = None
    try:
        with ctx.read_unit() as connection:
            attempt = coordinator.open_attempt(
                connection, payload, services=ctx.services, tenant_id=ctx.tenant_id
            )
            connector = coordinator.judge(
                connection, attempt, payload, services=ctx.services, request=ctx.request
            )
        if connector is not None:
            _keep(ctx, attempt, payload)
            with ctx.read_unit() if connector.reads_database else nullcontext() as reading:
                coordinator.execute(reading, connector, attempt, payload, tenant_id=ctx.tenant_id)
    except HocError:
        raise
    except Exception as error:
        if attempt is None:
            raise
        coordinator.give_up(attempt, error)
    return attempt


def _keep(ctx: PrepareContext, attempt: Attempt, payload: AccessInput) -> None:
    """Commit the access before its source is asked, which leaves evidence whatever becomes of us."""
    timeout = timedelta(seconds=attempt.plane_config["timeout_seconds"])
    deadline = ctx.services.clock.now() + timeout
    row = _row(ctx, attempt, payload, completed_at=deadline)
    with ctx.write_unit() as connection:
        attempts.keep(connection, row, tenant_id=ctx.tenant_id, deadline_at=deadline)
    attempt.journaled = True


def _row(
    ctx: PrepareContext | OperationContext, attempt: Attempt, payload: AccessInput, *, completed_at: datetime
) -> dict[str, Any]:
    return engine.build(
        attempt,
        payload,
        actor_id=ctx.actor.id,
        request_id=ctx.request.request_id,
        trace_id=ctx.request.trace_id,
        span_id=ctx.request.span_id,
        completed_at=completed_at,
        recorded_at=ctx.now,
    )


def access(ctx: OperationContext, payload: AccessInput) -> AccessResult | Refusal:
    """Re-check what the judgement relied on, record exactly one evidence row, then answer."""
    attempt: Attempt = ctx.prepared
    if attempt.journaled and not attempts.forget(
        ctx.connection, tenant_id=ctx.tenant_id, evidence_id=attempt.evidence_id
    ):
        # So late that maintenance has given it up: its evidence says that it failed, and so does its answer.
        raise access_refused(
            Outcome.FAILED.value, Reason.INTERNAL_ERROR.value, evidence_id=attempt.evidence_id
        )
    _recheck(ctx, attempt, payload)
    row = _row(ctx, attempt, payload, completed_at=ctx.services.clock.now())
    _record(ctx, row, query=dumps(payload.payload) if attempt.plane_config.get("log_queries") else None)
    ctx.after_commit(lambda: SECONDS.observe(row["duration_ms"] / 1000))
    if attempt.outcome is not Outcome.ALLOWED:
        return Refusal(
            access_refused(attempt.outcome.value, attempt.reason.value, evidence_id=attempt.evidence_id)
        )
    return _result(attempt, payload)


def _record(ctx: OperationContext, row: Mapping[str, Any], *, query: str | None) -> None:
    evidence = {**row, **ctx.protect({"query": query})}
    evidence["fact_id"] = ctx.facts.add(
        "retrieval.evidence",
        evidence,
        run_id=row["run_id"],
        attempt=row["attempt"],
        live_only=row["outcome"] == Outcome.ALLOWED,
    )
    engine.insert(ctx.connection, evidence, tenant_id=ctx.tenant_id)
    ctx.after_commit(ATTEMPTS.labels(row["outcome"], row["reason_code"]).inc)


def recover(ctx: OperationContext, _payload: Recover) -> Recovered:
    """Record each access that never came back from its source as failed, once."""
    lost = attempts.take_lost(ctx.connection, tenant_id=ctx.tenant_id, now=ctx.now, limit=LOST_AT_ONCE)
    for row in lost:
        _record(ctx, row, query=None)
    return Recovered(recovered=len(lost), more=len(lost) == LOST_AT_ONCE)


def _recheck(ctx: OperationContext, attempt: Attempt, payload: AccessInput) -> None:
    if attempt.outcome is not Outcome.ALLOWED:
        return
    if attempt.live is None:
        # Joined to another unit there was no first look.
        coordinator.look_at_access(ctx, payload)
    facts = attempt.live
    if facts is None:
        raise LookupError(f"tenant {ctx.tenant_id} vanished")
    reason = check_unchanged(attempt, facts)
    if reason is None and facts.live_epoch != attempt.live_epoch:
        reason = _recheck_revocation(ctx, attempt, facts.live_epoch)
    if reason is not None:
        attempt.revoked_in_flight = True
        attempt.settle(Outcome.DENIED, reason)


def _recheck_revocation(ctx: OperationContext, attempt: Attempt, live_epoch: int) -> Reason | None:
    revoked = ctx.services.caches["revoked_rules"].get(
        ctx.connection, tenant_id=ctx.tenant_id, live_epoch=live_epoch
    )
    allowing = [rule["rule_id"] for rule in attempt.matched_rules if rule["effect"] == "ALLOW"]
    return Reason.POLICY_REVOKED if revoked.issuperset(allowing) else None


def _result(attempt: Attempt, payload: AccessInput) -> AccessResult:
    run, plane = attempt.run or {}, attempt.plane or {}
    return AccessResult.model_validate(
        {
            "evidence_id": attempt.evidence_id,
            "run_id": payload.run_id,
            "attempt": run["attempt"],
            "plane_id": payload.plane_id,
            "connector_id": plane["connector_id"],
            "policy_snapshot_id": run["policy_snapshot_id"],
            "matched_rules": attempt.matched_rules,
            "query_hash": attempt.query_hash,
            "tokens_consumed": attempt.token_count,
            "truncated": attempt.truncated,
            "timestamp": attempt.requested_at,
            "data": attempt.answer,
        }
    )


def _is_recorded(ctx: PrepareContext, attempt: Attempt) -> bool:
    with ctx.read_unit() as connection:
        return engine.is_recorded(
            connection,
            tenant_id=ctx.tenant_id,
            evidence_id=attempt.evidence_id,
            outcome=attempt.outcome,
        )


def _unrecorded() -> HocError:
    UNRECORDED.inc()
    return evidence_not_recorded()


def explain(ctx: OperationContext, payload: AccessInput) -> ExplainResult:
    """Judge an access without reading or recording anything."""
    attempt = coordinator.open_attempt(
        ctx.connection, payload, services=ctx.services, tenant_id=ctx.tenant_id
    )
    coordinator.judge(ctx.connection, attempt, payload, services=ctx.services, request=ctx.request)
    run = attempt.run or {}
    return ExplainResult.model_validate(
        {
            "allowed": attempt.outcome is Outcome.ALLOWED,
            "reason_code": attempt.reason,
            "policy_snapshot_id": run.get("policy_snapshot_id"),
            "matched_rules": attempt.matched_rules,
            "max_documents": attempt.max_documents,
            "max_tokens": attempt.max_tokens,
            "max_response_bytes": attempt.max_response_bytes,
        }
    )


def list_evidence(ctx: OperationContext, payload: ListEvidence) -> Page[EvidenceView]:
    """Return evidence newest first."""
    return engine.list_page(ctx.connection, payload, tenant_id=ctx.tenant_id)


def get_evidence(ctx: OperationContext, payload: EvidencePath) -> EvidenceView:
    """Return one evidence row; refuse EVIDENCE_NOT_FOUND."""
    return engine.get(ctx.connection, tenant_id=ctx.tenant_id, evidence_id=payload.evidence_id)


declare = OperationsOf("retrieval")
OPERATIONS = (
    declare.write(
        "retrieval.access",
        AccessInput,
        AccessResult,
        access,
        prepare=prepare_access,
        look=coordinator.look_at_access,
        authority="recorded",
        settlement=Settlement(_is_recorded, _unrecorded, coordinator.give_up),
        no_audit="the evidence row is the record of the attempt",
    ),
    Operation(
        "retrieval.recover",
        "retrieval",
        "write",
        None,
        Recover,
        Recovered,
        recover,
        door="worker",
        no_audit="the evidence row is the record of the attempt",
    ),
    declare.read("retrieval.explain", AccessInput, ExplainResult, explain, verb="write"),
    declare.read("retrieval.evidence.list", ListEvidence, Page[EvidenceView], list_evidence),
    declare.read("retrieval.evidence.get", EvidencePath, EvidenceView, get_evidence),
)
