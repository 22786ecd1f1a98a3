"""Activity L5: runs by what governs them, and evaluations across runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from app.db.connection import DriverConnection
from app.domains.activity.drivers import run_counts as driver
from app.domains.activity.engines.evaluation import evaluation_view
from app.domains.activity.models.runs import EvaluationView
from app.kernel.pages import ListQuery, Page, newest_first


def count_governed(
    connection: DriverConnection, *, tenant_id: str, snapshot_ids: Sequence[str], since: datetime
) -> int:
    """Return how many runs started since then under one of these snapshots."""
    if not snapshot_ids:
        return 0
    return driver.count_governed(connection, tenant_id=tenant_id, snapshot_ids=snapshot_ids, since=since)


def list_evaluation_views(
    connection: DriverConnection, query: ListQuery, *, tenant_id: str, run_id: str | None
) -> Page[EvaluationView]:
    """Return one page of evaluations, newest first."""
    return newest_first(
        query,
        tenant_id=tenant_id,
        operation="policies.evaluations.list",
        columns=("created_at", "evaluation_id"),
        fetch=lambda before, count: driver.list_evaluations(
            connection, tenant_id=tenant_id, equal={"run_id": run_id}, before=before, limit=count
        ),
        view=evaluation_view,
    )
