"""Database: the first statement of a batch of steps or use: run and trace held, and where the chain stands.

A read that crosses slices, because each further statement is a further round trip under the run's lock.
It knows the tables by their names only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.metadata import metadata
from app.kernel.canonical_json import dumps, loads

RUN = (
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
_MET = ("step_index", "content_hash", "external_id")


@dataclass(frozen=True, slots=True)
class Meeting:
    """Which steps of a trace a batch may meet: its range of indices, and its external ids."""

    first: int
    last: int
    external_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class HeldTrace:
    """A run and the trace of one of its attempts, both held until the transaction ends, and the caller's
    standing; `met` are the steps of a meeting, None where they take a statement of their own."""

    run: Row
    trace: Row
    standing: Row
    met: Sequence[Row] | None = None


def standing_columns() -> tuple[sa.Label[Any], ...]:
    """Return the columns of a caller's standing, for a join made by `join_standing`."""
    tables = metadata.tables
    tenants, state, system, keys = (
        tables[name] for name in ("tenants", "tenant_state", "system_state", "api_keys")
    )
    return (
        *(tenants.c[name].label(f"standing_{name}") for name in ("plan", "allow_self_approval")),
        *(state.c[name].label(f"standing_{name}") for name in ("policy_version", "live_epoch")),
        *(system.c[name].label(f"standing_{name}") for name in ("kill_engaged", "degraded")),
        tenants.c.status.label("standing_tenant_status"),
        state.c.frozen.label("standing_tenant_frozen"),
        keys.c.status.label("standing_key_status"),
        keys.c.expires_at.label("standing_key_expires_at"),
    )


def join_standing(joined: sa.Join, tenant: sa.BindParameter[str]) -> sa.Join:
    """Return the join with the tenant, its state, the system's, and the key of parameter `key`."""
    tables = metadata.tables
    tenants, state, keys = tables["tenants"], tables["tenant_state"], tables["api_keys"]
    return (
        joined.join(tenants, tenants.c.tenant_id == tenant)
        .join(state, state.c.tenant_id == tenant)
        .join(tables["system_state"], sa.true())
        .outerjoin(keys, sa.and_(keys.c.tenant_id == tenant, keys.c.key_id == sa.bindparam("key")))
    )


def parts_of(row: Row, *names: str) -> dict[str, dict[str, Any]]:
    """Return a row whose columns are named `part_member` as one row for each part."""
    parts: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name, value in row.items():
        part, _, member = name.partition("_")
        parts[part][member] = value
    return parts


@cache
def _statement(*, current: bool, ranged: bool = False, named: bool = False) -> sa.Select[Any]:
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
    columns = (
        *(runs.c[name].label(f"run_{name}") for name in RUN),
        *(traces.c[name].label(f"trace_{name}") for name in _TRACE),
        *standing_columns(),
    )
    steps = metadata.tables["aos_trace_steps"].c
    if ranged:
        first, last = sa.bindparam("first", type_=sa.Integer), sa.bindparam("last", type_=sa.Integer)
        columns = (*columns, _steps_met(traces, tenant, steps.step_index.between(first, last), "met_ranged"))
    if named:
        ids = sa.func.json_each(sa.bindparam("external_ids", type_=sa.Text)).table_valued("value")
        among = steps.external_id.in_(sa.select(ids.c.value))
        columns = (*columns, _steps_met(traces, tenant, among, "met_named"))
    return (
        sa.select(*columns)
        .select_from(join_standing(joined, tenant))
        .where(runs.c.tenant_id == tenant, runs.c.run_id == sa.bindparam("run"))
        # FOR NO KEY UPDATE: rows that merely refer to the run do not wait for it.
        .with_for_update(key_share=True, of=[runs, traces])
    )


def _steps_met(
    traces: sa.Table, tenant: sa.BindParameter[str], condition: sa.ColumnElement[bool], label: str
) -> sa.Label[Any]:
    """Return the steps of the trace that meet a condition, as JSON; each condition has its own index."""
    steps = metadata.tables["aos_trace_steps"].c
    return (
        sa.select(
            sa.func.json_group_array(sa.func.json_array(*(steps[name] for name in _MET)), type_=sa.Text)
        )
        .where(
            steps.tenant_id == tenant,
            traces.c.tenant_id == tenant,
            steps.trace_id == traces.c.trace_id,
            condition,
        )
        .correlate(traces)
        .scalar_subquery()
        .label(label)
    )


def lock_trace(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    attempt: int | None,
    key_id: str | None = None,
    meeting: Meeting | None = None,
) -> HeldTrace | None:
    """Hold a run and the trace of an attempt, the current one by default; None when there is no such pair.

    None too when a retry that this waited for moved the run on: the caller looks once more.
    """
    given: dict[str, Any] = {"tenant": tenant_id, "run": run_id, "key": key_id}
    if attempt is not None:
        given["number"] = attempt
    # After waiting for a lock PostgreSQL answers as of before it; the one writer of SQLite never waits here.
    asked = meeting if connection.dialect_name == "sqlite" else None
    named = asked is not None and bool(asked.external_ids)
    if asked is not None:
        given |= {"first": asked.first, "last": asked.last}
        if named:
            given["external_ids"] = dumps(list(asked.external_ids))
    statement = _statement(current=attempt is None, ranged=asked is not None, named=named)
    row = connection.execute(statement, given).mappings().one_or_none()
    if row is None:
        return None
    parts = parts_of(row, "run", "trace", "standing", "met")
    met = None if asked is None else [step for text in parts["met"].values() for step in _read_met(text)]
    return HeldTrace(parts["run"], parts["trace"], parts["standing"], met)


def _read_met(text: str) -> list[Mapping[str, Any]]:
    return [dict(zip(_MET, step, strict=True)) for step in loads(text)]
