"""Logs L6: the audit ledger and its leaves within a span of time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import bytewise
from app.domains.logs.tables import audit_ledger, log_leaves

_E, _L = audit_ledger.c, log_leaves.c
_PLACE = (_E.entry_id, _E.fact_id, _E.created_at)


def list_places(
    connection: DriverConnection,
    *,
    tenant_id: str,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> Sequence[Row]:
    """Return entry_id, fact_id and created_at of the entries in [since, until), newest first."""
    statement = (
        sa.select(*_PLACE)
        .where(_E.tenant_id == tenant_id)
        .order_by(_E.created_at.desc(), bytewise(connection, _E.entry_id).desc())
        .limit(limit)
    )
    if since is not None:
        statement = statement.where(_E.created_at >= since)
    if until is not None:
        statement = statement.where(_E.created_at < until)
    return connection.execute(statement).mappings().all()


def get_first_since(connection: DriverConnection, *, tenant_id: str, since: datetime) -> Row | None:
    """Return the place of the oldest entry at or after a moment."""
    statement = (
        sa.select(*_PLACE)
        .where(_E.tenant_id == tenant_id, _E.created_at >= since)
        .order_by(_E.created_at, bytewise(connection, _E.entry_id))
        .limit(1)
    )
    return connection.execute(statement).mappings().one_or_none()


def list_fact_ids(
    connection: DriverConnection,
    *,
    tenant_id: str,
    beyond: str | None,
    below: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> Sequence[str]:
    """Return the facts about entries in [since, until), whether or not the entries are there.

    `beyond` and `below` are keys of entries outside the span, between which the index is searched.
    """
    key = bytewise(connection, _L.ref_key)
    statement = (
        sa.select(_L.fact_id)
        .where(_L.tenant_id == tenant_id, _L.ref_table == "audit_ledger")
        .order_by(key.desc())
        .limit(limit)
    )
    if beyond is not None:
        statement = statement.where(key > beyond)
    if below is not None:
        statement = statement.where(key < below)
    if since is not None:
        statement = statement.where(_L.created_at >= since)
    if until is not None:
        statement = statement.where(_L.created_at < until)
    return connection.scalars(statement).all()


def list_run_events(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    since: datetime,
    until: datetime,
    limit: int,
) -> Sequence[Row]:
    """Return what a run's entries of [since, until] are, oldest first, without their states."""
    statement = (
        sa.select(_E.entry_id, _E.event_type, _E.entity_type, _E.entity_id, _E.created_at)
        .where(_E.tenant_id == tenant_id, _E.run_id == run_id, _E.created_at >= since, _E.created_at <= until)
        .order_by(_E.created_at, bytewise(connection, _E.entry_id))
        .limit(limit)
    )
    return connection.execute(statement).mappings().all()
