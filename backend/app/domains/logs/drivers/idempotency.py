"""Logs L6: Idempotency-Key rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import different, insert
from app.domains.logs.models.ledger import (
    IdempotencyState,
)
from app.domains.logs.tables import idempotency_keys


def insert_key(
    connection: DriverConnection,
    *,
    tenant_id: str,
    key: str,
    operation: str,
    request_digest: str,
    now: datetime,
    expires_at: datetime,
) -> bool:
    """Claim a key that is new or expired; return False when another request holds it."""
    values = {
        "operation": operation,
        "request_digest": request_digest,
        "status": IdempotencyState.PENDING.value,
        "response": None,
        "created_at": now,
        "expires_at": expires_at,
    }
    statement = (
        insert(connection, idempotency_keys)
        .values(tenant_id=tenant_id, key=key, **values)
        .on_conflict_do_update(
            index_elements=["tenant_id", "key"], set_=values, where=idempotency_keys.c.expires_at <= now
        )
        .returning(idempotency_keys.c.key)
    )
    return connection.scalars(statement).one_or_none() is not None


def get_key(connection: DriverConnection, *, tenant_id: str, key: str) -> Row | None:
    """Return request_digest, status and response of a key."""
    return (
        connection.execute(
            sa.select(
                idempotency_keys.c.operation,
                idempotency_keys.c.request_digest,
                idempotency_keys.c.status,
                idempotency_keys.c.response,
            ).where(idempotency_keys.c.tenant_id == tenant_id, idempotency_keys.c.key == key)
        )
        .mappings()
        .one_or_none()
    )


def delete_answers(
    connection: DriverConnection, *, tenant_id: str, prefix: str, texts: Sequence[str] | None
) -> None:
    """Delete the keys of operations with this prefix whose answers hold one of the texts, or of all."""
    key = idempotency_keys.c
    statement = idempotency_keys.delete().where(
        key.tenant_id == tenant_id, key.operation.startswith(prefix, autoescape=True)
    )
    if texts is not None:
        holds = (key.response.contains(text, autoescape=True) for text in texts)
        statement = statement.where(sa.or_(sa.false(), *holds))
    connection.execute(statement)


def set_response(connection: DriverConnection, *, tenant_id: str, key: str, response: str) -> None:
    """Store the answer that later requests replay."""
    connection.execute(
        idempotency_keys.update()
        .where(idempotency_keys.c.tenant_id == tenant_id, idempotency_keys.c.key == key)
        .values(status=IdempotencyState.DONE.value, response=response)
    )


def delete_key(connection: DriverConnection, *, tenant_id: str, key: str) -> None:
    """Delete one key."""
    connection.execute(
        idempotency_keys.delete().where(
            idempotency_keys.c.tenant_id == tenant_id, idempotency_keys.c.key == key
        )
    )


def delete_expired(connection: DriverConnection, *, tenant_id: str, now: datetime, limit: int) -> int:
    """Delete keys that expired until now, at most `limit`, and return how many."""
    due = (
        sa.select(idempotency_keys.c.key)
        .where(idempotency_keys.c.tenant_id == tenant_id, idempotency_keys.c.expires_at <= now)
        .limit(limit)
    )
    statement = (
        idempotency_keys.delete()
        .where(
            idempotency_keys.c.tenant_id == tenant_id,
            idempotency_keys.c.key.in_(due),
            idempotency_keys.c.expires_at <= now,
        )
        .returning(idempotency_keys.c.key)
    )
    return len(connection.scalars(statement).all())


def list_tenants_due(
    connection: DriverConnection, *, now: datetime
) -> Sequence[str]:  # gate: DRV-006 - maintenance serves all tenants
    """Return the tenants that have keys that expired until now."""
    tenant = idempotency_keys.c.tenant_id
    due = sa.select(tenant).where(idempotency_keys.c.expires_at <= now)  # gate: SCOPE-001 - all tenants
    return connection.scalars(different(due)).all()
