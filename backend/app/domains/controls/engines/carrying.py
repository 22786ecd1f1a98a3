"""Controls L5: the use of runs that are deleted, brought forward, so that counters still are their sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection, Row
from app.domains.controls.drivers import carrying as driver


def carry_forward(
    connection: DriverConnection,
    run_ids: Sequence[str],
    *,
    tenant_id: str,
    purge_id: str,
    limit: int,
    new_id: Callable[[str], str],
    now: datetime,
) -> int:
    """Put one entry of no run in the place of entries of runs, at most `limit`, for each window and kind.

    Return how many there were.
    """
    gone = driver.list_of_runs(connection, run_ids, tenant_id=tenant_id, limit=limit)
    if not gone:
        return 0
    windows: dict[str, set[str]] = {}
    for row in gone:
        windows.setdefault(row["limit_id"], set()).add(row["window_key"])
    carried: list[Row] = []
    for limit_id, keys in sorted(windows.items()):
        carried += driver.list_carried(connection, limit_id, sorted(keys), tenant_id=tenant_id)
    sums: dict[tuple[str, str, str], tuple[int, int]] = {}
    for row in (*gone, *carried):
        key = (row["limit_id"], row["window_key"], row["kind"])
        version, amount = sums.get(key, (0, 0))
        sums[key] = (max(version, row["limit_version"]), amount + row["amount"])
    driver.delete_entries(connection, [row["entry_id"] for row in (*gone, *carried)], tenant_id=tenant_id)
    entries: list[dict[str, Any]] = [
        {
            "entry_id": new_id("ent"),
            "limit_id": limit_id,
            "limit_version": version,
            "window_key": window,
            "run_id": None,
            "attempt": None,
            "kind": kind,
            "amount": amount,
            "reservation_id": None,
            "source_ref": f"purged:{purge_id}:{window}",
            "created_at": now,
        }
        for (limit_id, window, kind), (version, amount) in sorted(sums.items())
    ]
    driver.insert_entries(connection, entries, tenant_id=tenant_id)
    return len(gone)
