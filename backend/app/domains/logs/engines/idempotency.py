"""Logs L5: an Idempotency-Key answers the same request once and refuses another."""

from __future__ import annotations

from datetime import datetime, timedelta

from app.db.connection import DriverConnection
from app.domains.logs.drivers import idempotency as driver
from app.domains.logs.errors import idempotency_key_reused

LIFETIME = timedelta(hours=24)


def claim(
    connection: DriverConnection,
    *,
    tenant_id: str,
    key: str,
    operation: str,
    request_digest: str,
    now: datetime,
) -> str | None:
    """Claim the key, or return the stored response; refuse a key used with another request."""
    if driver.insert_key(
        connection,
        tenant_id=tenant_id,
        key=key,
        operation=operation,
        request_digest=request_digest,
        now=now,
        expires_at=now + LIFETIME,
    ):
        return None
    row = driver.get_key(connection, tenant_id=tenant_id, key=key)
    if row is None or row["operation"] != operation or row["request_digest"] != request_digest:
        raise idempotency_key_reused()
    return str(row["response"])


def complete(connection: DriverConnection, *, tenant_id: str, key: str, response: str) -> None:
    """Store the response under a claimed key."""
    driver.set_response(connection, tenant_id=tenant_id, key=key, response=response)
