"""Database: the first statement of a governed check: run, trace, standing and earlier decision in one read.

It crosses slices, as `batch_read` and `gather` do: a check is judged by what four of them hold, and each
further statement is a further round trip under the run's lock. It knows the tables by their names only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from app.db.batch_read import RUN, join_standing, parts_of, standing_columns
from app.db.connection import Dialect, DriverConnection, Row
from app.db.hot import HotStatement
from app.db.metadata import metadata
from app.kernel.canonical_json import dumps, loads

_TRACE = ("trace_id", "step_count", "input_tokens", "output_tokens", "cost_micro", "started_at")
_EARLIER = ("decision_id", "inputs_digest", "decision_outcome", "details", "decided_at")


@dataclass(frozen=True, slots=True)
class CheckFacts:
    """What a check is judged by; run and trace are held until the transaction ends."""

    run: Row
    trace: Row
    standing: Row
    earlier: Row | None
    counters: Mapping[tuple[str, str], int] | None = None


# Both say the same: the sums of these counters, as JSON, or null where there are none.
_COUNTERS: Mapping[Dialect, str] = {
    "postgresql": """SELECT
        CAST(json_agg(json_build_array(limit_id, window_key, committed + reserved)) AS text)
        FROM limit_counters WHERE tenant_id = :tenant AND (limit_id, window_key) IN
        (SELECT wanted ->> 0, wanted ->> 1 FROM json_array_elements(CAST(:counters AS json)) AS wanted)""",
    "sqlite": """SELECT json_group_array(json_array(limit_id, window_key, committed + reserved))
        FROM limit_counters WHERE tenant_id = :tenant AND (limit_id, window_key) IN
        (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:counters))""",
}


@cache
def _statement(*, counting: bool) -> HotStatement:
    return HotStatement(_select("postgresql", counting=counting), sqlite=_select("sqlite", counting=counting))


def _select(dialect_name: Dialect, *, counting: bool) -> sa.Select[Any]:
    tables = metadata.tables
    runs, traces, decisions = tables["runs"], tables["aos_traces"], tables["decision_records"]
    columns = (
        *(runs.c[name].label(f"run_{name}") for name in RUN),
        *(traces.c[name].label(f"trace_{name}") for name in _TRACE),
        *standing_columns(),
        *(decisions.c[name].label(f"earlier_{name}") for name in _EARLIER),
    )
    if counting:
        sums = sa.text(_COUNTERS[dialect_name]).columns(sums=sa.Text).scalar_subquery()
        columns = (*columns, sums.label("counters_json"))
    tenant: sa.BindParameter[str] = sa.bindparam("tenant")
    held = runs.join(
        traces,
        sa.and_(
            traces.c.tenant_id == tenant,
            traces.c.run_id == runs.c.run_id,
            traces.c.attempt == runs.c.attempt,
        ),
    )
    joined = join_standing(held, tenant).outerjoin(
        decisions,
        sa.and_(decisions.c.tenant_id == tenant, decisions.c.idempotency_key == sa.bindparam("idempotency")),
    )
    # FOR NO KEY UPDATE: rows that merely refer to the run do not wait for it.
    return (
        sa.select(*columns)
        .select_from(joined)
        .where(runs.c.tenant_id == tenant, runs.c.run_id == sa.bindparam("run"))
        .with_for_update(key_share=True, of=[runs, traces])
    )


def lock_check(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    key_id: str | None,
    idempotency_key: str,
    counters: Sequence[tuple[str, str]] | None = None,
) -> CheckFacts | None:
    """Hold a run and its current trace and return what a check of it is judged by; None without the run.

    `counters` are (limit, window) pairs whose use is read too; one that has none is left out.
    """
    given = {"tenant": tenant_id, "run": run_id, "key": key_id, "idempotency": idempotency_key}
    if counters:
        given["counters"] = dumps([list(pair) for pair in counters])
    rows = connection.hot(_statement(counting=bool(counters)), given)
    if not rows:
        return None
    parts = parts_of(rows[0], "run", "trace", "standing", "earlier", "counters")
    return CheckFacts(
        parts["run"],
        parts["trace"],
        parts["standing"],
        parts["earlier"] if parts["earlier"]["decision_id"] is not None else None,
        None if counters is None else _sums(parts["counters"].get("json")),
    )


def _sums(text: str | None) -> dict[tuple[str, str], int]:
    return {(limit_id, window): value for limit_id, window, value in loads(text or "[]")}
