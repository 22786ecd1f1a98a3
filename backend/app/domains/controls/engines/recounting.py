"""Controls L5: entries of limits and reservations, recounted from steps, recorded use and decisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.db.connection import DriverConnection, Row
from app.domains.controls.drivers import recounting as driver
from app.domains.controls.engines.judging import ONE, complete_use
from app.domains.controls.engines.usage import source_ref
from app.domains.controls.models.limits import LimitRule
from app.domains.controls.models.vocabulary import EntryKind, ReservationStatus
from app.kernel.amounts import Metric
from app.kernel.canonical_json import loads

ENTRIES, RESERVATIONS = "limit_entries", "usage_reservations"
_CHECK = "check:"
# By what kind of entry a closed reservation gave back what it held.
_GIVEN_BACK = {
    ReservationStatus.RELEASED.value: EntryKind.RELEASE.value,
    ReservationStatus.COMMITTED.value: EntryKind.RELEASE.value,
    ReservationStatus.EXPIRED.value: EntryKind.EXPIRE.value,
}
_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Used:
    """Use as its source states it, and the attempt that it is of; `ref` names the source in the ledger."""

    ref: str
    run_id: str
    attempt: int | None
    usage: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the ledger of limits holds of some runs, read at one moment."""

    entries: Sequence[Row]
    reservations: Sequence[Row]
    records: Sequence[Row]


@dataclass(slots=True)
class _Due:
    """What entries there have to be, by (limit, kind, source): amount, window where it is known, attempt."""

    amounts: dict[_Key, int] = field(default_factory=dict)
    windows: dict[_Key, str] = field(default_factory=dict)
    runs: dict[_Key, tuple[str, int | None]] = field(default_factory=dict)


def read_ledger(connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]) -> Ledger:
    """Return entries, reservations and recorded use of these runs."""
    given: dict[str, Any] = {"tenant_id": tenant_id, "run_ids": run_ids}
    return Ledger(
        driver.list_entries(connection, **given),
        driver.list_reservations(connection, **given),
        driver.list_records(connection, **given),
    )


def list_recorded(
    connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]
) -> dict[tuple[str, int], list[Mapping[str, int]]]:
    """Return the use that was recorded beside the steps, by run and attempt."""
    found: dict[tuple[str, int], list[Mapping[str, int]]] = {}
    for row in driver.list_records(connection, tenant_id=tenant_id, run_ids=run_ids):
        found.setdefault((row["run_id"], row["attempt"]), []).append(loads(row["usage"]))
    return found


def rules_of(members: Sequence[Mapping[str, Any]]) -> list[LimitRule]:
    """Return the limits of a snapshot that count use; the clock has no entries."""
    rules = [LimitRule.of(member) for member in members]
    return [rule for rule in rules if rule.metric is not Metric.RUN_TIME_MS]


def find_wrong(
    ledger: Ledger,
    steps: Sequence[Used],
    rules: Mapping[str, Sequence[LimitRule]],
    decisions: Mapping[str, Row],
) -> Iterator[tuple[str, str, str]]:
    """Yield (table, key, column) of entries and reservations that their sources do not give.

    `rules` are the limits that govern each run, `decisions` the records that the entries of checks name, by
    id. Of an entry that a source demands and that is not there, the key is the source.
    """
    due = _Due()
    told = [
        Used(source_ref(row["run_id"], row["usage_id"]), row["run_id"], row["attempt"], loads(row["usage"]))
        for row in ledger.records
    ]
    for use in (*steps, *told):
        _commit(due, use, rules.get(use.run_id, ()))
    for row in ledger.reservations:
        columns = list(_unlike_decision(row, decisions.get(row["decision_id"])))
        yield from ((RESERVATIONS, row["reservation_id"], column) for column in columns)
        _hold(due, row)
    for entry in ledger.entries:
        column = _unlike(due, entry, rules.get(entry["run_id"], ()), decisions)
        if column is not None:
            yield ENTRIES, entry["entry_id"], column
    for _, _, source in due.amounts:
        yield ENTRIES, source, "source_ref"


def _commit(due: _Due, use: Used, rules: Sequence[LimitRule]) -> None:
    counted = complete_use({Metric(name): amount for name, amount in use.usage.items()})
    for rule in rules:
        if counted.get(rule.metric):
            key = (rule.limit_id, EntryKind.COMMIT.value, use.ref)
            due.amounts[key] = counted[rule.metric]
            due.runs[key] = (use.run_id, use.attempt)


def _hold(due: _Due, row: Row) -> None:
    kinds = [EntryKind.RESERVE.value]
    if row["status"] in _GIVEN_BACK:
        kinds.append(_GIVEN_BACK[row["status"]])
    for limit_id, kept in loads(row["windows"]).items():
        for kind in kinds:
            key = (limit_id, kind, _CHECK + row["decision_id"])
            due.amounts[key] = kept["amount"]
            due.windows[key] = kept["window_key"]
            due.runs[key] = (row["run_id"], row["attempt"])


def _unlike(due: _Due, entry: Row, rules: Sequence[LimitRule], decisions: Mapping[str, Row]) -> str | None:
    """Return the column of an entry that its source does not give, and strike the entry off what is due."""
    key = (entry["limit_id"], entry["kind"], entry["source_ref"])
    if entry["kind"] == EntryKind.COMMIT and entry["source_ref"].startswith(_CHECK):
        # A check is one request, whatever it reserves.
        decision = decisions.get(entry["source_ref"].removeprefix(_CHECK))
        if decision is None or decision["run_id"] != entry["run_id"]:
            return "source_ref"
        counts = any(rule.limit_id == entry["limit_id"] and rule.metric is Metric.REQUESTS for rule in rules)
        return None if counts and entry["amount"] == ONE else "amount" if counts else "limit_id"
    if key not in due.amounts:
        return "source_ref"
    amount, window, of = due.amounts.pop(key), due.windows.get(key), due.runs[key]
    if entry["amount"] != amount:
        return "amount"
    if window is not None and entry["window_key"] != window:
        return "window_key"
    if of[0] != entry["run_id"]:
        return "run_id"
    return None if of[1] is None or of[1] == entry["attempt"] else "attempt"


def _unlike_decision(row: Row, decision: Row | None) -> Iterator[str]:
    """Yield what of a reservation its decision does not say; what was erased says nothing any more."""
    if decision is None or decision["reservation_id"] != row["reservation_id"]:
        yield "decision_id"
        return
    yield from (name for name in ("run_id", "attempt") if decision[name] != row[name])
    if decision["decision_inputs"] is None:
        return
    estimate = loads(decision["decision_inputs"]).get("estimate", {})
    asked = complete_use({Metric(name): amount for name, amount in estimate.items()})
    if loads(row["amounts"]) != {metric.value: amount for metric, amount in asked.items()}:
        yield "amounts"
