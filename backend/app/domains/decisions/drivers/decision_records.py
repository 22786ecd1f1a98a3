"""Decisions L6: decision records and the links of those that came before their run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from app.db.connection import DriverConnection, Row
from app.db.dialect import among, bytewise
from app.db.hot import HotStatement
from app.db.newest import newest
from app.domains.decisions.tables import decision_links, decision_records

_COLUMNS = tuple(column for column in decision_records.columns if column.name not in ("tenant_id", "fact_id"))
_SAID = tuple(
    decision_records.c[name] for name in ("decision_id", "decision_type", "decision_outcome", "decided_at")
)
# Built once: every governed check writes one. Two records of one key are one decision, whoever comes first.
_INSERT = {
    name: dialect.insert(decision_records)
    .on_conflict_do_nothing(index_elements=["tenant_id", "idempotency_key"])
    .returning(decision_records.c.decision_id)
    for name, dialect in (("sqlite", sqlite), ("postgresql", postgresql))
}
_LINKED = sa.select(decision_links.c.decision_id).where(
    decision_links.c.tenant_id == sa.bindparam("tenant"), decision_links.c.run_id == sa.bindparam("run")
)


_INSERT_ONE = HotStatement(
    _INSERT["postgresql"],
    sqlite=_INSERT["sqlite"],
    columns=[column.name for column in decision_records.columns],
)


def insert_records(connection: DriverConnection, rows: Sequence[Mapping[str, Any]], *, tenant_id: str) -> int:
    """Insert records in one statement and return how many; one whose idempotency key is taken is not."""
    if len(rows) == 1:
        return len(connection.hot(_INSERT_ONE, {**rows[0], "tenant_id": tenant_id}))
    found = connection.execute(
        _INSERT[connection.dialect_name], [{**row, "tenant_id": tenant_id} for row in rows]
    )
    return len(found.all())


def get_record(connection: DriverConnection, *, tenant_id: str, decision_id: str) -> Row | None:
    """Return one record."""
    statement = sa.select(*_COLUMNS).where(
        decision_records.c.tenant_id == tenant_id, decision_records.c.decision_id == decision_id
    )
    return connection.execute(statement).mappings().one_or_none()


def find_by_key(connection: DriverConnection, *, tenant_id: str, idempotency_key: str) -> Row | None:
    """Return the record of an idempotency key."""
    statement = sa.select(*_COLUMNS).where(
        decision_records.c.tenant_id == tenant_id, decision_records.c.idempotency_key == idempotency_key
    )
    return connection.execute(statement).mappings().one_or_none()


def list_records(
    connection: DriverConnection,
    *,
    tenant_id: str,
    equal: Mapping[str, Any],
    linked_to: str | None = None,
    since: datetime | None = None,
    before: tuple[datetime, str] | None = None,
    limit: int,
) -> Sequence[Row]:
    """Return records newest first that equal these values; `linked_to` keeps those linked to that run."""
    decided_at = decision_records.c.decided_at
    statement = sa.select(*_COLUMNS).where(decision_records.c.tenant_id == tenant_id)
    parameters = {}
    if linked_to is not None:
        statement = statement.where(decision_records.c.decision_id.in_(_LINKED))
        parameters = {"tenant": tenant_id, "run": linked_to}
    if since is not None:
        statement = statement.where(decided_at >= since)
    decision_id = bytewise(connection, decision_records.c.decision_id)
    page = newest(statement, decided_at, decision_id, equal=equal, before=before, limit=limit)
    return connection.execute(page, parameters).mappings().all()


def count_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> int:
    """Return how many records a run has, those linked to it included."""
    own = (
        sa.select(sa.func.count())
        .select_from(decision_records)
        .where(decision_records.c.tenant_id == tenant_id, decision_records.c.run_id == run_id)
    )
    linked = (
        sa.select(sa.func.count())
        .select_from(decision_links)
        .where(decision_links.c.tenant_id == tenant_id, decision_links.c.run_id == run_id)
    )
    statement = sa.select(own.scalar_subquery() + linked.scalar_subquery())
    return int(connection.scalars(statement).one())


def list_between(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    since: datetime,
    until: datetime,
    limit: int,
) -> Sequence[Row]:
    """Return what was decided in a run in [since, until], oldest first."""
    statement = (
        sa.select(*_SAID)
        .where(
            decision_records.c.tenant_id == tenant_id,
            decision_records.c.run_id == run_id,
            decision_records.c.decided_at >= since,
            decision_records.c.decided_at <= until,
        )
        .order_by(decision_records.c.decided_at, bytewise(connection, decision_records.c.decision_id))
        .limit(limit)
    )
    return connection.execute(statement).mappings().all()


def get_first(
    connection: DriverConnection, *, tenant_id: str, run_id: str, outcomes: Sequence[str]
) -> Row | None:
    """Return the first decision in a run with one of these outcomes."""
    statement = (
        sa.select(*_SAID)
        .where(
            decision_records.c.tenant_id == tenant_id,
            decision_records.c.run_id == run_id,
            decision_records.c.decision_outcome.in_(outcomes),
        )
        .order_by(decision_records.c.decided_at, bytewise(connection, decision_records.c.decision_id))
        .limit(1)
    )
    return connection.execute(statement).mappings().one_or_none()


def list_unlinked(connection: DriverConnection, *, tenant_id: str, request_id: str) -> Sequence[str]:
    """Return the ids of records of a request that came before any run, oldest first."""
    statement = (
        sa.select(decision_records.c.decision_id)
        .where(
            decision_records.c.tenant_id == tenant_id,
            decision_records.c.request_id == request_id,
            decision_records.c.causal_role == "PRE_RUN",
            decision_records.c.run_id.is_(None),
        )
        .order_by(decision_records.c.decided_at, bytewise(connection, decision_records.c.decision_id))
    )
    return connection.scalars(statement).all()


def insert_links(connection: DriverConnection, rows: Sequence[Mapping[str, Any]], *, tenant_id: str) -> None:
    """Insert links of records to a run in one statement."""
    connection.execute(decision_links.insert(), [{**row, "tenant_id": tenant_id} for row in rows])


def list_outcomes(
    connection: DriverConnection, *, tenant_id: str, run_id: str, decision_ids: Sequence[str]
) -> Sequence[Row]:
    """Return id and outcome of those of these records that are of a run or linked to it."""
    record, link = decision_records.c, decision_links.c
    same = sa.and_(
        link.tenant_id == record.tenant_id, link.decision_id == record.decision_id, link.run_id == run_id
    )
    statement = (
        sa.select(record.decision_id, record.decision_outcome)
        .select_from(decision_records.outerjoin(decision_links, same))
        .where(
            record.tenant_id == tenant_id,
            among(connection, record.decision_id, decision_ids),
            sa.or_(record.run_id == run_id, link.run_id.is_not(None)),
        )
    )
    return connection.execute(statement).mappings().all()


def list_reserving(
    connection: DriverConnection, *, tenant_id: str, decision_ids: Sequence[str]
) -> Sequence[Row]:
    """Return what these records say of their reservations: id, run, attempt, reservation and inputs."""
    record = decision_records.c
    statement = sa.select(
        record.decision_id, record.run_id, record.attempt, record.reservation_id, record.decision_inputs
    ).where(record.tenant_id == tenant_id, among(connection, record.decision_id, decision_ids))
    return connection.execute(statement).mappings().all()
