"""Logs L5: an Idempotency-Key answers the same request once and refuses another."""

from __future__ import annotations

from collections.abc import Sequence
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


def forget_answers(
    connection: DriverConnection, *, tenant_id: str, prefix: str, texts: Sequence[str] | None = None
) -> None:
    """Forget the keys of operations with this prefix whose answers hold a text of these, or (null) of all.

    What is destroyed must not live on in an answer that a key replays. A forgotten key is like a new one.
    """
    driver.delete_answers(connection, tenant_id=tenant_id, prefix=prefix, texts=texts)


def forget_expired(connection: DriverConnection, *, tenant_id: str, now: datetime, limit: int) -> int:
    """Forget keys whose day is over, at most `limit`, and return how many."""
    return driver.delete_expired(connection, tenant_id=tenant_id, now=now, limit=limit)


def list_tenants_due(connection: DriverConnection, *, now: datetime) -> Sequence[str]:
    """Return the tenants that have keys whose day is over."""
    return driver.list_tenants_due(connection, now=now)


def complete(connection: DriverConnection, *, tenant_id: str, key: str, response: str | None) -> None:
    """Store the response under a claimed key; without one the key is free again."""
    if response is None:
        driver.delete_key(connection, tenant_id=tenant_id, key=key)
        return
    driver.set_response(connection, tenant_id=tenant_id, key=key, response=response)
