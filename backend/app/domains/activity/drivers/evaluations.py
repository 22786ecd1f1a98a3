"""Activity L6: rows of policy evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.domains.activity.tables import policy_evaluations

_ALL = tuple(policy_evaluations.c)


def insert_evaluation(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> None:
    """Insert the evaluation of one attempt; a second one is refused by the database."""
    connection.execute(policy_evaluations.insert(), {**row, "tenant_id": tenant_id})


def get_evaluation(
    connection: DriverConnection, *, tenant_id: str, run_id: str, attempt: int
) -> Mapping[str, Any] | None:
    """Return the whole row of an attempt's evaluation."""
    statement = sa.select(*_ALL).where(
        policy_evaluations.c.tenant_id == tenant_id,
        policy_evaluations.c.run_id == run_id,
        policy_evaluations.c.attempt == attempt,
    )
    return connection.execute(statement).mappings().one_or_none()


def list_evaluations(
    connection: DriverConnection, *, tenant_id: str, run_id: str
) -> Sequence[Mapping[str, Any]]:
    """Return the whole rows of a run's evaluations, by attempt."""
    statement = (
        sa.select(*_ALL)
        .where(policy_evaluations.c.tenant_id == tenant_id, policy_evaluations.c.run_id == run_id)
        .order_by(policy_evaluations.c.attempt)
    )
    return connection.execute(statement).mappings().all()
