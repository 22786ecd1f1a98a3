"""Policies L6: rows of proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import insert
from app.db.newest import newest
from app.domains.policies.tables import policy_proposals

_C = policy_proposals.c
_ALL = tuple(policy_proposals.columns)


def insert_proposal(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> bool:
    """Insert a proposal; False when its id is taken."""
    statement = (
        insert(connection, policy_proposals)
        .on_conflict_do_nothing(index_elements=[_C.tenant_id, _C.proposal_id])
        .returning(_C.proposal_id)
    )
    return connection.scalars(statement, {**row, "tenant_id": tenant_id}).one_or_none() is not None


def get_proposal(connection: DriverConnection, *, tenant_id: str, proposal_id: str) -> Row | None:
    """Return the whole row of a proposal, without a lock."""
    statement = sa.select(*_ALL).where(_C.tenant_id == tenant_id, _C.proposal_id == proposal_id)
    return connection.execute(statement).mappings().one_or_none()


def lock_proposal(connection: DriverConnection, *, tenant_id: str, proposal_id: str) -> Row | None:
    """Return the whole row of a proposal and hold it until the transaction ends."""
    statement = (
        sa.select(*_ALL)
        .where(_C.tenant_id == tenant_id, _C.proposal_id == proposal_id)
        .with_for_update(key_share=True)
    )
    return connection.execute(statement).mappings().one_or_none()


def set_proposal(
    connection: DriverConnection,
    *,
    tenant_id: str,
    proposal_id: str,
    version: int,
    values: Mapping[str, Any],
) -> Row | None:
    """Change the proposal that has this version and return it as it now is; None when it has not."""
    statement = (
        sa.update(policy_proposals)
        .where(_C.tenant_id == tenant_id, _C.proposal_id == proposal_id, _C.version == version)
        .values({**values, "version": version + 1})
        .returning(*_ALL)
    )
    return connection.execute(statement).mappings().one_or_none()


def list_proposals(
    connection: DriverConnection,
    *,
    tenant_id: str,
    equal: Mapping[str, Any],
    before: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return whole rows, newest first, before a (created_at, proposal_id)."""
    mine = sa.select(*_ALL).where(_C.tenant_id == tenant_id)
    page = newest(mine, _C.created_at, _C.proposal_id, equal=equal, before=before, limit=limit)
    return connection.execute(page).mappings().all()
