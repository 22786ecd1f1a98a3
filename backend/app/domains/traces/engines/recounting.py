"""Traces L5: digests of steps and totals of open traces, recounted from the steps themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.db.connection import DriverConnection, Row
from app.domains.traces.drivers import recounting as driver
from app.domains.traces.engines.steps import content_text
from app.domains.traces.models import MAX_BIGINT, MICRO
from app.kernel.amounts import Metric
from app.kernel.canonical_json import loads
from app.kernel.hashing import keyed_digest

Use = Mapping[str, int]
_TOKENS = (("input_tokens", Metric.TOKENS_INPUT.value), ("output_tokens", Metric.TOKENS_OUTPUT.value))


def list_stretches(
    connection: DriverConnection, *, tenant_id: str, stretches: Mapping[str, tuple[int, int]]
) -> Sequence[Row]:
    """Return steps with their content: of each trace from one index to another."""
    return driver.list_stretches(connection, tenant_id=tenant_id, stretches=stretches)


def list_open(connection: DriverConnection, *, tenant_id: str, trace_ids: Sequence[str]) -> Sequence[Row]:
    """Return the totals of those of these traces that are open."""
    return driver.list_open(connection, tenant_id=tenant_id, trace_ids=trace_ids)


def is_digest_of(step: Row, key: bytes) -> bool:
    """Tell whether a step's content_hash is that of its content, whose values are all there."""
    # A step that was reported without a time took the moment of its record.
    times = (
        {None, step["occurred_at"]} if step["occurred_at"] == step["recorded_at"] else {step["occurred_at"]}
    )
    return any(keyed_digest(key, content_text(step, time)) == step["content_hash"] for time in times)


def find_wrong_totals(
    connection: DriverConnection,
    opened: Sequence[Row],
    recorded: Mapping[tuple[str, int], Sequence[Use]],
    *,
    tenant_id: str,
) -> Iterator[tuple[str, str]]:
    """Yield (trace, column) of the totals of open traces that their steps and recorded use do not give.

    `recorded` is the use that was reported beside the steps, by run and attempt.
    """
    used: dict[str, list[Row]] = {}
    trace_ids = [str(trace["trace_id"]) for trace in opened]
    for row in driver.list_used(connection, tenant_id=tenant_id, trace_ids=trace_ids) if trace_ids else ():
        used.setdefault(row["trace_id"], []).append(row)
    for trace in opened:
        beside = recorded.get((trace["run_id"], trace["attempt"]), ())
        given = _totals(used.get(trace["trace_id"], ()), beside)
        for column, total in given.items():
            if trace[column] != total:
                yield str(trace["trace_id"]), column


def _totals(steps: Sequence[Row], beside: Sequence[Use]) -> dict[str, int | None]:
    told = [(loads(step["usage"]), step["cost_micro"]) for step in steps]
    uses: list[Mapping[str, Any]] = [*(use for use, _ in told), *beside]
    cost = sum(use.get(Metric.COST_USD.value, own) for use, own in told)
    cost += sum(use.get(Metric.COST_USD.value, 0) for use in beside)
    found: dict[str, int | None] = {"cost_micro": min(cost, MAX_BIGINT)}
    for column, metric in _TOKENS:
        tokens = [use[metric] // MICRO for use in uses if metric in use]
        found[column] = min(sum(tokens), MAX_BIGINT) if tokens else None
    return found


def list_of_runs(connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]) -> Sequence[Row]:
    """Return what the steps of these runs have used, each with run, attempt, trace and index."""
    return driver.list_of_runs(connection, tenant_id=tenant_id, run_ids=run_ids)
