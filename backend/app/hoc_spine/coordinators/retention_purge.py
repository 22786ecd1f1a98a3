"""Spine: a purge is opened when its archive holds what goes, and deletes that slice by slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from app.db.connection import DriverConnection, Row
from app.domains.controls.engines import carrying
from app.domains.logs.engines import archives, purge, retention_plan
from app.domains.logs.engines.purge import LIMIT_ENTRIES, MAX_ROWS, Purge, Slice, touched_tables
from app.domains.logs.errors import archive_required
from app.domains.logs.models.retention import PurgeEvidence, PurgeOpened
from app.domains.tenants.engines import state
from app.hoc_spine.coordinators.legal_holds import lock_holds
from app.hoc_spine.coordinators.retention_plan import make_plan
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.kernel.canonical_json import loads

__all__ = ["Purge", "Slice", "delete_slice", "touched_tables"]


def read_file(ctx: PrepareContext, request: PurgeEvidence) -> tuple[str, str | None] | None:
    """Return the archive to purge by, and the digest of its file; None where a purge is open already."""
    with ctx.read_unit() as connection:
        if purge.find_open(connection, tenant_id=ctx.tenant_id) is not None:
            return None
        row = purge.find_archive(connection, tenant_id=ctx.tenant_id, archive_id=request.archive_id)
    return row["archive_id"], purge.digest_of_file(Path(request.path or row["path"]))


def open_permit(ctx: OperationContext) -> PurgeOpened:
    """Open the permit, or return the one that is open; refuse ARCHIVE_REQUIRED.

    Nobody places a hold, and no run of that age has another row, between the plan and the permit.
    """
    days = archives.get_retention(ctx.connection, tenant_id=ctx.tenant_id).retention_days
    given: dict[str, Any] = {"tenant_id": ctx.tenant_id, "over_age": ctx.now - timedelta(days=days)}
    # In the order in which everybody takes these: rows, the tenant's state, counters.
    retention_plan.lock_runs(ctx.connection, **given)
    lock_holds(ctx)
    known = purge.find_open(ctx.connection, tenant_id=ctx.tenant_id)
    if known is not None:
        return _opened(ctx, known, resumed=True)
    if ctx.prepared is None:
        raise archive_required("another purge was just done; call again")
    archive_id, digest = ctx.prepared
    row = purge.find_archive(ctx.connection, tenant_id=ctx.tenant_id, archive_id=archive_id)
    if digest != row["sha256"]:
        raise archive_required("its file is gone" if digest is None else "its file is another one")
    retention_plan.lock_counters(ctx.connection, **given)
    plan = make_plan(ctx.connection, tenant_id=ctx.tenant_id, now=ctx.now, cut=row["to_idx"])
    purge.check(row, plan)
    permit = purge.open_permit(
        ctx.connection, row, plan, tenant_id=ctx.tenant_id, purge_id=ctx.new_id("prg"), now=ctx.now
    )
    # What a process knows of snapshots may be one that goes now.
    state.bump_policy_version(ctx.connection, tenant_id=ctx.tenant_id)
    return _opened(ctx, permit, resumed=False)


def _opened(ctx: OperationContext, permit: Row, *, resumed: bool) -> PurgeOpened:
    row = purge.find_archive(ctx.connection, tenant_id=ctx.tenant_id, archive_id=permit["archive_id"])
    counts = loads(row["counts"])
    return PurgeOpened(
        purge_id=permit["purge_id"],
        archive_id=permit["archive_id"],
        cut=row["to_idx"],
        runs=counts["runs"],
        facts=counts["statements"],
        opened_at=permit["opened_at"],
        resumed=resumed,
    )


def read_purge(connection: DriverConnection, *, tenant_id: str) -> tuple[Purge, Iterator[Slice]]:
    """Return what is left to be deleted of the purge that is open, and in which slices."""
    found = purge.read_purge(connection, tenant_id=tenant_id)
    return found, purge.slices(found)


def delete_events(connection: DriverConnection, *, tenant_id: str, now: datetime) -> bool:
    """Delete events of the outbox that are over age, so many at once; tell whether more may be left."""
    days = archives.get_retention(connection, tenant_id=tenant_id).retention_days
    return purge.delete_events(connection, tenant_id=tenant_id, over_age=now - timedelta(days=days)) > 0


def delete_slice(
    connection: DriverConnection,
    found: Purge,
    part: Slice,
    *,
    new_id: Callable[[str], str],
    now: datetime,
) -> bool:
    """Delete a slice; tell whether more of it may be left."""
    if part.table == LIMIT_ENTRIES:
        half = MAX_ROWS // 2
        gone = carrying.carry_forward(
            connection,
            part.run_ids,
            tenant_id=found.tenant_id,
            purge_id=found.purge_id,
            limit=half,
            new_id=new_id,
            now=now,
        )
        return gone == half
    return purge.delete_slice(connection, found, part) > 0
