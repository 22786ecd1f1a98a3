"""Database: the first statement of a batch of steps or use: run and trace held, and where the chain stands.

A read that crosses two slices, because each further statement is a further round trip under the run's lock.
It knows the tables by their names only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.metadata import metadata

_RUN = (
    "run_id",
    "agent_id",
    "project_id",
    "actor_type",
    "origin_system_id",
    "labels",
    "policy_snapshot_id",
    "status",
    "attempt",
    "is_synthetic",
    "started_at",
)
_TRACE = (
    "trace_id",
    "attempt",
    "status",
    "head_hash",
    "step_count",
    "input_tokens",
    "output_tokens",
    "cost_micro",
    "started_at",
)


@dataclass(frozen=True, slots=True)
class HeldTrace:
    """A run and the trace of one of its attempts; both are held until the transaction ends."""

    run: Row
    trace: Row


@cache
def _statement(*, current: bool) -> sa.Select[Any]:
    runs, traces = metadata.tables["runs"], metadata.tables["aos_traces"]
    tenant = sa.bindparam("tenant", type_=sa.Text)
    attempt = sa.bindparam("number", type_=sa.Integer)
    joined = runs.join(
        traces,
        sa.and_(
            traces.c.tenant_id == tenant,
            traces.c.run_id == runs.c.run_id,
            traces.c.attempt == (runs.c.attempt if current else attempt),
        ),
    )
    return (
        sa.select(
            *(runs.c[name].label(f"run_{name}") for name in _RUN),
            *(traces.c[name].label(f"trace_{name}") for name in _TRACE),
        )
        .select_from(joined)
        .where(runs.c.tenant_id == tenant, runs.c.run_id == sa.bindparam("run"))
        # FOR NO KEY UPDATE: rows that merely refer to the run do not wait for it.
        .with_for_update(key_share=True, of=[runs, traces])
    )


def lock_trace(
    connection: DriverConnection, *, tenant_id: str, run_id: str, attempt: int | None
) -> HeldTrace | None:
    """Hold a run and the trace of an attempt, the current one by default; None when there is no such pair.

    None too when a retry that this waited for moved the run on: the caller looks once more.
    """
    given: dict[str, Any] = {"tenant": tenant_id, "run": run_id}
    if attempt is not None:
        given["number"] = attempt
    row = connection.execute(_statement(current=attempt is None), given).mappings().one_or_none()
    if row is None:
        return None
    run = {name: row[f"run_{name}"] for name in _RUN}
    return HeldTrace(run, {name: row[f"trace_{name}"] for name in _TRACE})
