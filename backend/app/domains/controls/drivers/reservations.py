"""Controls L6: rows of reservations and of recorded use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSON

from app.db.connection import DriverConnection, Row
from app.db.dialect import different
from app.db.hot import HotStatement
from app.db.types import BigInt
from app.domains.controls.tables import usage_records, usage_reservations

_R, _U = usage_reservations.c, usage_records.c
_ALL = tuple(usage_reservations.columns)
# Written out: the partial index of what is due serves no parameter.
_OPEN = _R.status == sa.literal_column("'OPEN'")
_INSERT = HotStatement(usage_reservations.insert(), columns=[column.name for column in _ALL])


def insert_reservation(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> None:
    """Insert an OPEN reservation."""
    connection.hot(_INSERT, {**row, "tenant_id": tenant_id})


def lock_open(
    connection: DriverConnection, *, tenant_id: str, run_id: str, reservation_ids: Sequence[str]
) -> Sequence[Row]:
    """Return those of these reservations of a run that are OPEN, and hold them."""
    statement = (
        sa.select(*_ALL)
        .where(
            _R.tenant_id == tenant_id,
            _R.run_id == run_id,
            _R.reservation_id.in_(reservation_ids),
            _R.status == "OPEN",
        )
        .order_by(_R.reservation_id)
        .with_for_update()
    )
    return connection.execute(statement).mappings().all()


def lock_attempt(connection: DriverConnection, *, tenant_id: str, run_id: str, attempt: int) -> Sequence[Row]:
    """Return the OPEN reservations of an attempt, and hold them; those that are just running out are left."""
    statement = (
        sa.select(*_ALL)
        .where(_R.tenant_id == tenant_id, _R.run_id == run_id, _R.attempt == attempt, _R.status == "OPEN")
        .order_by(_R.reservation_id)
        # The caller holds the run; only what has run out is held without it, and is given back anyway.
        .with_for_update(skip_locked=True)
    )
    return connection.execute(statement).mappings().all()


def lock_due(connection: DriverConnection, *, tenant_id: str, now: datetime, limit: int) -> Sequence[Row]:
    """Return OPEN reservations that have run out, and hold them; those that others hold are left out."""
    statement = (
        sa.select(*_ALL)
        .where(_R.tenant_id == tenant_id, _OPEN, _R.expires_at <= now)
        .order_by(_R.expires_at, _R.reservation_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return connection.execute(statement).mappings().all()


def list_tenants_due(
    connection: DriverConnection, *, now: datetime
) -> Sequence[str]:  # gate: DRV-006 - maintenance serves all tenants
    """Return the tenants that have OPEN reservations that have run out."""
    due = sa.select(_R.tenant_id).where(_OPEN, _R.expires_at <= now)  # gate: SCOPE-001 - all tenants
    return connection.scalars(different(due)).all()


def set_closed(
    connection: DriverConnection,
    *,
    tenant_id: str,
    reservation_ids: Sequence[str],
    status: str,
    now: datetime,
) -> None:
    """Close reservations that are held."""
    connection.execute(
        usage_reservations.update()
        .where(_R.tenant_id == tenant_id, _R.reservation_id.in_(reservation_ids))
        .values(status=status, closed_at=now, updated_at=now, version=_R.version + 1)
    )


def get_reservation(
    connection: DriverConnection, *, tenant_id: str, run_id: str, reservation_id: str
) -> Row | None:
    """Return one reservation of a run."""
    statement = sa.select(*_ALL).where(
        _R.tenant_id == tenant_id, _R.run_id == run_id, _R.reservation_id == reservation_id
    )
    return connection.execute(statement).mappings().one_or_none()


def list_open(connection: DriverConnection, *, tenant_id: str, run_id: str, limit: int) -> Sequence[Row]:
    """Return the OPEN reservations of a run, by attempt and id."""
    statement = (
        sa.select(*_ALL)
        .where(_R.tenant_id == tenant_id, _R.run_id == run_id, _R.status == "OPEN")
        .order_by(_R.attempt, _R.reservation_id)
        .limit(limit)
    )
    return connection.execute(statement).mappings().all()


def get_record(connection: DriverConnection, *, tenant_id: str, run_id: str, usage_id: str) -> Row | None:
    """Return one usage record."""
    statement = sa.select(*usage_records.columns).where(
        _U.tenant_id == tenant_id, _U.run_id == run_id, _U.usage_id == usage_id
    )
    return connection.execute(statement).mappings().one_or_none()


def insert_record(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> None:
    """Insert a usage record."""
    connection.execute(usage_records.insert(), {**row, "tenant_id": tenant_id})


def sum_usage(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Sequence[Row]:
    """Return attempt, metric, total, and the total of records that do not state their TOKENS_TOTAL."""
    usage = _U.usage
    if connection.dialect_name == "postgresql":
        each = (
            sa.func.json_each_text(sa.cast(usage, JSON))
            .table_valued("key", "value")
            .render_derived(name="used")
        )
        unstated = sa.func.json_extract_path_text(sa.cast(usage, JSON), "TOKENS_TOTAL").is_(None)
    else:
        each = sa.func.json_each(usage).table_valued("key", "value", name="used")
        unstated = sa.func.json_extract(usage, "$.TOKENS_TOTAL").is_(None)
    amount = sa.cast(each.c.value, BigInt)
    statement = (
        sa.select(
            _U.attempt,
            each.c.key.label("metric"),
            sa.cast(sa.func.sum(amount), BigInt).label("total"),
            sa.cast(sa.func.sum(sa.case((unstated, amount), else_=0)), BigInt).label("unstated"),
        )
        .select_from(usage_records.join(each, sa.true()))
        .where(_U.tenant_id == tenant_id, _U.run_id == run_id)
        .group_by(_U.attempt, each.c.key)
    )
    return connection.execute(statement).mappings().all()
