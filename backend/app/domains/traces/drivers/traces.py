"""Traces L6: rows of traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.gather import Question, finding
from app.db.types import as_stored
from app.domains.traces.tables import aos_traces

_ALL = tuple(aos_traces.c)
_RAW = tuple(as_stored(column) for column in _ALL)


def insert_trace(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> None:
    """Insert the trace of an attempt that begins."""
    connection.execute(aos_traces.insert(), {**row, "tenant_id": tenant_id})


def get_trace(
    connection: DriverConnection, *, tenant_id: str, run_id: str, attempt: int
) -> Mapping[str, Any] | None:
    """Return the whole row of an attempt's trace."""
    statement = sa.select(*_ALL).where(
        aos_traces.c.tenant_id == tenant_id, aos_traces.c.run_id == run_id, aos_traces.c.attempt == attempt
    )
    return connection.execute(statement).mappings().one_or_none()


def lock_trace(
    connection: DriverConnection, *, tenant_id: str, run_id: str, attempt: int
) -> Mapping[str, Any] | None:
    """Return the whole row of an attempt's trace and hold it; its run's lock comes first."""
    statement = (
        sa.select(*_ALL)
        .where(
            aos_traces.c.tenant_id == tenant_id,
            aos_traces.c.run_id == run_id,
            aos_traces.c.attempt == attempt,
        )
        .with_for_update(key_share=True)
    )
    return connection.execute(statement).mappings().one_or_none()


def list_traces(
    connection: DriverConnection, *, tenant_id: str, run_id: str, raw: bool = False
) -> Sequence[Mapping[str, Any]]:
    """Return the whole rows of a run's traces, by attempt; `raw` as they are stored."""
    statement = (
        sa.select(*(_RAW if raw else _ALL))
        .where(aos_traces.c.tenant_id == tenant_id, aos_traces.c.run_id == run_id)
        .order_by(aos_traces.c.attempt)
    )
    return connection.execute(statement).mappings().all()


def list_attempts(
    connection: DriverConnection, *, tenant_id: str, run_id: str, after: int, limit: int
) -> Sequence[Mapping[str, Any]]:
    """Return the whole rows of a run's traces beyond attempt `after`, by attempt."""
    statement = (
        sa.select(*_ALL)
        .where(
            aos_traces.c.tenant_id == tenant_id, aos_traces.c.run_id == run_id, aos_traces.c.attempt > after
        )
        .order_by(aos_traces.c.attempt)
        .limit(limit)
    )
    return connection.execute(statement).mappings().all()


def set_trace(
    connection: DriverConnection,
    *,
    tenant_id: str,
    trace_id: str,
    expected_step_count: int,
    values: Mapping[str, Any],
    now: datetime,
) -> bool:
    """Change an open trace whose chain still has this length; return False when it moved on."""
    statement = (
        sa.update(aos_traces)
        .where(
            aos_traces.c.tenant_id == tenant_id,
            aos_traces.c.trace_id == trace_id,
            aos_traces.c.status == "OPEN",
            aos_traces.c.step_count == expected_step_count,
        )
        .values({**values, "updated_at": now, "version": aos_traces.c.version + 1})
    )
    return connection.execute(statement).rowcount == 1


def seal_trace(
    connection: DriverConnection, *, tenant_id: str, run_id: str, attempt: int, outcome: str, now: datetime
) -> Mapping[str, Any] | None:
    """Seal an attempt's open trace at its head and return it as sealed; None when there is none open."""
    statement = (
        sa.update(aos_traces)
        .where(
            aos_traces.c.tenant_id == tenant_id,
            aos_traces.c.run_id == run_id,
            aos_traces.c.attempt == attempt,
            aos_traces.c.status == "OPEN",
        )
        .values(
            status="SEALED",
            outcome=outcome,
            root_hash=aos_traces.c.head_hash,
            completed_at=now,
            sealed_at=now,
            updated_at=now,
            version=aos_traces.c.version + 1,
        )
        .returning(*_ALL)
    )
    return connection.execute(statement).mappings().one_or_none()


def ask_traces(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Question:  # noqa: ARG001
    """Ask for a run's traces: ref the trace, word its root, text its attempt, number its steps."""
    return Question(
        sa.select(
            *finding(
                "trace",
                ref=aos_traces.c.trace_id,
                word=aos_traces.c.root_hash,
                text=aos_traces.c.attempt,
                number=aos_traces.c.step_count,
            )
        ).where(aos_traces.c.tenant_id == tenant_id, aos_traces.c.run_id == run_id)
    )
