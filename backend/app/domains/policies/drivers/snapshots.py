"""Policies L6: SQL of policy snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import insert
from app.domains.policies.tables import policy_snapshots

_S = policy_snapshots.c


def get_snapshot(
    connection: DriverConnection, *, tenant_id: str, snapshot_id: str
) -> Mapping[str, Any] | None:
    """Return one snapshot with its text."""
    statement = sa.select(
        _S.snapshot_id, _S.content, _S.content_hash, _S.rule_count, _S.limit_count, _S.created_at
    ).where(_S.tenant_id == tenant_id, _S.snapshot_id == snapshot_id)
    return connection.execute(statement).mappings().one_or_none()


def insert_snapshot(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> bool:
    """Insert one snapshot; False when there is one of its id or hash."""
    statement = insert(connection, policy_snapshots).on_conflict_do_nothing().returning(_S.snapshot_id)
    return connection.scalars(statement, {**row, "tenant_id": tenant_id}).one_or_none() is not None
