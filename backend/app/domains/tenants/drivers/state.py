"""Tenants L6: counters and switches of one tenant, the digest key, the system's switches."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.hot import HotStatement
from app.domains.tenants.tables import api_keys, system_state, tenant_secrets, tenant_state, tenants

# Every operation reads it first.
_STANDING = HotStatement(
    sa.select(
        tenants.c.status.label("tenant_status"),
        tenants.c.plan,
        tenants.c.allow_self_approval,
        tenant_state.c.frozen.label("tenant_frozen"),
        tenant_state.c.policy_version,
        tenant_state.c.live_epoch,
        system_state.c.kill_engaged,
        system_state.c.degraded,
        api_keys.c.status.label("key_status"),
        api_keys.c.expires_at.label("key_expires_at"),
    )
    .select_from(
        tenants.join(tenant_state, tenant_state.c.tenant_id == tenants.c.tenant_id)
        .join(system_state, sa.true())
        .outerjoin(
            api_keys,
            sa.and_(api_keys.c.tenant_id == tenants.c.tenant_id, api_keys.c.key_id == sa.bindparam("key")),
        )
    )
    .where(tenants.c.tenant_id == sa.bindparam("tenant"))
)

_COUNT = HotStatement(
    tenant_state.update()
    .where(tenant_state.c.tenant_id == sa.bindparam("tenant"))
    .values(
        policy_version=tenant_state.c.policy_version + sa.bindparam("policy", type_=sa.Integer),
        live_epoch=tenant_state.c.live_epoch + sa.bindparam("live", type_=sa.Integer),
    )
    .returning(tenant_state.c.policy_version, tenant_state.c.live_epoch)
)


def get_standing(connection: DriverConnection, *, tenant_id: str, key_id: str | None = None) -> Row | None:
    """Return tenant status, switches and key status in one row; None for an unknown tenant."""
    return next(iter(connection.hot(_STANDING, {"tenant": tenant_id, "key": key_id})), None)


def insert_state(
    connection: DriverConnection, *, tenant_id: str, now: datetime, runs_day: str, digest_key: bytes
) -> None:
    """Insert the state row and the digest key of a new tenant."""
    made = {"tenant_id": tenant_id, "created_at": now}
    connection.execute(tenant_state.insert(), {**made, "runs_day": runs_day})
    connection.execute(tenant_secrets.insert(), {**made, "digest_key": digest_key})


def get_digest_key(connection: DriverConnection, *, tenant_id: str) -> bytes | None:
    """Return the tenant's digest key, 32 bytes."""
    return connection.scalars(
        sa.select(tenant_secrets.c.digest_key).where(tenant_secrets.c.tenant_id == tenant_id)
    ).one_or_none()


def count_version(
    connection: DriverConnection, *, tenant_id: str, policy: int = 0, live: int = 0
) -> Row | None:
    """Raise policy_version and live_epoch by these steps and return both."""
    given = {"tenant": tenant_id, "policy": policy, "live": live}
    return next(iter(connection.hot(_COUNT, given)), None)


def count_run_start(
    connection: DriverConnection, *, tenant_id: str, day: str, concurrent: int, per_day: int
) -> Row | None:
    """Take the next run number under both quotas; None when one is used up."""
    today = sa.case((tenant_state.c.runs_day == day, tenant_state.c.runs_today), else_=0)
    statement = (
        tenant_state.update()
        .where(
            tenant_state.c.tenant_id == tenant_id, tenant_state.c.running_runs < concurrent, today < per_day
        )
        .values(
            next_run_no=tenant_state.c.next_run_no + 1,
            running_runs=tenant_state.c.running_runs + 1,
            runs_day=day,
            runs_today=today + 1,
        )
        .returning(tenant_state.c.next_run_no, tenant_state.c.policy_version)
    )
    return connection.execute(statement).mappings().one_or_none()


def count_run_undone(connection: DriverConnection, *, tenant_id: str) -> int:
    """Take back the run number and both counts that this transaction took; return the row count."""
    return connection.execute(
        tenant_state.update()
        .where(tenant_state.c.tenant_id == tenant_id, tenant_state.c.running_runs > 0)
        .values(
            next_run_no=tenant_state.c.next_run_no - 1,
            running_runs=tenant_state.c.running_runs - 1,
            runs_today=tenant_state.c.runs_today - 1,
        )
    ).rowcount


def count_run_end(connection: DriverConnection, *, tenant_id: str) -> int:
    """Give one running run back; return the row count."""
    return connection.execute(
        tenant_state.update()
        .where(tenant_state.c.tenant_id == tenant_id, tenant_state.c.running_runs > 0)
        .values(running_runs=tenant_state.c.running_runs - 1)
    ).rowcount


def get_quota_use(connection: DriverConnection, *, tenant_id: str) -> Row | None:
    """Return running_runs, runs_day and runs_today."""
    return (
        connection.execute(
            sa.select(tenant_state.c.running_runs, tenant_state.c.runs_day, tenant_state.c.runs_today).where(
                tenant_state.c.tenant_id == tenant_id
            )
        )
        .mappings()
        .one_or_none()
    )
