"""Spine: what of a tenant's log is over age and kept by nothing; reads only."""

from __future__ import annotations

from datetime import datetime, timedelta

from app.db.connection import DriverConnection
from app.domains.incidents.engines import run_incidents
from app.domains.lessons.engines import lessons
from app.domains.logs.engines import archives, heads, legal_holds, retention_plan
from app.domains.logs.engines.retention_plan import Below
from app.domains.logs.models.erasure import HoldScope
from app.domains.logs.models.retention import Pin, Plan
from app.kernel.merkle import EMPTY_ROOT

__all__ = ["Plan", "make_plan"]


def make_plan(connection: DriverConnection, *, tenant_id: str, now: datetime, cut: int | None = None) -> Plan:
    """Return what goes below the cut, or below `cut` if that is less, as this unit sees it."""
    head = heads.get_head(connection, tenant_id=tenant_id)
    if head is None:
        return Plan(heads.FIRST_EPOCH, 0, (), (), {}, EMPTY_ROOT.hex())
    kept = archives.get_retention(connection, tenant_id=tenant_id)
    over_age = now - timedelta(days=kept.retention_days)
    below = retention_plan.read_below(connection, head, tenant_id=tenant_id, over_age=over_age, most=cut)
    _pin_held(connection, below, tenant_id)
    retention_plan.pin_own(connection, below, tenant_id=tenant_id)
    open_incidents = run_incidents.list_open_runs(connection, tenant_id=tenant_id)
    retention_plan.pin_runs(below, open_incidents, Pin.OPEN_INCIDENT)
    open_lessons = lessons.list_open_runs(connection, tenant_id=tenant_id)
    retention_plan.pin_runs(below, open_lessons, Pin.OPEN_LESSON)
    retention_plan.pin_needed(connection, below, tenant_id=tenant_id)
    return retention_plan.plan_of(connection, below, tenant_id=tenant_id)


def _pin_held(connection: DriverConnection, below: Below, tenant_id: str) -> None:
    """Let stay what a hold covers: a run, whom it is about, a plane that its evidence is about, or all."""
    holds = legal_holds.read_active(connection, tenant_id=tenant_id)
    if not holds:
        return
    if holds.covering():
        retention_plan.pin_all(below, Pin.HELD)
    retention_plan.pin_runs(below, holds.names(HoldScope.RUN), Pin.HELD)
    subjects = holds.names(HoldScope.SUBJECT)
    held = (run["run_id"] for run in below.runs if run["subject_ref"] in subjects)
    retention_plan.pin_runs(below, held, Pin.HELD)
    retention_plan.pin_planes(connection, below, holds.names(HoldScope.PLANE), tenant_id=tenant_id)
