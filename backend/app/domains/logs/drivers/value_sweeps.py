"""Logs L6: how far the erasure of over-age values came in each log, and the leaves that come next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import insert
from app.domains.logs.tables import legal_holds, log_heads, log_leaves, tenant_retention, value_sweeps

_L, _S, _R = log_leaves.c, value_sweeps.c, tenant_retention.c


def list_value_days(  # gate: DRV-006 - maintenance serves all tenants
    connection: DriverConnection,
) -> Sequence[int]:
    """Return the different lengths for which tenants keep values, where they have said so themselves."""
    own = sa.select(_R.value_retention_days).distinct()  # gate: SCOPE-001 - all tenants
    return connection.scalars(own).all()


def list_tenants_due(  # gate: DRV-006 - maintenance serves all tenants
    connection: DriverConnection, *, before: datetime, own: Mapping[int, datetime], tenant_scope: str
) -> Sequence[str]:
    """Return the tenants whose next leaf is from before a moment, that of their own days if they have any.

    One that is held as a whole has nothing to do.
    """
    tenant = log_heads.c.tenant_id
    next_at = (
        sa.select(_L.created_at)
        .where(_L.tenant_id == tenant, _L.fact_id > sa.func.coalesce(_S.swept_to, ""))
        .order_by(_L.fact_id)
        .limit(1)
        .scalar_subquery()
    )
    moment = sa.literal(before, _L.created_at.type)
    choices = [
        (_R.value_retention_days == days, sa.literal(at, _L.created_at.type)) for days, at in own.items()
    ]
    held = sa.exists().where(
        legal_holds.c.tenant_id == tenant,
        legal_holds.c.released_at.is_(None),
        legal_holds.c.scope == tenant_scope,
    )
    statement = (
        sa.select(tenant)  # gate: SCOPE-001 - all tenants
        .select_from(
            log_heads.outerjoin(value_sweeps, _S.tenant_id == tenant).outerjoin(
                tenant_retention, _R.tenant_id == tenant
            )
        )
        # Every log has a first epoch.
        .where(
            log_heads.c.epoch == 1,
            next_at <= (sa.case(*choices, else_=moment) if choices else moment),
            ~held,
        )
        .order_by(tenant)
    )
    return connection.scalars(statement).all()


def lock_position(connection: DriverConnection, *, tenant_id: str) -> str | None:
    """Return the newest fact that was looked at, and keep the row until the transaction ends."""
    connection.execute(insert(connection, value_sweeps).values(tenant_id=tenant_id).on_conflict_do_nothing())
    statement = sa.select(_S.swept_to).where(_S.tenant_id == tenant_id).with_for_update()
    return connection.scalars(statement).one_or_none()


def set_position(connection: DriverConnection, *, tenant_id: str, swept_to: str | None) -> None:
    """Store the newest fact that was looked at; None to begin again with the first."""
    statement = (
        insert(connection, value_sweeps)
        .values(tenant_id=tenant_id, swept_to=swept_to)
        .on_conflict_do_update(index_elements=["tenant_id"], set_={"swept_to": swept_to})
    )
    connection.execute(statement)


def list_leaves(
    connection: DriverConnection, *, tenant_id: str, after: str, limit: int, read_types: Sequence[str]
) -> Sequence[Row]:
    """Return the leaves after a fact by id; the statement of some types."""
    statement = (
        sa.select(
            _L.fact_id,
            _L.type,
            _L.run_id,
            _L.ref_table,
            _L.ref_key,
            _L.created_at,
            sa.case((_L.type.in_(read_types), _L.statement), else_=None).label("statement"),
        )
        .where(_L.tenant_id == tenant_id, _L.fact_id > after)
        .order_by(_L.fact_id)
        .limit(limit)
    )
    return connection.execute(statement).mappings().all()
