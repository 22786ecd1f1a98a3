"""Retrieval L6: evidence rows and the documents they cite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from app.db.connection import DriverConnection, Row
from app.db.dialect import bytewise
from app.domains.retrieval.tables import retrieval_evidence, retrieval_evidence_documents

_COLUMNS = tuple(
    column for column in retrieval_evidence.columns if column.name not in ("tenant_id", "fact_id", "span_id")
)
_INSERT = retrieval_evidence.insert()
_INSERT_DOCUMENT = retrieval_evidence_documents.insert()
# One statement over arrays costs half of a statement for each document.
_ARRAYS: Mapping[str, Any] = {
    name: retrieval_evidence_documents.c[name].type
    for name in ("evidence_id", "position", "doc_ref", "revision", "digest")
}
_arrays = (
    sa.func.unnest(*(sa.cast(sa.bindparam(name), postgresql.ARRAY(kind)) for name, kind in _ARRAYS.items()))
    .table_valued(*_ARRAYS)
    .render_derived()
)
_INSERT_ARRAYS = retrieval_evidence_documents.insert().from_select(
    ["tenant_id", *_ARRAYS], sa.select(sa.cast(sa.bindparam("tenant_id"), sa.Text), *_arrays.c)
)


def insert_evidence(connection: DriverConnection, row: Mapping[str, Any], *, tenant_id: str) -> None:
    """Insert one evidence row."""
    connection.execute(_INSERT, {**row, "tenant_id": tenant_id})


def insert_documents(
    connection: DriverConnection, rows: Sequence[Mapping[str, Any]], *, tenant_id: str
) -> None:
    """Insert the cited documents of one evidence row in one statement."""
    if connection.dialect_name == "sqlite":
        connection.execute(_INSERT_DOCUMENT, [{**row, "tenant_id": tenant_id} for row in rows])
        return
    arrays = {name: [row[name] for row in rows] for name in _ARRAYS}
    connection.execute(_INSERT_ARRAYS, {"tenant_id": tenant_id, **arrays})


def get_evidence(connection: DriverConnection, *, tenant_id: str, evidence_id: str) -> Row | None:
    """Return one evidence row."""
    statement = sa.select(*_COLUMNS).where(
        retrieval_evidence.c.tenant_id == tenant_id, retrieval_evidence.c.evidence_id == evidence_id
    )
    return connection.execute(statement).mappings().one_or_none()


def list_evidence(
    connection: DriverConnection,
    *,
    tenant_id: str,
    equal: Mapping[str, Any],
    since: datetime | None,
    until: datetime | None,
    before: str | None,
    limit: int,
) -> Sequence[Row]:
    """Return evidence newest first by evidence_id (ids sort by time), within [since, until)."""
    evidence_id = bytewise(connection, retrieval_evidence.c.evidence_id)
    statement = (
        sa.select(*_COLUMNS)
        .where(retrieval_evidence.c.tenant_id == tenant_id)
        .order_by(evidence_id.desc())
        .limit(limit)
    )
    for name, value in equal.items():
        statement = statement.where(retrieval_evidence.c[name] == value)
    if since is not None:
        statement = statement.where(retrieval_evidence.c.requested_at >= since)
    if until is not None:
        statement = statement.where(retrieval_evidence.c.requested_at < until)
    if before is not None:
        statement = statement.where(evidence_id < before)
    return connection.execute(statement).mappings().all()


def list_readers(
    connection: DriverConnection, *, tenant_id: str, plane_id: str, run_ids: Sequence[str], limit: int
) -> Sequence[str]:
    """Return which of these runs were given knowledge of the plane."""
    statement = (
        sa.select(retrieval_evidence.c.run_id)
        .where(
            retrieval_evidence.c.tenant_id == tenant_id,
            retrieval_evidence.c.plane_id == plane_id,
            retrieval_evidence.c.outcome == "ALLOWED",
            retrieval_evidence.c.run_id.in_(run_ids),
        )
        .distinct()
        .order_by(retrieval_evidence.c.run_id)
        .limit(limit)
    )
    return connection.scalars(statement).all()


def count_evidence(connection: DriverConnection, *, tenant_id: str, run_id: str) -> int:
    """Return how many accesses a run attempted."""
    statement = (
        sa.select(sa.func.count())
        .select_from(retrieval_evidence)
        .where(retrieval_evidence.c.tenant_id == tenant_id, retrieval_evidence.c.run_id == run_id)
    )
    return int(connection.scalars(statement).one())


def list_cited(connection: DriverConnection, *, tenant_id: str, digests: Sequence[str]) -> Sequence[str]:
    """Return which of these digests stand in the evidence of an access."""
    columns = retrieval_evidence_documents.c
    statement = (
        sa.select(columns.digest)
        .where(columns.tenant_id == tenant_id, columns.digest.in_(digests))
        .distinct()
    )
    return connection.scalars(statement).all()
