"""Controls L5: how the limits stand when an attempt ends, asked beside the questions of other slices."""

from __future__ import annotations

from app.db.connection import DriverConnection
from app.db.gather import Question
from app.domains.controls.drivers import attempt_end as driver
from app.domains.controls.engines.judging import Standing


def ask_end(
    connection: DriverConnection, standing: Standing, *, tenant_id: str, run_id: str, attempt: int
) -> list[Question]:
    """Ask for an attempt's breaches, its open reservations, and what the judging limits have counted.

    Answers are `breach` (ref the breach, word its limit), `reservation` (number open) and `counter` (ref the
    limit, number the amount committed).
    """
    questions = [
        ask(connection, tenant_id=tenant_id, run_id=run_id, attempt=attempt)
        for ask in (driver.ask_breaches, driver.ask_reservations)
    ]
    windows = [
        (rule.limit_id, standing.window(rule)) for rule in standing.rules if rule.limit_id in standing.judging
    ]
    if windows:
        questions.append(driver.ask_counters(connection, tenant_id=tenant_id, windows=windows))
    return questions
