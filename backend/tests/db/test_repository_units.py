"""Several repository operations in one unit of work, and the reads that planes are built from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.repository.engines.artifacts import list_heads, list_liveness, read_contents
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation, OperationRegistry
from app.hoc_spine.spine import Spine
from app.kernel.canonical_json import loads
from app.kernel.errors import HocError
from app.kernel.inputs import Input, Output
from tests.factories.tenants import Tenant


class Nothing(Input):
    """No members."""


class Done(Output):
    """What the unit saw."""

    seen: list[str]


Work = Callable[[OperationContext], list[str]]


def unit(spine: Spine, tenant: Tenant, work: Work) -> Any:
    """Run `work` as one operation of a spine that knows it beside all the others."""
    registry = OperationRegistry()
    for operation in spine.registry:
        registry.register(operation)
    registry.register(
        Operation(
            name="test.unit",
            owner="repository",
            mode="write",
            scope="repository:write",
            input=Nothing,
            output=Done,
            handler=lambda ctx, _request: Done(seen=work(ctx)),
        )
    )
    registry.freeze()
    here = Spine(
        registry=registry,
        transactions=spine.transactions,
        ports=spine.executor.ports,
        services=spine.services,
        audit_store=spine.audit_store,
        pipeline=spine.pipeline,
    )
    return here.dispatch("test.unit", tenant.context(), {})


def make(ctx: OperationContext, name: str, **members: Any) -> Any:
    """Create an artifact inside the unit."""
    return ctx.dispatch("repository.artifacts.create", {"name": name, "artifact_type": "note", **members})


def leaves(connection: sa.Connection, tenant: Tenant) -> list[dict[str, Any]]:
    """Return the bodies of the tenant's repository facts, oldest first."""
    statement = sa.text(
        "SELECT statement FROM log_leaves WHERE tenant_id = :t AND type = 'repository.changed' "
        "ORDER BY fact_id"
    )
    return [loads(text)["body"] for text in connection.execute(statement, {"t": tenant.tenant_id}).scalars()]


def test_operations_of_one_unit_share_a_change_set_and_a_fact(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    def work(ctx: OperationContext) -> list[str]:
        one = make(ctx, "one")
        ctx.dispatch("repository.artifacts.update", {"artifact_id": one.id, "content": "x"})
        two = make(ctx, "two")
        return [one.id, two.id]

    assert unit(spine, tenant, work).success
    records = tenant.call("repository.changes.list").items
    assert [record.seq for record in records] == [1, 2, 3, 4]
    assert len({record.change_set_id for record in records}) == 1
    (body,) = leaves(second_connection, tenant)
    assert (body["seq_from"], body["seq_to"], body["revision_count"]) == (1, 4, 3)
    assert (body["change_head_hash"], body["entity_id"]) == (records[-1].hash, None)
    assert body["change_set_id"] == records[0].change_set_id


def test_a_refusal_that_is_caught_takes_back_its_own_work_only(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    def work(ctx: OperationContext) -> list[str]:
        seen = [make(ctx, "kept").name]
        with pytest.raises(HocError) as refused:
            make(ctx, "kept", content="never stored")
        seen.append(refused.value.code)

        def lost() -> None:
            with ctx.savepoint():
                make(ctx, "lost", content="taken back", metadata={"a": 1})
                raise RuntimeError("taken back")

        with pytest.raises(RuntimeError):
            lost()
        seen.append(make(ctx, "after").name)
        return seen

    assert unit(spine, tenant, work).data.seen == ["kept", "DUPLICATE_NAME", "after"]
    records = tenant.call("repository.changes.list").items
    assert [record.seq for record in records] == [1, 2, 3]
    (body,) = leaves(second_connection, tenant)
    assert (body["seq_from"], body["seq_to"], body["change_head_hash"]) == (1, 3, records[-1].hash)
    page = tenant.call("repository.artifacts.list")
    assert [artifact.name for artifact in page.items] == ["kept", "after"]
    count = sa.text("SELECT count(*) FROM blobs WHERE tenant_id = :t")
    assert second_connection.execute(count, {"t": tenant.tenant_id}).scalar_one() == 0


def test_an_exception_leaves_no_trace_of_a_unit(spine: Spine, tenant: Tenant) -> None:
    tenant.call("repository.artifacts.create", {"name": "first", "artifact_type": "note"})

    def work(ctx: OperationContext) -> list[str]:
        make(ctx, "second", content="gone", metadata={"a": 1})
        raise RuntimeError("mid-way")

    assert unit(spine, tenant, work).error_code == "HANDLER_EXCEPTION:RuntimeError"
    made = tenant.call("repository.artifacts.create", {"name": "third", "artifact_type": "note"})
    records = tenant.call("repository.changes.list").items
    assert [record.seq for record in records] == [1, 2, 3]
    assert records[-1].entity_id == made.id
    assert tenant.call("repository.artifacts.count", {"text": "second"}).count == 0


def test_a_swap_of_names_takes_three_steps_in_one_unit(spine: Spine, tenant: Tenant) -> None:
    def work(ctx: OperationContext) -> list[str]:
        a, b = make(ctx, "a"), make(ctx, "b")
        for artifact, name in ((a, "spare"), (b, "a"), (a, "b")):
            ctx.dispatch("repository.artifacts.update", {"artifact_id": artifact.id, "name": name})
        return [a.id, b.id]

    a, b = unit(spine, tenant, work).data.seen
    names = [tenant.call("repository.artifacts.get", {"artifact_id": each}).name for each in (a, b)]
    assert names == ["b", "a"]


@pytest.fixture
def stocked(tenant: Tenant) -> dict[str, Any]:
    """Artifacts of several kinds in two collections, by name."""
    tenant.call("repository.collections.create", {"id": "c2", "name": "c2"})
    made = {}
    for name, members in {
        "text": {"content": "one"},
        "json": {"content": "{}", "media_type": "application/json"},
        "binary": {"content_base64": "AA=="},
        "empty": {},
        "other": {"content": "two", "collection_id": "c2"},
        "dead": {"content": "three"},
    }.items():
        payload = {"id": f"art-{name}", "name": name, "artifact_type": "note", **members}
        made[name] = tenant.call("repository.artifacts.create", payload)
    tenant.call("repository.artifacts.delete", {"artifact_id": "art-dead"})
    return made


def test_a_plane_reads_live_textual_heads_page_by_page(
    spine: Spine, tenant: Tenant, stocked: dict[str, Any]
) -> None:
    with spine.transactions.read(tenant.tenant_id) as connection:
        seen, after = [], None
        while page := list_heads(
            connection,
            tenant_id=tenant.tenant_id,
            collection_ids=["default", "c2"],
            after_artifact_id=after,
            limit=2,
        ):
            seen += page
            after = page[-1].artifact_id
        only = list_heads(connection, tenant_id=tenant.tenant_id, collection_ids=["c2"])
        none = list_heads(connection, tenant_id=tenant.tenant_id, collection_ids=[])
    assert [head.name for head in seen] == ["json", "other", "text"]
    assert [head.artifact_id for head in only] == ["art-other"]
    assert none == []
    assert seen[2].revision_digest == stocked["text"].revision_digest
    assert (seen[2].revision, seen[2].size, seen[2].collection_id) == (1, 3, "default")


def test_a_plane_sees_what_changed_after_a_number(
    spine: Spine, tenant: Tenant, stocked: dict[str, Any]
) -> None:
    since = tenant.call("repository.changes.list", {"limit": 500}).next_since_seq
    tenant.call("repository.artifacts.update", {"artifact_id": stocked["text"].id, "content": "new"})
    with spine.transactions.read(tenant.tenant_id) as connection:
        changed = list_heads(
            connection,
            tenant_id=tenant.tenant_id,
            collection_ids=["default", "c2"],
            changed_after_seq=since,
        )
    assert [(head.name, head.revision) for head in changed] == [("text", 2)]


def test_contents_and_liveness_are_read_in_sets(
    spine: Spine, tenant: Tenant, other_tenant: Tenant, stocked: dict[str, Any]
) -> None:
    refs = [("art-text", 1), ("art-dead", 1), ("art-empty", 1), ("art-text", 2), ("unknown", 1)]
    ids = [artifact.id for artifact in stocked.values()]
    with spine.transactions.read(tenant.tenant_id) as connection:
        contents = read_contents(connection, tenant_id=tenant.tenant_id, refs=refs)
        live = list_liveness(connection, tenant_id=tenant.tenant_id, artifact_ids=[*ids, "unknown"])
        foreign = list_liveness(connection, tenant_id=other_tenant.tenant_id, artifact_ids=ids)
    assert contents == {("art-text", 1): b"one", ("art-dead", 1): b"three"}
    assert live == frozenset(ids) - {"art-dead"}
    assert foreign == frozenset()


_LEAF = """
INSERT INTO log_leaves (tenant_id, fact_id, type, v, late, statement, leaf_hash, created_at)
SELECT :t, :f, 'knowledge.plane', 1, :no, '{}', :f, created_at FROM collections
WHERE tenant_id = :t AND id = :c
"""
_PLANE = """
INSERT INTO knowledge_plane_registry (tenant_id, plane_id, plane_type, plane_name, connector_type,
    connector_id, config, config_digest, created_by, created_at, updated_at, version, state_entered_at,
    fact_id, lifecycle_state_value)
SELECT :t, :p, 'x', :p, 'repository', 'repository', '{}', 'd', 'u', created_at, created_at, 1, created_at,
    :f, :s FROM collections WHERE tenant_id = :t AND id = :c
"""
_BINDING = """
INSERT INTO plane_collections (tenant_id, plane_id, collection_id, mode, bound_at, bound_by)
SELECT :t, :p, :c, 'OWNED', created_at, 'u' FROM collections WHERE tenant_id = :t AND id = :c
"""


def seal(connection: sa.Connection, tenant: Tenant, collection_id: str, state: int) -> None:
    """Put a collection under a plane in a state, as the planes' own tables would hold it."""
    members = {
        "t": tenant.tenant_id,
        "p": f"kp-{collection_id}",
        "f": f"fct-{collection_id}-{tenant.tenant_id}",
        "c": collection_id,
        "s": state,
        "no": False,
    }
    connection.exec_driver_sql("BEGIN")
    for statement in (_LEAF, _PLANE, _BINDING):
        connection.execute(sa.text(statement), members)
    connection.exec_driver_sql("COMMIT")


def test_a_sealed_collection_takes_no_write_and_a_bound_one_stays(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    for identifier in ("free", "sealed", "bound"):
        tenant.call("repository.collections.create", {"id": identifier, "name": identifier})
    payload = {"name": "a", "artifact_type": "note", "collection_id": "sealed"}
    held = tenant.call("repository.artifacts.create", payload)
    gone = tenant.call("repository.artifacts.create", {**payload, "name": "gone"})
    tenant.call("repository.artifacts.delete", {"artifact_id": gone.id})
    free = tenant.call("repository.artifacts.create", {**payload, "collection_id": "free"})
    seal(second_connection, tenant, "sealed", 310)
    seal(second_connection, tenant, "bound", 200)
    refused = {
        "artifacts.create": {**payload, "name": "b"},
        "artifacts.create_bulk": {"items": [{"name": "b", "artifact_type": "n"}], "collection_id": "sealed"},
        "artifacts.update": {"artifact_id": held.id, "name": "b"},
        "artifacts.delete": {"artifact_id": held.id},
        "artifacts.restore": {"artifact_id": gone.id},
        "collections.update": {"collection_id": "sealed", "name": "z"},
        "collections.delete": {"collection_id": "sealed"},
    }
    for operation, members in refused.items():
        assert tenant.dispatch(f"repository.{operation}", members).error_code == "COLLECTION_SEALED", (
            operation
        )
    move = {"artifact_id": free.id, "collection_id": "sealed"}
    assert tenant.dispatch("repository.artifacts.update", move).error_code == "COLLECTION_SEALED"
    bound = tenant.dispatch("repository.collections.delete", {"collection_id": "bound"})
    assert bound.error_code == "COLLECTION_BOUND"
    shown = tenant.call("repository.collections.get", {"collection_id": "bound"})
    assert shown.planes == ["kp-bound"]
    assert tenant.call("repository.artifacts.get", {"artifact_id": held.id}).name == "a"
