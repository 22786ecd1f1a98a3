"""Decisions L5: decision records as their readers ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from heapq import merge

from app.db.connection import DriverConnection, Row
from app.domains.decisions.drivers import decision_records as driver
from app.domains.decisions.errors import decision_not_found
from app.domains.decisions.models.records import DecisionView, ListDecisions
from app.domains.decisions.models.vocabulary import DecisionOutcome
from app.kernel.canonical_json import loads

_PLAIN = tuple(
    name
    for name in DecisionView.model_fields
    if name not in ("decision_inputs", "matched", "details", "protected_state")
)

_BLOCKS = (DecisionOutcome.BLOCKED.value, DecisionOutcome.STOPPED.value, DecisionOutcome.KILLED.value)


def find_by_key(connection: DriverConnection, *, tenant_id: str, idempotency_key: str) -> Row | None:
    """Return the record of an idempotency key, None when it is free."""
    return driver.find_by_key(connection, tenant_id=tenant_id, idempotency_key=idempotency_key)


def get(connection: DriverConnection, *, tenant_id: str, decision_id: str) -> DecisionView:
    """Return one decision; refuse DECISION_NOT_FOUND."""
    row = driver.get_record(connection, tenant_id=tenant_id, decision_id=decision_id)
    if row is None:
        raise decision_not_found()
    return view(row)


def list_run(connection: DriverConnection, *, tenant_id: str, run_id: str, limit: int) -> Sequence[Row]:
    """Return the rows of a run's decisions and of those that led to it, newest first."""
    return list_page(connection, ListDecisions(run_id=run_id), tenant_id=tenant_id, before=None, limit=limit)


def count_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> int:
    """Return how many decisions a run has, those that led to it included."""
    return driver.count_run(connection, tenant_id=tenant_id, run_id=run_id)


def outcomes_of_run(
    connection: DriverConnection, *, tenant_id: str, run_id: str, decision_ids: Sequence[str]
) -> dict[str, DecisionOutcome]:
    """Return the outcome of those of these decisions that are of a run."""
    rows = driver.list_outcomes(connection, tenant_id=tenant_id, run_id=run_id, decision_ids=decision_ids)
    return {row["decision_id"]: DecisionOutcome(row["decision_outcome"]) for row in rows}


def list_between(
    connection: DriverConnection,
    *,
    tenant_id: str,
    run_id: str,
    since: datetime,
    until: datetime,
    limit: int,
) -> Sequence[Row]:
    """Return id, type, outcome and time of what was decided in a run in [since, until], oldest first."""
    return driver.list_between(
        connection, tenant_id=tenant_id, run_id=run_id, since=since, until=until, limit=limit
    )


def first_block(connection: DriverConnection, *, tenant_id: str, run_id: str) -> datetime | None:
    """Return when a run was first blocked, stopped or killed, None when it never was."""
    row = driver.get_first(connection, tenant_id=tenant_id, run_id=run_id, outcomes=_BLOCKS)
    return None if row is None else row["decided_at"]


def list_page(
    connection: DriverConnection,
    query: ListDecisions,
    *,
    tenant_id: str,
    before: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Row]:
    """Return the rows of at most `limit` decisions, newest first, after the cursor's key."""
    equal = query.model_dump(
        mode="json", include={"decision_type", "causal_role", "request_id"}, exclude_none=True
    )
    if query.outcome is not None:
        equal["decision_outcome"] = query.outcome.value
    read = partial(
        driver.list_records,
        connection,
        tenant_id=tenant_id,
        since=query.since,
        before=before,
        limit=limit,
    )
    if query.run_id is None:
        return read(equal=equal)
    # A record names its run or is linked to it, never both; each way has its own index.
    own = read(equal=equal | {"run_id": query.run_id})
    linked = read(equal=equal, linked_to=query.run_id)
    return list(merge(own, linked, key=_newest, reverse=True))[:limit]


def _newest(row: Row) -> tuple[datetime, str]:
    return row["decided_at"], row["decision_id"]


def view(row: Row) -> DecisionView:
    """Return what a caller sees of a decision."""
    inputs, details = row["decision_inputs"], row["details"]
    return DecisionView.model_validate(
        {
            **{name: row[name] for name in _PLAIN},
            "decision_inputs": None if inputs is None else loads(inputs),
            "details": None if details is None else loads(details),
            "matched": loads(row["matched"]),
            "protected_state": "INTACT" if row["erased_fact_id"] is None else "ERASED",
        }
    )


def find_reserving(
    connection: DriverConnection, *, tenant_id: str, decision_ids: Sequence[str]
) -> dict[str, Row]:
    """Return what these records say of their reservations, by id."""
    rows = driver.list_reserving(connection, tenant_id=tenant_id, decision_ids=decision_ids)
    return {row["decision_id"]: row for row in rows}
