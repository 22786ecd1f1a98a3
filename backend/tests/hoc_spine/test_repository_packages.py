"""Context packages: immutable, ordered, pinned; opaque where they point at an external memory."""

from __future__ import annotations

import hashlib
import socket
import unicodedata
from typing import Any

import pytest
import sqlalchemy as sa

from app.kernel.canonical_json import dumps, loads
from tests.factories.repository_runs import artifact, call, changes, move, refusal, rows_of, running
from tests.factories.tenants import Tenant

MEMORY = {
    "system": "phase-memory",
    "ref": "phase://alpha/42",
    "provenance": {"asserted_by": "ada", "asserted_at": "2026-01-02T03:04:05+01:00"},
}


def package(tenant: Tenant, *items: dict[str, Any], **members: Any) -> Any:
    """Create a package."""
    payload = {"name": "context", "items": list(items), **members}
    return tenant.call("repository.context_packages.create", payload)


def memory(**members: Any) -> dict[str, Any]:
    """Return an item that points at an external memory."""
    return {"kind": "external_memory", "memory": {**MEMORY, **members}}


def of_artifact(made: Any, revision: int | None = None) -> dict[str, Any]:
    """Return an item that points at an artifact."""
    return {"kind": "artifact", "artifact_id": made.id, "revision": revision}


def insert_relationship(
    connection: sa.Connection, tenant: Tenant, name: str, source: Any, target: Any, *, seq: int
) -> None:
    """Insert a live relationship."""
    columns = {
        "tenant_id": tenant.tenant_id, "id": name, "source_id": source.id, "target_id": target.id,
        "type": "cites", "metadata": "{}", "provenance": "{}", "version": 1, "created_seq": seq,
        "created_at": "2026-01-01T00:00:00.000000Z", "created_by": "x",
        "updated_at": "2026-01-01T00:00:00.000000Z", "updated_by": "x",
    }  # fmt: skip
    names = ", ".join(columns)
    values = ", ".join(f":{name}" for name in columns)
    connection.execute(sa.text(f"INSERT INTO relationships ({names}) VALUES ({values})"), columns)
    connection.commit()


def test_a_package_reads_back_as_it_was_made(tenant: Tenant, second_connection: sa.Connection) -> None:
    a, b = artifact(tenant, "a"), artifact(tenant, "b")
    insert_relationship(second_connection, tenant, "rel-1", a, b, seq=99)
    run_id = running(tenant)
    made = package(
        tenant,
        memory(kind="episode", digest="x:1"),
        of_artifact(a),
        {"kind": "relationship", "relationship_id": "rel-1", "note": "why"},
        {"kind": "run", "run_id": run_id, "provenance": {"p": 1.0}},
        purpose="answer",
        metadata={"m": 1e16},
        provenance={"by": "test"},
    )
    seen = tenant.call("repository.context_packages.get", {"package_id": made.id})
    assert seen == made
    assert [(item.position, item.kind) for item in seen.items] == [
        (0, "external_memory"), (1, "artifact"), (2, "relationship"), (3, "run"),
    ]  # fmt: skip
    first = seen.items[0]
    assert dict(first.memory) == {
        "system": "phase-memory",
        "ref": "phase://alpha/42",
        "kind": "episode",
        "digest": "x:1",
    }
    assert first.provenance == {
        "asserted_by": "ada",
        "asserted_at": "2026-01-02T02:04:05.000000Z",
        "source_run_id": None,
        "trace_id": None,
        "note": None,
    }
    assert (seen.items[1].revision, seen.items[1].revision_digest) == (1, a.revision_digest)
    assert (seen.items[2].note, seen.items[3].provenance) == ("why", {"p": 1.0})
    assert [item.target_state for item in seen.items] == [None, "live", "live", "live"]
    assert {item.resolution for item in seen.items} == {None}
    assert (seen.metadata, seen.purpose, seen.item_count) == ({"m": 1e16}, "answer", 4)
    body = {
        "name": "context",
        "purpose": "answer",
        "metadata": {"m": 1e16},
        "provenance": {"by": "test"},
        "supersedes": None,
        "items": [
            {"kind": "external_memory", "memory": dict(first.memory), "provenance": first.provenance,
             "note": None},
            {"kind": "artifact", "artifact_id": a.id, "revision": 1, "revision_digest": a.revision_digest,
             "provenance": {}, "note": None},
            {"kind": "relationship", "relationship_id": "rel-1", "provenance": {}, "note": "why"},
            {"kind": "run", "run_id": run_id, "provenance": {"p": 1.0}, "note": None},
        ],
    }  # fmt: skip
    text = "hoc-context-1\n" + dumps(body)
    assert seen.package_digest == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def test_the_order_of_items_is_part_of_a_package(tenant: Tenant) -> None:
    a, b = artifact(tenant, "a"), artifact(tenant, "b")
    one, two = (
        package(tenant, of_artifact(a), of_artifact(b)),
        package(tenant, of_artifact(b), of_artifact(a)),
    )
    same = package(tenant, of_artifact(a, 1), of_artifact(b, 1))
    assert one.package_digest != two.package_digest
    assert (same.package_digest, same.id == one.id) == (one.package_digest, False)


def test_a_package_is_recorded_with_ledger_entry_and_fact(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    made = package(tenant)
    (record,) = changes(tenant)
    assert (record.entity_type, record.entity_id, record.action) == ("CONTEXT_PACKAGE", made.id, "CREATED")
    (leaf,) = rows_of(second_connection, "log_leaves", tenant, type="context.package")
    assert loads(leaf["statement"])["body"] == {
        "id": made.id,
        "package_digest": made.package_digest,
        "created_seq": record.seq,
        "created_by": "user-1",
    }
    (entry,) = tenant.call("logs.audit_list", {"entity_id": made.id}).items
    assert entry.event_type == "RepositoryContextPackageChanged"


@pytest.mark.parametrize("table", ["context_packages", "context_items"])
def test_the_database_refuses_to_change_a_package(
    tenant: Tenant, second_connection: sa.Connection, table: str
) -> None:
    package(tenant, memory())
    for statement in (f"UPDATE {table} SET provenance = '1'", f"DELETE FROM {table}"):
        with pytest.raises(sa.exc.DBAPIError):
            second_connection.execute(sa.text(f"{statement} WHERE tenant_id = :t"), {"t": tenant.tenant_id})
        second_connection.rollback()


def test_a_package_may_supersede_another(tenant: Tenant, other_tenant: Tenant) -> None:
    first = package(tenant)
    assert package(tenant, supersedes=first.id).supersedes == first.id
    for supersedes in ("nobody", "a/b"):
        payload = {"name": "n", "supersedes": supersedes}
        assert refusal(tenant, "context_packages.create", payload) == "REFERENCE_NOT_FOUND"
    theirs = {"name": "n", "supersedes": first.id}
    assert refusal(other_tenant, "context_packages.create", theirs) == "REFERENCE_NOT_FOUND"


@pytest.mark.parametrize(
    "item",
    [
        {"kind": "artifact", "artifact_id": "nobody"},
        {"kind": "artifact", "artifact_id": "art-a", "revision": 2},
        {"kind": "artifact", "artifact_id": "gone"},
        {"kind": "relationship", "relationship_id": "nobody"},
        {"kind": "run", "run_id": "nobody"},
        {"kind": "run", "run_id": "a/b"},
    ],
)
def test_an_item_that_is_not_there_is_refused_with_its_position(tenant: Tenant, item: dict[str, Any]) -> None:
    artifact(tenant, "a", id="art-a")
    artifact(tenant, "gone", id="gone")
    call(tenant, "artifacts.delete", {"artifact_id": "gone"})
    payload = {"name": "n", "items": [memory(), item]}
    result = tenant.dispatch("repository.context_packages.create", payload)
    assert result.error is not None
    assert (result.error.code, result.error.extra["position"]) == ("REFERENCE_NOT_FOUND", 1)


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"name": " n"}, "INVALID_NAME"),
        ({"purpose": "x" * 1001}, "INVALID_INPUT"),
        ({"metadata": 1}, "INVALID_METADATA"),
        ({"provenance": {"x": "y" * 17_000}}, "INVALID_METADATA"),
        ({"items": [{"kind": "dream"}]}, "INVALID_INPUT"),
        ({"items": [{"kind": "run"}]}, "INVALID_INPUT"),
        ({"items": [{"kind": "run", "run_id": "r", "artifact_id": "a"}]}, "INVALID_INPUT"),
        ({"items": [{"kind": "artifact", "artifact_id": "a", "provenance": [1]}]}, "INVALID_METADATA"),
        ({"items": [memory()] * 1001}, "INVALID_INPUT"),
        ({"items": [{"kind": "external_memory", "memory": {"system": "s", "ref": "r"}}]}, "INVALID_INPUT"),
        ({"items": [memory(ref="")]}, "INVALID_INPUT"),
        ({"items": [memory(ref="x" * 2049)]}, "INVALID_INPUT"),
        ({"items": [memory(ref="a\x00b")]}, "INVALID_INPUT"),
        ({"items": [memory(system="")]}, "INVALID_INPUT"),
        ({"items": [memory(provenance={"asserted_by": "ada"})]}, "INVALID_INPUT"),
        ({"items": [memory(provenance=MEMORY["provenance"] | {"asserted_by": " "})]}, "INVALID_INPUT"),
        (
            {"items": [memory(provenance=MEMORY["provenance"] | {"asserted_at": "2026-01-01T00:00:00"})]},
            "INVALID_INPUT",
        ),
    ],
)
def test_a_package_that_does_not_fit_is_refused(tenant: Tenant, members: dict[str, Any], code: str) -> None:
    assert refusal(tenant, "context_packages.create", {"name": "n", **members}) == code
    assert changes(tenant) == []


REFERENCES = [
    "phase://alpha/42?x=1#y", "PHASE://ALPHA/42", " leading and trailing ", "a//b/../c",
    "http://127.0.0.1:1/", "caf\u00e9", "cafe\u0301", "%2e%2E", "\u202eltr", "x" * 2048,
    "\U0001f600" * 2048, "' OR 1=1 --", "\t\n\r\x01",
]  # fmt: skip


def test_a_memory_reference_is_kept_and_found_exactly_as_it_came(tenant: Tenant) -> None:
    made = {ref: package(tenant, memory(ref=ref)).id for ref in REFERENCES}
    assert len({unicodedata.normalize("NFC", ref) for ref in REFERENCES}) < len(REFERENCES)
    for ref, package_id in made.items():
        query = {"memory_system": "phase-memory", "memory_ref": ref}
        (found,) = call(tenant, "context_packages.list", query).items
        assert found.id == package_id
        assert call(tenant, "context_packages.get", {"package_id": found.id}).items[0].memory.ref == ref
    other = {"memory_system": "other", "memory_ref": REFERENCES[0]}
    assert call(tenant, "context_packages.list", other).items == []


def test_equal_references_are_not_made_one(tenant: Tenant) -> None:
    made = package(tenant, memory(), memory())
    assert len(made.items) == 2
    query = {"memory_system": "phase-memory", "memory_ref": MEMORY["ref"]}
    assert len(call(tenant, "context_packages.list", query).items) == 1


def test_packages_are_listed_by_what_they_hold(tenant: Tenant, other_tenant: Tenant) -> None:
    a = artifact(tenant, "a")
    first = package(tenant, of_artifact(a))
    call(tenant, "artifacts.update", {"artifact_id": a.id, "content": "new"})
    second, third = package(tenant, of_artifact(a)), package(tenant)
    listed = tenant.call("repository.context_packages.list", {})
    assert [item.id for item in listed.items] == [first.id, second.id, third.id]
    assert [item.item_count for item in listed.items] == [1, 1, 0]
    for query, expected in (
        ({"artifact_id": a.id}, [first.id, second.id]),
        ({"artifact_id": a.id, "revision": 2}, [second.id]),
        ({"artifact_id": a.id, "revision": 3}, []),
        ({"artifact_id": a.id, "revision": 0}, []),
        ({"artifact_id": a.id, "revision": 2**40}, []),
        ({"artifact_id": "a/b"}, []),
        ({"memory_system": "none"}, []),
    ):
        assert [item.id for item in call(tenant, "context_packages.list", query).items] == expected
    for query in ({"revision": 1}, {"memory_ref": "x"}, {"artifact_id": "a", "memory_system": "s"}):
        assert refusal(tenant, "context_packages.list", query) == "INVALID_QUERY"
    page = call(tenant, "context_packages.list", {"limit": 2})
    rest = call(tenant, "context_packages.list", {"limit": 2, "cursor": page.next_cursor})
    assert [item.id for item in (*page.items, *rest.items)] == [first.id, second.id, third.id]
    assert call(other_tenant, "context_packages.list").items == []
    unknown = {"package_id": first.id}
    assert refusal(other_tenant, "context_packages.get", unknown) == "CONTEXT_PACKAGE_NOT_FOUND"


def test_resolving_tells_what_became_of_each_item(tenant: Tenant, second_connection: sa.Connection) -> None:
    still, moved, dead, redacted = (artifact(tenant, name) for name in "smdr")
    insert_relationship(second_connection, tenant, "rel-1", still, moved, seq=99)
    run_id = running(tenant)
    made = package(
        tenant, *(of_artifact(each) for each in (still, moved, dead, redacted)), memory(),
        {"kind": "relationship", "relationship_id": "rel-1"}, {"kind": "run", "run_id": run_id},
    )  # fmt: skip
    call(tenant, "artifacts.update", {"artifact_id": moved.id, "content": "new"})
    for each in (dead, redacted):
        call(tenant, "artifacts.delete", {"artifact_id": each.id})
    second_connection.execute(
        sa.text(
            "UPDATE artifact_revisions SET redaction = 'FULL', redacted_at = created_at, name = NULL,"
            " metadata = NULL, provenance = NULL WHERE tenant_id = :t AND artifact_id = :a"
        ),
        {"t": tenant.tenant_id, "a": redacted.id},
    )
    second_connection.execute(
        sa.text("UPDATE relationships SET deleted_at = created_at WHERE tenant_id = :t"),
        {"t": tenant.tenant_id},
    )
    second_connection.commit()
    move(tenant, run_id, "failed")
    seen = call(tenant, "context_packages.get", {"package_id": made.id, "resolve": True})
    assert [item.resolution for item in seen.items] == [
        "ok", "changed", "deleted", "redacted", "opaque", "deleted", "ok",
    ]  # fmt: skip
    assert [item.target_state for item in seen.items] == [
        "live", "live", "deleted", "redacted", None, "deleted", "live",
    ]  # fmt: skip
    assert seen.package_digest == made.package_digest


def test_an_artifact_is_packaged_with_its_edges_and_its_run(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    run_id = running(tenant)
    a, b, c = artifact(tenant, "a", produced_by_run=run_id), artifact(tenant, "b"), artifact(tenant, "c")
    insert_relationship(second_connection, tenant, "rel-z", a, b, seq=97)
    insert_relationship(second_connection, tenant, "rel-b", c, a, seq=98)
    insert_relationship(second_connection, tenant, "rel-c", b, c, seq=99)
    made = tenant.call("repository.context_packages.for_artifact", {"artifact_id": a.id, "purpose": "p"})
    assert [item.artifact_id or item.relationship_id or item.run_id for item in made.items] == [
        a.id, "rel-b", "rel-z", run_id,
    ]  # fmt: skip
    assert (made.name, made.purpose, made.items[0].revision) == (a.id, "p", 1)
    plain = call(tenant, "context_packages.for_artifact", {"artifact_id": c.id, "name": "named"})
    assert (plain.name, [item.kind for item in plain.items]) == (
        "named", ["artifact", "relationship", "relationship"],
    )  # fmt: skip
    assert refusal(tenant, "context_packages.for_artifact", {"artifact_id": "nobody"}) == "ARTIFACT_NOT_FOUND"
    alone = artifact(tenant, "alone")
    call(tenant, "artifacts.delete", {"artifact_id": alone.id})
    assert refusal(tenant, "context_packages.for_artifact", {"artifact_id": alone.id}) == "GONE"


def test_the_slice_works_with_sockets_disabled(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the repository opened a socket")

    for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname", "socketpair"):
        monkeypatch.setattr(socket, name, refuse)
    run_id = running(tenant)
    made = artifact(tenant, "a", content="http://127.0.0.1:1/ phase://x", produced_by_run=run_id)
    call(tenant, "artifacts.update", {"artifact_id": made.id, "metadata": {"url": "http://127.0.0.1:1/"}})
    kept = call(tenant, "bundles.create", {"items": [{"artifact_id": made.id, "role": "source"}]})
    packed = package(tenant, memory(ref="http://127.0.0.1:1/"), of_artifact(made))
    call(tenant, "context_packages.get", {"package_id": packed.id, "resolve": True})
    call(tenant, "context_packages.for_artifact", {"artifact_id": made.id})
    call(tenant, "artifacts.query", {"text": "phase"})
    end = {"status": "succeeded", "manifest": {"environment": {"endpoint": "http://127.0.0.1:1/"}}}
    call(tenant, "runs.publish", {"run_id": run_id, **end})
    call(tenant, "artifacts.delete", {"artifact_id": made.id})
    assert call(tenant, "bundles.get", {"bundle_id": kept.id}).items[0].target_state == "deleted"
