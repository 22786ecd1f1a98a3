"""Spine: the chain of an attempt as lines of a file: its genesis, then its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.db.connection import DriverConnection
from app.domains.traces.engines import chain, steps

Row = Mapping[str, Any]
STEPS_AT_ONCE = 1000
# What the commitment of a step is over.
PROTECTED = ("outcome_data", "params")


def list_lines(connection: DriverConnection, run: Row, trace: Row, *, tenant_id: str) -> Iterator[str]:
    """Yield the genesis statement of a run's trace and the statements of its steps."""
    yield chain.genesis_statement(
        tenant_id=tenant_id,
        run_id=run["run_id"],
        attempt=trace["attempt"],
        trace_id=trace["trace_id"],
        schema_version=trace["schema_version"],
        policy_snapshot=run["policy_snapshot_id"],
        plan_hash=trace["plan_hash"],
        seed=trace["seed"],
        started_at=trace["started_at"],
    )
    yield from map(chain.step_statement, list_steps(connection, trace, tenant_id=tenant_id))


def list_steps(connection: DriverConnection, trace: Row, *, tenant_id: str) -> Iterator[Row]:
    """Yield the steps of a trace by index."""
    after = -1
    while True:
        page = steps.list_steps(
            connection,
            tenant_id=tenant_id,
            trace_id=trace["trace_id"],
            status=None,
            after=after,
            limit=STEPS_AT_ONCE,
        )
        yield from page
        if len(page) < STEPS_AT_ONCE:
            return
        after = page[-1]["step_index"]
