"""L6 SQL of blobs: bytes by digest, stored once per tenant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.dialect import insert
from app.domains.repository.tables import blobs

_B = blobs.c


def list_blobs(
    connection: DriverConnection, *, tenant_id: str, digests: Sequence[str]
) -> Sequence[Mapping[str, Any]]:
    """Return digest, state and blocked of the digests that are known."""
    statement = sa.select(_B.digest, _B.state, _B.blocked).where(
        _B.tenant_id == tenant_id, _B.digest.in_(digests)
    )
    return connection.execute(statement).mappings().all()


def insert_blobs(connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store bytes; a stub of the same digest gets its bytes back."""
    statement = insert(connection, blobs)
    filled = statement.on_conflict_do_update(
        index_elements=[_B.tenant_id, _B.digest],
        set_={
            "data": statement.excluded.data,
            "state": statement.excluded.state,
            "state_at": statement.excluded.created_at,
        },
        where=_B.state != statement.excluded.state,
    )
    connection.execute(filled, [{"tenant_id": tenant_id, **row} for row in rows])
