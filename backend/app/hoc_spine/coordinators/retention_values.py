"""Spine: erasure of values that are over age: of ended runs, under no hold, each row by its own age."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from prometheus_client import Gauge

from app.db.connection import DriverConnection
from app.domains.activity.engines import runs, subjects
from app.domains.activity.models.vocabulary import RunStatus
from app.domains.logs.engines import archives, erasure, over_age
from app.domains.logs.engines.erasure import Held, Scope
from app.domains.logs.engines.legal_holds import ActiveHolds
from app.domains.logs.engines.over_age import Part
from app.domains.logs.models.archives import ErasedByAge
from app.domains.logs.models.erasure import EraseEvidence, ErasureScope, HoldScope
from app.hoc_spine.coordinators.erasure import ERASED, erase_part
from app.hoc_spine.coordinators.legal_holds import lock_holds
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.ports import Services
from app.kernel.clock import format_time

REASON = "RETENTION"
LAST_RUN = Gauge("hoc_retention_last_run_timestamp", "When over-age values were last looked for to the end")


def list_tenants_due(connection: DriverConnection, services: Services) -> Collection[str]:
    """Return the tenants that have values to look at."""
    now = services.clock.now()
    due = over_age.list_tenants_due(connection, now=now)
    if not due:
        LAST_RUN.set(now.timestamp())
    return due


def erase_over_age(ctx: OperationContext) -> ErasedByAge:
    """Look at the next leaves of the log and take the over-age values of the rows that they are about.

    Rows under a hold are left, and looked at again after its release. At a run that goes on, it stops.
    """
    key = {"tenant_id": ctx.tenant_id}
    until = ctx.now - timedelta(days=archives.get_retention(ctx.connection, **key).value_retention_days)
    after = over_age.lock_position(ctx.connection, **key)
    found = over_age.read_slice(ctx.connection, **key, after=after, until=until)
    heads = erasure.lock_heads(ctx.connection, found.scope(until), **key)
    holds = lock_holds(ctx)
    if found.last is None:
        return ErasedByAge(erased=0, more=False)
    run_ids = sorted(found.run_ids() | {row.run_id for row in heads if row.run_id is not None})
    going_on = _going_on(ctx, run_ids)
    kept = going_on | _held(ctx, holds, run_ids)
    scope = found.scope(until, without=kept)
    records = erasure.list_records(ctx.connection, scope, **key, most=erasure.MAX_ROWS)
    free = [row for row in (*heads, *records) if row.run_id not in kept and not _is_held(ctx, holds, row)]
    parts = over_age.parts_of(
        found, free, most_records=erasure.MAX_RECORDS, most_rows=erasure.MAX_COMMITMENTS
    )
    _erase(ctx, parts, until)
    erased = sum(len(rows) for _, _, rows in parts)
    # What did not fit is found here again; so is a run that goes on, when it has ended.
    fits = erased == len(free) and len(records) < erasure.MAX_ROWS
    if fits and not going_on:
        over_age.set_position(ctx.connection, **key, fact_id=found.last)
    return ErasedByAge(erased=erased, more=not fits or (found.more and not going_on))


def _going_on(ctx: OperationContext, run_ids: Sequence[str]) -> set[str]:
    statuses = runs.list_statuses(ctx.connection, tenant_id=ctx.tenant_id, run_ids=run_ids)
    return {run_id for run_id, status in statuses.items() if status == RunStatus.RUNNING}


def _held(ctx: OperationContext, holds: ActiveHolds, run_ids: Sequence[str]) -> set[str]:
    """Return the runs that a hold covers: themselves, whom they are about, or a plane that they asked."""
    if not holds:
        return set()
    key = {"tenant_id": ctx.tenant_id}
    about = subjects.subjects_of(ctx.connection, **key, run_ids=run_ids)
    return {
        run_id
        for run_id in run_ids
        if holds.covering(
            runs=[run_id],
            subjects=[about[run_id]] if run_id in about else [],
            planes=_planes_of(ctx, holds, erasure.scope_of_run(run_id)),
        )
    }


def _is_held(ctx: OperationContext, holds: ActiveHolds, row: Held) -> bool:
    """Tell whether a row of no run is about a plane that is held."""
    if row.run_id is not None:
        return False
    return bool(holds.covering(planes=_planes_of(ctx, holds, Scope(rows={row.table: [row.key]}))))


def _planes_of(ctx: OperationContext, holds: ActiveHolds, scope: Scope) -> set[str]:
    planes = sorted(holds.names(HoldScope.PLANE))
    if not planes:
        return set()
    return erasure.list_planes(ctx.connection, scope, tenant_id=ctx.tenant_id, plane_ids=planes)


def _erase(ctx: OperationContext, parts: Sequence[Part], until: datetime) -> None:
    erasure_ids, scopes = [], set()
    for run_id, fact_id, rows in parts:
        scope, scope_id = (ErasureScope.FACT, fact_id) if run_id is None else (ErasureScope.RUN, run_id)
        request = EraseEvidence(scope=scope, scope_id=scope_id, reason=REASON)
        erasure_ids.append(erase_part(ctx, request, run_id, rows))
        scopes.add(scope)
    for scope in scopes:
        ctx.after_commit(ERASED.labels(scope.value).inc)
    if erasure_ids:
        after = {"reason": REASON, "until": format_time(until), "erasure_ids": erasure_ids}
        # Of no run, whatever was taken: a late fact would keep the run as long again.
        ctx.audit("EvidenceErased", "EVIDENCE", erasure_ids[0], after=after)
