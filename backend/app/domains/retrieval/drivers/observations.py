"""Retrieval L6: retrieval spans that were seen from outside, and what became of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import bytewise, different, insert
from app.domains.retrieval.tables import (
    retrieval_evidence,
    retrieval_evidence_documents,
    retrieval_observations,
)

_O, _E, _D = retrieval_observations.c, retrieval_evidence.c, retrieval_evidence_documents.c
_COLUMNS = tuple(column for column in retrieval_observations.columns if column.name != "tenant_id")
_EVIDENCE = (_E.evidence_id, _E.run_id, _E.plane_id, _E.connector_id, _E.requested_at, _E.completed_at)
# Written out: the partial index of what is due serves no parameter.
_PENDING = _O.status == sa.literal_column("'PENDING'")


def insert_observations(
    connection: DriverConnection, rows: Sequence[Mapping[str, Any]], *, tenant_id: str
) -> int:
    """Insert the spans that are new and return how many; one that is known stays as it is."""
    statement = (
        insert(connection, retrieval_observations)
        .on_conflict_do_nothing(index_elements=["tenant_id", "trace_id", "span_id"])
        .returning(_O.span_id)
    )
    return len(connection.execute(statement, [{"tenant_id": tenant_id, **row} for row in rows]).all())


def lock_due(connection: DriverConnection, *, tenant_id: str, until: datetime, limit: int) -> Sequence[Row]:
    """Hold the spans nobody has judged that ended until a moment, and return them by start and id."""
    statement = (
        sa.select(*_COLUMNS)
        .where(_O.tenant_id == tenant_id, _PENDING, _O.ended_at <= until)
        .order_by(_O.started_at, bytewise(connection, _O.span_id), bytewise(connection, _O.trace_id))
        .limit(limit)
        .with_for_update()
    )
    return connection.execute(statement).mappings().all()


def list_tenants_due(
    connection: DriverConnection, *, until: datetime
) -> Sequence[str]:  # gate: DRV-006 - maintenance serves all tenants
    """Return the tenants that have spans nobody has judged that ended until a moment."""
    due = sa.select(_O.tenant_id).where(_PENDING, _O.ended_at <= until)  # gate: SCOPE-001 - all tenants
    return connection.scalars(different(due)).all()


def get_unused(connection: DriverConnection, *, tenant_id: str, evidence_id: str, run_id: str) -> Row | None:
    """Return an ALLOWED row of a run that speaks for no span yet, None for any other id."""
    statement = sa.select(*_EVIDENCE).where(
        _E.tenant_id == tenant_id, _E.evidence_id == evidence_id, _E.run_id == run_id, *_unused(tenant_id)
    )
    return connection.execute(statement).mappings().one_or_none()


def get_earliest_unused(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    since: datetime,
    until: datetime,
    source_id: str | None,
) -> Row | None:
    """Return the earliest ALLOWED row of a run that speaks for no span and meets [since, until], or None."""
    statement = (
        sa.select(*_EVIDENCE)
        .where(
            _E.tenant_id == tenant_id,
            _E.run_id == run_id,
            _E.completed_at >= since,
            _E.requested_at <= until,
            *_unused(tenant_id),
        )
        .order_by(_E.requested_at, bytewise(connection, _E.evidence_id))
        .limit(1)
    )
    if source_id is not None:
        statement = statement.where(sa.or_(_E.plane_id == source_id, _E.connector_id == source_id))
    return connection.execute(statement).mappings().one_or_none()


def list_cited(connection: DriverConnection, *, tenant_id: str, evidence_id: str) -> frozenset[str]:
    """Return the references of the documents that an evidence row cites."""
    statement = sa.select(_D.doc_ref).where(_D.tenant_id == tenant_id, _D.evidence_id == evidence_id)
    return frozenset(connection.scalars(statement))


def set_judged(
    connection: DriverConnection,
    *,
    tenant_id: str,
    trace_id: str,
    span_id: str,
    values: Mapping[str, Any],
) -> None:
    """Write what became of a span that is held."""
    connection.execute(
        sa.update(retrieval_observations)
        .where(_O.tenant_id == tenant_id, _O.trace_id == trace_id, _O.span_id == span_id)
        .values(**values)
    )


def list_observations(
    connection: DriverConnection,
    *,
    tenant_id: str,
    equal: Mapping[str, str],
    after: tuple[Any, ...] | None,
    limit: int,
) -> Sequence[Row]:
    """Return spans by start, trace and id, after one of them."""
    order = (_O.started_at, bytewise(connection, _O.trace_id), bytewise(connection, _O.span_id))
    statement = sa.select(*_COLUMNS).where(_O.tenant_id == tenant_id).order_by(*order).limit(limit)
    for name, value in equal.items():
        statement = statement.where(_O[name] == value)
    if after is not None:
        moment = sa.bindparam("after_start", after[0], type_=_O.started_at.type)
        statement = statement.where(sa.tuple_(*order) > sa.tuple_(moment, after[1], after[2]))
    return connection.execute(statement).mappings().all()


def _unused(tenant_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    # Written out, so that the partial index of matched spans is seen to fit.
    taken = sa.exists().where(
        _O.tenant_id == tenant_id,
        _E.tenant_id == tenant_id,
        _O.evidence_id == _E.evidence_id,
        _O.status == sa.literal_column("'MATCHED'"),
    )
    return (_E.outcome == sa.literal_column("'ALLOWED'"), ~taken)
