"""Activity L5: whom runs are about, as it was said at their start."""

from __future__ import annotations

from collections.abc import Collection

from app.db.connection import DriverConnection
from app.domains.activity.drivers import subjects as driver


def subjects_of(connection: DriverConnection, *, tenant_id: str, run_ids: Collection[str]) -> dict[str, str]:
    """Return the subject of each of these runs that has one."""
    if not run_ids:
        return {}
    found = driver.list_subjects(connection, tenant_id=tenant_id, run_ids=sorted(run_ids))
    return {row["run_id"]: row["subject_ref"] for row in found}


def has_runs(connection: DriverConnection, *, tenant_id: str, subject_ref: str) -> bool:
    """Tell whether a run is about the subject."""
    return driver.get_any_run(connection, tenant_id=tenant_id, subject_ref=subject_ref) is not None
