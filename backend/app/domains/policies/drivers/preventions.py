"""Policies L6: SQL of prevention records, alone and joined with what their rule version was called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among
from app.db.gather import Question, finding
from app.db.newest import newest
from app.domains.policies.tables import policy_rule_versions, prevention_records

_P, _V = prevention_records.c, policy_rule_versions.c
_INSERT = prevention_records.insert()
_NAMED = sa.select(*prevention_records.columns, _V.name.label("policy_name")).select_from(
    prevention_records.join(
        policy_rule_versions,
        sa.and_(_V.tenant_id == _P.tenant_id, _V.rule_id == _P.rule_id, _V.rule_version == _P.rule_version),
    )
)


def insert_preventions(
    connection: DriverConnection, rows: Sequence[Mapping[str, Any]], *, tenant_id: str
) -> None:
    """Insert prevention records, all of one tenant, in one statement."""
    connection.execute(_INSERT, [{**row, "tenant_id": tenant_id} for row in rows])


def list_preventions(
    connection: DriverConnection,
    *,
    tenant_id: str,
    equal: Mapping[str, Any],
    before: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Mapping[str, Any]]:
    """Return prevention records with their `policy_name`, newest first, before a (created_at, id)."""
    mine = _NAMED.where(_P.tenant_id == tenant_id)
    page = newest(mine, _P.created_at, _P.prevention_id, equal=equal, before=before, limit=limit)
    return connection.execute(page).mappings().all()


def count_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> int:
    """Return how many prevention records a run has."""
    statement = sa.select(sa.func.count()).where(_P.tenant_id == tenant_id, _P.run_id == run_id)
    return int(connection.execute(statement).scalar_one())


def count_rule_outcomes(connection: DriverConnection, *, tenant_id: str, rule_id: str) -> dict[str, int]:
    """Return how often a rule did what, by outcome."""
    statement = (
        sa.select(_P.outcome, sa.func.count())
        .where(_P.tenant_id == tenant_id, _P.rule_id == rule_id)
        .group_by(_P.outcome)
    )
    return {outcome: int(count) for outcome, count in connection.execute(statement)}


def get_by_decision(
    connection: DriverConnection, *, tenant_id: str, run_id: str | None, decision_id: str
) -> Mapping[str, Any] | None:
    """Return id and rule of the first record of a decision."""
    statement = (
        sa.select(_P.prevention_id, _P.rule_id)
        .where(_P.tenant_id == tenant_id, _P.run_id == run_id, _P.decision_id == decision_id)
        .order_by(_P.prevention_id)
        .limit(1)
    )
    return connection.execute(statement).mappings().one_or_none()


def ask_attempt(connection: DriverConnection, *, tenant_id: str, run_id: str, attempt: int) -> Question:  # noqa: ARG001
    """Ask how often the rules did what in an attempt: word the outcome, number the count."""
    return Question(
        sa.select(*finding("prevention", word=_P.outcome, number=sa.func.count()))
        .where(_P.tenant_id == tenant_id, _P.run_id == run_id, _P.attempt == attempt)
        .group_by(_P.outcome)
    )


def count_by_run(
    connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str], outcomes: Sequence[str]
) -> Sequence[Row]:
    """Return, by run and attempt, how many records of these outcomes it has."""
    statement = (
        sa.select(_P.run_id, _P.attempt, sa.func.count().label("stops"))
        .where(_P.tenant_id == tenant_id, among(connection, _P.run_id, run_ids), _P.outcome.in_(outcomes))
        .group_by(_P.run_id, _P.attempt)
    )
    return connection.execute(statement).mappings().all()
