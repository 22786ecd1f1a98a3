"""Spine: the ledger of limits recounted, run by run, from what steps, callers and decisions say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from app.db.connection import DriverConnection, Row
from app.domains.activity.engines import projections
from app.domains.controls.engines import recounting
from app.domains.controls.engines.recounting import Ledger, Used
from app.domains.controls.models.limits import LimitRule
from app.domains.decisions.engines import decisions
from app.domains.logs.engines import purge
from app.domains.policies.engines import snapshots
from app.domains.policies.errors import SnapshotInvalidError
from app.domains.traces.engines import recounting as trace_recounting
from app.kernel.amounts import MICRO, Metric
from app.kernel.canonical_json import loads

_RUNS_AT_ONCE = 50
Rules = Mapping[str, Sequence[LimitRule] | None]
Found = tuple[str, str, str]


def recount_limits(connection: DriverConnection, *, tenant_id: str) -> Iterator[Found]:
    """Yield (table, key, column) of what is not as its sources give it, some runs at a time.

    A run whose snapshot is damaged is left out: which limits count its use, nobody knows.
    """
    known: dict[str, Sequence[LimitRule] | None] = {}
    after = ""
    while True:
        runs = projections.list_governed(connection, tenant_id=tenant_id, after=after, limit=_RUNS_AT_ONCE)
        if not runs:
            return
        for snapshot_id in {row["policy_snapshot_id"] for row in runs} - known.keys():
            known[snapshot_id] = _rules_of(connection, tenant_id, snapshot_id)
        rules = {row["run_id"]: known[row["policy_snapshot_id"]] for row in runs}
        # What a purge that is under way has left of them says nothing any more.
        for run_id in purge.purged_among(connection, list(rules), tenant_id=tenant_id):
            del rules[run_id]
        yield from _recount(connection, tenant_id, rules)
        after = runs[-1]["run_id"]


def _rules_of(connection: DriverConnection, tenant_id: str, snapshot_id: str) -> Sequence[LimitRule] | None:
    try:
        members = snapshots.read_limits(connection, tenant_id=tenant_id, snapshot_id=snapshot_id)
    except SnapshotInvalidError:
        return None
    return recounting.rules_of(members)


def _recount(connection: DriverConnection, tenant_id: str, governed: Rules) -> Iterator[Found]:
    rules = {run_id: found for run_id, found in governed.items() if found is not None}
    ledger = recounting.read_ledger(connection, tenant_id=tenant_id, run_ids=sorted(rules))
    counting = sorted(run_id for run_id, found in rules.items() if found)
    steps = _steps(connection, tenant_id, counting) if counting else []
    yield from recounting.find_wrong(ledger, steps, rules, _decisions(connection, tenant_id, ledger))


def _steps(connection: DriverConnection, tenant_id: str, run_ids: Sequence[str]) -> list[Used]:
    rows = trace_recounting.list_of_runs(connection, tenant_id=tenant_id, run_ids=run_ids)
    return [
        Used(
            f"step:{row['trace_id']}:{row['step_index']}",
            row["run_id"],
            row["attempt"],
            # Each step is one of STEPS, whatever it says.
            {**loads(row["usage"]), Metric.STEPS.value: MICRO},
        )
        for row in rows
    ]


def _decisions(connection: DriverConnection, tenant_id: str, ledger: Ledger) -> Mapping[str, Row]:
    named = {str(row["decision_id"]) for row in ledger.reservations}
    named |= {str(row["source_ref"]).removeprefix("check:") for row in ledger.entries if _is_check(row)}
    if not named:
        return {}
    return decisions.find_reserving(connection, tenant_id=tenant_id, decision_ids=sorted(named))


def _is_check(entry: Row) -> bool:
    return str(entry["source_ref"]).startswith("check:")
