"""Workflow runs: a publication writes artifacts, changes, links, end and manifest at once, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import statement_counter
from tests.factories.repository_runs import (
    artifact,
    call,
    changes,
    create,
    move,
    refusal,
    rows_of,
    running,
)
from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run

NOTE = {"artifact_type": "note"}


def publish(tenant: Tenant, run_id: str, **members: Any) -> Any:
    """Publish."""
    return tenant.call("repository.runs.publish", {"run_id": run_id, **members})


def footprint(connection: sa.Connection, tenant: Tenant) -> dict[str, int]:
    """Return how many rows the tenant has in each table that a publication writes."""
    tables = (
        "artifacts", "artifact_revisions", "blobs", "artifact_metadata", "artifact_search", "collections",
        "repository_changes", "run_outputs", "run_manifests", "log_leaves", "audit_ledger",
    )  # fmt: skip
    return {table: len(rows_of(connection, table, tenant)) for table in tables}


def test_a_run_publishes_everything_at_once(tenant: Tenant, second_connection: sa.Connection) -> None:
    run_id = running(tenant)
    renamed, changed, same, there = (artifact(tenant, name) for name in ("r", "c", "s", "t"))
    before = len(changes(tenant))
    done = publish(
        tenant,
        run_id,
        artifacts=[
            {"name": "new", "content": "fresh words", "metadata": {"k": 1.0}, "role": "report", **NOTE},
            {"id": "art-x", "name": "empty", **NOTE},
        ],
        updates=[
            {"artifact_id": renamed.id, "name": "renamed"},
            {"artifact_id": changed.id, "content": "other words", "expected_version": 1, "role": "edit"},
            {"artifact_id": same.id, "content": "s"},
        ],
        outputs=[{"artifact_id": there.id, "revision": 1, "role": "kept"}],
        status="succeeded",
        manifest={"environment": {"python": "3.11"}},
        reason="done",
    )
    assert [item.result for item in (*done.artifacts, *done.updates)] == [
        "created", "created", "updated", "updated", "unchanged",
    ]  # fmt: skip
    assert (done.run.status, done.run.version, done.changed) == ("succeeded", 9, True)
    made = done.artifacts[0].id
    assert [(output.artifact_id, output.revision, output.role) for output in done.outputs] == [
        (made, 1, "report"),
        ("art-x", 1, "output"),
        (renamed.id, 2, "output"),
        (changed.id, 2, "edit"),
        (there.id, 1, "kept"),
    ]
    records = changes(tenant)[before:]
    assert [record.action for record in records] == [
        "CREATED", "CREATED", "UPDATED", "UPDATED", *["OUTPUT_LINKED"] * 5, "TRANSITIONED", "SEALED",
    ]  # fmt: skip
    assert {(record.change_set_id, record.reason) for record in records} == {(done.change_set_id, "done")}
    assert [record.new_version for record in records if record.entity_id == run_id] == list(range(3, 10))
    assert (records[0].seq, records[-1].seq) == (done.first_seq, done.last_seq)
    assert [output["artifact_id"] for output in done.manifest.body["outputs"]] == sorted(
        (made, "art-x", renamed.id, changed.id, there.id)
    )
    assert done.manifest.body["status"] == "succeeded"
    seen = call(tenant, "artifacts.get", {"artifact_id": made})
    assert (seen.produced_by_run, seen.metadata, seen.collection_id) == (run_id, {"k": 1.0}, "default")
    for text, expected in (("fresh", made), ("renamed", renamed.id), ("other", changed.id)):
        assert [hit.id for hit in call(tenant, "artifacts.query", {"text": text}).items] == [expected]
    (entry,) = rows_of(second_connection, "audit_ledger", tenant, operation="repository.runs.publish")
    assert (entry["event_type"], entry["entity_id"]) == ("RepositoryRunChanged", run_id)
    leaves = rows_of(second_connection, "log_leaves", tenant, type="repository.changed")
    assert len(leaves) == len({record.change_set_id for record in changes(tenant)})
    assert len(rows_of(second_connection, "log_leaves", tenant, type="run.output")) == 5
    assert call(tenant, "manifests.get", {"run_id": run_id}) == done.manifest


NO_PUBLICATIONS = [
    ({}, "INVALID_INPUT"),
    ({"status": "running"}, "INVALID_INPUT"),
    ({"status": "succeeded", "error_code": "E"}, "INVALID_INPUT"),
    ({"artifacts": [{"name": "a", **NOTE}]}, "DUPLICATE_NAME"),
    ({"artifacts": [{"name": " x", **NOTE}]}, "INVALID_NAME"),
    ({"artifacts": [{"name": "x", "id": "art-a", **NOTE}]}, "DUPLICATE_ID"),
    ({"artifacts": [{"name": "x", **NOTE}, {"name": "x", **NOTE}]}, "DUPLICATE_NAME"),
    ({"artifacts": [{"name": "x", "collection_id": "nowhere", **NOTE}]}, "REFERENCE_NOT_FOUND"),
    ({"artifacts": [{"name": "x", "produced_by_run": "other", **NOTE}]}, "INVALID_INPUT"),
    ({"artifacts": [{"name": "x", "role": "No", **NOTE}]}, "INVALID_INPUT"),
    ({"artifacts": [{"name": "x", "expected_digest": "sha256:" + "0" * 64, **NOTE}]}, "DIGEST_MISMATCH"),
    ({"updates": [{"artifact_id": "nobody", "name": "x"}]}, "ARTIFACT_NOT_FOUND"),
    ({"updates": [{"artifact_id": "gone", "name": "x"}]}, "GONE"),
    ({"updates": [{"artifact_id": "art-a", "name": "b"}]}, "DUPLICATE_NAME"),
    ({"updates": [{"artifact_id": "art-a", "collection_id": "nowhere"}]}, "REFERENCE_NOT_FOUND"),
    ({"updates": [{"artifact_id": "art-a", "expected_version": 2, "name": "x"}]}, "VERSION_MISMATCH"),
    ({"updates": [{"artifact_id": "art-a", "expected_version": 0}]}, "INVALID_INPUT"),
    ({"updates": [{"artifact_id": "art-a", "name": "x"}] * 2}, "INVALID_INPUT"),
    ({"updates": [{"artifact_id": "art-a", "metadata": [1]}]}, "INVALID_METADATA"),
    (
        {
            "artifacts": [{"name": "x", **NOTE}],
            "updates": [{"artifact_id": "art-a", "name": "x"}],
        },
        "DUPLICATE_NAME",
    ),
    ({"outputs": [{"artifact_id": "art-a", "revision": 2, "role": "r"}]}, "REFERENCE_NOT_FOUND"),
    ({"outputs": [{"artifact_id": "taken", "revision": 1, "role": "r"}]}, "ALREADY_PRODUCED"),
    ({"outputs": [{"artifact_id": "art-a", "revision": 1, "role": "r"}] * 2}, "INVALID_INPUT"),
    ({"manifest": {}}, "RUN_NOT_FINISHED"),
    ({"status": "failed", "manifest": {"environment": [1]}}, "INVALID_METADATA"),
    ({"artifacts": [{"name": f"x{n}", **NOTE} for n in range(1001)]}, "TOO_LARGE"),
]


def test_a_publication_that_cannot_be_done_leaves_nothing(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    run_id = running(tenant)
    for name in ("a", "b"):
        artifact(tenant, name, id=f"art-{name}")
    artifact(tenant, "gone", id="gone")
    call(tenant, "artifacts.delete", {"artifact_id": "gone"})
    artifact(tenant, "taken", id="taken", produced_by_run=running(tenant))
    before = footprint(second_connection, tenant)
    for members, code in NO_PUBLICATIONS:
        good = {"name": "good", "content": "good", **NOTE}
        whole = members
        if members and code != "INVALID_INPUT":
            whole = {**members, "artifacts": [good, *members.get("artifacts", [])]}
        assert refusal(tenant, "runs.publish", {"run_id": run_id, **whole}) == code, members
        assert footprint(second_connection, tenant) == before
        assert call(tenant, "runs.get", {"run_id": run_id}).version == 2


def test_a_refused_item_is_told_by_member_and_index(tenant: Tenant) -> None:
    artifact(tenant, "a")
    payload = {
        "run_id": running(tenant),
        "artifacts": [{"name": "x", **NOTE}],
        "updates": [{"artifact_id": "nobody"}, {"artifact_id": "nobody-else"}],
    }
    result = tenant.dispatch("repository.runs.publish", payload)
    assert result.error is not None
    assert [(item["member"], item["index"], item["code"]) for item in result.error.errors] == [
        ("updates", 0, "ARTIFACT_NOT_FOUND"),
        ("updates", 1, "ARTIFACT_NOT_FOUND"),
    ]


def test_a_name_that_a_publication_frees_is_free_afterwards(tenant: Tenant) -> None:
    made, run_id = artifact(tenant, "a"), running(tenant)
    swap = {
        "run_id": run_id,
        "artifacts": [{"name": "a", **NOTE}],
        "updates": [{"artifact_id": made.id, "name": "b"}],
    }
    assert refusal(tenant, "runs.publish", swap) == "DUPLICATE_NAME"
    publish(tenant, run_id, updates=swap["updates"])
    assert publish(tenant, run_id, artifacts=swap["artifacts"]).artifacts[0].result == "created"


def test_a_publication_that_changes_nothing_writes_nothing(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    run_id, made = running(tenant), artifact(tenant, "a")
    publish(tenant, run_id, outputs=[{"artifact_id": made.id, "revision": 1, "role": "r"}])
    before = footprint(second_connection, tenant)
    done = publish(
        tenant,
        run_id,
        updates=[{"artifact_id": made.id, "content": "a"}],
        outputs=[{"artifact_id": made.id, "revision": 1, "role": "r"}],
    )
    assert (done.changed, done.change_set_id, done.run.version) == (False, None, 3)
    assert [output.role for output in done.outputs] == ["r"]
    assert footprint(second_connection, tenant) == before


def test_the_same_end_and_manifest_again_change_nothing(tenant: Tenant) -> None:
    run_id = running(tenant)
    end = {"status": "failed", "error_code": "E", "manifest": {"environment": {"a": 1}}}
    first = publish(tenant, run_id, **end)
    again = publish(tenant, run_id, **end)
    assert (first.changed, again.changed, again.manifest) == (True, False, first.manifest)
    other = {"run_id": run_id, "manifest": {"environment": {"a": 2}}}
    assert refusal(tenant, "runs.publish", other) == "SEALED"
    assert refusal(tenant, "runs.publish", {"run_id": run_id, "status": "succeeded"}) == "INVALID_TRANSITION"


def test_a_pending_run_is_cancelled_by_a_publication_and_brings_about_nothing(tenant: Tenant) -> None:
    run_id = str(create(tenant).run_id)
    item = {"run_id": run_id, "artifacts": [{"name": "x", **NOTE}]}
    assert refusal(tenant, "runs.publish", item) == "RUN_NOT_RUNNING"
    assert publish(tenant, run_id, status="cancelled").run.status == "cancelled"


def test_a_publication_of_a_governed_run_is_in_its_facts(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    governed = start_run(tenant)
    create(tenant, run_id=governed)
    move(tenant, governed, "running")
    items = [{"name": "x", **NOTE}]
    done = publish(tenant, governed, artifacts=items, status="succeeded", manifest={})
    assert done.run.governed is True
    leaves = rows_of(second_connection, "log_leaves", tenant, run_id=governed)
    assert {"run.output", "run.manifest"} <= {leaf["type"] for leaf in leaves}
    tenant.call("runs.complete", {"run_id": governed, "status": "succeeded"})
    assert tenant.call("runs.proof", {"run_id": governed}).facts.status == "COMPLETE"


def test_a_publication_takes_few_statements_whatever_it_holds(
    tenant: Tenant, make_spine: Callable[..., Spine]
) -> None:
    spine = make_spine()
    here = Tenant(spine, tenant.tenant_id)
    counts = []
    for size in (2, 300):
        run_id = running(here)
        items = [
            {"name": f"old {size} {n}", "content": f"old {n}", "metadata": {"n": n}, **NOTE}
            for n in range(size)
        ]
        old = call(here, "artifacts.create_bulk", {"items": items}).items
        found: list[str] = []
        payload = {
            "artifacts": [
                {"id": f"art-{size}-{n}", "name": f"new {size} {n}", "content": f"new {size} {n}",
                 "metadata": {"n": n, "t": ["x"]}, **NOTE}
                for n in range(size)
            ],
            "updates": [
                {"artifact_id": item.id, "metadata": {"m": 1}, "name": f"renamed {item.id}"}
                for item in old[: size // 2]
            ],
            "outputs": [
                {"artifact_id": item.id, "revision": 1, "role": "kept"} for item in old[size // 2 :]
            ],
        }  # fmt: skip
        statement_counter(spine.transactions.engine, found.append)
        publish(here, run_id, **payload, status="succeeded", manifest={})
        counts.append(len(found))
        # Heads, revisions, bytes, values, index entries, links, manifest: seven kinds of rows.
        assert len(found) <= 12 + 4 * 7, found
    assert counts[0] == counts[1]
