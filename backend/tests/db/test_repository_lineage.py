"""The graph of artifacts: neighbours, lineage and consumers, with their bounds and statement budgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import statement_counter
from tests.factories.tenants import Tenant, make_tenant
from tests.factories.worlds import without_triggers


def note(tenant: Tenant, name: str) -> str:
    """Create a note and return its id, which is its name."""
    made = tenant.call(
        "repository.artifacts.create", {"id": f"art-{name}", "name": name, "artifact_type": "note"}
    )
    return str(made.id)


def link(tenant: Tenant, source: str, target: str, kind: str = "derived_from", **members: Any) -> str:
    """Create a relationship and return its id."""
    payload = {"source_id": source, "target_id": target, "type": kind, **members}
    return str(tenant.call("repository.relationships.create", payload).id)


def lineage(tenant: Tenant, artifact_id: str, **members: Any) -> Any:
    """Return the lineage of an artifact."""
    return tenant.call("repository.artifacts.lineage", {"artifact_id": artifact_id, **members})


def shape(graph: Any) -> list[tuple[int, str]]:
    """Return depth and id of the nodes."""
    return [(node.depth, node.id) for node in graph.nodes]


def refusal(tenant: Tenant, name: str, payload: Any) -> Any:
    """Return the refusal of an operation."""
    error = tenant.dispatch(name, payload).error
    assert error is not None
    return error


def test_neighbors_are_paged_by_type_artifact_and_edge(tenant: Tenant) -> None:
    hub, a, b, c = (note(tenant, name) for name in ("hub", "a", "b", "c"))
    link(tenant, hub, b, "cites")
    link(tenant, a, hub, "cites")
    link(tenant, hub, c, "about", target_revision=1)
    link(tenant, b, hub, "cites")
    gone = link(tenant, hub, a, "mentions")
    tenant.call("repository.relationships.delete", {"relationship_id": gone})

    def neighbors(**members: Any) -> list[tuple[str, str, str]]:
        found: list[tuple[str, str, str]] = []
        cursor = None
        while True:
            page = tenant.call(
                "repository.artifacts.neighbors",
                {"artifact_id": hub, "limit": 1, "cursor": cursor, **members},
            )
            found += [(item.type, item.artifact_id, item.direction) for item in page.items]
            cursor = page.next_cursor
            if cursor is None:
                return found

    out = [("about", c, "out"), ("cites", b, "out")]
    into = [("cites", a, "in"), ("cites", b, "in")]
    both = neighbors()
    assert sorted(both) == sorted(out + into)
    assert [item[:2] for item in both] == [("about", c), ("cites", a), ("cites", b), ("cites", b)]
    assert neighbors(direction="out") == out
    assert neighbors(direction="in") == into
    assert neighbors(type="about") == out[:1]
    page = tenant.call("repository.artifacts.neighbors", {"artifact_id": c})
    (item,) = page.items
    assert (item.name, item.artifact_type, item.target_revision, item.version) == ("hub", "note", 1, 1)


def test_neighbors_of_what_is_not_there(tenant: Tenant, other_tenant: Tenant) -> None:
    a = note(tenant, "a")
    assert tenant.call("repository.artifacts.neighbors", {"artifact_id": a}).items == []
    for identifier in ("nobody", "a/b"):
        error = refusal(tenant, "repository.artifacts.neighbors", {"artifact_id": identifier})
        assert error.code == "ARTIFACT_NOT_FOUND"
    assert refusal(other_tenant, "repository.artifacts.neighbors", {"artifact_id": a}).code == (
        "ARTIFACT_NOT_FOUND"
    )
    tenant.call("repository.artifacts.delete", {"artifact_id": a})
    error = refusal(tenant, "repository.artifacts.neighbors", {"artifact_id": a})
    assert (error.code, error.extra["tombstone"]["last_revision"]) == ("GONE", 1)


def test_a_diamond_holds_its_far_corner_once(tenant: Tenant) -> None:
    top, left, right, bottom = (note(tenant, name) for name in ("top", "left", "right", "bottom"))
    for source, target in ((top, left), (top, right), (left, bottom), (right, bottom)):
        link(tenant, source, target)
    link(tenant, top, bottom, "cites")
    graph = lineage(tenant, top, direction="upstream")
    assert shape(graph) == [(0, top), (1, left), (1, right), (2, bottom)]
    assert [(edge.from_id, edge.to_id) for edge in graph.edges] == [
        (left, bottom), (right, bottom), (top, left), (top, right),
    ]  # fmt: skip
    assert not graph.truncated
    assert shape(lineage(tenant, bottom, direction="downstream", depth=1)) == [
        (0, bottom), (1, left), (1, right),
    ]  # fmt: skip
    assert shape(lineage(tenant, left)) == [(0, left), (1, bottom), (1, top), (2, right)]
    assert shape(lineage(tenant, top, types=["cites"])) == [(0, top), (1, bottom)]
    assert shape(lineage(tenant, top, direction="downstream")) == [(0, top)]


def test_a_legal_cycle_ends(tenant: Tenant) -> None:
    a, b, c = (note(tenant, name) for name in "abc")
    for source, target in ((a, b), (b, c), (c, a)):
        link(tenant, source, target, "cites")
    graph = lineage(tenant, a, types=["cites"], depth=10, direction="upstream")
    assert shape(graph) == [(0, a), (1, b), (2, c)]
    assert len(graph.edges) == 3


def test_bounds_of_lineage_are_refused_as_a_query(tenant: Tenant) -> None:
    a, b = note(tenant, "a"), note(tenant, "b")
    link(tenant, a, b)
    assert shape(lineage(tenant, a, depth=0)) == [(0, a)]
    for members in ({"depth": 11}, {"depth": -1}, {"max_nodes": 0}, {"max_nodes": 5001}):
        error = refusal(tenant, "repository.artifacts.lineage", {"artifact_id": a, **members})
        assert error.code == "INVALID_QUERY"
    cut = lineage(tenant, a, max_nodes=1)
    assert (shape(cut), cut.edges, cut.truncated) == ([(0, a)], [], True)
    assert not lineage(tenant, a, max_nodes=2).truncated


SERIES = {
    "postgresql": "generate_series(1, 10000) AS n(i)",
    "sqlite": "(WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 10000) "
    "SELECT i FROM s) n",
}
PADDED = {"postgresql": "lpad(n.i::text, 5, '0')", "sqlite": "printf('%05d', n.i)"}
STAMPS = "'2026-01-01T00:00:00.000000Z', 'u', '2026-01-01T00:00:00.000000Z', 'u'"


def test_a_fan_of_ten_thousand_is_cut_and_says_so(
    tenant: Tenant, second_connection: sa.Connection, dialect: str
) -> None:
    hub = note(tenant, "hub")
    no = PADDED[dialect]
    stamps = STAMPS.replace("Z'", "Z'::timestamptz") if dialect == "postgresql" else STAMPS
    without_triggers(
        second_connection,
        "INSERT INTO artifacts (tenant_id, id, collection_id, name, name_key, artifact_type, head_revision, "
        "version, created_seq, updated_seq, created_at, created_by, updated_at, updated_by) "
        f"SELECT :t, 'leaf-' || {no}, 'default', 'l' || {no}, 'l' || {no}, 'note', 1, 1, "
        f"1000 + n.i, 1000 + n.i, {stamps} FROM {SERIES[dialect]}",
        "INSERT INTO relationships (tenant_id, id, source_id, target_id, type, metadata, provenance, "
        "version, created_seq, created_at, created_by, updated_at, updated_by) "
        f"SELECT :t, 'rel-' || {no}, 'leaf-' || {no}, 'art-hub', 'derived_from', '{{}}', '{{}}', 1, "
        f"20000 + n.i, {stamps} FROM {SERIES[dialect]}",
        t=tenant.tenant_id,
    )
    if dialect == "postgresql":
        # Autovacuum does so within a minute of so many rows.
        second_connection.execute(sa.text("ANALYZE artifacts, relationships"))
    graph = lineage(tenant, hub, depth=1)
    assert (len(graph.nodes), len(graph.edges), graph.truncated) == (500, 499, True)
    assert [node.id for node in graph.nodes[1:3]] == ["leaf-00001", "leaf-00002"]
    deep = lineage(tenant, hub, max_nodes=5000, depth=10)
    assert (len(deep.nodes), deep.truncated) == (5000, True)
    page = tenant.call("repository.artifacts.neighbors", {"artifact_id": hub, "limit": 500})
    assert (len(page.items), page.items[-1].artifact_id) == (500, "leaf-00500")


def give_run(connection: sa.Connection, tenant: Tenant, run: str, given: str, made: str) -> None:
    """Write an operation run with one input and one output past the product."""
    at = "'2026-01-01T00:00:00.000000Z'"
    digest = "'sha256:" + "0" * 64 + "'"
    without_triggers(
        connection,
        "INSERT INTO input_bundles (tenant_id, id, bundle_digest, created_at, created_by, fact_id) "
        f"VALUES (:t, :b, :d, {at}, 'u', :b)",
        "INSERT INTO input_bundle_items (tenant_id, bundle_id, position, artifact_id, revision, "
        f"revision_digest, role) VALUES (:t, :b, 0, :given, 1, {digest}, 'source')",
        "INSERT INTO operation_runs (tenant_id, run_id, operation, status, version, parameters, bundle_id, "
        f"attempt, requested_by, created_at) VALUES (:t, :r, 'op', 'running', 1, '{{}}', :b, 1, 'u', {at})",
        "INSERT INTO run_outputs (tenant_id, run_id, artifact_id, revision, role, created_at, fact_id) "
        f"VALUES (:t, :r, :made, 1, 'result', {at}, :r)",
        t=tenant.tenant_id,
        b=f"bnd-{run}",
        d=f"sha256:{run:0>64}",
        r=run,
        given=given,
        made=made,
    )


def test_runs_lead_from_outputs_to_inputs(tenant: Tenant, second_connection: sa.Connection) -> None:
    source, result, report = note(tenant, "source"), note(tenant, "result"), note(tenant, "report")
    link(tenant, report, result)
    give_run(second_connection, tenant, "run-1", source, result)
    graph = lineage(tenant, report, direction="upstream")
    assert shape(graph) == [(0, report), (1, result), (2, "run-1"), (3, source)]
    assert [(edge.kind, edge.from_id, edge.to_id, edge.type) for edge in graph.edges] == [
        ("relationship", report, result, "derived_from"),
        ("output", result, "run-1", "output"),
        ("input", "run-1", source, "input"),
    ]
    assert (graph.edges[1].from_revision, graph.edges[2].to_revision) == (1, 1)
    (run,) = [node for node in graph.nodes if node.kind == "run"]
    assert (run.status, run.name) == ("running", None)
    down = lineage(tenant, source, direction="downstream")
    assert shape(down) == [(0, source), (1, "run-1"), (2, result), (3, report)]
    assert down.edges == graph.edges
    assert shape(lineage(tenant, report, include_runs=False)) == [(0, report), (1, result)]


def test_deleted_nodes_are_stubs_and_only_on_demand(tenant: Tenant, second_connection: sa.Connection) -> None:
    a, b, c, d = (note(tenant, name) for name in "abcd")
    link(tenant, a, b)
    link(tenant, b, c)
    apart = link(tenant, a, d)
    tenant.call("repository.relationships.delete", {"relationship_id": apart})
    give_run(second_connection, tenant, "run-2", d, a)
    tenant.call("repository.artifacts.delete", {"artifact_id": b, "mode": "detach"})
    tenant.call("repository.artifacts.delete", {"artifact_id": d})
    assert shape(lineage(tenant, a)) == [(0, a), (1, "run-2")]
    graph = lineage(tenant, a, include_deleted=True)
    assert shape(graph) == [(0, a), (1, b), (1, "run-2"), (2, c), (2, d)]
    stub = graph.nodes[1]
    assert (stub.deleted, stub.name, stub.artifact_type) == (True, None, "note")
    assert refusal(tenant, "repository.artifacts.lineage", {"artifact_id": b}).code == "GONE"
    assert shape(lineage(tenant, b, include_deleted=True, depth=1)) == [(0, b), (1, a), (1, c)]


def test_consumers_of_a_revision_are_bundles_runs_and_packages(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    a, b = note(tenant, "a"), note(tenant, "b")
    give_run(second_connection, tenant, "run-3", a, b)
    at = "'2026-01-01T00:00:00.000000Z'"
    digest = "'sha256:" + "0" * 64 + "'"
    without_triggers(
        second_connection,
        "INSERT INTO context_packages (tenant_id, id, name, metadata, provenance, package_digest, "
        f"created_seq, created_at, created_by, fact_id) VALUES (:t, 'ctx-1', 'c', '{{}}', '{{}}', {digest}, "
        f"99, {at}, 'u', 'ctx-1')",
        "INSERT INTO context_items (tenant_id, package_id, position, kind, artifact_id, revision, "
        f"revision_digest, provenance) VALUES (:t, 'ctx-1', 4, 'artifact', :a, 1, {digest}, '{{}}')",
        t=tenant.tenant_id,
        a=a,
    )
    ref = {"artifact_id": a, "revision": 1}
    found: list[tuple[str, str, int, str | None]] = []
    cursor = None
    while True:
        page = tenant.call("repository.revisions.consumers", {**ref, "limit": 1, "cursor": cursor})
        found += [(item.kind, item.id, item.position, item.role) for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == [
        ("bundle", "bnd-run-3", 0, "source"),
        ("context_package", "ctx-1", 4, None),
        ("run", "run-3", 0, "source"),
    ]
    assert tenant.call("repository.revisions.consumers", {"artifact_id": b, "revision": 1}).items == []
    for payload, code in (
        ({"artifact_id": a, "revision": 2}, "REVISION_NOT_FOUND"),
        ({"artifact_id": "nobody", "revision": 1}, "ARTIFACT_NOT_FOUND"),
    ):
        assert refusal(tenant, "repository.revisions.consumers", payload).code == code


@pytest.fixture
def count_statements(make_spine: Callable[..., Spine]) -> tuple[Tenant, Callable[[str, Any], int]]:
    """A tenant on a spine of its own, and how many statements on slice tables a call of it takes."""
    spine = make_spine()
    seen: list[str] = []
    statement_counter(spine.transactions.engine, seen.append)
    tenant = make_tenant(spine)

    def count(name: str, payload: Any) -> int:
        tenant.call(name, payload)
        seen.clear()
        tenant.call(name, payload)
        return sum(1 for text in seen if "artifacts" in text or "relationships" in text)

    return tenant, count


def test_neighbors_take_one_statement_and_lineage_one_for_each_level(
    count_statements: tuple[Tenant, Callable[[str, Any], int]],
) -> None:
    tenant, count = count_statements
    a, b, c, d = (note(tenant, name) for name in "abcd")
    for source, target in ((a, b), (b, c), (c, d)):
        link(tenant, source, target)
    assert count("repository.artifacts.neighbors", {"artifact_id": b}) == 1
    for depth in (0, 1, 2, 3):
        wanted = {"artifact_id": a, "depth": depth, "direction": "upstream"}
        # The root is the level of depth 0.
        assert count("repository.artifacts.lineage", wanted) == depth + 1
