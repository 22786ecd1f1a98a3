"""L6 SQL of what the derived columns of planes are recounted from: their events."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among
from app.domains.knowledge.tables import knowledge_plane_registry, plane_lifecycle_events

_P, _E = knowledge_plane_registry.c, plane_lifecycle_events.c
_COUNTED = (
    _P.document_count,
    _P.passage_count,
    _P.token_total,
    _P.generation,
    _P.ingested_seq,
    _P.event_seq,
)


def list_counted(connection: DriverConnection, *, tenant_id: str, plane_ids: Sequence[str]) -> Sequence[Row]:
    """Return the derived columns of planes."""
    statement = sa.select(_P.plane_id, *_COUNTED).where(
        _P.tenant_id == tenant_id, among(connection, _P.plane_id, plane_ids)
    )
    return connection.execute(statement).mappings().all()


def list_last_seqs(
    connection: DriverConnection, *, tenant_id: str, plane_ids: Sequence[str]
) -> Sequence[Row]:
    """Return, by plane, the highest seq of its events."""
    statement = (
        sa.select(_E.plane_id, sa.func.max(_E.seq).label("seq"))
        .where(_E.tenant_id == tenant_id, among(connection, _E.plane_id, plane_ids))
        .group_by(_E.plane_id)
    )
    return connection.execute(statement).mappings().all()


def list_settled(
    connection: DriverConnection, *, tenant_id: str, plane_ids: Sequence[str], event_type: str, saying: str
) -> Sequence[Row]:
    """Return, by plane, the details of its newest event of this type that hold a text."""
    other = plane_lifecycle_events.alias("other")
    newest = (
        sa.select(sa.func.max(other.c.seq))
        .where(
            other.c.tenant_id == tenant_id,
            other.c.plane_id == _E.plane_id,
            other.c.event_type == event_type,
            other.c.details.contains(saying, autoescape=True),
        )
        .scalar_subquery()
    )
    statement = sa.select(_E.plane_id, _E.details).where(
        _E.tenant_id == tenant_id, among(connection, _E.plane_id, plane_ids), _E.seq == newest
    )
    return connection.execute(statement).mappings().all()
