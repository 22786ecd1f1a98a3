"""Every write of the repository: one that fails after any of its statements leaves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.repository.models.snapshots import ImportSnapshot
from app.hoc_spine.spine import Spine
from app.kernel.files import LocalFile
from tests.factories.repository_runs import artifact, call, create, move, rows_of, running
from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run

APPENDED = (
    "repository_changes", "input_bundles", "input_bundle_items", "run_outputs", "run_manifests",
    "context_packages", "context_items", "audit_ledger", "log_leaves",
)  # fmt: skip
CHANGED = (
    "repository_state", "collections", "blobs", "artifacts", "artifact_revisions", "artifact_metadata",
    "artifact_search", "relationships", "operation_runs", "workflow_steps", "runs",
)  # fmt: skip
COUNTS = " UNION ALL ".join(
    f"SELECT '{table}', count(*) FROM {table} WHERE tenant_id = :t" for table in APPENDED
)
NOTE = {"artifact_type": "note", "content": "new", "metadata": {"k": 1}}
WHY = {"reason": "asked for", "legal_basis": "a law"}
GOLDEN = LocalFile(Path(__file__).parent / "golden_snapshot")
Write = Callable[[Tenant], tuple[str, Any]]


class Fault(Exception):
    """Stands for a database that fails in the middle."""


def collection(tenant: Tenant, name: str = "shelf") -> str:
    """Create a collection."""
    return str(call(tenant, "collections.create", {"name": name}).id)


def edge(tenant: Tenant, source: str, target: str) -> str:
    """Relate two artifacts."""
    ends = {"source_id": source, "target_id": target, "type": "derived_from"}
    return str(call(tenant, "relationships.create", ends).id)


def related(tenant: Tenant) -> tuple[str, str, str]:
    """Create two artifacts and relate them."""
    one, two = artifact(tenant, "one").id, artifact(tenant, "two", metadata={"k": [1, 2]}).id
    return one, two, edge(tenant, one, two)


def artifact_creation(_tenant: Tenant) -> tuple[str, Any]:
    return "repository.artifacts.create", {"name": "new", **NOTE}


def bulk(tenant: Tenant) -> tuple[str, Any]:
    artifact(tenant, "old")
    items = [{"name": name, **NOTE} for name in ("new", "newer", "old")]
    return "repository.artifacts.create_bulk", {"items": items, "on_existing": "update"}


def artifact_update(tenant: Tenant) -> tuple[str, Any]:
    place, made = collection(tenant), artifact(tenant, metadata={"k": 1})
    wish = {"name": "other", "content": "other", "metadata": {"k": None, "l": 2}, "collection_id": place}
    return "repository.artifacts.update", {"artifact_id": made.id, **wish}


def detaching_deletion(tenant: Tenant) -> tuple[str, Any]:
    return "repository.artifacts.delete", {"artifact_id": related(tenant)[0], "mode": "detach"}


def restoration(tenant: Tenant) -> tuple[str, Any]:
    one, _, _ = related(tenant)
    call(tenant, "artifacts.delete", {"artifact_id": one, "mode": "detach"})
    wish = {"new_name": "back", "with_relationships": True}
    return "repository.artifacts.restore", {"artifact_id": one, **wish}


def redaction(tenant: Tenant) -> tuple[str, Any]:
    one, other = (artifact(tenant, name, content="the same", metadata={"k": 1}).id for name in "ab")
    call(tenant, "artifacts.update", {"artifact_id": one, "content": "second"})
    edge(tenant, one, other)
    return "repository.artifacts.redact", {"artifact_id": one, "revisions": "all", "shared": "redact", **WHY}


def collection_creation(_tenant: Tenant) -> tuple[str, Any]:
    return "repository.collections.create", {"name": "shelf"}


def collection_update(tenant: Tenant) -> tuple[str, Any]:
    return "repository.collections.update", {"collection_id": collection(tenant), "name": "other"}


def collection_deletion(tenant: Tenant) -> tuple[str, Any]:
    return "repository.collections.delete", {"collection_id": collection(tenant)}


def purge(tenant: Tenant) -> tuple[str, Any]:
    related(tenant)
    return "repository.collections.purge", {"collection_id": "default", **WHY}


def relationship_creation(tenant: Tenant) -> tuple[str, Any]:
    ends = {"source_id": artifact(tenant, "a").id, "target_id": artifact(tenant, "b").id}
    return "repository.relationships.create", {**ends, "type": "derived_from"}


def relationship_update(tenant: Tenant) -> tuple[str, Any]:
    return "repository.relationships.update", {"relationship_id": related(tenant)[2], "metadata": {"k": 1}}


def relationship_deletion(tenant: Tenant) -> tuple[str, Any]:
    return "repository.relationships.delete", {"relationship_id": related(tenant)[2]}


def collecting(tenant: Tenant) -> tuple[str, Any]:
    call(tenant, "artifacts.delete", {"artifact_id": artifact(tenant).id})
    return "repository.gc", {"dry_run": False, "grace_days": 0}


def rebuilding(tenant: Tenant) -> tuple[str, Any]:
    artifact(tenant, metadata={"k": 1})
    return "repository.search.rebuild", {}


def adoption(tenant: Tenant) -> tuple[str, Any]:
    return "repository.snapshots.import", ImportSnapshot(content=GOLDEN)


def merging(tenant: Tenant) -> tuple[str, Any]:
    artifact(tenant, "mine", collection_id=collection(tenant, "mine"))
    return "repository.snapshots.import", ImportSnapshot(content=GOLDEN)


def publication(tenant: Tenant) -> tuple[str, Any]:
    run_id, old, kept = running(tenant), artifact(tenant, "old"), artifact(tenant, "kept")
    return "repository.runs.publish", {
        "run_id": run_id,
        "artifacts": [{"name": "new", **NOTE}],
        "updates": [{"artifact_id": old.id, "content": "other", "metadata": {"m": 2}}],
        "outputs": [{"artifact_id": kept.id, "revision": 1, "role": "kept"}],
        "status": "succeeded",
        "manifest": {},
    }


def creation(tenant: Tenant) -> tuple[str, Any]:
    return "repository.runs.create", {"operation": "x", "steps": [{"step_id": "s", "position": 0}]}


def transition(tenant: Tenant) -> tuple[str, Any]:
    return "repository.runs.transition", {"run_id": running(tenant), "status": "failed", "error_code": "E"}


def step(tenant: Tenant) -> tuple[str, Any]:
    run_id = str(create(tenant, steps=[{"step_id": "s", "position": 0}]).run_id)
    return "repository.steps.put", {"run_id": run_id, "step_id": "s", "status": "running"}


def output(tenant: Tenant) -> tuple[str, Any]:
    run_id, made = running(tenant), artifact(tenant)
    ref = {"artifact_id": made.id, "revision": 1, "role": "r"}
    return "repository.outputs.add", {"run_id": run_id, **ref}


def produced(tenant: Tenant) -> tuple[str, Any]:
    return "repository.artifacts.create", {"name": "n", "produced_by_run": running(tenant), **NOTE}


def manifest(tenant: Tenant) -> tuple[str, Any]:
    run_id = running(tenant)
    move(tenant, run_id, "succeeded")
    return "repository.manifests.seal", {"run_id": run_id}


def bundle(tenant: Tenant) -> tuple[str, Any]:
    return "repository.bundles.create", {"items": [{"artifact_id": artifact(tenant).id, "role": "r"}]}


def package(tenant: Tenant) -> tuple[str, Any]:
    return "repository.context_packages.for_artifact", {"artifact_id": artifact(tenant).id}


def ending(tenant: Tenant) -> tuple[str, Any]:
    run_id = start_run(tenant)
    create(tenant, run_id=run_id)
    move(tenant, run_id, "running")
    return "runs.complete", {"run_id": run_id, "status": "succeeded"}


WRITES: tuple[Write, ...] = (
    artifact_creation, bulk, artifact_update, detaching_deletion, restoration, redaction, collection_creation,
    collection_update, collection_deletion, purge, relationship_creation, relationship_update,
    relationship_deletion, collecting, rebuilding, adoption, merging, publication, creation, transition, step,
    output, produced, manifest, bundle, package, ending,
)  # fmt: skip


@pytest.fixture
def fault(spine: Spine) -> Iterator[dict[str, int]]:
    """Raises after so many writing statements of the spine; `seen` counts them."""
    fault = {"after": 0, "seen": 0}

    def count(_c: Any, _cursor: Any, statement: str, _p: Any, _x: Any, _m: bool) -> None:
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            fault["seen"] += 1
            if fault["seen"] == fault["after"]:
                raise Fault

    sa.event.listen(spine.transactions.engine, "after_cursor_execute", count)
    yield fault
    sa.event.remove(spine.transactions.engine, "after_cursor_execute", count)


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_a_write_that_fails_after_any_statement_leaves_nothing(
    tenant: Tenant, fault: dict[str, int], second_connection: sa.Connection, write: Write
) -> None:
    operation, payload = write(tenant)
    before = footprint(second_connection, tenant)
    while True:
        fault |= {"after": fault["after"] + 1, "seen": 0}
        result = tenant.dispatch(operation, payload)
        if result.success:
            break
        assert result.error_code == "HANDLER_EXCEPTION:Fault"
        assert footprint(second_connection, tenant) == before
    # What was refused so often is done at once when nothing fails.
    assert fault["seen"] == fault["after"] - 1 > 1
    if write is not rebuilding:
        assert footprint(second_connection, tenant) != before
    page = call(tenant, "changes.list", {"limit": 500})
    assert [record.seq for record in page.items] == list(range(1, len(page.items) + 1))


def footprint(connection: sa.Connection, tenant: Tenant) -> tuple[Any, ...]:
    """Return how many rows the tenant has where they are appended, and the rows that are changed."""
    counts = sorted(tuple(row) for row in connection.execute(sa.text(COUNTS), {"t": tenant.tenant_id}))
    found = [sorted(map(repr, rows_of(connection, table, tenant))) for table in CHANGED]
    connection.rollback()
    return counts, found
