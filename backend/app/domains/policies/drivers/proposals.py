"""Policies L6: rows of proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import insert
from app.domains.policies.tables import policy_proposals

_C = policy_proposals.c
_ALL = tuple(policy_proposals.columns)


def insert_proposal(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> bool:
    """Insert a proposal; False when its id is taken."""
    statement = (
        insert(connection, policy_proposals)
        .values({**row, "tenant_id": tenant_id})
        .on_conflict_do_nothing(index_elements=[_C.tenant_id, _C.proposal_id])
        .returning(_C.proposal_id)
    )
    return connection.scalars(statement).one_or_none() is not None


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
    status: str | None,
    after: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return whole rows, newest first, after a (created_at, proposal_id)."""
    statement = sa.select(*_ALL).where(_C.tenant_id == tenant_id)
    if status is not None:
        statement = statement.where(_C.status == status)
    if after is not None:
        last = sa.tuple_(sa.literal(after[0], _C.created_at.type), sa.literal(after[1], sa.Text))
        statement = statement.where(sa.tuple_(_C.created_at, _C.proposal_id) < last)
    statement = statement.order_by(_C.created_at.desc(), _C.proposal_id.desc()).limit(limit)
    return connection.execute(statement).mappings().all()
