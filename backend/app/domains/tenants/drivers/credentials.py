"""Tenants L6: the API-key look-up, the one statement that crosses tenants by key hash."""

from __future__ import annotations

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.domains.tenants.tables import api_keys, system_state, tenants


def get_credential(
    connection: DriverConnection, *, key_hash: str
) -> Row | None:  # gate: DRV-006 - the hash decides which tenant it is
    """Return key, tenant status, plan and degraded mode by the key's hash; None when no key has it."""
    return (
        connection.execute(
            sa.select(
                api_keys.c.tenant_id,
                api_keys.c.key_id,
                api_keys.c.actor_type,
                api_keys.c.actor_id,
                api_keys.c.scopes,
                api_keys.c.rate_limit_rpm,
                api_keys.c.expires_at,
                api_keys.c.status.label("key_status"),
                tenants.c.status.label("tenant_status"),
                tenants.c.plan,
                system_state.c.degraded,
            )
            .join(tenants, tenants.c.tenant_id == api_keys.c.tenant_id)
            .join(system_state, sa.true())
            .where(api_keys.c.key_hash == key_hash)  # gate: SCOPE-001 - the hash decides which tenant it is
        )
        .mappings()
        .one_or_none()
    )
