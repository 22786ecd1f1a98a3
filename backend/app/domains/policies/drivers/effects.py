"""Policies L6: SQL of where a rule came from, and of the snapshots that it is in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.domains.policies.tables import policy_proposals, policy_rules, policy_snapshots

_R, _P, _S = policy_rules.c, policy_proposals.c, policy_snapshots.c


def get_origin(connection: DriverConnection, *, tenant_id: str, rule_id: str) -> Row | None:
    """Return a rule's state and source with the proposal that it was made from, if any."""
    joined = policy_rules.outerjoin(
        policy_proposals,
        sa.and_(_P.tenant_id == _R.tenant_id, _P.proposal_id == _R.source_proposal_id),
    )
    statement = (
        sa.select(
            _R.rule_id,
            _R.status,
            _R.source,
            _R.created_at,
            _R.activated_at,
            _P.proposal_id,
            _P.source.label("proposal_source"),
            _P.source_ref,
            _P.source_run_id,
        )
        .select_from(joined)
        .where(_R.tenant_id == tenant_id, _R.rule_id == rule_id)
    )
    return connection.execute(statement).mappings().one_or_none()


def list_snapshots_with(
    connection: DriverConnection, *, tenant_id: str, quoted: str, since: datetime
) -> Sequence[str]:
    """Return the ids of snapshots made since then whose text holds `quoted`."""
    position = sa.func.instr if connection.dialect_name == "sqlite" else sa.func.strpos
    statement = sa.select(_S.snapshot_id).where(
        _S.tenant_id == tenant_id, _S.created_at >= since, position(_S.content, quoted) > 0
    )
    return connection.scalars(statement).all()
