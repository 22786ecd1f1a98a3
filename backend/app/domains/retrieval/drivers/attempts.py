"""Retrieval L6: the journal of accesses whose source is being asked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among, different
from app.db.hot import HotStatement
from app.domains.retrieval.tables import retrieval_attempts

_A = retrieval_attempts.c
_INSERT = HotStatement(
    retrieval_attempts.insert().values(
        {name: sa.bindparam(name) for name in ("tenant_id", "evidence_id", "evidence", "deadline_at")}
    )
)
_DELETE = HotStatement(
    retrieval_attempts.delete()
    .where(_A.tenant_id == sa.bindparam("tenant"), _A.evidence_id == sa.bindparam("evidence"))
    .returning(_A.evidence_id)
)


def insert_attempt(
    connection: DriverConnection, *, tenant_id: str, evidence_id: str, evidence: str, deadline_at: datetime
) -> None:
    """Insert one access."""
    connection.hot(
        _INSERT,
        {
            "tenant_id": tenant_id,
            "evidence_id": evidence_id,
            "evidence": evidence,
            "deadline_at": deadline_at,
        },
    )


def delete_attempt(connection: DriverConnection, *, tenant_id: str, evidence_id: str) -> bool:
    """Delete one access; False when it is not there."""
    return len(connection.hot(_DELETE, {"tenant": tenant_id, "evidence": evidence_id})) == 1


def take_due(connection: DriverConnection, *, tenant_id: str, until: datetime, limit: int) -> Sequence[Row]:
    """Delete the accesses whose deadline was before a moment and that nobody holds; return them."""
    held = (
        sa.select(_A.evidence_id, _A.evidence)
        .where(_A.tenant_id == tenant_id, _A.deadline_at < until)
        .order_by(_A.deadline_at, _A.evidence_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = connection.execute(held).mappings().all()
    ids = [row["evidence_id"] for row in rows]
    connection.execute(
        retrieval_attempts.delete().where(_A.tenant_id == tenant_id, among(connection, _A.evidence_id, ids))
    )
    return rows


def list_tenants_due(
    connection: DriverConnection, *, until: datetime
) -> Sequence[str]:  # gate: DRV-006 - maintenance serves all tenants
    """Return the tenants with an access whose deadline was before a moment."""
    due = sa.select(_A.tenant_id).where(_A.deadline_at < until)  # gate: SCOPE-001 - all tenants
    return connection.scalars(different(due)).all()
