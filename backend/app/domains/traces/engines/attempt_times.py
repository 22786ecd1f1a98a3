"""Traces L5: which attempts of many runs have a trace, and when they ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from app.db.connection import DriverConnection, Row
from app.domains.traces.drivers import attempt_times as driver


def attempts_of(
    connection: DriverConnection, run_ids: Sequence[str], *, tenant_id: str
) -> Mapping[str, Mapping[int, Row]]:
    """Return the traced attempts of each run, each with its `completed_at`."""
    found: dict[str, dict[int, Row]] = defaultdict(dict)
    for row in driver.list_attempts(connection, tenant_id=tenant_id, run_ids=run_ids):
        found[row["run_id"]][row["attempt"]] = row
    return found
