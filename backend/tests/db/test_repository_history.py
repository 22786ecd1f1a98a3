"""What a repository write leaves behind: chains, facts, ledger; and nothing when it is refused."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from datetime import UTC
from typing import Any

import pytest
import sqlalchemy as sa

from app.db.governed import statement_types
from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import statement_counter
from app.kernel.canonical_json import dumps, loads
from app.kernel.clock import format_time
from app.kernel.context import Precondition
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant

ZERO = "sha256:" + "0" * 64


def create(tenant: Tenant, name: str = "note", **members: Any) -> Any:
    """Create a note and return it."""
    return tenant.call("repository.artifacts.create", {"name": name, "artifact_type": "note", **members})


def rows(connection: sa.Connection, table: str, tenant: Tenant, order: str) -> list[dict[str, Any]]:
    """Return a tenant's rows of a table in order, read from outside."""
    metadata = sa.MetaData()
    reflected = sa.Table(table, metadata, autoload_with=connection)
    statement = (
        sa.select(reflected)
        .where(reflected.c.tenant_id == tenant.tenant_id)
        .order_by(*(reflected.c[name] for name in order.split(",")))
    )
    return [dict(row) for row in connection.execute(statement).mappings()]


def text_time(value: Any) -> Any:
    """Return the fixed form of a stored time on either dialect."""
    return value if isinstance(value, str) or value is None else format_time(value.astimezone(UTC))


def sha(text: str) -> str:
    """Return the digest of a text."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def play(tenant: Tenant) -> str:
    """Write a little history and return the artifact's id."""
    made = create(tenant, "a", content="one", metadata={"n": 1})
    change = {"artifact_id": made.id, "content": "two", "name": "b", "metadata": {"n": 1.0}}
    tenant.call("repository.artifacts.update", {**change, "reason": "better"})
    tenant.call("repository.artifacts.delete", {"artifact_id": made.id})
    tenant.call("repository.artifacts.restore", {"artifact_id": made.id, "new_name": "c"})
    return str(made.id)


def test_the_change_chain_is_what_the_page_says(tenant: Tenant, second_connection: sa.Connection) -> None:
    play(tenant)
    records = rows(second_connection, "repository_changes", tenant, "seq")
    assert [record["seq"] for record in records] == [1, 2, 3, 4, 5]
    assert [record["action"] for record in records] == [
        "CREATED", "CREATED", "UPDATED", "DELETED", "RESTORED",
    ]  # fmt: skip
    previous = ZERO
    for record in records:
        body = {k: v for k, v in record.items() if k not in ("tenant_id", "prev_hash", "hash")}
        body["occurred_at"] = text_time(body["occurred_at"])
        body["changed_fields"], body["detail"] = loads(body["changed_fields"]), loads(body["detail"])
        assert record["prev_hash"] == previous
        assert record["hash"] == sha(f"hoc-chg-1\n{previous}\n{dumps(body)}")
        previous = record["hash"]
    (state,) = rows(second_connection, "repository_state", tenant, "last_seq")
    assert (state["last_seq"], state["last_hash"]) == (5, previous)
    assert records[0]["change_set_id"] == records[1]["change_set_id"] != records[2]["change_set_id"]
    assert records[2]["changed_fields"] == '["content","metadata","name"]'


def test_the_revision_chain_is_what_the_page_says(tenant: Tenant, second_connection: sa.Connection) -> None:
    artifact_id = play(tenant)
    parent = None
    revisions = rows(second_connection, "artifact_revisions", tenant, "artifact_id,revision")
    assert [row["revision"] for row in revisions] == [1, 2, 3]
    for row in revisions:
        envelope = {
            name: row[name]
            for name in (
                "artifact_id", "revision", "content_digest", "size", "media_type", "artifact_type",
                "name_digest", "collection_id", "metadata_digest", "provenance_digest", "produced_by_run",
                "created_by",
            )
        }  # fmt: skip
        envelope |= {"parent": parent, "created_at": text_time(row["created_at"])}
        assert row["artifact_id"] == artifact_id
        assert row["parent_digest"] == parent
        assert row["revision_digest"] == sha("hoc-rev-1\n" + dumps(envelope))
        assert row["name_digest"] == sha(row["name"])
        assert row["metadata_digest"] == sha(row["metadata"])
        parent = row["revision_digest"]


def test_every_transaction_leaves_one_fact_and_each_operation_one_ledger_entry(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    artifact_id = play(tenant)
    leaves = [
        loads(row["statement"])
        for row in rows(second_connection, "log_leaves", tenant, "fact_id")
        if row["type"] == "repository.changed"
    ]
    ranges = sorted((leaf["body"]["seq_from"], leaf["body"]["seq_to"]) for leaf in leaves)
    assert ranges == [(1, 2), (3, 3), (4, 4), (5, 5)]
    records = {row["seq"]: row for row in rows(second_connection, "repository_changes", tenant, "seq")}
    for leaf in leaves:
        body = leaf["body"]
        last = records[body["seq_to"]]
        assert body["change_head_hash"] == last["hash"]
        assert body["change_set_id"] == last["change_set_id"]
        single = body["seq_from"] == body["seq_to"]
        assert body["entity_id"] == (artifact_id if single else None)
        assert body["new_revision_digest"] == (last["new_revision_digest"] if single else None)
    assert sum(leaf["body"]["revision_count"] for leaf in leaves) == 3
    entries = [
        row
        for row in rows(second_connection, "audit_ledger", tenant, "created_at,entry_id")
        if row["entity_type"] == "REPOSITORY"
    ]
    assert [(row["event_type"], row["entity_id"]) for row in entries] == [
        ("RepositoryArtifactChanged", artifact_id)
    ] * 4
    after = loads(entries[1]["after_state"])
    assert (after["version"], after["first_seq"], after["last_seq"]) == (2, 3, 3)
    assert after["change_hash"] == records[3]["hash"]
    assert loads(entries[1]["before_state"]) == {"version": 1}


def test_the_fact_of_a_transaction_has_the_members_of_the_register(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    play(tenant)
    stated = [
        sorted(loads(row["statement"])["body"])
        for row in rows(second_connection, "log_leaves", tenant, "fact_id")
        if row["type"] == "repository.changed"
    ]
    assert stated == [statement_types()["repository.changed"]] * 4


def test_a_version_named_for_what_has_none_is_refused(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    note = create(tenant)
    other = create(tenant, "other")
    item = {"name": "n", "artifact_type": "note"}
    writes: dict[str, Any] = {
        "artifacts.create": item,
        "artifacts.create_bulk": {"items": [item | {"name": "note"}], "on_existing": "update"},
        "collections.create": {"name": "c"},
        "relationships.create": {"source_id": note.id, "target_id": other.id, "type": "cites"},
        "runs.create": {"operation": "x"},
        "bundles.create": {"items": []},
        "context_packages.create": {"name": "p", "items": []},
        "context_packages.for_artifact": {"artifact_id": note.id},
        "snapshots.export": {},
        "gc": {},
        "search.rebuild": {},
    }
    before = rows(second_connection, "repository_changes", tenant, "seq")
    for operation, payload in writes.items():
        for versions in (None, frozenset((1,))):
            refused = tenant.dispatch(f"repository.{operation}", payload, precondition=Precondition(versions))
            assert refused.error_code == "INVALID_PRECONDITION", operation
    assert rows(second_connection, "repository_changes", tenant, "seq") == before


def test_a_version_may_be_demanded_of_every_change(tenant: Tenant, make_spine: Callable[..., Spine]) -> None:
    strict = Tenant(make_spine(repository_require_if_match=True), tenant.tenant_id)
    made, gone = create(strict), create(strict, "gone")
    tenant.call("repository.artifacts.delete", {"artifact_id": gone.id})
    shelf = strict.call("repository.collections.create", {"name": "shelf"})
    edge = {"source_id": made.id, "target_id": create(strict, "other").id, "type": "cites"}
    link = strict.call("repository.relationships.create", edge)
    art, there = {"artifact_id": made.id}, {"collection_id": shelf.id}
    changes: dict[str, Any] = {
        "artifacts.update": art | {"name": "x"},
        "artifacts.delete": art,
        "artifacts.restore": {"artifact_id": gone.id},
        "artifacts.redact": art | {"revisions": "all", "reason": "r", "legal_basis": "b"},
        "collections.update": there | {"name": "x"},
        "collections.delete": there,
        "relationships.update": {"relationship_id": link.id, "metadata": {"x": 1}},
        "relationships.delete": {"relationship_id": link.id},
    }
    for operation, payload in changes.items():
        assert strict.dispatch(f"repository.{operation}", payload).error_code == "PRECONDITION_REQUIRED"
        wrong = strict.dispatch(
            f"repository.{operation}", payload, precondition=Precondition(frozenset((9,)))
        )
        assert wrong.error_code == "VERSION_MISMATCH", operation
    assert strict.dispatch("repository.artifacts.update", {"artifact_id": "unknown"}).error_code == (
        "ARTIFACT_NOT_FOUND"
    )
    assert strict.dispatch("repository.artifacts.update", {"artifact_id": gone.id}).error_code == "GONE"


def test_a_refused_write_leaves_no_trace(tenant: Tenant, second_connection: sa.Connection) -> None:
    create(tenant, "taken")
    tables = {
        "repository_changes": "seq",
        "artifacts": "id",
        "artifact_revisions": "artifact_id,revision",
        "blobs": "digest",
        "artifact_metadata": "artifact_id,ptr",
        "artifact_search": "artifact_id",
        "audit_ledger": "entry_id",
        "log_leaves": "fact_id",
        "repository_state": "last_seq",
    }
    before = {table: rows(second_connection, table, tenant, order) for table, order in tables.items()}
    item = {"artifact_type": "note", "content": "fresh", "metadata": {"a": 1}}
    bulk = {"items": [{**item, "name": "new"}, {**item, "name": "taken"}]}
    refused = tenant.dispatch("repository.artifacts.create_bulk", bulk)
    assert refused.error is not None
    assert (refused.error_code, [e["index"] for e in refused.error.errors]) == ("DUPLICATE_NAME", [1])
    wrong = {**item, "name": "x", "expected_digest": ZERO}
    assert tenant.dispatch("repository.artifacts.create", wrong).error_code == "DIGEST_MISMATCH"
    after = {table: rows(second_connection, table, tenant, order) for table, order in tables.items()}
    assert after == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE artifact_revisions SET created_by = 'x' WHERE tenant_id = :t",
        "UPDATE artifact_revisions SET metadata = NULL WHERE tenant_id = :t",
        "UPDATE artifact_revisions SET redaction = 'FULL', redacted_at = created_at WHERE tenant_id = :t",
        "DELETE FROM artifact_revisions WHERE tenant_id = :t",
        "UPDATE repository_changes SET reason = 'x' WHERE tenant_id = :t",
        "DELETE FROM repository_changes WHERE tenant_id = :t",
        "UPDATE blobs SET size = size + 1 WHERE tenant_id = :t",
        "DELETE FROM blobs WHERE tenant_id = :t",
        "DELETE FROM artifacts WHERE tenant_id = :t",
        "UPDATE artifacts SET artifact_type = 'x' WHERE tenant_id = :t",
        "DELETE FROM collections WHERE tenant_id = :t",
        "DELETE FROM repository_state WHERE tenant_id = :t",
    ],
)
def test_the_database_itself_refuses_to_change_history(
    tenant: Tenant, second_connection: sa.Connection, statement: str
) -> None:
    create(tenant, content="x")
    with pytest.raises(sa.exc.IntegrityError):
        second_connection.execute(sa.text(statement), {"t": tenant.tenant_id})


def test_the_database_lets_a_revision_be_redacted_once(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    create(tenant, content="x", metadata={"a": 1})
    redact = sa.text(
        "UPDATE artifact_revisions SET name = NULL, metadata = NULL, provenance = NULL, redaction = 'FULL', "
        "redacted_at = created_at WHERE tenant_id = :t"
    )
    assert second_connection.execute(redact, {"t": tenant.tenant_id}).rowcount == 1
    with pytest.raises(sa.exc.IntegrityError):
        second_connection.execute(redact, {"t": tenant.tenant_id})


def test_truncate_is_refused(tenant: Tenant, second_connection: sa.Connection) -> None:
    create(tenant)
    if second_connection.dialect.name == "sqlite":
        # There is no TRUNCATE; an unconditional DELETE is its place.
        statement = "DELETE FROM repository_changes"
    else:
        statement = "TRUNCATE repository_changes"
    with pytest.raises(sa.exc.IntegrityError):
        second_connection.execute(sa.text(statement))


def test_time_never_runs_backwards_in_the_feed(tenant: Tenant, clock: SteerableClock) -> None:
    moment = clock.freeze()
    create(tenant, "a")
    clock.freeze(moment.replace(year=moment.year - 1))
    made = create(tenant, "b")
    assert made.created_at == moment
    records = tenant.call("repository.changes.list").items
    assert [record.occurred_at for record in records] == sorted(record.occurred_at for record in records)


def race(count: int, act: Callable[[int], str | None]) -> list[str | None]:
    """Run `act` in threads that start together and return what each gave back."""
    results: list[str | None] = [None] * count
    barrier = threading.Barrier(count)

    def run(index: int) -> None:
        barrier.wait()
        results[index] = act(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_sixteen_creators_of_one_name_one_succeeds(
    tenant: Tenant, make_spine: Callable[..., Spine], second_connection: sa.Connection
) -> None:
    create(tenant, "first")
    spine = make_spine(pool_size=16, lock_timeout_ms=60_000)
    racing = Tenant(spine, tenant.tenant_id)

    def act(_index: int) -> str | None:
        payload = {"name": "wanted", "artifact_type": "note", "content": "same"}
        return racing.dispatch("repository.artifacts.create", payload).error_code

    results = race(16, act)
    assert sorted(results, key=str) == ["DUPLICATE_NAME"] * 15 + [None]
    records = rows(second_connection, "repository_changes", tenant, "seq")
    assert [record["seq"] for record in records] == [1, 2, 3]


def test_of_twenty_updates_of_one_version_one_wins(
    tenant: Tenant, make_spine: Callable[..., Spine], second_connection: sa.Connection
) -> None:
    made = create(tenant, "contested")
    spine = make_spine(pool_size=20, lock_timeout_ms=60_000)
    racing = Tenant(spine, tenant.tenant_id)

    def act(index: int) -> str | None:
        payload = {"artifact_id": made.id, "metadata": {"winner": index}}
        held = Precondition(frozenset([1]))
        return racing.dispatch("repository.artifacts.update", payload, precondition=held).error_code

    results = race(20, act)
    assert sorted(results, key=str) == [None] + ["VERSION_MISMATCH"] * 19
    revisions = rows(second_connection, "artifact_revisions", tenant, "revision")
    assert [row["revision"] for row in revisions] == [1, 2]


def test_twenty_unconditional_updates_all_count(
    tenant: Tenant, make_spine: Callable[..., Spine], second_connection: sa.Connection
) -> None:
    made = create(tenant, "shared")
    spine = make_spine(pool_size=20, lock_timeout_ms=60_000)
    racing = Tenant(spine, tenant.tenant_id)

    def act(index: int) -> str | None:
        payload = {"artifact_id": made.id, "metadata": {f"k{index}": index}}
        return racing.dispatch("repository.artifacts.update", payload).error_code

    assert race(20, act) == [None] * 20
    revisions = rows(second_connection, "artifact_revisions", tenant, "revision")
    assert [row["revision"] for row in revisions] == list(range(1, 22))
    records = rows(second_connection, "repository_changes", tenant, "seq")
    assert [record["seq"] for record in records] == list(range(1, 23))
    assert len(loads(revisions[-1]["metadata"])) == 20


def counted(spine: Spine, act: Callable[[], Any]) -> list[str]:
    """Return the statements of the repository that an act executes."""
    found: list[str] = []
    statement_counter(spine.transactions.engine, found.append)
    act()
    own = ("repository_", "collections", "artifact", "blobs", "relationships")
    return [text for text in found if any(name in text for name in own)]


def test_statement_budgets_hold(tenant: Tenant, make_spine: Callable[..., Spine]) -> None:
    create(tenant, "first")
    tenant.call("repository.collections.create", {"id": "other", "name": "other"})
    spine = make_spine()
    here = Tenant(spine, tenant.tenant_id)
    full = {"content": "text", "metadata": {"a": 1, "b": [1]}, "id": "art-x"}
    assert len(counted(spine, lambda: create(here, "x", **full))) <= 12
    budgets = {
        "artifacts.get": ({"artifact_id": "art-x"}, 1),
        "artifacts.content": ({"artifact_id": "art-x"}, 1),
        "artifacts.query": ({"text": "text", "metadata": [{"pointer": "/a", "op": "eq", "value": 1}]}, 1),
        "revisions.list": ({"artifact_id": "art-x"}, 1),
        "artifacts.update": (
            {
                "artifact_id": "art-x",
                "content": "new",
                "metadata": {"a": 2},
                "name": "y",
                "collection_id": "other",
            },
            12,
        ),
        "artifacts.delete": ({"artifact_id": "art-x"}, 10),
    }
    for operation, (payload, limit) in budgets.items():
        statements = counted(spine, lambda o=operation, p=payload: here.call(f"repository.{o}", p))
        assert len(statements) <= limit, (operation, statements)


def test_a_bulk_call_takes_few_statements_whatever_it_holds(
    tenant: Tenant, make_spine: Callable[..., Spine]
) -> None:
    spine = make_spine()
    here = Tenant(spine, tenant.tenant_id)
    items = [
        {
            "id": f"art-{index}",
            "name": f"item {index}",
            "artifact_type": "note",
            "content": f"text {index % 700}",
            "metadata": {"i": index, "tags": ["a", "b"], "s": str(index)},
        }
        for index in range(1000)
    ]
    statements = counted(spine, lambda: here.call("repository.artifacts.create_bulk", {"items": items}))
    assert len(statements) <= 40
    for item in items[:500]:
        item["content"] = "changed " + item["content"]
        del item["id"]
    changed = {
        "items": [{k: v for k, v in item.items() if k != "id"} for item in items],
        "on_existing": "update",
    }
    results: list[Any] = []
    statements = counted(
        spine, lambda: results.append(here.call("repository.artifacts.create_bulk", changed))
    )
    assert len(statements) <= 40
    assert [item.result for item in results[0].items] == ["updated"] * 500 + ["unchanged"] * 500


def test_stored_times_have_the_one_form(tenant: Tenant, second_connection: sa.Connection) -> None:
    made = create(tenant)
    (row,) = rows(second_connection, "artifacts", tenant, "id")
    assert text_time(row["created_at"]) == format_time(made.created_at)
