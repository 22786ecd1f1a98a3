"""Retrieval L6: which runs were given a document, counted from the documents that evidence cites."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import bytewise
from app.domains.retrieval.tables import retrieval_evidence, retrieval_evidence_documents

_E, _D = retrieval_evidence.c, retrieval_evidence_documents.c
# A document is named by reference and revision, or by the digest of its content.
Place = tuple[str, int]
_GIVEN = retrieval_evidence_documents.join(
    retrieval_evidence,
    sa.and_(_E.tenant_id == _D.tenant_id, _E.evidence_id == _D.evidence_id),
)


def list_runs(
    connection: DriverConnection,
    *,
    tenant_id: str,
    doc_ref: str | None,
    revision: int | None,
    digest: str | None,
    of_repository: bool,
    after: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return the runs that were given a document, by first access and id, after one of them."""
    where = [_D.doc_ref == doc_ref] if doc_ref is not None else [_D.digest == digest]
    if revision is not None:
        where.append(_D.revision == revision)
    if of_repository:
        where.append(_D.revision.is_not(None))
    first, run_id = sa.func.min(_E.requested_at), bytewise(connection, _E.run_id)
    statement = _counted(tenant_id, *where).order_by(first, run_id).limit(limit)
    if after is not None:
        moment = sa.bindparam("after_first", after[0], type_=_E.requested_at.type)
        statement = statement.having(sa.tuple_(first, run_id) > sa.tuple_(moment, after[1]))
    return connection.execute(statement).mappings().all()


def list_runs_of_places(
    connection: DriverConnection, *, tenant_id: str, places: Sequence[Place]
) -> Sequence[Row]:
    """Return the runs that were given one of these revisions."""
    statement = _counted(
        tenant_id,
        _D.doc_ref.in_(sorted({artifact_id for artifact_id, _ in places})),
        sa.tuple_(_D.doc_ref, _D.revision).in_(places),
    )
    return connection.execute(statement).mappings().all()


def list_accesses(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_ids: Sequence[str],
    doc_ref: str | None,
    revision: int | None,
    digest: str | None,
    places: Sequence[Place],
    most: int,
) -> Sequence[Row]:
    """Return run, evidence id and revision of the accesses that gave a document, at most so many ids a run.

    Every revision appears, with the first evidence row that gave it.
    """
    where: list[sa.ColumnElement[bool]] = []
    if places:
        where.append(_D.doc_ref.in_(sorted({artifact_id for artifact_id, _ in places})))
        where.append(sa.tuple_(_D.doc_ref, _D.revision).in_(places))
    elif doc_ref is not None:
        where.append(_D.doc_ref == doc_ref)
    else:
        where.append(_D.digest == digest)
    if revision is not None:
        where.append(_D.revision == revision)
    evidence_id = bytewise(connection, _E.evidence_id)
    number = sa.func.dense_rank().over(partition_by=_E.run_id, order_by=evidence_id)
    of_revision = sa.func.row_number().over(partition_by=(_E.run_id, _D.revision), order_by=evidence_id)
    ranked = (
        sa.select(
            _E.run_id, _E.evidence_id, _D.revision, number.label("number"), of_revision.label("of_revision")
        )
        .select_from(_GIVEN)
        .where(*_allowed(tenant_id), _E.run_id.in_(run_ids), *where)
        .subquery()
    )
    statement = (
        sa.select(ranked.c.run_id, ranked.c.evidence_id, ranked.c.revision, ranked.c.number)
        .where(sa.or_(ranked.c.number <= most, ranked.c.of_revision == 1))
        .order_by(ranked.c.run_id, ranked.c.number)
    )
    return connection.execute(statement).mappings().all()


def _counted(tenant_id: str, *where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return (
        sa.select(
            _E.run_id,
            sa.func.count(sa.distinct(_E.evidence_id)).label("access_count"),
            sa.func.min(_E.requested_at).label("first_at"),
            sa.func.max(_E.requested_at).label("last_at"),
        )
        .select_from(_GIVEN)
        .where(*_allowed(tenant_id), *where)
        .group_by(_E.run_id)
    )


def _allowed(tenant_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        _D.tenant_id == tenant_id,
        _E.tenant_id == tenant_id,
        _E.outcome == sa.literal_column("'ALLOWED'"),
    )
