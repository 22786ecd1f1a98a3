"""Workflow runs, bundles, packages: a write that fails after any of its statements leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.spine import Spine
from tests.factories.repository_runs import artifact, call, create, move, rows_of, running
from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run

APPENDED = (
    "collections", "blobs", "artifact_revisions", "artifact_metadata", "repository_changes", "input_bundles",
    "input_bundle_items", "run_outputs", "run_manifests", "context_packages", "context_items", "audit_ledger",
    "log_leaves",
)  # fmt: skip
CHANGED = ("repository_state", "artifacts", "operation_runs", "workflow_steps", "runs")
COUNTS = " UNION ALL ".join(
    f"SELECT '{table}', count(*) FROM {table} WHERE tenant_id = :t" for table in APPENDED
)
NOTE = {"artifact_type": "note", "content": "new", "metadata": {"k": 1}}
Write = Callable[[Tenant], tuple[str, dict[str, Any]]]


class Fault(Exception):
    """Stands for a database that fails in the middle."""


def publication(tenant: Tenant) -> tuple[str, dict[str, Any]]:
    run_id, old, kept = running(tenant), artifact(tenant, "old"), artifact(tenant, "kept")
    return "repository.runs.publish", {
        "run_id": run_id,
        "artifacts": [{"name": "new", **NOTE}],
        "updates": [{"artifact_id": old.id, "content": "other", "metadata": {"m": 2}}],
        "outputs": [{"artifact_id": kept.id, "revision": 1, "role": "kept"}],
        "status": "succeeded",
        "manifest": {},
    }


def creation(tenant: Tenant) -> tuple[str, dict[str, Any]]:
    return "repository.runs.create", {"operation": "x", "steps": [{"step_id": "s", "position": 0}]}


def transition(tenant: Tenant) -> tuple[str, dict[str, Any]]:
    return "repository.runs.transition", {"run_id": running(tenant), "status": "failed", "error_code": "E"}


def step(tenant: Tenant) -> tuple[str, dict[str, Any]]:
    run_id = str(create(tenant, steps=[{"step_id": "s", "position": 0}]).run_id)
    return "repository.steps.put", {"run_id": run_id, "step_id": "s", "status": "running"}


def output(tenant: Tenant) -> tuple[str, dict[str, Any]]:
    run_id, made = running(tenant), artifact(tenant)
    ref = {"artifact_id": made.id, "revision": 1, "role": "r"}
    return "repository.outputs.add", {"run_id": run_id, **ref}


def produced(tenant: Tenant) -> tuple[str, dict[str, Any]]:
    return "repository.artifacts.create", {"name": "n", "produced_by_run": running(tenant), **NOTE}


def manifest(tenant: Tenant) -> tuple[str, dict[str, Any]]:
    run_id = running(tenant)
    move(tenant, run_id, "succeeded")
    return "repository.manifests.seal", {"run_id": run_id}


def bundle(tenant: Tenant) -> tuple[str, dict[str, Any]]:
    return "repository.bundles.create", {"items": [{"artifact_id": artifact(tenant).id, "role": "r"}]}


def package(tenant: Tenant) -> tuple[str, dict[str, Any]]:
    return "repository.context_packages.for_artifact", {"artifact_id": artifact(tenant).id}


def ending(tenant: Tenant) -> tuple[str, dict[str, Any]]:
    run_id = start_run(tenant)
    create(tenant, run_id=run_id)
    move(tenant, run_id, "running")
    return "runs.complete", {"run_id": run_id, "status": "succeeded"}


@pytest.mark.parametrize(
    "write",
    [publication, creation, transition, step, output, produced, manifest, bundle, package, ending],
    ids=lambda write: write.__name__,
)
def test_a_write_that_fails_after_any_statement_leaves_nothing(
    tenant: Tenant, make_spine: Callable[..., Spine], second_connection: sa.Connection, write: Write
) -> None:
    operation, payload = write(tenant)
    engine = (spine := make_spine()).transactions.engine
    here = Tenant(spine, tenant.tenant_id)
    fault = {"after": 0, "seen": 0}

    def count(_c: Any, _cursor: Any, statement: str, _p: Any, _x: Any, _m: bool) -> None:
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            fault["seen"] += 1
            if fault["seen"] == fault["after"]:
                raise Fault

    sa.event.listen(engine, "after_cursor_execute", count)
    before = footprint(second_connection, tenant)
    while True:
        fault |= {"after": fault["after"] + 1, "seen": 0}
        result = here.dispatch(operation, payload)
        if result.success:
            break
        assert result.error_code == "HANDLER_EXCEPTION:Fault"
        assert footprint(second_connection, tenant) == before
    # What was refused so often is done at once when nothing fails.
    assert fault["seen"] == fault["after"] - 1 > 1
    assert footprint(second_connection, tenant) != before
    page = call(tenant, "changes.list", {"limit": 500})
    assert [record.seq for record in page.items] == list(range(1, len(page.items) + 1))


def footprint(connection: sa.Connection, tenant: Tenant) -> tuple[Any, ...]:
    """Return how many rows the tenant has where they are appended, and the rows that are changed."""
    counts = sorted(tuple(row) for row in connection.execute(sa.text(COUNTS), {"t": tenant.tenant_id}))
    found = [sorted(map(repr, rows_of(connection, table, tenant))) for table in CHANGED]
    connection.rollback()
    return counts, found
