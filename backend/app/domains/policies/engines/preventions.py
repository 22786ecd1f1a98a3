"""Policies L5: prevention records: what a matching GUARD rule did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.db.connection import DriverConnection, Row
from app.db.gather import Question
from app.db.unit import GovernedUnit
from app.domains.policies.drivers import preventions as driver
from app.domains.policies.engines.guards import GuardMatch
from app.domains.policies.models.vocabulary import Moment, PreventionOutcome
from app.kernel.canonical_json import dumps


@dataclass(frozen=True, slots=True)
class PreventionDraft:
    """One match to be recorded; `prevented_event` is the incident that was not opened, redacted."""

    match: GuardMatch
    outcome: PreventionOutcome
    moment: Moment
    decision_id: str
    run_id: str | None = None
    attempt: int | None = None
    snapshot_id: str | None = None
    signature: str | None = None
    prevented_event: Mapping[str, Any] | None = None
    is_synthetic: bool = False


def record_preventions(unit: GovernedUnit, drafts: Sequence[PreventionDraft]) -> list[str]:
    """Insert the records with their facts in one statement and return their ids, in order."""
    if not drafts:
        return []
    rows = [_row(unit, draft) for draft in drafts]
    driver.insert_preventions(unit.connection, rows, tenant_id=unit.tenant_id)
    return [row["prevention_id"] for row in rows]


def _row(unit: GovernedUnit, draft: PreventionDraft) -> dict[str, Any]:
    rule = draft.match.rule
    event = None if draft.prevented_event is None else dumps(dict(draft.prevented_event))
    row: dict[str, Any] = {
        "prevention_id": unit.new_id("prv"),
        "run_id": draft.run_id,
        "attempt": draft.attempt,
        "rule_id": rule.rule_id,
        "rule_version": rule.rule_version,
        "rule_hash": rule.content_hash,
        "snapshot_id": draft.snapshot_id,
        "decision_id": draft.decision_id,
        "outcome": draft.outcome.value,
        "moment": draft.moment.value,
        "signature": draft.signature,
        "confidence": 100,
        "is_synthetic": draft.is_synthetic,
        "created_at": unit.now,
        **unit.protect({"prevented_event": event, "reason": draft.match.message}),
    }
    row["fact_id"] = unit.facts.add("prevention", row, run_id=draft.run_id, attempt=draft.attempt)
    return row


def list_run(connection: DriverConnection, *, tenant_id: str, run_id: str, limit: int) -> Sequence[Row]:
    """Return a run's records, each with the `policy_name` of its rule version, newest first."""
    return driver.list_preventions(
        connection, tenant_id=tenant_id, equal={"run_id": run_id}, before=None, limit=limit
    )


def count_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> int:
    """Return how many records a run has."""
    return driver.count_run(connection, tenant_id=tenant_id, run_id=run_id)


def get_by_decision(
    connection: DriverConnection, *, tenant_id: str, run_id: str | None, decision_id: str
) -> Row | None:
    """Return id and rule of the first record of a decision, None when it has none."""
    return driver.get_by_decision(connection, tenant_id=tenant_id, run_id=run_id, decision_id=decision_id)


def ask_attempt(connection: DriverConnection, *, tenant_id: str, run_id: str, attempt: int) -> Question:
    """Ask how often the rules did what in an attempt: word the outcome, number the count."""
    return driver.ask_attempt(connection, tenant_id=tenant_id, run_id=run_id, attempt=attempt)


def list_stopped(
    connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]
) -> set[tuple[str, int]]:
    """Return the attempts (run, attempt) in which a rule blocked or stopped something."""
    stops = (PreventionOutcome.BLOCKED.value, PreventionOutcome.STOPPED.value)
    rows = driver.count_by_run(connection, tenant_id=tenant_id, run_ids=run_ids, outcomes=stops)
    return {(row["run_id"], row["attempt"]) for row in rows}
