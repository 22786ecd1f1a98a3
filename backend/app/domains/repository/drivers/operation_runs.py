"""L6 SQL of workflow runs: rows, locks, conditional changes, leases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import bytewise, insert
from app.db.gather import Question, finding
from app.domains.repository.tables import operation_runs

_O = operation_runs.c
_COLUMNS = tuple(column for column in operation_runs.columns if column.name != "tenant_id")


def insert_run(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> None:
    """Insert a new run."""
    connection.execute(insert(connection, operation_runs), {**row, "tenant_id": tenant_id})


def get_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Row | None:
    """Return a run, without a lock."""
    statement = sa.select(*_COLUMNS).where(_O.tenant_id == tenant_id, _O.run_id == run_id)
    return connection.execute(statement).mappings().one_or_none()


def lock_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Row | None:
    """Return a run and hold it against other writers until the transaction ends."""
    statement = (
        sa.select(*_COLUMNS)
        .where(_O.tenant_id == tenant_id, _O.run_id == run_id)
        .with_for_update(key_share=True)
    )
    return connection.execute(statement).mappings().one_or_none()


def list_statuses(connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]) -> Sequence[Row]:
    """Return run_id, status and attempt of those of the runs that exist."""
    statement = sa.select(_O.run_id, _O.status, _O.attempt).where(
        _O.tenant_id == tenant_id, _O.run_id.in_(run_ids)
    )
    return connection.execute(statement).mappings().all()


def list_runs(
    connection: DriverConnection,
    *,
    tenant_id: str,
    filters: Mapping[str, str],
    after: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return runs whose columns equal the filters, in order of creation."""
    run_id = bytewise(connection, _O.run_id)
    statement = (
        sa.select(*_COLUMNS)
        .where(_O.tenant_id == tenant_id, *(_O[name] == filters[name] for name in filters))
        .order_by(_O.created_at, run_id)
        .limit(limit)
    )
    if after is not None:
        moment, last = after
        statement = statement.where(
            sa.or_(_O.created_at > moment, sa.and_(_O.created_at == moment, run_id > last))
        )
    return connection.execute(statement).mappings().all()


def list_resumable(
    connection: DriverConnection,
    *,
    tenant_id: str,
    statuses: Sequence[str],
    now: datetime,
    after: tuple[datetime | None, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return runs of these statuses with no live lease, by end of the lease (none first) and id."""
    run_id = bytewise(connection, _O.run_id)
    statement = (
        sa.select(*_COLUMNS)
        .where(
            _O.tenant_id == tenant_id,
            _O.status.in_(statuses),
            sa.or_(_O.lease_until.is_(None), _O.lease_until <= now),
        )
        .order_by(_O.lease_until.asc().nulls_first(), run_id)
        .limit(limit)
    )
    if after is not None:
        until, last = after
        same = _O.lease_until.is_(None) if until is None else _O.lease_until == until
        later = _O.lease_until.is_not(None) if until is None else _O.lease_until > until
        statement = statement.where(sa.or_(later, sa.and_(same, run_id > last)))
    return connection.execute(statement).mappings().all()


def set_run(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    status: str,
    version: int,
    values: Mapping[str, Any],
) -> int:
    """Change a run that is still in this status and version; return the number of rows changed."""
    statement = (
        sa.update(operation_runs)
        .where(_O.tenant_id == tenant_id, _O.run_id == run_id, _O.status == status, _O.version == version)
        .values(**values)
    )
    return connection.execute(statement).rowcount


def set_version(
    connection: DriverConnection, *, tenant_id: str, run_id: str, statuses: Sequence[str], rise: int
) -> int | None:
    """Raise the version of a run in one of these statuses; return it, None when there is no such run."""
    statement = (
        sa.update(operation_runs)
        .where(_O.tenant_id == tenant_id, _O.run_id == run_id, _O.status.in_(statuses))
        .values(version=_O.version + rise)
        .returning(_O.version)
    )
    return connection.scalars(statement).one_or_none()


def set_lease(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    statuses: Sequence[str],
    worker: str,
    now: datetime,
    until: datetime,
) -> Row | None:
    """Give the lease of a run to a worker unless another's is live; return the run, None when refused."""
    statement = (
        sa.update(operation_runs)
        .where(
            _O.tenant_id == tenant_id,
            _O.run_id == run_id,
            _O.status.in_(statuses),
            sa.or_(_O.lease_until.is_(None), _O.lease_until <= now, _O.lease_owner == worker),
        )
        .values(lease_owner=worker, lease_until=until)
        .returning(*_COLUMNS)
    )
    return connection.execute(statement).mappings().one_or_none()


def clear_lease(connection: DriverConnection, *, tenant_id: str, run_id: str, worker: str) -> Row | None:
    """Take a worker's lease away; return the run, None when the worker has none."""
    statement = (
        sa.update(operation_runs)
        .where(_O.tenant_id == tenant_id, _O.run_id == run_id, _O.lease_owner == worker)
        .values(lease_owner=None, lease_until=None)
        .returning(*_COLUMNS)
    )
    return connection.execute(statement).mappings().one_or_none()


def ask_open_run(
    connection: DriverConnection,  # noqa: ARG001
    *,
    tenant_id: str,
    run_id: str,
    statuses: Sequence[str],
) -> Question:
    """Ask for the run of this id where it has one of these statuses: ref the run."""
    return Question(
        sa.select(*finding("operation_run", ref=_O.run_id)).where(
            _O.tenant_id == tenant_id, _O.run_id == run_id, _O.status.in_(statuses)
        )
    )
