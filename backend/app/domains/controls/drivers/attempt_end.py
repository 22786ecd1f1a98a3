"""Controls L6: questions about the limits of an attempt that ends, asked beside those of other slices."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from app.db.connection import DriverConnection
from app.db.gather import Question, finding
from app.domains.controls.tables import limit_breaches, limit_counters, usage_reservations

_B, _C, _R = limit_breaches.c, limit_counters.c, usage_reservations.c


def ask_breaches(connection: DriverConnection, *, tenant_id: str, run_id: str, attempt: int) -> Question:  # noqa: ARG001
    """Ask for the breaches of an attempt: ref the breach, word its limit."""
    return Question(
        sa.select(*finding("breach", ref=_B.breach_id, word=_B.limit_id)).where(
            _B.tenant_id == tenant_id, _B.run_id == run_id, _B.attempt == attempt
        )
    )


def ask_reservations(connection: DriverConnection, *, tenant_id: str, run_id: str, attempt: int) -> Question:  # noqa: ARG001
    """Ask how many reservations of an attempt are open: number the count."""
    return Question(
        sa.select(*finding("reservation", number=sa.func.count())).where(
            _R.tenant_id == tenant_id, _R.run_id == run_id, _R.attempt == attempt, _R.status == "OPEN"
        )
    )


def ask_counters(
    connection: DriverConnection,  # noqa: ARG001
    *,
    tenant_id: str,
    windows: Sequence[tuple[str, str]],
) -> Question:
    """Ask what is committed in these (limit_id, window_key): ref the limit, number the amount."""
    return Question(
        sa.select(*finding("counter", ref=_C.limit_id, number=_C.committed)).where(
            _C.tenant_id == tenant_id, sa.tuple_(_C.limit_id, _C.window_key).in_(windows)
        )
    )
