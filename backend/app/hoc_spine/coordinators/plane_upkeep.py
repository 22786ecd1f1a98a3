"""Spine: what planes need between their jobs: ended generations swept, changed collections noticed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.domains.knowledge.engines import ingest, planes
from app.domains.knowledge.engines.planes import PlaneRow
from app.domains.repository.engines import artifacts, changes
from app.hoc_spine.coordinators.plane_ingest import hold_repository
from app.hoc_spine.coordinators.plane_sources import read_collections
from app.hoc_spine.operation_context import OperationContext
from app.kernel.pages import MAX_LIMIT

PAGES_OF_CHANGES = 20


def list_tenants_due(connection: DriverConnection, *, now: datetime) -> set[str]:
    """Return the tenants with planes to sweep, or to refresh if a change since concerns them."""
    shown = planes.auto_refreshed_seqs(connection)
    last = changes.last_seqs(connection, list(shown))
    changed = {tenant_id for tenant_id, seq in shown.items() if last.get(tenant_id, 0) > seq}
    return changed.union(planes.list_tenants_moved(connection, now=now))


def sweep_ended(ctx: OperationContext) -> int:
    """Delete what ended with generations that no access reads any more; return how many documents."""
    due = planes.list_moved(ctx.connection, tenant_id=ctx.tenant_id, now=ctx.now)
    if due:
        # Derived rows after the tenant's repository lock, as everywhere.
        hold_repository(ctx)
    return sum(
        ingest.sweep_ended(
            ctx.connection,
            tenant_id=ctx.tenant_id,
            plane_id=plane["plane_id"],
            generation=plane["generation"],
        )
        for plane in due
    )


def list_outdated(ctx: OperationContext) -> list[str]:
    """Return planes with auto_refresh that do not show what their collections hold now."""
    watched = planes.list_auto_refreshed(ctx.connection, tenant_id=ctx.tenant_id)
    return [plane["plane_id"] for plane in watched if _is_outdated(ctx, plane)]


def _is_outdated(ctx: OperationContext, plane: PlaneRow) -> bool:
    keys: dict[str, Any] = {"tenant_id": ctx.tenant_id}
    seen = plane["ingested_seq"] or 0
    owned, shared = read_collections(ctx.connection, **keys, plane_id=plane["plane_id"], candidate=None)
    bound = sorted({*shared, *(() if owned is None else (owned,))})
    if artifacts.list_heads(ctx.connection, **keys, collection_ids=bound, changed_after_seq=seen, limit=1):
        return True
    # What was deleted, or moved to another collection, is found among what the plane still serves.
    for _ in range(PAGES_OF_CHANGES):
        records = changes.list_changes(
            ctx.connection, **keys, since_seq=seen, filters={"entity_type": "ARTIFACT"}, limit=MAX_LIMIT
        )
        if not records:
            return False
        held = ingest.list_held(
            ctx.connection,
            **keys,
            plane_id=plane["plane_id"],
            generation=plane["generation"],
            artifact_ids=[record["entity_id"] for record in records],
        )
        if held:
            return True
        seen = records[-1]["seq"]
    return True
