"""Decisions L6: the question which decisions stopped an attempt, asked beside those of other slices."""

from __future__ import annotations

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.gather import Question, finding
from app.domains.decisions.models.vocabulary import DecisionOutcome
from app.domains.decisions.tables import decision_records

_C = decision_records.c
_STOPS = (DecisionOutcome.BLOCKED.value, DecisionOutcome.STOPPED.value, DecisionOutcome.KILLED.value)


def ask_blocking(
    connection: DriverConnection,  # noqa: ARG001
    *,
    tenant_id: str,
    run_id: str,
    attempt: int,
    limit: int,
) -> Question:
    """Ask for the newest decisions that blocked or stopped something in an attempt: ref the decision."""
    newest = (
        sa.select(_C.decision_id)
        .where(
            _C.tenant_id == tenant_id,
            _C.run_id == run_id,
            _C.attempt == attempt,
            _C.decision_outcome.in_(_STOPS),
        )
        .order_by(_C.decided_at.desc(), _C.decision_id.desc())
        .limit(limit)
        .subquery()
    )
    return Question(sa.select(*finding("decision", ref=newest.c.decision_id)))
