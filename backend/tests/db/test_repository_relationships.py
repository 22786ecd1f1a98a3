"""Relationships: checks in their order, changes, tombstones, cycles and races."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.spine import Spine
from app.kernel.context import Precondition
from tests.factories.tenants import Tenant

CREATE = "repository.relationships.create"


def note(tenant: Tenant, name: str, **members: Any) -> str:
    """Create a note and return its id."""
    made = tenant.call("repository.artifacts.create", {"name": name, "artifact_type": "note", **members})
    return str(made.id)


def link(tenant: Tenant, source: str, target: str, kind: str = "cites", **members: Any) -> Any:
    """Create a relationship and return it."""
    return tenant.call(CREATE, {"source_id": source, "target_id": target, "type": kind, **members})


def refused(tenant: Tenant, name: str, payload: Any, **context: Any) -> Any:
    """Return the refusal of an operation."""
    result = tenant.dispatch(name, payload, **context)
    assert result.error is not None
    return result.error


def test_a_relationship_comes_back_as_it_was_made(tenant: Tenant) -> None:
    a, b = note(tenant, "a"), note(tenant, "b")
    made = link(
        tenant,
        a,
        b,
        id="rel-1",
        source_revision=1,
        metadata={"n": 1.0},
        provenance={"by": "hand"},
        reason="why",
    )
    assert (made.id, made.version, made.source_revision, made.target_revision) == ("rel-1", 1, 1, None)
    assert tenant.call("repository.relationships.get", {"relationship_id": "rel-1"}) == made
    assert (made.metadata, made.provenance) == ({"n": 1.0}, {"by": "hand"})
    record = tenant.call("repository.changes.list", {"action": "LINKED"}).items[0]
    assert (record.entity_type, record.entity_id, record.new_version) == ("RELATIONSHIP", "rel-1", 1)
    assert (record.seq, record.reason) == (made.created_seq, "why")
    assert set(record.detail) == {"metadata_digest", "provenance_digest"}


def test_the_checks_of_a_new_relationship_come_in_the_order_of_the_page(
    tenant: Tenant, other_tenant: Tenant
) -> None:
    a, b = note(tenant, "a"), note(tenant, "b")
    gone = note(tenant, "gone")
    tenant.call("repository.artifacts.delete", {"artifact_id": gone})
    foreign = note(other_tenant, "foreign")
    link(tenant, a, b, id="taken")
    pair = {"source_id": a, "target_id": b, "type": "cites"}
    cases = [
        (pair | {"type": "Cites"}, "INVALID_INPUT", {}),
        (pair | {"id": "a/b"}, "INVALID_ID", {}),
        (pair | {"metadata": 1}, "INVALID_METADATA", {"field": "metadata", "pointer": ""}),
        (pair | {"target_id": a}, "SELF_RELATIONSHIP", {"field": "target_id"}),
        (pair | {"target_id": "nobody"}, "ENDPOINT_NOT_FOUND", {"endpoint": "target"}),
        (pair | {"source_id": gone}, "ENDPOINT_NOT_FOUND", {"endpoint": "source"}),
        (pair | {"source_id": gone, "target_id": foreign}, "ENDPOINT_NOT_FOUND", {"endpoint": "both"}),
        (pair | {"source_id": foreign}, "ENDPOINT_NOT_FOUND", {"endpoint": "source"}),
        (pair | {"source_id": "a/b"}, "ENDPOINT_NOT_FOUND", {"endpoint": "source"}),
        (pair | {"source_revision": 2}, "REFERENCE_NOT_FOUND", {"field": "source_revision"}),
        (pair | {"target_revision": 0}, "REFERENCE_NOT_FOUND", {"field": "target_revision"}),
        (pair | {"target_revision": 10**30}, "REFERENCE_NOT_FOUND", {"field": "target_revision"}),
        (pair | {"id": "taken"}, "DUPLICATE_ID", {"id": "taken"}),
        (pair, "DUPLICATE_RELATIONSHIP", {"existing_id": "taken"}),
    ]
    for payload, code, extra in cases:
        error = refused(tenant, CREATE, payload)
        assert (error.code, dict(error.extra) or extra) == (code, extra), payload
    assert tenant.call("repository.relationships.count", {}).count == 1


def test_other_types_the_reverse_and_a_second_making_are_no_duplicates(tenant: Tenant) -> None:
    a, b = note(tenant, "a"), note(tenant, "b")
    first = link(tenant, a, b)
    link(tenant, a, b, "mentions")
    link(tenant, b, a)
    tenant.call("repository.relationships.delete", {"relationship_id": first.id})
    second = link(tenant, a, b)
    assert second.id != first.id
    error = refused(tenant, CREATE, {"source_id": a, "target_id": b, "type": "other", "id": first.id})
    assert error.code == "DUPLICATE_ID"


@pytest.mark.parametrize("kind", ["derived_from", "supersedes", "part_of"])
def test_an_acyclic_type_refuses_a_cycle_with_its_path(tenant: Tenant, kind: str) -> None:
    a, b, c = note(tenant, "a"), note(tenant, "b"), note(tenant, "c")
    link(tenant, a, b, kind)
    two = refused(tenant, CREATE, {"source_id": b, "target_id": a, "type": kind})
    assert (two.code, two.extra["path"]) == ("RELATIONSHIP_CYCLE", [b, a, b])
    edge = link(tenant, b, c, kind)
    three = refused(tenant, CREATE, {"source_id": c, "target_id": a, "type": kind})
    assert (three.code, three.extra["path"]) == ("RELATIONSHIP_CYCLE", [c, a, b, c])
    link(tenant, c, a, "cites")
    tenant.call("repository.relationships.delete", {"relationship_id": edge.id})
    assert link(tenant, c, a, kind).type == kind


def test_a_long_cycle_is_found_and_a_legal_one_is_made(tenant: Tenant) -> None:
    items = [{"name": f"n{index}", "artifact_type": "note"} for index in range(60)]
    made = tenant.call("repository.artifacts.create_bulk", {"items": items}).items
    ids = [item.id for item in made]
    for source, target in pairwise(ids):
        link(tenant, source, target, "derived_from")
    error = refused(tenant, CREATE, {"source_id": ids[-1], "target_id": ids[0], "type": "derived_from"})
    assert error.extra["path"] == [ids[-1], *ids]
    assert link(tenant, ids[-1], ids[0], "cites").type == "cites"


def test_only_metadata_and_provenance_change(tenant: Tenant) -> None:
    a, b = note(tenant, "a"), note(tenant, "b")
    made = link(tenant, a, b, metadata={"x": 1, "y": {"z": 2}})
    update = {"relationship_id": made.id}
    for field in ("type", "source_id", "target_revision", "created_by"):
        error = refused(tenant, "repository.relationships.update", update | {field: "x"})
        assert (error.code, error.extra["field"]) == ("IMMUTABLE_FIELD", field)
    same = tenant.call("repository.relationships.update", update | {"metadata": {"x": 1}})
    assert (same.changed, same.change, same.relationship) == (False, None, made)
    done = tenant.call(
        "repository.relationships.update",
        update | {"metadata": {"x": None, "y": {"w": 1.0}}, "provenance": {"p": 1}},
    )
    assert (done.changed, done.relationship.version) == (True, 2)
    assert done.relationship.metadata == {"y": {"w": 1.0, "z": 2}}
    assert (done.change.action, done.change.changed_fields) == ("UPDATED", ["metadata", "provenance"])
    assert (done.change.old_version, done.change.new_version) == (1, 2)
    stale = refused(
        tenant,
        "repository.relationships.update",
        update | {"metadata": {"q": 1}},
        precondition=Precondition(frozenset([1])),
    )
    assert (stale.code, stale.extra["current_version"]) == ("VERSION_MISMATCH", 2)


def test_a_deleted_relationship_is_gone_and_not_deleted_twice(tenant: Tenant, other_tenant: Tenant) -> None:
    a, b = note(tenant, "a"), note(tenant, "b")
    made = link(tenant, a, b)
    ref = {"relationship_id": made.id}
    done = tenant.call("repository.relationships.delete", ref | {"reason": "wrong"})
    assert (done.version, done.change.action, done.change.reason) == (2, "UNLINKED", "wrong")
    gone = refused(tenant, "repository.relationships.get", ref)
    assert (gone.code, gone.extra["tombstone"]["version"]) == ("GONE", 2)
    assert refused(tenant, "repository.relationships.update", ref | {"metadata": {}}).code == "GONE"
    assert refused(tenant, "repository.relationships.delete", ref).code == "ALREADY_DELETED"
    shown = tenant.call("repository.relationships.get", ref | {"include_deleted": True})
    assert shown.deleted_by == "user-1"
    for identifier in (made.id, "a/b"):
        error = refused(other_tenant, "repository.relationships.get", {"relationship_id": identifier})
        assert error.code == "RELATIONSHIP_NOT_FOUND"
    assert len(tenant.call("repository.changes.list", {"action": "UNLINKED"}).items) == 1


def test_lists_queries_and_counts_of_relationships_agree(tenant: Tenant) -> None:
    a, b, c = note(tenant, "a"), note(tenant, "b"), note(tenant, "c")
    one = link(tenant, a, b, source_revision=1)
    two = link(tenant, a, c)
    three = link(tenant, b, c, "mentions")
    tenant.call("repository.relationships.delete", {"relationship_id": two.id})

    def ids(payload: dict[str, Any], name: str = "query") -> list[str]:
        found: list[str] = []
        cursor = None
        while True:
            page = tenant.call(f"repository.relationships.{name}", payload | {"limit": 1, "cursor": cursor})
            found += [item.id for item in page.items]
            cursor = page.next_cursor
            if cursor is None:
                return found

    assert ids({}) == ids({}, "list") == [one.id, three.id]
    assert ids({"include_deleted": True}) == [one.id, two.id, three.id]
    assert ids({"source_id": a}, "list") == [one.id]
    assert ids({"target_id": c, "type": "mentions"}) == [three.id]
    assert ids({"source_revision": 1}) == [one.id]
    assert ids({"source_revision": 10**30}) == ids({"ids": []}) == []
    assert ids({"ids": [three.id, "nobody"]}) == [three.id]
    assert tenant.call("repository.relationships.count", {"include_deleted": True}).count == 3
    assert tenant.call("repository.relationships.count", {"ids": []}).count == 0
    many = {"ids": [str(number) for number in range(501)]}
    assert refused(tenant, "repository.relationships.query", many).code == "TOO_LARGE"
    page = tenant.call("repository.relationships.list", {"limit": 1})
    other = refused(tenant, "repository.relationships.list", {"type": "cites", "cursor": page.next_cursor})
    assert other.code == "INVALID_CURSOR"


def test_a_delete_that_detaches_and_a_restore_that_reconnects(tenant: Tenant) -> None:
    a, b, c, d = (note(tenant, name) for name in "abcd")
    kept, rival, lost = link(tenant, a, b), link(tenant, c, a), link(tenant, a, d)
    restrict = refused(tenant, "repository.artifacts.delete", {"artifact_id": a})
    assert (restrict.code, restrict.extra["total"]) == ("ARTIFACT_HAS_RELATIONSHIPS", 3)
    done = tenant.call("repository.artifacts.delete", {"artifact_id": a, "mode": "detach"})
    assert done.detached == [kept.id, rival.id, lost.id]
    assert done.change.detail == {"detached": 3}
    records = tenant.call("repository.changes.list", {"change_set_id": done.change.change_set_id}).items
    assert [record.action for record in records] == ["DELETED", "UNLINKED", "UNLINKED", "UNLINKED"]
    assert refused(tenant, CREATE, {"source_id": c, "target_id": a, "type": "cites"}).code == (
        "ENDPOINT_NOT_FOUND"
    )
    tenant.call("repository.artifacts.delete", {"artifact_id": d})
    back = tenant.call("repository.artifacts.restore", {"artifact_id": a, "with_relationships": True})
    assert (back.relationships_restored, back.relationships_skipped) == ([kept.id, rival.id], [lost.id])
    assert tenant.call("repository.relationships.get", {"relationship_id": kept.id}).version == 3


def test_a_collection_under_offboarding_takes_no_relationship(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    from tests.factories.worlds import make_world, without_triggers

    world = make_world(spine, tenant)
    ids = list(world.artifacts.values())
    made = link(tenant, ids[0], ids[1])
    without_triggers(
        second_connection,
        "UPDATE knowledge_plane_registry SET lifecycle_state_value = 310 "
        "WHERE tenant_id = :t AND plane_id = :p",
        t=tenant.tenant_id,
        p=world.plane_id,
    )
    for name, payload in (
        (CREATE, {"source_id": ids[1], "target_id": ids[2], "type": "cites"}),
        ("repository.relationships.update", {"relationship_id": made.id, "metadata": {"x": 1}}),
        ("repository.relationships.delete", {"relationship_id": made.id}),
    ):
        assert refused(tenant, name, payload).code == "COLLECTION_SEALED"


def together(*works: Callable[[], Any]) -> list[Any]:
    """Run the works at one moment, each in a thread, and return their results."""
    gate = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)

    def run(index: int, work: Callable[[], Any]) -> None:
        gate.wait()
        results[index] = work()

    threads = [threading.Thread(target=run, args=item) for item in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_halves_of_a_cycle_made_at_once_leave_one_edge(tenant: Tenant) -> None:
    for attempt in range(5):
        a, b = note(tenant, f"a{attempt}"), note(tenant, f"b{attempt}")
        pairs = ((a, b), (b, a))
        results = together(
            *(
                lambda pair=pair: tenant.dispatch(
                    CREATE, {"source_id": pair[0], "target_id": pair[1], "type": "derived_from"}
                )
                for pair in pairs
            )
        )
        assert sorted(result.success for result in results) == [False, True]
        (loser,) = [result.error for result in results if not result.success]
        assert loser.code == "RELATIONSHIP_CYCLE"


def test_of_sixteen_creators_of_one_relationship_or_collection_one_succeeds(tenant: Tenant) -> None:
    ends = {"source_id": note(tenant, "a"), "target_id": note(tenant, "b"), "type": "cites"}
    for operation, payload, refused_as in (
        (CREATE, ends, "DUPLICATE_RELATIONSHIP"),
        ("repository.collections.create", {"name": "contested"}, "DUPLICATE_NAME"),
    ):
        before = len(tenant.call("repository.changes.list").items)
        works = [lambda o=operation, p=payload: tenant.dispatch(o, p)] * 16
        codes = sorted(str(result.error_code) for result in together(*works))
        assert codes == sorted(["None"] + [refused_as] * 15)
        assert len(tenant.call("repository.changes.list").items) == before + 1


def test_an_edge_against_a_delete_never_ends_at_a_tombstone(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    for attempt in range(5):
        a, b = note(tenant, f"a{attempt}"), note(tenant, f"b{attempt}")
        results = together(
            lambda a=a, b=b: tenant.dispatch(CREATE, {"source_id": a, "target_id": b, "type": "cites"}),
            lambda b=b: tenant.dispatch("repository.artifacts.delete", {"artifact_id": b}),
        )
        codes = {result.error.code for result in results if result.error}
        assert codes in ({"ENDPOINT_NOT_FOUND"}, {"ARTIFACT_HAS_RELATIONSHIPS"})
    dangling = second_connection.execute(
        sa.text(
            "SELECT count(*) FROM relationships r JOIN artifacts a ON a.tenant_id = r.tenant_id "
            "AND a.id IN (r.source_id, r.target_id) WHERE r.tenant_id = :t AND r.deleted_at IS NULL "
            "AND a.deleted_at IS NOT NULL"
        ),
        {"t": tenant.tenant_id},
    ).scalar()
    assert dangling == 0
