"""Logs L6: results of verifications, and entries of the log with the leaves that stand behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import bytewise
from app.db.newest import newest
from app.db.types import as_stored
from app.domains.logs.tables import log_entries, log_heads, log_leaves, log_verifications

_COLUMNS = tuple(column for column in log_verifications.columns if column.name != "tenant_id")
_ENTRY = (
    log_entries.c.idx,
    log_entries.c.fact_id.label("entry_fact_id"),
    *(column for column in log_leaves.columns if column.name != "tenant_id"),
)
_RAW_ENTRY = (
    as_stored(log_entries.c.idx),
    as_stored(log_entries.c.fact_id).label("entry_fact_id"),
    *(as_stored(column) for column in log_leaves.columns if column.name != "tenant_id"),
)
_V = log_verifications.c


def list_entries(
    connection: DriverConnection, *, tenant_id: str, epoch: int, first: int, last: int, raw: bool = False
) -> Sequence[Row]:
    """Return the entries [first, last) by index, each with its leaf's columns, null when the leaf is gone."""
    statement = (
        sa.select(*(_RAW_ENTRY if raw else _ENTRY))
        .select_from(
            log_entries.outerjoin(
                log_leaves,
                sa.and_(
                    log_leaves.c.tenant_id == log_entries.c.tenant_id,
                    log_leaves.c.fact_id == log_entries.c.fact_id,
                ),
            )
        )
        .where(
            log_entries.c.tenant_id == tenant_id,
            log_entries.c.epoch == epoch,
            log_entries.c.idx >= first,
            log_entries.c.idx < last,
        )
        .order_by(log_entries.c.idx)
    )
    return connection.execute(statement).mappings().all()


def insert_result(connection: DriverConnection, row: Mapping[str, Any], *, tenant_id: str) -> None:
    """Insert what a verification found."""
    connection.execute(log_verifications.insert(), {**row, "tenant_id": tenant_id})


def get_result(connection: DriverConnection, *, tenant_id: str, verification_id: str) -> Row | None:
    """Return one result."""
    statement = sa.select(*_COLUMNS).where(_V.tenant_id == tenant_id, _V.verification_id == verification_id)
    return connection.execute(statement).mappings().one_or_none()


def list_results(
    connection: DriverConnection, *, tenant_id: str, before: tuple[datetime, str] | None, limit: int
) -> Sequence[Row]:
    """Return results, newest first."""
    statement = sa.select(*_COLUMNS).where(_V.tenant_id == tenant_id)
    name = bytewise(connection, _V.verification_id)
    page = newest(statement, _V.finished_at, name, equal={}, before=before, limit=limit)
    return connection.execute(page).mappings().all()


def get_newest(
    connection: DriverConnection, *, tenant_id: str, epoch: int, kinds: Sequence[str], status: str
) -> Row | None:
    """Return the newest result of these kinds with this status."""
    statement = (
        sa.select(*_COLUMNS)
        .where(_V.tenant_id == tenant_id, _V.epoch == epoch, _V.kind.in_(kinds), _V.status == status)
        .order_by(_V.finished_at.desc(), bytewise(connection, _V.verification_id).desc())
        .limit(1)
    )
    return connection.execute(statement).mappings().one_or_none()


def get_verified_size(
    connection: DriverConnection, *, tenant_id: str, epoch: int, kinds: Sequence[str], status: str
) -> int:
    """Return up to which index results of these kinds have this status; 0 when there is none."""
    statement = sa.select(sa.func.max(_V.to_idx)).where(
        _V.tenant_id == tenant_id, _V.epoch == epoch, _V.kind.in_(kinds), _V.status == status
    )
    return int(connection.scalars(statement).one() or 0)


def list_open_failures(
    connection: DriverConnection, *, tenant_id: str, epoch: int, failed: str, verified: str, limit: int
) -> Sequence[Row]:
    """Return failed results whose range no later verified result covers, newest first."""
    later = log_verifications.alias("later")
    covered = sa.exists().where(
        later.c.tenant_id == _V.tenant_id,
        later.c.epoch == _V.epoch,
        later.c.status == verified,
        later.c.finished_at > _V.finished_at,
        later.c.from_idx <= _V.from_idx,
        later.c.to_idx >= _V.to_idx,
    )
    statement = (
        sa.select(*_COLUMNS)
        .where(_V.tenant_id == tenant_id, _V.epoch == epoch, _V.status == failed, ~covered)
        .order_by(_V.finished_at.desc(), bytewise(connection, _V.verification_id).desc())
        .limit(limit)
    )
    return connection.execute(statement).mappings().all()


def list_logs(
    connection: DriverConnection, *, after: str, limit: int
) -> Sequence[Row]:  # gate: DRV-006 - the verifier serves all tenants
    """Return tenant_id, epoch and signed_size of each log's newest epoch, by tenant."""
    other = log_heads.alias("other")
    newest = sa.select(sa.func.max(other.c.epoch)).where(other.c.tenant_id == log_heads.c.tenant_id)
    statement = (
        sa.select(  # gate: SCOPE-001 - the verifier serves all tenants
            log_heads.c.tenant_id, log_heads.c.epoch, log_heads.c.signed_size
        )
        .where(log_heads.c.tenant_id > after, log_heads.c.epoch == newest.scalar_subquery())
        .order_by(log_heads.c.tenant_id)
        .limit(limit)
    )
    return connection.execute(statement).mappings().all()
