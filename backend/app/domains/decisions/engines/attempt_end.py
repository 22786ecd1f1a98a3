"""Decisions L5: which decisions stopped an attempt that ends, asked beside the questions of other slices."""

from __future__ import annotations

from typing import Final

from app.db.connection import DriverConnection
from app.db.gather import Question
from app.domains.decisions.drivers import attempt_end as driver

# An agent that asks in a loop is blocked without end; an incident points at the newest.
MOST_BLOCKING: Final = 200


def ask_blocking(connection: DriverConnection, *, tenant_id: str, run_id: str, attempt: int) -> Question:
    """Ask for the newest decisions that blocked or stopped something in an attempt: ref the decision."""
    return driver.ask_blocking(
        connection, tenant_id=tenant_id, run_id=run_id, attempt=attempt, limit=MOST_BLOCKING
    )
