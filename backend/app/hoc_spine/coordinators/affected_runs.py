"""Spine: the blast radius of a document, through the runs that were given it and what they made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.domains.activity.engines import runs as activity
from app.domains.incidents.engines import run_incidents
from app.domains.repository.engines import changes
from app.domains.retrieval.engines import affected
from app.domains.retrieval.engines.affected import MAX_RUNS, Affected, Place, chunks
from app.domains.retrieval.models import AffectedRun, AffectedRuns
from app.hoc_spine.operation_context import OperationContext

Outputs = Mapping[str, Sequence[Mapping[str, Any]]]


def find_page(
    ctx: OperationContext, asked: AffectedRuns, *, after: tuple[datetime, str] | None, limit: int
) -> list[AffectedRun]:
    """Return a page of the runs that were given the document itself."""
    found = affected.list_direct(ctx.connection, asked, tenant_id=ctx.tenant_id, after=after, limit=limit)
    affected.add_accesses(ctx.connection, found, asked, tenant_id=ctx.tenant_id)
    return _views(ctx, found, _outputs(ctx, found))


def find_all(ctx: OperationContext, asked: AffectedRuns) -> tuple[list[AffectedRun], bool]:
    """Return the runs of every level down to `depth`, each once, and whether all of them were reached."""
    reached: dict[str, Affected] = {}
    seen: set[Place] = set()
    outputs: dict[str, Sequence[Mapping[str, Any]]] = {}
    level = affected.list_direct(
        ctx.connection, asked, tenant_id=ctx.tenant_id, after=None, limit=MAX_RUNS + 1
    )
    places: list[Place] = []
    complete = True
    for depth in range(1, asked.depth + 1):
        new = [run for run in level if run.run_id not in reached]
        complete = len(reached) + len(new) <= MAX_RUNS
        new = new[: MAX_RUNS - len(reached)]
        affected.add_accesses(ctx.connection, new, asked, tenant_id=ctx.tenant_id, places=places)
        reached |= {run.run_id: run for run in new}
        made = _outputs(ctx, new)
        outputs |= made
        places = sorted(
            {(output["artifact_id"], output["revision"]) for written in made.values() for output in written}
            - seen
        )
        if not places or not complete or depth == asked.depth:
            break
        seen.update(places)
        level = affected.list_indirect(ctx.connection, places, tenant_id=ctx.tenant_id, depth=depth + 1)
    order = sorted(reached.values(), key=lambda run: (run.first_at, run.run_id))
    return _views(ctx, order, outputs), complete


def _outputs(ctx: OperationContext, found: Sequence[Affected]) -> dict[str, Sequence[Mapping[str, Any]]]:
    written: dict[str, Sequence[Mapping[str, Any]]] = {}
    for run_ids in chunks([run.run_id for run in found]):
        written |= changes.list_run_revisions(ctx.connection, tenant_id=ctx.tenant_id, run_ids=run_ids)
    return written


def _views(ctx: OperationContext, found: Sequence[Affected], outputs: Outputs) -> list[AffectedRun]:
    views: list[AffectedRun] = []
    for part in chunks(found):
        run_ids = [run.run_id for run in part]
        statuses = activity.list_statuses(ctx.connection, tenant_id=ctx.tenant_id, run_ids=run_ids)
        incidents = run_incidents.list_ids(ctx.connection, tenant_id=ctx.tenant_id, run_ids=run_ids)
        for run in part:
            status = statuses.get(run.run_id)
            views.append(
                AffectedRun(
                    run_id=run.run_id,
                    status=None if status is None else status.value,
                    access_count=run.access_count,
                    first_at=run.first_at,
                    last_at=run.last_at,
                    depth=run.depth,
                    revisions=run.revisions,
                    evidence_ids=run.evidence_ids,
                    incident_ids=incidents.get(run.run_id, []),
                    outputs=list(outputs.get(run.run_id, ())),  # type: ignore[arg-type]
                )
            )
    return views
