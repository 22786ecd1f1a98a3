"""Logs L6: leaves by what they are about: a numbered row, or the log itself."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among, bytewise
from app.domains.logs.tables import log_leaves

_L = log_leaves.c


def list_by_keys(
    connection: DriverConnection, *, tenant_id: str, table: str, type_name: str, keys: Sequence[str]
) -> Sequence[Row]:
    """Return fact and statement of the leaves of one type about these rows of a table."""
    statement = sa.select(_L.fact_id, _L.statement).where(
        _L.tenant_id == tenant_id,
        _L.ref_table == table,
        among(connection, _L.ref_key, keys),
        _L.type == type_name,
    )
    return connection.execute(statement).mappings().all()


def list_beyond(
    connection: DriverConnection, *, tenant_id: str, table: str, type_name: str, key: str, limit: int
) -> Sequence[Row]:
    """Return the leaves about rows whose number is higher; keys of one form sort by length, then bytes."""
    length, text = sa.func.length(_L.ref_key), bytewise(connection, _L.ref_key)
    statement = (
        sa.select(_L.fact_id, _L.statement)
        .where(
            _L.tenant_id == tenant_id,
            _L.ref_table == table,
            _L.type == type_name,
            sa.or_(length > len(key), sa.and_(length == len(key), text > key)),
        )
        .order_by(length, text)
        .limit(limit)
    )
    return connection.execute(statement).mappings().all()


def find_newest(connection: DriverConnection, *, tenant_id: str, type_name: str) -> Row | None:
    """Return the newest leaf of a type of facts without a row."""
    statement = (
        sa.select(_L.fact_id, _L.statement, _L.created_at)
        .where(_L.tenant_id == tenant_id, _L.ref_table.is_(None), _L.type == type_name)
        .order_by(_L.fact_id.desc())
        .limit(1)
    )
    return connection.execute(statement).mappings().one_or_none()
