"""L2 HTTP: what a request needs before its dispatch: a proven caller, spent quotas, the request context."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

import structlog

from app.api.exchange import Exchange, Headers
from app.api.metrics import HttpMetrics
from app.api.preconditions import read_if_match
from app.api.rate_limits import Quota, RateLimiter, address_subject
from app.hoc_spine.authentication import AuthFailure, Credential
from app.hoc_spine.authority import invalid_credentials
from app.hoc_spine.spine import Spine
from app.kernel.context import Actor, RequestContext
from app.kernel.errors import ErrorKind, HocError

OPERATOR_TENANT: Final = "_system"
OPERATOR_ACTOR: Final = Actor(type="HUMAN", id="operator")
_BEARER: Final = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/=-]{1,512})")
_IDEMPOTENCY_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}")
_log = structlog.get_logger("hoc.http")


def presented_token(headers: Headers) -> str | None:
    """Return the one credential the request presents, None when it has none that can be read.

    Raises MIXED_AUTH for two at once: guessing which one was meant would be a way around revocation.
    """
    bearer, key = headers.every(b"authorization"), headers.every(b"x-api-key")
    if len(bearer) + len(key) > 1:
        raise HocError(
            ErrorKind.MALFORMED,
            "MIXED_AUTH",
            "Give one credential: either Authorization: Bearer or X-API-Key.",
        )
    if key:
        return key[0] or None
    match = _BEARER.fullmatch(bearer[0]) if bearer else None
    return match[1] if match else None


class Doorkeeper:
    """Prove callers and count their requests; every refusal looks the same from outside."""

    def __init__(self, spine: Spine, *, limiter: RateLimiter, metrics: HttpMetrics) -> None:
        self._spine = spine
        self._limiter = limiter
        self._metrics = metrics
        settings = spine.services.settings
        token = settings.operator_token
        self._operator_digest = _digest(token.get_secret_value()) if token else None
        self._anonymous_rpm: int = settings.rate_limit_anonymous_rpm
        self._enabled: bool = settings.rate_limit_enabled

    def admit_tenant(self, exchange: Exchange) -> Credential:
        """Return the tenant credential of the request with its quotas charged; refuse 401 or 429."""
        token = presented_token(exchange.headers)
        found = AuthFailure("KEY_MISSING") if token is None else self._spine.authenticate(token)
        if isinstance(found, AuthFailure):
            raise self._refused(exchange, found.reason)
        exchange.tenant_id, exchange.key_id = found.tenant_id, found.key_id
        structlog.contextvars.bind_contextvars(tenant_id=found.tenant_id, key_id=found.key_id)
        per_tenant = found.requests_per_minute
        self._charge(
            exchange,
            Quota("key", found.key_id, found.rate_limit_rpm or per_tenant),
            Quota("tenant", found.tenant_id, per_tenant),
        )
        return found

    def admit_operator(self, exchange: Exchange) -> None:
        """Let the operator's token pass; refuse 401 or 429. Without a configured token the door is closed."""
        token = presented_token(exchange.headers)
        if self._operator_digest is None:
            raise self._refused(exchange, "OPERATOR_DOOR_CLOSED")
        if token is None or not hmac.compare_digest(_digest(token), self._operator_digest):
            raise self._refused(exchange, "OPERATOR_TOKEN_WRONG")
        self._charge_address(exchange)

    def admit_stranger(self, exchange: Exchange) -> None:
        """Charge a request that ends before any credential is looked at to its address; refuse 429."""
        self._charge_address(exchange)

    def _refused(self, exchange: Exchange, reason: str) -> HocError:
        self._charge_address(exchange)
        self._metrics.refused_credentials.labels(reason).inc()
        _log.warning("credential_refused", reason=reason, route=exchange.route, client=exchange.client)
        return invalid_credentials()

    def _charge_address(self, exchange: Exchange) -> None:
        self._charge(exchange, Quota("address", address_subject(exchange.client), self._anonymous_rpm))

    def _charge(self, exchange: Exchange, *quotas: Quota) -> None:
        if not self._enabled:
            return
        spending = self._limiter.spend(quotas)
        exchange.answer_headers.extend(spending.headers)
        spending.require()


def tenant_context(credential: Credential, exchange: Exchange, *, run_id: str | None) -> RequestContext:
    """Return the context of a tenant's request; the tenant comes from the credential alone."""
    return RequestContext(
        tenant_id=credential.tenant_id,
        actor=credential.actor,
        scopes=credential.scopes,
        key_id=credential.key_id,
        request_id=exchange.request_id,
        run_id=run_id,
        traceparent=exchange.traceparent,
        idempotency_key=read_idempotency_key(exchange.headers),
        precondition=read_if_match(exchange.headers.every(b"if-match")),
        door="tenant",
        degraded=credential.degraded,
    )


def operator_context(exchange: Exchange) -> RequestContext:
    """Return the context of an operator's request: the reserved tenant owns its ledger entries."""
    return RequestContext(
        tenant_id=OPERATOR_TENANT,
        actor=OPERATOR_ACTOR,
        request_id=exchange.request_id,
        traceparent=exchange.traceparent,
        idempotency_key=read_idempotency_key(exchange.headers),
        precondition=read_if_match(exchange.headers.every(b"if-match")),
        door="operator",
    )


def read_run_id(exchange: Exchange, *, writes: bool) -> str | None:
    """Return the run that X-Run-ID ties a write to; what cannot be a run's id is a run that is not there."""
    if writes and exchange.run_id is None and b"x-run-id" in exchange.headers:
        raise HocError(ErrorKind.NOT_FOUND, "RUN_NOT_FOUND", "There is no such run.")
    return exchange.run_id


def read_idempotency_key(headers: Headers) -> str | None:
    """Return the Idempotency-Key; refuse one that is empty, repeated, too long or not printable ASCII."""
    values = headers.every(b"idempotency-key")
    if not values:
        return None
    if len(values) > 1 or not _IDEMPOTENCY_KEY.fullmatch(values[0]) or not values[0].strip():
        raise HocError(
            ErrorKind.MALFORMED,
            "INVALID_IDEMPOTENCY_KEY",
            "An Idempotency-Key is given once and has 1 to 255 printable ASCII characters.",
        )
    return values[0]


def _digest(token: str) -> bytes:
    # Digests have one length, so the comparison does not tell how long the right token is.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
