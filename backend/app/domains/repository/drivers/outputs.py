"""L6 SQL of run outputs: which run brought about which revision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import bytewise, insert
from app.db.pairs import among_pairs
from app.domains.repository.tables import artifact_revisions, artifacts, run_outputs

_P, _R, _A = run_outputs.c, artifact_revisions.c, artifacts.c
_SOURCE = run_outputs.join(
    artifact_revisions,
    sa.and_(_R.tenant_id == _P.tenant_id, _R.artifact_id == _P.artifact_id, _R.revision == _P.revision),
).join(artifacts, sa.and_(_A.tenant_id == _P.tenant_id, _A.id == _P.artifact_id))
_COLUMNS = (
    _P.run_id, _P.artifact_id, _P.revision, _P.role, _P.created_at, _R.revision_digest, _R.redaction,
    _A.deleted_at,
)  # fmt: skip


def list_outputs(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    limit: int | None = None,
    newest: bool = False,
) -> Sequence[Row]:
    """Return the outputs of a run with the state of their targets, by time, artifact and revision."""
    order = (_P.created_at, bytewise(connection, _P.artifact_id), _P.revision)
    statement = (
        sa.select(*_COLUMNS)
        .select_from(_SOURCE)
        .where(_P.tenant_id == tenant_id, _P.run_id == run_id)
        .order_by(*(column.desc() if newest else column for column in order))
    )
    if limit is not None:
        statement = statement.limit(limit)
    return connection.execute(statement).mappings().all()


def count_outputs(connection: DriverConnection, *, tenant_id: str, run_id: str) -> int:
    """Return how many outputs a run has."""
    statement = sa.select(sa.func.count()).where(_P.tenant_id == tenant_id, _P.run_id == run_id)
    return int(connection.scalars(statement).one())


def list_links(
    connection: DriverConnection, *, tenant_id: str, refs: Sequence[tuple[str, int]]
) -> Sequence[Row]:
    """Return the links to these (artifact_id, revision) pairs, whichever run they are of."""
    statement = (
        sa.select(*_COLUMNS)
        .select_from(_SOURCE)
        .where(_P.tenant_id == tenant_id, among_pairs(connection, _P.artifact_id, _P.revision, refs))
    )
    return connection.execute(statement).mappings().all()


def insert_outputs(
    connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Append links."""
    connection.execute(insert(connection, run_outputs), [{"tenant_id": tenant_id, **row} for row in rows])
