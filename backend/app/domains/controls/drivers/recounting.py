"""Controls L6: entries, reservations and recorded use of some runs, whole, to recount one from the other."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from app.db.connection import DriverConnection, Row
from app.db.dialect import among
from app.domains.controls.tables import limit_entries, usage_records, usage_reservations

_E, _R, _U = limit_entries.c, usage_reservations.c, usage_records.c


def list_entries(connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]) -> Sequence[Row]:
    """Return the entries of these runs."""
    statement = sa.select(
        _E.entry_id,
        _E.limit_id,
        _E.window_key,
        _E.run_id,
        _E.attempt,
        _E.kind,
        _E.amount,
        _E.reservation_id,
        _E.source_ref,
    ).where(_E.tenant_id == tenant_id, among(connection, _E.run_id, run_ids))
    return connection.execute(statement).mappings().all()


def list_reservations(
    connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]
) -> Sequence[Row]:
    """Return the reservations of these runs."""
    statement = sa.select(
        _R.reservation_id, _R.decision_id, _R.run_id, _R.attempt, _R.amounts, _R.windows, _R.status
    ).where(_R.tenant_id == tenant_id, among(connection, _R.run_id, run_ids))
    return connection.execute(statement).mappings().all()


def list_records(connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]) -> Sequence[Row]:
    """Return the recorded use of these runs."""
    statement = sa.select(_U.run_id, _U.usage_id, _U.attempt, _U.usage).where(
        _U.tenant_id == tenant_id, among(connection, _U.run_id, run_ids)
    )
    return connection.execute(statement).mappings().all()
