"""Activity L5: what a run's row tells of its incidents, lessons and risk, recounted from what it tells of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.db.connection import DriverConnection, Row
from app.domains.activity.drivers import projections as driver
from app.domains.activity.models.vocabulary import RiskLevel, RunStatus

# How near a run came to a limit that it did not cross is told by signals, which are no facts.
_UNTOLD = (RiskLevel.NORMAL.value, RiskLevel.NEAR_THRESHOLD.value)


@dataclass(frozen=True, slots=True)
class Sources:
    """What other slices record of one run; `stopped` are attempts in which a rule blocked or stopped."""

    incidents: int = 0
    is_violated: bool = False
    drafts: int = 0
    breaches: int = 0
    stopped: frozenset[int] = frozenset()


def list_projections(
    connection: DriverConnection, *, tenant_id: str, run_ids: Sequence[str]
) -> Sequence[Row]:
    """Return the projections of runs, with status and attempt."""
    return driver.list_projections(connection, tenant_id=tenant_id, run_ids=run_ids)


def list_governed(connection: DriverConnection, *, tenant_id: str, after: str, limit: int) -> Sequence[Row]:
    """Return runs by id, each with the snapshot that governs it."""
    return driver.list_governed(connection, tenant_id=tenant_id, after=after, limit=limit)


def find_wrong(run: Row, sources: Sources) -> Iterator[str]:
    """Yield the projections of a run that are not what their sources give."""
    if run["incident_count"] != sources.incidents:
        yield "incident_count"
    if bool(run["policy_violation"]) != sources.is_violated:
        yield "policy_violation"
    if run["policy_draft_count"] != sources.drafts:
        yield "policy_draft_count"
    if run["risk_level"] not in _risks(run, sources):
        yield "risk_level"


def _risks(run: Row, sources: Sources) -> tuple[str, ...]:
    if sources.is_violated:
        return (RiskLevel.VIOLATED.value,)
    if sources.breaches:
        return (RiskLevel.AT_RISK.value,)
    # What a rule stopped counts when the attempt ends.
    open_attempt = run["attempt"] if run["status"] == RunStatus.RUNNING else None
    if sources.stopped - {open_attempt}:
        return (RiskLevel.AT_RISK.value,)
    return _UNTOLD
