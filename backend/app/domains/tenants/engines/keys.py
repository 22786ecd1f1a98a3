"""Tenants L5: API keys: making, freezing, revoking, and what a key may give."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from app.db.connection import DriverConnection, Row
from app.db.governed import row_image
from app.domains.tenants.drivers import keys as driver
from app.domains.tenants.errors import (
    key_expired,
    key_not_found,
    key_quota_exceeded,
    key_revoked,
    scope_escalation,
    unknown_scope,
)
from app.domains.tenants.models import (
    AREAS,
    QUOTAS,
    ROLE_SCOPES,
    VERBS,
    CreateKey,
    KeyStatus,
    KeyView,
    Plan,
)
from app.kernel.canonical_json import dumps, loads
from app.kernel.context import has_scope
from app.kernel.hashing import sha256_hex

PREFIX = "hoc_"
PREFIX_SHOWN = 12
KeyChange = Literal["freeze", "unfreeze", "revoke"]
_TARGET = {"freeze": KeyStatus.FROZEN, "unfreeze": KeyStatus.ACTIVE, "revoke": KeyStatus.REVOKED}


def new_secret() -> str:
    """Return a new key, 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def decide_scopes(payload: CreateKey, *, giver: frozenset[str]) -> list[str]:
    """Return the sorted scopes of the role and the list; refuse unknown ones and what the giver lacks."""
    unknown = [scope for scope in payload.scopes if not _exists(scope)]
    if unknown:
        raise unknown_scope(unknown)
    wanted = set(payload.scopes) | (ROLE_SCOPES[payload.role] if payload.role else frozenset())
    lacking = sorted(scope for scope in wanted if not _gives(giver, scope))
    if lacking:
        raise scope_escalation(lacking)
    return sorted(wanted)


def _exists(scope: str) -> bool:
    area, _, verb = scope.partition(":")
    return scope == "*" or (area in AREAS and verb in (*VERBS, "*"))


def _gives(giver: frozenset[str], scope: str) -> bool:
    if scope == "*":
        return "*" in giver
    area, _, verb = scope.partition(":")
    if verb == "*":
        return "*" in giver or scope in giver or all(f"{area}:{each}" in giver for each in VERBS)
    return has_scope(giver, scope)


def decide_change(current: KeyStatus, change: KeyChange, *, expired: bool) -> KeyStatus | None:
    """Return the next status, None for a no-op; refuse KEY_REVOKED and KEY_EXPIRED."""
    if current is _TARGET[change]:
        return None
    if current is KeyStatus.REVOKED:
        raise key_revoked()
    if expired and change != "revoke":
        raise key_expired()
    return _TARGET[change]


def build(
    payload: CreateKey, *, key_id: str, secret: str, scopes: list[str], created_by: str, now: datetime
) -> dict[str, Any]:
    """Return the row of a new key; its secret is stored as a hash alone."""
    empty = ("frozen_at", "frozen_by", "revoked_at", "revoked_by", "last_used_at")
    return {
        "key_id": key_id,
        "name": payload.name,
        "key_hash": sha256_hex(secret.encode()),
        "prefix": secret[:PREFIX_SHOWN],
        "role": payload.role,
        "scopes": dumps(scopes),
        "actor_type": payload.actor_type.value,
        "actor_id": payload.actor_id,
        "rate_limit_rpm": payload.rate_limit_rpm,
        "expires_at": payload.expires_at,
        "created_by": created_by,
        "status": KeyStatus.ACTIVE.value,
        "created_at": now,
        "updated_at": now,
        "version": 1,
        **dict.fromkeys(empty),
    }


def insert(
    connection: DriverConnection, row: Mapping[str, Any], *, tenant_id: str, plan: str, now: datetime
) -> None:
    """Insert a key within the plan's quota; refuse KEY_QUOTA_EXCEEDED."""
    limit = QUOTAS[Plan(plan)].live_keys
    driver.lock_state(connection, tenant_id=tenant_id)
    if driver.count_live_keys(connection, tenant_id=tenant_id, now=now) >= limit:
        raise key_quota_exceeded(limit)
    driver.insert_key(connection, row, tenant_id=tenant_id)


def require(connection: DriverConnection, *, tenant_id: str, key_id: str, lock: bool = False) -> Row:
    """Return the key's row, locked for a change if asked; refuse KEY_NOT_FOUND."""
    row = driver.get_key(connection, tenant_id=tenant_id, key_id=key_id, lock=lock)
    if row is None:
        raise key_not_found()
    return row


def plan_change(
    row: Mapping[str, Any], change: KeyChange, *, now: datetime, by: str, reason: str
) -> dict[str, Any] | None:
    """Return the changed columns with their reasons, None for a no-op."""
    expired = row["expires_at"] is not None and row["expires_at"] <= now
    status = decide_change(KeyStatus(row["status"]), change, expired=expired)
    if status is None:
        return None
    changed: dict[str, Any] = {"status": status.value}
    if status is KeyStatus.REVOKED:
        changed |= {"revoked_at": now, "revoked_by": by, "revoked_reason": reason}
    else:
        frozen = status is KeyStatus.FROZEN
        changed |= {
            "frozen_at": now if frozen else None,
            "frozen_by": by if frozen else None,
            "frozen_reason": reason if frozen else None,
        }
    return changed


def write_change(
    connection: DriverConnection,
    row: Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    tenant_id: str,
    now: datetime,
) -> dict[str, Any]:
    """Write the change under the version that was read and locked; return the new row."""
    written = {**values, "updated_at": now}
    if not driver.set_key(
        connection, written, tenant_id=tenant_id, key_id=row["key_id"], version=row["version"]
    ):
        raise LookupError(f"key {row['key_id']} changed under its own transaction")
    return {**row, **written, "version": row["version"] + 1}


def list_page(
    connection: DriverConnection, *, tenant_id: str, status: str | None, after: str | None, limit: int
) -> Sequence[Row]:
    """Return keys newest first."""
    return driver.list_keys(connection, tenant_id=tenant_id, status=status, after=after, limit=limit)


def view(row: Mapping[str, Any]) -> KeyView:
    """Return the view of a key; its hash never leaves."""
    members = {name: row[name] for name in KeyView.model_fields if name != "protected_state"}
    state = "INTACT" if row["erased_fact_id"] is None else "ERASED"
    return KeyView.model_validate({**members, "scopes": loads(row["scopes"]), "protected_state": state})


def image(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the audit image of a key: its hash as a digest, no reasons."""
    return row_image("api_keys", row)


def note_use(connection: DriverConnection, *, tenant_id: str, used: Mapping[str, datetime]) -> None:
    """Note when each key was last used; a measure, so neither version nor ledger tells of it."""
    for key_id, at in sorted(used.items()):
        driver.set_used(connection, tenant_id=tenant_id, key_id=key_id, at=at)
