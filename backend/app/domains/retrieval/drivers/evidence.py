"""Retrieval L6: evidence rows and the documents they cite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among, bytewise
from app.db.hot import HotStatement
from app.db.newest import newest
from app.domains.retrieval.tables import retrieval_evidence, retrieval_evidence_documents

_COLUMNS = tuple(
    column for column in retrieval_evidence.columns if column.name not in ("tenant_id", "fact_id", "span_id")
)
_DOCUMENT = ("tenant_id", "evidence_id", "position", "doc_ref", "revision", "digest")
# The rows of cited documents are read from the row's own list of them, so they cannot say anything else.
_CITED = sa.text(
    """
    SELECT CAST(:tenant_id AS text), CAST(:evidence_id AS text), place - 1,
        COALESCE(cited ->> 'artifact_id', cited ->> 'doc_ref'), CAST(cited ->> 'revision' AS integer),
        cited ->> 'digest'
    FROM json_array_elements(CAST(:documents AS json)) WITH ORDINALITY AS listed(cited, place)
    """
).columns(*(retrieval_evidence_documents.c[name] for name in _DOCUMENT))
_CITED_SQLITE = sa.text(
    """
    SELECT :tenant_id, :evidence_id, key,
        COALESCE(json_extract(value, '$.artifact_id'), json_extract(value, '$.doc_ref')),
        json_extract(value, '$.revision'), json_extract(value, '$.digest')
    FROM json_each(:documents)
    """
).columns(*(retrieval_evidence_documents.c[name] for name in _DOCUMENT))
_INSERT = retrieval_evidence.insert()
_INSERT_CITED = retrieval_evidence_documents.insert().from_select(_DOCUMENT, _CITED_SQLITE)
_INSERT_BOTH = HotStatement(
    retrieval_evidence_documents.insert()
    .from_select(_DOCUMENT, _CITED)
    .add_cte(
        retrieval_evidence.insert()
        .values({name: sa.bindparam(f"row_{name}") for name in retrieval_evidence.columns.keys()})  # noqa: SIM118
        .cte("evidence")
    )
)


def insert_evidence(connection: DriverConnection, row: Mapping[str, Any], *, tenant_id: str) -> None:
    """Insert one evidence row and the documents that it cites."""
    row = {**row, "tenant_id": tenant_id}
    cited = {name: row[name] for name in ("tenant_id", "evidence_id", "documents")}
    if connection.dialect_name == "sqlite":
        connection.execute(_INSERT, row)
        connection.execute(_INSERT_CITED, cited)
        return
    connection.hot(_INSERT_BOTH, {**{f"row_{name}": value for name, value in row.items()}, **cited})


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
    since: datetime | None = None,
    until: datetime | None = None,
    refused: bool = False,
    before: tuple[datetime, str] | None = None,
    limit: int,
) -> Sequence[Row]:
    """Return evidence newest first, within [since, until); `refused` keeps what was not allowed."""
    requested_at = retrieval_evidence.c.requested_at
    statement = sa.select(*_COLUMNS).where(retrieval_evidence.c.tenant_id == tenant_id)
    if since is not None:
        statement = statement.where(requested_at >= since)
    if until is not None:
        statement = statement.where(requested_at < until)
    if refused:
        # Written out, so that the partial indexes of what was refused are seen to fit.
        statement = statement.where(retrieval_evidence.c.outcome != sa.literal_column("'ALLOWED'"))
    evidence_id = bytewise(connection, retrieval_evidence.c.evidence_id)
    page = newest(statement, requested_at, evidence_id, equal=equal, before=before, limit=limit)
    return connection.execute(page).mappings().all()


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


def list_documents(
    connection: DriverConnection, *, tenant_id: str, evidence_ids: Sequence[str]
) -> Sequence[Row]:
    """Return the cited documents of these evidence rows, by position."""
    columns = retrieval_evidence_documents.c
    statement = (
        sa.select(columns.evidence_id, columns.position, columns.doc_ref, columns.revision, columns.digest)
        .where(columns.tenant_id == tenant_id, among(connection, columns.evidence_id, evidence_ids))
        .order_by(columns.evidence_id, columns.position)
    )
    return connection.execute(statement).mappings().all()
