"""Spine: where workflow runs meet governed runs: governance, outputs, manifests, the end of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from app.domains.activity.engines import runs
from app.domains.activity.models.vocabulary import RunStatus
from app.domains.repository.engines import bundles, manifests, operation_runs, outputs, workflow_steps
from app.domains.repository.engines.changes import ChangeSet
from app.domains.repository.engines.manifests import Statement, Surroundings
from app.domains.repository.engines.outputs import Link
from app.domains.repository.errors import run_not_running
from app.domains.repository.models.runs import OperationRunView, RunLeavings
from app.domains.repository.models.vocabulary import Action, EntityType, OperationRunStatus
from app.hoc_spine.coordinators.repository_writes import close_changes, open_changes
from app.hoc_spine.operation_context import OperationContext

Row = Mapping[str, Any]
EVENT = "RepositoryRunChanged"
# Whatever a workflow run says of itself: once the governed run has ended, it brings about nothing more.
_ENDED = str(OperationRunStatus.CANCELLED)


def governed_among(ctx: OperationContext, run_ids: Iterable[str]) -> dict[str, RunStatus]:
    """Return the status of the governed runs that have one of these ids."""
    return runs.list_statuses(ctx.connection, tenant_id=ctx.tenant_id, run_ids=list(dict.fromkeys(run_ids)))


def run_views(ctx: OperationContext, rows: Sequence[Row]) -> list[OperationRunView]:
    """Return workflow runs as they are shown."""
    governed = governed_among(ctx, [row["run_id"] for row in rows])
    return [operation_runs.run_view(row, governed=row["run_id"] in governed) for row in rows]


def lock_governed(ctx: OperationContext, run_id: str | None) -> bool:
    """Hold the governed run of this id and tell whether there is one; refuse RUN_NOT_RUNNING once it ended.

    The lock comes before the tenant's: the end of the run either sees the workflow run or is seen by it.
    """
    if run_id is None:
        return False
    status = runs.lock_known_state(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id)
    if status not in (None, RunStatus.RUNNING):
        raise run_not_running()
    return status is not None


def find_producers(ctx: OperationContext, run_ids: Iterable[str | None]) -> dict[str, str]:
    """Return the status of those of the workflow runs that exist; the end of a governed run counts."""
    wanted = list(dict.fromkeys(name for name in run_ids if name is not None))
    if not wanted:
        return {}
    known = operation_runs.list_statuses(ctx.connection, tenant_id=ctx.tenant_id, run_ids=wanted)
    governed = governed_among(ctx, known)
    return {
        name: row["status"] if name not in governed or governed[name] is RunStatus.RUNNING else _ENDED
        for name, row in known.items()
    }


def link_outputs(ctx: OperationContext, change_set: ChangeSet, links: Sequence[Link]) -> None:
    """Write links with records and facts, and raise the version of their runs; refuse RUN_NOT_RUNNING."""
    ordered = sorted(links, key=lambda link: link.run_id)
    for run_id, found in groupby(ordered, key=lambda link: link.run_id):
        group = list(found)
        version = operation_runs.raise_version(
            ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id, rise=len(group)
        )
        outputs.record_links(change_set, group, version=version - len(group), new_id=ctx.new_id)
    insert_outputs(ctx, change_set, ordered)


def insert_outputs(ctx: OperationContext, change_set: ChangeSet, links: Sequence[Link]) -> None:
    """Append links, each with its fact."""
    if not links:
        return
    governed = governed_among(ctx, [link.run_id for link in links])
    rows = [outputs.output_row(link, change_set.at) for link in links]
    for row in rows:
        row["fact_id"] = _add_fact(ctx, "run.output", row, governed=row["run_id"] in governed)
    outputs.insert_outputs(ctx.connection, tenant_id=ctx.tenant_id, rows=rows)


def seal(
    ctx: OperationContext, change_set: ChangeSet, run: Row, said: Statement, *, version: int
) -> tuple[Row, bool]:
    """Seal the manifest of an ended run whose row is held; return it and whether it is new.

    Refuses RUN_NOT_FINISHED, and SEALED when another body was sealed before. The record takes the run from
    `version` to the next; the caller raises it.
    """
    manifests.check_finished(run["status"])
    body = manifests.manifest_body(run, said, _surroundings(ctx, run))
    known = manifests.find_manifest(ctx.connection, tenant_id=ctx.tenant_id, run_id=run["run_id"])
    if not manifests.decide_seal(known, manifests.manifest_digest(body)) and known is not None:
        return known, False
    row = manifests.manifest_row(run["run_id"], body, at=change_set.at, sealed_by=ctx.actor.id)
    governed = governed_among(ctx, [run["run_id"]])
    row["fact_id"] = _add_fact(ctx, "run.manifest", row, governed=bool(governed))
    manifests.insert_manifest(ctx.connection, row, tenant_id=ctx.tenant_id)
    change_set.add(
        ctx.new_id("chg"),
        EntityType.RUN,
        run["run_id"],
        Action.SEALED,
        old={"version": version},
        new={"version": version + 1},
        changed_fields=["manifest"],
        detail={"manifest_digest": row["manifest_digest"]},
    )
    return row, True


def list_run_artifacts(ctx: OperationContext, run_id: str, *, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Return what the workflow run of this id produced, newest first, then consumed; and how much it is."""
    connection, tenant_id = ctx.connection, ctx.tenant_id
    run = operation_runs.find_run(connection, tenant_id=tenant_id, run_id=run_id)
    if run is None:
        return [], 0
    produced, total = outputs.list_newest(connection, tenant_id=tenant_id, run_id=run_id, limit=limit)
    consumed: Sequence[Row] = ()
    if run["bundle_id"] is not None:
        consumed = bundles.list_items(connection, tenant_id=tenant_id, bundle_id=run["bundle_id"])
    items = [outputs.evidence_item(row, "produced") for row in produced]
    items += [outputs.evidence_item(row, "consumed") for row in consumed]
    return items[:limit], total + len(consumed)


def read_leavings(ctx: OperationContext, run_id: str) -> RunLeavings:
    """Return the outputs and the manifest of the workflow run of this id, nothing where there is none."""
    connection, tenant_id = ctx.connection, ctx.tenant_id
    shown, total = outputs.list_shown(connection, tenant_id=tenant_id, run_id=run_id)
    digest = manifests.get_digest(connection, tenant_id=tenant_id, run_id=run_id)
    return RunLeavings(manifest_digest=digest, outputs=shown, outputs_total=total)


def _surroundings(ctx: OperationContext, run: Row) -> Surroundings:
    connection, tenant_id, bundle_id = ctx.connection, ctx.tenant_id, run["bundle_id"]
    bundle = None
    items: Sequence[Row] = ()
    if bundle_id is not None:
        bundle = bundles.get_bundle(connection, tenant_id=tenant_id, name=bundle_id)
        items = bundles.list_items(connection, tenant_id=tenant_id, bundle_id=bundle_id)
    return Surroundings(
        bundle=bundle,
        bundle_items=items,
        outputs=outputs.list_outputs(connection, tenant_id=tenant_id, run_id=run["run_id"]),
        steps=workflow_steps.list_steps(connection, tenant_id=tenant_id, run_id=run["run_id"]),
    )


def _add_fact(ctx: OperationContext, type_name: str, row: Row, *, governed: bool) -> str:
    """Queue a fact of a workflow run: a fact of the governed run of that id when there is one.

    Without one it is of the run in X-Run-ID, if any, which may have ended: then it is a late fact.
    """
    if governed:
        return ctx.facts.add(type_name, row, run_id=row["run_id"])
    return ctx.facts.add(type_name, row, live_only=False)


def record_transition(
    ctx: OperationContext, change_set: ChangeSet, run: Row, status: str, *, version: int
) -> None:
    """Append the record of a change of status that takes the run from `version` to the next."""
    change_set.add(
        ctx.new_id("chg"),
        EntityType.RUN,
        run["run_id"],
        Action.TRANSITIONED,
        old={"version": version},
        new={"version": version + 1},
        changed_fields=["status"],
        detail={"from": str(run["status"]), "to": str(status)},
    )


def end_operation_run(ctx: OperationContext, run_id: str, status: RunStatus) -> None:
    """End the unfinished workflow run of a governed run that ends here, in the same transaction.

    A running one ends like the governed run (halted is cancelled), a pending or waiting one is cancelled.
    """
    if operation_runs.find_open_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id) is None:
        return
    change_set = open_changes(ctx, None, run_id=run_id)
    run = operation_runs.lock_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id)
    current = OperationRunStatus(run["status"])
    if current in operation_runs.ENDED:
        return
    wanted = operation_runs.decide_end(current, status)
    values = operation_runs.transition_values(run, wanted, at=change_set.at)
    after = operation_runs.set_run(ctx.connection, tenant_id=ctx.tenant_id, row=run, values=values)
    record_transition(ctx, change_set, run, wanted, version=run["version"])
    close_run_changes(ctx, change_set, run, after)


def close_run_changes(ctx: OperationContext, change_set: ChangeSet, run: Row, after: Row) -> None:
    """Write the records of a change of one run, its ledger entry and its fact."""
    close_changes(
        ctx,
        change_set,
        event=EVENT,
        entity_id=run["run_id"],
        before={"version": run["version"]},
        version=after["version"],
    )
