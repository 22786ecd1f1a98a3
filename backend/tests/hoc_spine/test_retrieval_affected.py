"""Blast radius: which runs were given a document, completely, in pages, and through what they made of it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.spine import Spine
from tests.factories.tenants import Tenant
from tests.factories.worlds import World, make_world, start_run, without_triggers

RUNS, ROWS = 10_000, 11_000


@pytest.fixture
def world(spine: Spine, tenant: Tenant) -> World:
    return make_world(spine, tenant)


def ask(tenant: Tenant, **question: Any) -> Any:
    return tenant.call("retrieval.affected_runs", question)


def in_pages(tenant: Tenant, **question: Any) -> list[Any]:
    runs: list[Any] = []
    cursor = None
    while True:
        page = ask(tenant, **question, cursor=cursor, limit=17)
        runs += page.runs
        assert page.complete is (page.next_cursor is None)
        cursor = page.next_cursor
        if cursor is None:
            return runs


# Every run is given one of 100 documents at one of three revisions, some of them twice.
SQLITE_NUMBERS = "WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < :rows)"
NUMBERS = {"sqlite": SQLITE_NUMBERS, "postgresql": "WITH g AS (SELECT generate_series(1, :rows) AS n)"}
EVIDENCE = (
    "evidence_id, run_id, attempt, plane_id, action, actor_id, outcome, reason_code, revoked_in_flight,"
    " connector_id, plane_state_value, policy_snapshot_id, matched_rules, query_hash, documents, doc_count,"
    " token_count, bytes_returned, truncated, requested_at, completed_at, duration_ms, created_at, fact_id"
)


def insert_history(connection: sa.Connection, world: World) -> None:
    """Insert the evidence of 10 000 runs by one copy of a real row for each."""
    numbers = NUMBERS[connection.dialect.name]
    copied = EVIDENCE.replace("evidence_id", "'ev_' || printf('%06d', g.n)", 1)
    moment = "printf('2026-01-01T%02d:%02d:%02d.000000Z', g.n / 3600, g.n / 60 % 60, g.n % 60)"
    if connection.dialect.name == "postgresql":
        copied = copied.replace("printf('%06d', g.n)", "lpad(CAST(g.n AS text), 6, '0')")
        moment = "TIMESTAMPTZ '2026-01-01 00:00:00+00' + g.n * INTERVAL '1 second'"
    copied = copied.replace("run_id", "'run-' || (g.n % 10000)", 1).replace("fact_id", "'fct_' || g.n")
    copied = copied.replace("requested_at, completed_at", f"{moment}, {moment}")
    without_triggers(
        connection,
        f"{numbers} INSERT INTO retrieval_evidence (tenant_id, {EVIDENCE}) SELECT tenant_id, {copied}"
        " FROM g, retrieval_evidence WHERE tenant_id = :tenant AND evidence_id = :model",
        f"{numbers} INSERT INTO retrieval_evidence_documents"
        " (tenant_id, evidence_id, position, doc_ref, revision, digest)"
        " SELECT :tenant, evidence_id, 0, 'doc-' || (g.n % 100), 1 + g.n / 100 % 3, :digest FROM g,"
        " retrieval_evidence WHERE tenant_id = :tenant AND fact_id = 'fct_' || g.n",
        rows=ROWS,
        tenant=world.tenant.tenant_id,
        model=world.access().unwrap().evidence_id,
        digest="sha256:" + "a" * 64,
    )


def scan(connection: sa.Connection, tenant: Tenant, doc_ref: str, revision: int | None) -> dict[str, Any]:
    """Find the affected runs the slow way: look at everything."""
    rows = connection.execute(
        sa.text(
            "SELECT e.run_id, e.evidence_id, e.requested_at, d.doc_ref, d.revision FROM retrieval_evidence e"
            " JOIN retrieval_evidence_documents d"
            " ON d.tenant_id = e.tenant_id AND d.evidence_id = e.evidence_id"
            " WHERE e.tenant_id = :tenant AND e.outcome = 'ALLOWED'"
        ),
        {"tenant": tenant.tenant_id},
    ).all()
    found: dict[str, Any] = defaultdict(lambda: {"ids": [], "revisions": set(), "first": []})
    for row in rows:
        if row.doc_ref == doc_ref and revision in (None, row.revision):
            found[row.run_id]["ids"].append(row.evidence_id)
            found[row.run_id]["revisions"].add(row.revision)
            found[row.run_id]["first"].append(str(row.requested_at))
    return found


def test_the_affected_runs_are_those_of_a_scan_over_10_000_runs(
    world: World, second_connection: sa.Connection
) -> None:
    insert_history(second_connection, world)
    second_connection.execute(sa.text("ANALYZE"))
    for revision in (None, 2):
        wanted = scan(second_connection, world.tenant, "doc-7", revision)
        assert len(wanted) >= 30
        question = {"artifact_id": "doc-7"} | ({} if revision is None else {"revision": revision})
        runs = in_pages(world.tenant, **question)
        assert [run.run_id for run in runs] == sorted(
            wanted, key=lambda run_id: (min(wanted[run_id]["first"]), run_id)
        )
        for run in runs:
            assert run.evidence_ids == sorted(wanted[run.run_id]["ids"])
            assert run.revisions == sorted(wanted[run.run_id]["revisions"])
            assert run.access_count == len(wanted[run.run_id]["ids"])
    everything = ask(world.tenant, digest="sha256:" + "a" * 64, depth=2)
    assert len({run.run_id for run in everything.runs}) == len(everything.runs) == RUNS
    assert everything.complete


def write(world: World, run_id: str, name: str, collection: str) -> Any:
    """Let a run write an artifact into the plane's collection."""
    payload = {
        "name": name,
        "artifact_type": "document",
        "content": f"{name} of the refund",
        "collection_id": collection,
    }
    return world.tenant.dispatch("repository.artifacts.create", payload, run_id=run_id).unwrap()


def refresh(world: World) -> None:
    from tests.factories.planes import work_jobs

    world.tenant.call("knowledge.planes.refresh", {"plane_id": world.plane_id})
    work_jobs(world.tenant.spine, world.tenant)


def retrieve(world: World, run_id: str, artifact_id: str) -> None:
    payload = {"action": "retrieve", "payload": {"artifact_ids": [artifact_id]}, "run_id": run_id}
    world.access(**payload).unwrap()


def test_a_poisoned_revision_is_traced_through_two_levels_of_runs(world: World) -> None:
    tenant = world.tenant
    collection = tenant.call("knowledge.planes.get", {"plane_id": world.plane_id}).config["owned_collection"]
    poisoned = world.artifacts["refunds.md"]
    first, second, third, bystander = (world.run_id, start_run(tenant), start_run(tenant), start_run(tenant))
    retrieve(world, first, poisoned)
    one = write(world, first, "summary", collection)
    refresh(world)
    retrieve(world, second, one.id)
    two = write(world, second, "report", collection)
    # A circle: the first run reads what came of what it wrote.
    refresh(world)
    retrieve(world, first, two.id)
    retrieve(world, third, two.id)
    retrieve(world, bystander, world.artifacts["holidays.md"])
    levels = {}
    for depth in (1, 2, 3, 5):
        found = ask(tenant, artifact_id=poisoned, depth=depth)
        assert found.complete
        assert found.next_cursor is None
        levels[depth] = {run.run_id: run.depth for run in found.runs}
    assert levels[1] == {first: 1}
    assert levels[2] == {first: 1, second: 2}
    assert levels[3] == levels[5] == {first: 1, second: 2, third: 3}
    opened = tenant.call("incidents.create", {"title": "Wrong answers", "source_run_id": first}).incident
    (direct,) = ask(tenant, artifact_id=poisoned, revision=1).runs
    assert direct.incident_ids == [opened.incident_id]
    assert (direct.status, direct.access_count, direct.revisions) == ("running", 1, [1])
    assert [(output.artifact_id, output.revision) for output in direct.outputs] == [(one.id, 1)]
    assert ask(tenant, artifact_id=poisoned, revision=2).runs == []
    # What became of the document meanwhile changes nothing of who was given it.
    tenant.call("repository.artifacts.update", {"artifact_id": poisoned, "content": "revised"})
    redact = {"revisions": "all", "reason": "wrong", "legal_basis": "l", "shared": "keep"}
    tenant.call("repository.artifacts.redact", {"artifact_id": poisoned, **redact})
    tenant.call("repository.artifacts.delete", {"artifact_id": poisoned})
    assert [run.run_id for run in ask(tenant, artifact_id=poisoned).runs] == [first]


def test_only_what_was_given_counts(world: World) -> None:
    denied = world.access(purpose="marketing")
    assert not denied.success
    assert ask(world.tenant, artifact_id=world.artifacts["refunds.md"]).runs == []


def test_an_unknown_or_foreign_document_affects_nobody(world: World, other_tenant: Tenant) -> None:
    artifact = world.artifacts["refunds.md"]
    retrieve(world, world.run_id, artifact)
    assert len(ask(world.tenant, artifact_id=artifact).runs) == 1
    assert ask(other_tenant, artifact_id=artifact).runs == []
    assert ask(world.tenant, doc_ref="no such thing").runs == []


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"artifact_id": "a", "doc_ref": "b"},
        {"doc_ref": "b", "revision": 1},
        {"artifact_id": "a", "depth": 2, "cursor": "x"},
    ],
)
def test_a_question_names_one_document(tenant: Tenant, question: dict[str, Any]) -> None:
    assert tenant.dispatch("retrieval.affected_runs", question).error_code == "INVALID_QUERY"
