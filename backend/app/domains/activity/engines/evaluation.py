"""Activity L5: how a run may end, and the one policy evaluation of an ended attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.activity.drivers import evaluations as driver
from app.domains.activity.errors import invalid_termination
from app.domains.activity.models.facts import Evaluation
from app.domains.activity.models.runs import EvaluationView
from app.domains.activity.models.vocabulary import (
    EvaluationOutcome,
    OutcomeKind,
    RunStatus,
    TerminationReason,
)
from app.kernel.canonical_json import dumps, loads

# The first reason of a status is its default.
TERMINATIONS: Mapping[RunStatus, tuple[TerminationReason, ...]] = {
    RunStatus.SUCCEEDED: (TerminationReason.COMPLETED,),
    RunStatus.FAILED: (TerminationReason.SYSTEM_FAILURE, TerminationReason.TIMEOUT),
    RunStatus.HALTED: (
        TerminationReason.POLICY_BLOCK,
        TerminationReason.BUDGET_EXCEEDED,
        TerminationReason.RATE_LIMITED,
        TerminationReason.USER_ABORT,
    ),
    RunStatus.CANCELLED: (TerminationReason.USER_ABORT,),
}


@dataclass(frozen=True, slots=True)
class Findings:
    """What was recorded against an attempt until it ended; `advisory` are preventions but AUDITED ones."""

    violation_incidents: int = 0
    incidents: int = 0
    preventions: int = 0
    advisory: int = 0
    breaches: int = 0
    outcome_kind: OutcomeKind = OutcomeKind.NONE
    outcome_ref: str | None = None
    policies_checked: int = 0


def settle_termination(status: RunStatus, reason: str | None) -> TerminationReason:
    """Return the termination reason of an ending, or refuse INVALID_TERMINATION."""
    allowed = TERMINATIONS[status]
    if reason is None:
        return allowed[0]
    if reason not in allowed:
        raise invalid_termination(status, reason, allowed)
    return TerminationReason(reason)


def decide_evaluation(status: RunStatus, findings: Findings) -> Evaluation:
    """Return what the evaluation of an ended attempt says: the first outcome that holds."""
    if findings.violation_incidents:
        outcome = EvaluationOutcome.VIOLATION_INCIDENT
    elif status is RunStatus.HALTED or findings.advisory or findings.breaches:
        outcome = EvaluationOutcome.ADVISORY
    elif status is RunStatus.SUCCEEDED:
        outcome = EvaluationOutcome.NO_VIOLATION
    else:
        outcome = EvaluationOutcome.NOT_APPLICABLE
    return Evaluation(
        outcome=outcome,
        confidence=100 if outcome is EvaluationOutcome.NO_VIOLATION else 0,
        outcome_kind=findings.outcome_kind,
        outcome_ref=findings.outcome_ref,
        policies_checked=findings.policies_checked,
        counts={
            "breaches": findings.breaches,
            "incidents": findings.incidents,
            "preventions": findings.preventions,
        },
    )


def evaluation_row(
    evaluation: Evaluation,
    *,
    evaluation_id: str,
    run_id: str,
    attempt: int,
    run_status: RunStatus,
    snapshot_id: str,
    now: datetime,
) -> dict[str, Any]:
    """Return the row of an evaluation, but for its fact."""
    return {
        "evaluation_id": evaluation_id,
        "run_id": run_id,
        "attempt": attempt,
        "run_status": run_status.value,
        "outcome": evaluation.outcome.value,
        "policies_checked": evaluation.policies_checked,
        "confidence": evaluation.confidence,
        "outcome_kind": evaluation.outcome_kind.value,
        "outcome_ref": evaluation.outcome_ref,
        "counts": dumps(dict(evaluation.counts)),
        "snapshot_id": snapshot_id,
        "created_at": now,
    }


def insert_evaluation(connection: DriverConnection, *, tenant_id: str, row: Mapping[str, Any]) -> None:
    """Insert an attempt's evaluation; the database refuses a second one."""
    driver.insert_evaluation(connection, tenant_id=tenant_id, row=row)


def get_evaluation(
    connection: DriverConnection, *, tenant_id: str, run_id: str, attempt: int
) -> EvaluationView | None:
    """Return an attempt's evaluation, None while it runs."""
    row = driver.get_evaluation(connection, tenant_id=tenant_id, run_id=run_id, attempt=attempt)
    return None if row is None else evaluation_view(row)


def list_evaluations(
    connection: DriverConnection, *, tenant_id: str, run_id: str
) -> Sequence[EvaluationView]:
    """Return a run's evaluations, by attempt."""
    return [
        evaluation_view(row)
        for row in driver.list_evaluations(connection, tenant_id=tenant_id, run_id=run_id)
    ]


def evaluation_view(row: Mapping[str, Any]) -> EvaluationView:
    """Return what a caller sees of an evaluation."""
    plain = {name: row[name] for name in EvaluationView.model_fields if name != "counts"}
    return EvaluationView(**plain, counts=loads(row["counts"]))
