"""Controls L5: breaches: the first crossing of a limit by a run, with the values of that moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from app.db.connection import DriverConnection, Row
from app.db.governed import row_image
from app.db.unit import GovernedUnit
from app.domains.controls.drivers import breaches as driver
from app.domains.controls.models.usage import BreachView, LimitFinding, ListBreaches
from app.domains.controls.models.vocabulary import BreachType, LimitCategory
from app.kernel.amounts import as_number
from app.kernel.canonical_json import dumps, loads

REFUSALS: Final = {
    LimitCategory.BUDGET: BreachType.EXHAUSTED,
    LimitCategory.RATE: BreachType.THROTTLED,
    LimitCategory.THRESHOLD: BreachType.VIOLATED,
}
_SHOWN = tuple(
    name
    for name in BreachView.model_fields
    if name not in ("breached_value", "threshold_value", "details", "protected_state")
)


def record(
    unit: GovernedUnit,
    findings: Sequence[LimitFinding],
    *,
    run_id: str,
    attempt: int,
    decision_id: str | None,
    source_ref: str | None = None,
) -> list[tuple[LimitFinding, dict[str, Any]]]:
    """Insert the first crossings among the findings, with their facts; return each with its row.

    The caller holds the run, so no other transaction records a crossing of the same run. Without a
    decision the crossing is by recorded use, else it is a refusal.
    """
    if not findings:
        return []
    known = {
        (row["limit_id"], row["window_key"])
        for row in driver.list_known(
            unit.connection,
            tenant_id=unit.tenant_id,
            run_key=run_id,
            limit_ids=[finding.limit_id for finding in findings],
        )
    }
    made = []
    for finding in findings:
        if (finding.limit_id, finding.window_key) in known:
            continue
        row = _row(unit, finding, run_id=run_id, attempt=attempt, decision_id=decision_id, source=source_ref)
        row["fact_id"] = unit.facts.add("breach", row, run_id=run_id, attempt=attempt)
        made.append((finding, row))
    if made:
        driver.insert_breaches(unit.connection, [row for _, row in made], tenant_id=unit.tenant_id)
    return made


def _row(
    unit: GovernedUnit,
    finding: LimitFinding,
    *,
    run_id: str,
    attempt: int,
    decision_id: str | None,
    source: str | None,
) -> dict[str, Any]:
    rule = finding.rule
    details = {
        "metric": rule.metric.value,
        "enforcement": rule.enforcement.value,
        "proximity_pct": finding.proximity_pct,
        **({} if source is None else {"source_ref": source}),
    }
    return {
        "breach_id": unit.new_id("brc"),
        "limit_id": rule.limit_id,
        "limit_version": rule.limit_version,
        "run_id": run_id,
        "run_key": run_id,
        "attempt": attempt,
        "decision_id": decision_id,
        "breach_type": (BreachType.BREACHED if decision_id is None else REFUSALS[rule.category]).value,
        "value_at_breach": finding.value,
        "limit_value": finding.max_value,
        "override_id": finding.override_id,
        "window_key": finding.window_key,
        "breached_at": unit.now,
        "created_at": unit.now,
        **unit.protect({"details": dumps(details)}),
    }


def list_run(connection: DriverConnection, *, tenant_id: str, run_id: str, limit: int) -> Sequence[Row]:
    """Return a run's breaches with `limit_name`, newest first."""
    return driver.list_breaches(connection, tenant_id=tenant_id, equal={"run_id": run_id}, limit=limit)


def count_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> int:
    """Return how many breaches a run has."""
    return driver.count_run(connection, tenant_id=tenant_id, run_id=run_id)


def list_attempt(
    connection: DriverConnection, *, tenant_id: str, run_id: str, attempt: int, limit: int = 1000
) -> Sequence[Row]:
    """Return the breaches of one attempt with `limit_name`, newest first."""
    equal = {"run_id": run_id, "attempt": attempt}
    return driver.list_breaches(connection, tenant_id=tenant_id, equal=equal, limit=limit)


def list_page(
    connection: DriverConnection,
    query: ListBreaches,
    *,
    tenant_id: str,
    before: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return breaches with `limit_name`, newest first."""
    equal = query.model_dump(mode="json", include={"run_id", "limit_id"})
    return driver.list_breaches(
        connection, tenant_id=tenant_id, equal=equal, since=query.since, before=before, limit=limit
    )


def image(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the audit ledger shows of a breach."""
    return row_image("limit_breaches", row)


def view(row: Mapping[str, Any], *, limit_name: str | None = None) -> BreachView:
    """Return what a caller sees of a breach."""
    details = row["details"]
    return BreachView.model_validate(
        {
            **{name: row.get(name, limit_name) for name in _SHOWN},
            "breached_value": as_number(row["value_at_breach"]),
            "threshold_value": as_number(row["limit_value"]),
            "details": None if details is None else loads(details),
            "protected_state": "INTACT" if row["erased_fact_id"] is None else "ERASED",
        }
    )


def count_by_run(connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]) -> dict[str, int]:
    """Return, by run, how many breaches it has."""
    rows = driver.count_by_run(connection, tenant_id=tenant_id, run_ids=run_ids)
    return {row["run_id"]: row["breaches"] for row in rows}
