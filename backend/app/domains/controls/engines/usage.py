"""Controls L5: records of use, and what a run has used in all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.db.connection import DriverConnection, Row
from app.db.unit import GovernedUnit
from app.domains.controls.drivers import reservations as driver
from app.domains.controls.errors import reservation_not_found, usage_conflict
from app.domains.controls.models.usage import RecordUsage, ReservationView
from app.kernel.amounts import Metric, as_number
from app.kernel.canonical_json import dumps, loads

_PARTS = (Metric.TOKENS_INPUT, Metric.TOKENS_OUTPUT)


def find_record(connection: DriverConnection, given: RecordUsage, *, tenant_id: str) -> Row | None:
    """Return the record that the same call made before, None for a new one; refuse USAGE_CONFLICT."""
    row = driver.get_record(connection, tenant_id=tenant_id, run_id=given.run_id, usage_id=given.usage_id)
    if row is None:
        return None
    said = (row["usage"], row["reservation_id"], row["step_index"])
    if said != (_usage_text(given.usage), given.reservation_id, given.step_index):
        raise usage_conflict(given.usage_id)
    return row


def insert_record(unit: GovernedUnit, given: RecordUsage, *, attempt: int) -> None:
    """Insert a usage record with its fact; the caller holds the run."""
    row: dict[str, Any] = {
        "run_id": given.run_id,
        "usage_id": given.usage_id,
        "attempt": attempt,
        "usage": _usage_text(given.usage),
        "reservation_id": given.reservation_id,
        "step_index": given.step_index,
        "created_at": unit.now,
    }
    row["fact_id"] = unit.facts.add("usage", row, run_id=given.run_id, attempt=attempt)
    driver.insert_record(unit.connection, tenant_id=unit.tenant_id, row=row)


def _usage_text(usage: Mapping[Metric, int]) -> str:
    return dumps({metric.value: amount for metric, amount in usage.items()})


def source_ref(run_id: str, usage_id: str) -> str:
    """Return what names a usage record in the ledger."""
    return f"usage:{run_id}:{usage_id}"


def totals_by_attempt(*parts: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, int]]:
    """Return use by attempt and metric from sums (attempt, metric, total, unstated).

    `unstated` is what of the tokens was reported without a TOKENS_TOTAL, which is then their sum.
    """
    found: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for rows in parts:
        for row in rows:
            found[row["attempt"]][row["metric"]] += row["total"]
            if row["metric"] in _PARTS and row["unstated"]:
                found[row["attempt"]][Metric.TOKENS_TOTAL.value] += row["unstated"]
    return {attempt: dict(used) for attempt, used in found.items()}


def record_totals(connection: DriverConnection, *, tenant_id: str, run_id: str) -> Sequence[Row]:
    """Return by attempt and metric what a run's records say was used."""
    return driver.sum_usage(connection, tenant_id=tenant_id, run_id=run_id)


def printed(usage: Mapping[str, int]) -> dict[str, float]:
    """Return use as it is printed, by metric."""
    return {metric: as_number(amount) for metric, amount in sorted(usage.items())}


def require_reservation(
    connection: DriverConnection, *, tenant_id: str, run_id: str, reservation_id: str
) -> Row:
    """Return a reservation of a run; refuse RESERVATION_NOT_FOUND."""
    row = driver.get_reservation(
        connection, tenant_id=tenant_id, run_id=run_id, reservation_id=reservation_id
    )
    if row is None:
        raise reservation_not_found()
    return row


def lock_reservation(
    connection: DriverConnection, *, tenant_id: str, run_id: str, reservation_id: str
) -> Sequence[Row]:
    """Return a reservation of a run, held, while it is open; nothing once it is closed."""
    return driver.lock_open(connection, tenant_id=tenant_id, run_id=run_id, reservation_ids=[reservation_id])


def list_open(connection: DriverConnection, *, tenant_id: str, run_id: str, limit: int) -> Sequence[Row]:
    """Return the open reservations of a run."""
    return driver.list_open(connection, tenant_id=tenant_id, run_id=run_id, limit=limit)


def reservation_view(row: Mapping[str, Any]) -> ReservationView:
    """Return what a caller sees of a reservation."""
    plain = {name: row[name] for name in ReservationView.model_fields if name != "amounts"}
    return ReservationView.model_validate({**plain, "amounts": printed(loads(row["amounts"]))})
