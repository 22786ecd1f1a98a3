"""L6 SQL of the steps of workflow runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import insert
from app.domains.repository.tables import workflow_steps

_W = workflow_steps.c
_COLUMNS = tuple(column for column in workflow_steps.columns if column.name != "tenant_id")


def insert_steps(connection: DriverConnection, *, tenant_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert new steps."""
    connection.execute(insert(connection, workflow_steps), [{"tenant_id": tenant_id, **row} for row in rows])


def get_step(connection: DriverConnection, *, tenant_id: str, run_id: str, step_id: str) -> Row | None:
    """Return one step."""
    statement = sa.select(*_COLUMNS).where(
        _W.tenant_id == tenant_id, _W.run_id == run_id, _W.step_id == step_id
    )
    return connection.execute(statement).mappings().one_or_none()


def list_steps(
    connection: DriverConnection, *, tenant_id: str, run_id: str, after: int, limit: int | None
) -> Sequence[Row]:
    """Return the steps of a run beyond a position, in order; all of them without a limit."""
    statement = (
        sa.select(*_COLUMNS)
        .where(_W.tenant_id == tenant_id, _W.run_id == run_id, _W.position > after)
        .order_by(_W.position)
    )
    if limit is not None:
        statement = statement.limit(limit)
    return connection.execute(statement).mappings().all()


def list_neighbours(
    connection: DriverConnection, *, tenant_id: str, run_id: str, step_ids: Sequence[str], position: int
) -> Sequence[Row]:
    """Return step_id and position of the steps that have one of these ids or the position."""
    statement = sa.select(_W.step_id, _W.position).where(
        _W.tenant_id == tenant_id,
        _W.run_id == run_id,
        sa.or_(_W.step_id.in_(step_ids), _W.position == position),
    )
    return connection.execute(statement).mappings().all()


def count_steps(connection: DriverConnection, *, tenant_id: str, run_id: str) -> int:
    """Return how many steps a run has."""
    statement = sa.select(sa.func.count()).where(_W.tenant_id == tenant_id, _W.run_id == run_id)
    return int(connection.scalars(statement).one())


def set_step(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    step_id: str,
    status: str,
    attempt: int,
    values: Mapping[str, Any],
) -> int:
    """Change a step that is still in this status and attempt; return the number of rows changed."""
    statement = (
        sa.update(workflow_steps)
        .where(
            _W.tenant_id == tenant_id,
            _W.run_id == run_id,
            _W.step_id == step_id,
            _W.status == status,
            _W.attempt == attempt,
        )
        .values(**values)
    )
    return connection.execute(statement).rowcount
