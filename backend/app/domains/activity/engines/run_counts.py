"""Activity L5: runs by what governs them, and evaluations across runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from app.db.connection import DriverConnection
from app.domains.activity.drivers import run_counts as driver
from app.domains.activity.engines.evaluation import evaluation_view
from app.domains.activity.models.runs import EvaluationView
from app.kernel.canonical_json import dumps
from app.kernel.clock import format_time
from app.kernel.pages import Page, encode_cursor, read_cursor


def count_governed(
    connection: DriverConnection, *, tenant_id: str, snapshot_ids: Sequence[str], since: datetime
) -> int:
    """Return how many runs started since then under one of these snapshots."""
    if not snapshot_ids:
        return 0
    return driver.count_governed(connection, tenant_id=tenant_id, snapshot_ids=snapshot_ids, since=since)


def list_evaluation_views(
    connection: DriverConnection, *, tenant_id: str, run_id: str | None, cursor: str | None, limit: int
) -> Page[EvaluationView]:
    """Return one page of evaluations, newest first."""
    binding = dumps([tenant_id, "policies.evaluations.list", run_id])
    after = read_cursor(cursor, binding, datetime, str)
    rows = driver.list_evaluations(
        connection, tenant_id=tenant_id, run_id=run_id, after=after, limit=limit + 1
    )
    shown = rows[:limit]
    following = None
    if len(rows) > limit:
        last = shown[-1]
        following = encode_cursor(binding, [format_time(last["created_at"]), last["evaluation_id"]])
    return Page(items=[evaluation_view(row) for row in shown], next_cursor=following)
