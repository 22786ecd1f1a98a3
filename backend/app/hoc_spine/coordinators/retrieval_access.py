"""Spine: mediated retrieval: deny by default, then read; what the handler records afterwards."""

from __future__ import annotations

import threading
import time

import structlog

from app.connectors.values import (
    Caps,
    ConnectorFailedError,
    ConnectorRefusedError,
    ConnectorResult,
    PlaneConnector,
)
from app.db.access_read import AccessFacts, read_access
from app.db.connection import DriverConnection
from app.domains.knowledge.engines import plane_config
from app.domains.policies.engines import rules, snapshots
from app.domains.policies.engines.access import decide_access
from app.domains.policies.errors import SnapshotInvalidError
from app.domains.retrieval.engines.access import (
    Attempt,
    LiveFacts,
    check_live,
    condition_inputs,
    smallest,
)
from app.domains.retrieval.models import AccessInput, Outcome, Reason
from app.domains.tenants.models import Standing, TenantStatus
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.ports import Services
from app.kernel.canonical_json import dumps, loads
from app.kernel.context import RequestContext
from app.kernel.errors import safe_trace
from app.kernel.hashing import keyed_digest

_log = structlog.get_logger(__name__)


class RevokedRules:
    """Which rules of a tenant are revoked, read once for each live_epoch."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, frozenset[str]]] = {}
        self._lock = threading.Lock()

    def get(self, connection: DriverConnection, *, tenant_id: str, live_epoch: int) -> frozenset[str]:
        """Return the revoked rule ids as of this epoch."""
        known = self._known.get(tenant_id)
        if known is not None and known[0] == live_epoch:
            return known[1]
        revoked = rules.list_revoked(connection, tenant_id=tenant_id)
        with self._lock:
            self._known[tenant_id] = (live_epoch, revoked)
        return revoked


def open_attempt(
    connection: DriverConnection, payload: AccessInput, *, services: Services, tenant_id: str
) -> Attempt:
    """Allocate the evidence id and hash the question (step 1)."""
    question = dumps({"plane_id": payload.plane_id, "action": payload.action, "payload": payload.payload})
    key = services.digest_key(connection, tenant_id=tenant_id)
    return Attempt(
        evidence_id=services.ids.new("ev"),
        requested_at=services.clock.now(),
        query_hash=keyed_digest(key, question),
    )


def judge(
    connection: DriverConnection,
    attempt: Attempt,
    payload: AccessInput,
    *,
    services: Services,
    request: RequestContext,
) -> PlaneConnector | None:
    """Judge steps 2 to 7 into the attempt; return the connector to read from, None when denied."""
    reason = check_live(_load(connection, attempt, payload, request), attempt=payload.attempt)
    if reason is None:
        reason = _judge_rules(connection, attempt, payload, services=services, request=request)
    connector: PlaneConnector | None = None
    if reason is None:
        plane = attempt.plane or {}
        connector = services.connectors.get(plane["connector_type"])
        reason = _check_payload(connector, attempt, payload)
    if reason is not None:
        attempt.settle(Outcome.DENIED, reason)
        return None
    attempt.settle(Outcome.ALLOWED, Reason.OK)
    return connector


def look_at_access(ctx: OperationContext, payload: AccessInput) -> Standing | None:
    """Keep in the attempt what an allowed access relies on, as it is now; return the caller's standing."""
    found = _read(ctx.connection, payload, ctx.request)
    if found is None:
        return None
    standing = Standing(**found.standing)
    attempt: Attempt = ctx.prepared
    attempt.live = _live_facts(found, standing)
    return standing


def _read(connection: DriverConnection, payload: AccessInput, request: RequestContext) -> AccessFacts | None:
    return read_access(
        connection,
        tenant_id=request.tenant_id,
        key_id=request.key_id,
        run_id=payload.run_id,
        plane_id=payload.plane_id,
    )


def _live_facts(found: AccessFacts, standing: Standing) -> LiveFacts:
    run, plane = found.run, found.plane
    return LiveFacts(
        tenant_active=standing.tenant_status == TenantStatus.ACTIVE,
        halted=standing.halted,
        run_status=None if run is None else run["status"],
        run_attempt=None if run is None else run["attempt"],
        plane_state=None if plane is None else plane["lifecycle_state_value"],
        suspended=plane is not None and plane["suspended_at"] is not None,
        config_digest=None if plane is None else plane["config_digest"],
        live_epoch=standing.live_epoch,
    )


def _load(
    connection: DriverConnection, attempt: Attempt, payload: AccessInput, request: RequestContext
) -> LiveFacts:
    found = _read(connection, payload, request)
    if found is None:
        raise LookupError(f"tenant {request.tenant_id} vanished")
    facts = _live_facts(found, Standing(**found.standing))
    attempt.run, attempt.plane, attempt.live_epoch = found.run, found.plane, facts.live_epoch
    if attempt.plane is not None:
        attempt.plane_config = plane_config.config_members(
            attempt.plane["connector_type"], attempt.plane["config"]
        )
    return facts


def _judge_rules(
    connection: DriverConnection,
    attempt: Attempt,
    payload: AccessInput,
    *,
    services: Services,
    request: RequestContext,
) -> Reason | None:
    run = attempt.run or {}
    try:
        snapshot = snapshots.load_verified(
            connection,
            tenant_id=request.tenant_id,
            snapshot_id=run["policy_snapshot_id"],
            cache=services.caches["snapshots"],
        )
    except SnapshotInvalidError:
        return Reason.SNAPSHOT_INVALID
    if snapshot is None:
        return Reason.SNAPSHOT_INVALID
    attempt.snapshot_hash = snapshot.content_hash
    revoked = services.caches["revoked_rules"].get(
        connection, tenant_id=request.tenant_id, live_epoch=attempt.live_epoch
    )
    template = payload.payload.get("template_id", payload.payload.get("endpoint_id"))
    decision = decide_access(
        snapshot,
        plane_id=payload.plane_id,
        action=payload.action,
        condition_inputs=condition_inputs(
            attempt,
            labels=loads(run["labels"]),
            action=payload.action,
            purpose=payload.purpose,
            template_id=template if isinstance(template, str) else None,
            step_index=payload.step_index,
            actor_id=request.actor.id,
        ),
        revoked_rule_ids=revoked,
    )
    attempt.matched_rules = decision.matched_json
    if not decision.allowed:
        return Reason(decision.reason_code.value)
    config = attempt.plane_config
    attempt.max_documents = smallest(decision.max_documents, config["max_documents"])
    attempt.max_tokens = decision.max_tokens
    attempt.max_response_bytes = config["max_response_bytes"]
    return None


def _check_payload(connector: PlaneConnector | None, attempt: Attempt, payload: AccessInput) -> Reason | None:
    if connector is None or payload.action not in connector.actions:
        return Reason.ACTION_NOT_SUPPORTED
    try:
        connector.check(action=payload.action, payload=payload.payload, config=attempt.plane_config)
    except ConnectorRefusedError as refusal:
        return Reason(refusal.code)
    return None


def execute(
    connection: DriverConnection | None,
    connector: PlaneConnector,
    attempt: Attempt,
    payload: AccessInput,
    *,
    tenant_id: str,
) -> None:
    """Read the documents within the caps into the attempt (steps 8 and 9); a failure is its outcome."""
    plane = attempt.plane or {}
    try:
        result = connector.execute(
            connection,
            tenant_id=tenant_id,
            plane=plane,
            action=payload.action,
            payload=payload.payload,
            config=attempt.plane_config,
            caps=Caps(
                max_documents=attempt.max_documents or 0,
                max_tokens=attempt.max_tokens,
                max_response_bytes=attempt.max_response_bytes or 0,
            ),
            deadline=time.monotonic() + attempt.plane_config["timeout_seconds"],
        )
        _take(attempt, result)
    except ConnectorRefusedError as refusal:
        attempt.settle(Outcome.DENIED, Reason(refusal.code))
    except ConnectorFailedError as failure:
        _log.warning("retrieval.connector_failed", code=failure.code, evidence_id=attempt.evidence_id)
        attempt.settle(Outcome.FAILED, Reason(failure.code))
    except Exception:  # noqa: BLE001 - a broken connector is an outcome with its evidence, not a lost attempt
        _log.exception("retrieval.connector_broke", evidence_id=attempt.evidence_id)
        attempt.settle(Outcome.FAILED, Reason.INTERNAL_ERROR)


def give_up(attempt: Attempt, error: Exception) -> None:
    """Settle an attempt that a bug of ours struck as failed: that is its evidence, and its data goes."""
    _log.error("retrieval.attempt_broke", evidence_id=attempt.evidence_id, trace=safe_trace(error))
    attempt.settle(Outcome.FAILED, Reason.INTERNAL_ERROR)


def _take(attempt: Attempt, result: ConnectorResult) -> None:
    sizes = [document.size() for document in result.documents]
    attempt.citations = [document.citation() for document in result.documents]
    attempt.bytes_returned = sum(size for size, _ in sizes)
    attempt.token_count = sum(tokens for _, tokens in sizes)
    attempt.truncated = result.truncated
    attempt.answer = {
        "documents": [document.answer() for document in result.documents],
        "missing": list(result.missing),
        "candidates_capped": result.candidates_capped,
        "next_cursor": result.next_cursor,
    }
