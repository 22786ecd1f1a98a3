"""Redaction and purge: what goes, what stays, and that every chain still verifies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.repository.engines.changes import change_hash
from app.domains.repository.engines.revisions import revision_digest
from app.hoc_spine.spine import Spine
from app.kernel.clock import parse_time
from app.kernel.context import Precondition
from tests.factories.tenants import Tenant
from tests.factories.worlds import make_world

REDACT = "repository.artifacts.redact"
WHY = {"reason": "a person asked", "legal_basis": "GDPR Art. 17"}


def note(tenant: Tenant, name: str, **members: Any) -> str:
    """Create a note and return its id."""
    made = tenant.call("repository.artifacts.create", {"name": name, "artifact_type": "note", **members})
    return str(made.id)


def update(tenant: Tenant, artifact_id: str, **members: Any) -> Any:
    """Update an artifact."""
    return tenant.call("repository.artifacts.update", {"artifact_id": artifact_id, **members})


def redact(tenant: Tenant, artifact_id: str, revisions: Any = "all", **members: Any) -> Any:
    """Redact an artifact."""
    return tenant.call(REDACT, {"artifact_id": artifact_id, "revisions": revisions, **WHY, **members})


def refusal(tenant: Tenant, name: str, payload: Any, **context: Any) -> Any:
    """Return the refusal of an operation."""
    error = tenant.dispatch(name, payload, **context).error
    assert error is not None
    return error


def content(tenant: Tenant, artifact_id: str, revision: int) -> Any:
    """Return the bytes of a revision, or the code of the refusal."""
    ref = {"artifact_id": artifact_id, "revision": revision}
    result = tenant.dispatch("repository.revisions.content", ref)
    return result.error.code if result.error else result.data.content


def view(tenant: Tenant, artifact_id: str) -> Any:
    """Return an artifact, deleted or not."""
    ref = {"artifact_id": artifact_id, "include_deleted": True}
    return tenant.call("repository.artifacts.get", ref)


def found(tenant: Tenant, **members: Any) -> list[str]:
    """Return the ids that a query finds."""
    return [item.id for item in tenant.call("repository.artifacts.query", members).items]


@pytest.fixture
def rows(second_connection: sa.Connection, tenant: Tenant) -> Any:
    """Read a table of the tenant from outside."""

    def read(table: str, order: str) -> list[dict[str, Any]]:
        statement = sa.text(f"SELECT * FROM {table} WHERE tenant_id = :t ORDER BY {order}")
        return [
            {name: _time(name, value) for name, value in row.items()}
            for row in second_connection.execute(statement, {"t": tenant.tenant_id}).mappings()
        ]

    return read


def _time(name: str, value: Any) -> Any:
    return parse_time(value) if name.endswith("_at") and isinstance(value, str) else value


@pytest.fixture
def chains_verify(rows: Any) -> Iterator[None]:
    """After the test every stored digest is that of its row: redaction changes no digest."""
    yield
    parent: str | None = None
    for row in rows("artifact_revisions", "artifact_id, revision"):
        assert row["parent_digest"] == (None if row["revision"] == 1 else parent)
        parent = row["revision_digest"]
        assert revision_digest(row) == parent
    previous = "sha256:" + "0" * 64
    for row in rows("repository_changes", "seq"):
        assert row["prev_hash"] == previous
        previous = row["hash"]
        assert change_hash(row) == previous


@pytest.mark.usefixtures("chains_verify")
def test_a_redaction_leaves_a_stub_that_says_nothing(tenant: Tenant, rows: Any) -> None:
    art = note(tenant, "secret plan", content="alpha", metadata={"who": "me"}, provenance={"from": "x"})
    update(tenant, art, content="beta")
    before = view(tenant, art)
    done = redact(tenant, art)
    assert (done.changed, done.revisions, done.blobs_dropped, done.blobs_kept) == (True, [1, 2], 2, 0)
    after = done.artifact
    assert after == view(tenant, art)
    assert (after.name, after.metadata, after.provenance) == (f"redacted:{art}", None, None)
    assert (after.version, after.redacted, after.content_state) == (3, "FULL", "REDACTED")
    for same in (
        "content_digest",
        "metadata_digest",
        "revision_digest",
        "size",
        "created_at",
        "head_revision",
    ):
        assert getattr(after, same) == getattr(before, same)
    assert [content(tenant, art, number) for number in (1, 2)] == ["CONTENT_REDACTED"] * 2
    assert refusal(tenant, "repository.artifacts.content", {"artifact_id": art}).code == "CONTENT_REDACTED"
    assert found(tenant, text="secret") == found(tenant, text="beta") == []
    assert found(tenant, metadata=[{"pointer": "/who", "op": "exists", "value": True}]) == []
    stub = tenant.call("repository.revisions.get", {"artifact_id": art, "revision": 1})
    assert (stub.name, stub.metadata, stub.provenance, stub.redaction) == (None, None, None, "FULL")
    kept = "".join(str(row) for table in ("artifact_revisions", "artifacts") for row in rows(table, "1, 2"))
    assert "secret" not in kept
    assert [row["data"] for row in rows("blobs", "digest")] == [None, None]
    record = done.change
    assert (record.action, record.reason, record.old_version, record.new_version) == (
        "REDACTED", "a person asked", 2, 3,
    )  # fmt: skip
    assert record.detail["legal_basis"] == "GDPR Art. 17"
    assert record.detail["revisions"] == [1, 2]
    (entry,) = tenant.call("logs.audit_list", {"event_type": "RepositoryRedacted"}).items
    assert (entry.entity_id, entry.action_reason) == (art, "a person asked")


@pytest.mark.usefixtures("chains_verify")
def test_redacting_again_changes_nothing(tenant: Tenant) -> None:
    art = note(tenant, "a", content="x")
    redact(tenant, art)
    seq = tenant.call("repository.changes.list").items[-1].seq
    again = redact(tenant, art, [1])
    assert (again.changed, again.change, again.revisions, again.artifact.version) == (False, None, [], 2)
    assert tenant.call("repository.changes.list").items[-1].seq == seq


@pytest.mark.usefixtures("chains_verify")
def test_an_older_revision_goes_and_the_head_stays(tenant: Tenant) -> None:
    art = note(tenant, "a", content="old words", metadata={"n": 1})
    update(tenant, art, content="new words")
    done = redact(tenant, art, [1])
    assert (done.artifact.name, done.artifact.redacted, done.artifact.version) == ("a", None, 3)
    assert (content(tenant, art, 1), content(tenant, art, 2)) == ("CONTENT_REDACTED", b"new words")
    assert found(tenant, text="new") == [art]
    diff = tenant.call("repository.revisions.diff", {"artifact_id": art, "from": 1, "to": 2, "text": True})
    assert (diff.content.state, diff.content.text, diff.metadata.redacted) == ("redacted", None, True)
    past = tenant.call("repository.artifacts.get", {"artifact_id": art, "as_of_seq": 3})
    assert (past.revision, past.name) == (2, "a")
    first = tenant.call("repository.artifacts.get", {"artifact_id": art, "as_of_seq": 2})
    assert (first.revision, first.name, first.redacted) == (1, None, "FULL")


def test_the_checks_of_a_redaction_come_in_order(tenant: Tenant, other_tenant: Tenant) -> None:
    art = note(tenant, "a", content="x")
    foreign = note(other_tenant, "a", content="x")
    good = {"artifact_id": art, "revisions": [1], **WHY}
    for change, code in (
        ({"revisions": []}, "INVALID_INPUT"),
        ({"revisions": "some"}, "INVALID_INPUT"),
        ({"reason": " "}, "INVALID_INPUT"),
        ({"legal_basis": ""}, "INVALID_INPUT"),
        ({"legal_basis": "x" * 201}, "INVALID_INPUT"),
        ({"artifact_id": foreign}, "ARTIFACT_NOT_FOUND"),
        ({"revisions": [1, 2]}, "REFERENCE_NOT_FOUND"),
    ):
        assert refusal(tenant, REDACT, good | change).code == code, change
    stale = refusal(tenant, REDACT, good, precondition=Precondition(frozenset([2])))
    assert stale.code == "VERSION_MISMATCH"
    assert refusal(tenant, REDACT, good, scopes=("repository:write",)).code == "INSUFFICIENT_SCOPE"
    assert content(tenant, art, 1) == b"x"


@pytest.mark.usefixtures("chains_verify")
def test_shared_bytes_are_refused_by_default(tenant: Tenant) -> None:
    art, other = note(tenant, "a", content="same"), note(tenant, "b", content="same")
    update(tenant, art, metadata={"n": 1})
    error = refusal(tenant, REDACT, {"artifact_id": art, "revisions": [1], **WHY})
    assert (error.code, error.extra["total"]) == ("BLOB_SHARED", 2)
    assert [(item["artifact_id"], item["revision"]) for item in error.extra["citations"]] == sorted(
        [(art, 2), (other, 1)]
    )
    items = [{"name": f"n{index}", "artifact_type": "note", "content": "same"} for index in range(30)]
    tenant.call("repository.artifacts.create_bulk", {"items": items})
    many = refusal(tenant, REDACT, {"artifact_id": art, "revisions": "all", **WHY})
    assert (len(many.extra["citations"]), many.extra["total"]) == (20, 31)
    assert content(tenant, art, 1) == b"same"


@pytest.mark.usefixtures("chains_verify")
def test_shared_bytes_are_kept_for_the_others(tenant: Tenant) -> None:
    art, other = note(tenant, "a", content="same"), note(tenant, "b", content="same")
    done = redact(tenant, art, shared="keep")
    assert (done.blobs_dropped, done.blobs_kept, done.also_redacted) == (0, 1, [])
    assert (content(tenant, art, 1), content(tenant, other, 1)) == ("CONTENT_REDACTED", b"same")
    changed = update(tenant, art, metadata={"n": 1})
    assert changed.artifact.content_state == "NONE"
    assert content(tenant, art, 2) is None


@pytest.mark.usefixtures("chains_verify")
def test_shared_bytes_are_redacted_everywhere_with_a_record_each(tenant: Tenant) -> None:
    art = note(tenant, "a", content="same")
    other = note(tenant, "banana", content="same", metadata={"kept": True})
    update(tenant, other, metadata={"n": 1})
    gone = note(tenant, "c", content="same")
    tenant.call("repository.artifacts.delete", {"artifact_id": gone})
    done = redact(tenant, art, shared="redact")
    places = sorted([(other, 1), (other, 2), (gone, 1)])
    assert [(item.artifact_id, item.revision) for item in done.also_redacted] == places
    assert (content(tenant, other, 2), content(tenant, gone, 1)) == ("CONTENT_REDACTED",) * 2
    shown = view(tenant, other)
    assert (shown.name, shown.metadata, shown.redacted) == ("banana", {"kept": True, "n": 1}, "CONTENT")
    assert shown.version == 4
    assert found(tenant, text="banana") == [other]
    assert found(tenant, text="same") == []
    assert found(tenant, metadata=[{"pointer": "/kept", "op": "eq", "value": True}]) == [other]
    records = tenant.call("repository.changes.list", {"action": "REDACTED"}).items
    assert [(item.entity_id, item.detail["revisions"]) for item in records] == [
        (art, [1]), *((identifier, [number]) for identifier, number in places),
    ]  # fmt: skip
    assert len({item.change_set_id for item in records}) == 1
    later = redact(tenant, other)
    assert (later.revisions, later.artifact.redacted) == ([1, 2], "FULL")


@pytest.mark.usefixtures("chains_verify")
def test_the_same_bytes_come_back_as_a_new_fact_unless_blocked(tenant: Tenant) -> None:
    art = note(tenant, "a", content="same")
    redact(tenant, art)
    again = note(tenant, "b", content="same")
    assert (content(tenant, again, 1), content(tenant, art, 1)) == (b"same", "CONTENT_REDACTED")
    redact(tenant, again, block_reupload=True)
    create = {"name": "c", "artifact_type": "note", "content": "same"}
    assert refusal(tenant, "repository.artifacts.create", create).code == "CONTENT_BLOCKED"
    assert (
        refusal(tenant, "repository.artifacts.update", {"artifact_id": art, "content": "same"}).code
        == "CONTENT_BLOCKED"
    )
    other = note(tenant, "d", content="later")
    redact(tenant, other)
    blocked = redact(tenant, other, block_reupload=True)
    assert (blocked.changed, blocked.revisions, blocked.change.changed_fields) == (True, [], [])
    assert not redact(tenant, other, block_reupload=True).changed


@pytest.mark.usefixtures("chains_verify")
def test_a_deleted_artifact_is_redacted_and_stays_deleted(tenant: Tenant) -> None:
    art = note(tenant, "a", content="x", metadata={"n": 1})
    tenant.call("repository.artifacts.delete", {"artifact_id": art})
    done = redact(tenant, art)
    assert (done.artifact.deleted_at is not None, done.change.new_revision) == (True, None)
    past = {"artifact_id": art, "as_of_seq": done.change.seq}
    assert refusal(tenant, "repository.artifacts.get", past).code == "GONE"
    back = tenant.call("repository.artifacts.restore", {"artifact_id": art})
    assert (back.artifact.name, back.artifact.redacted) == (f"redacted:{art}", "FULL")
    assert found(tenant, text="redacted") == []


@pytest.mark.usefixtures("chains_verify")
def test_a_redacted_artifact_lives_on_with_what_it_is_given(tenant: Tenant) -> None:
    art = note(tenant, "a", content="x", metadata={"n": 1}, provenance={"p": 1})
    redact(tenant, art)
    assert not update(tenant, art).changed
    changed = update(tenant, art, content="fresh")
    shown = changed.artifact
    assert (shown.metadata, shown.provenance, shown.redacted) == ({}, {}, None)
    assert found(tenant, text="fresh") == [art]


def test_what_planes_hold_of_a_redacted_revision_goes_with_it(
    spine: Spine, tenant: Tenant, rows: Any
) -> None:
    world = make_world(spine, tenant)
    art, other = world.artifacts["refunds.md"], world.artifacts["holidays.md"]

    def served(*asked: str, **members: Any) -> list[str]:
        return [item["artifact_id"] for item in world.access(*asked, **members).unwrap().data["documents"]]

    assert served("refund") == [art]
    redact(tenant, art)
    assert served("refund") == []
    assert {row["artifact_id"] for row in rows("plane_passages", "artifact_id")} == (
        set(world.artifacts.values()) - {art}
    )
    # The plane serves the pinned revision, though the head moved on; redacting the pinned one ends that.
    update(tenant, other, content="The office is open.")
    redact(tenant, other, [2])
    retrieve = {"action": "retrieve", "payload": {"artifact_ids": [other]}}
    update(tenant, other, content="The office is open again.")
    assert served(**retrieve) == [other]
    redact(tenant, other, [1])
    assert served(**retrieve) == []


def test_no_answer_that_a_key_replays_outlives_a_redaction(tenant: Tenant, rows: Any) -> None:
    def make(name: str) -> str:
        payload = {"name": name, "artifact_type": "note", "metadata": {"who": "somebody"}}
        made = tenant.call("repository.artifacts.create", payload, idempotency_key=f"make {name}")
        return str(made.id)

    def stored() -> set[str]:
        return {row["key"] for row in rows("idempotency_keys", "key")}

    secret, other, third = make("secret plan"), make("other plan"), make("third plan")
    both = {"items": [{"artifact_id": name, "role": "r"} for name in (secret, other)]}
    tenant.call("repository.bundles.create", both, idempotency_key="bundle")
    start = {"agent_id": "a", "goal": "g", "actor_type": "SYSTEM", "origin_system_id": "o"}
    tenant.call("runs.start", start, idempotency_key="of another slice")
    redact(tenant, secret)
    assert stored() == {"make other plan", "make third plan", "of another slice"}
    assert "secret" not in str(rows("idempotency_keys", "key"))
    # A key that was forgotten is like a new one.
    assert make("secret plan") != secret
    assert make("third plan") == third
    tenant.call("repository.collections.purge", {"collection_id": "default"} | WHY)
    assert stored() == {"of another slice"}


def test_the_door_of_a_revision_lets_only_redaction_through(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    art = note(tenant, "a", content="x")
    at = "redacted_at = created_at"
    where = {"t": tenant.tenant_id, "a": art}

    def attempt(changes: str) -> bool:
        statement = sa.text(
            f"UPDATE artifact_revisions SET {changes} WHERE tenant_id = :t AND artifact_id = :a"
        )
        try:
            second_connection.execute(statement, where)
        except sa.exc.DBAPIError as error:
            return "append-only" not in str(error)
        return True

    gone = "name = NULL, metadata = NULL, provenance = NULL"
    for changes in (
        "name = 'b'",
        f"redaction = 'FULL', {at}",
        f"redaction = 'FULL', {gone}",
        f"redaction = 'CONTENT', {at}, name = NULL",
        f"redaction = 'FULL', {at}, {gone}, size = 2",
        f"redaction = 'FULL', {at}, {gone}, content_digest = NULL, size = NULL",
        gone,
    ):
        assert not attempt(changes), changes
    assert attempt(f"redaction = 'CONTENT', {at}")
    assert not attempt(f"redaction = 'CONTENT', {at}")
    assert attempt(f"redaction = 'FULL', {at}, {gone}")
    assert not attempt(f"redaction = 'FULL', {at}, {gone}")
    assert not attempt("redaction = NULL, redacted_at = NULL")


@pytest.mark.usefixtures("chains_verify")
def test_a_purged_collection_is_tombstones_and_stubs(tenant: Tenant, other_tenant: Tenant) -> None:
    collection = tenant.call("repository.collections.create", {"name": "plane"}).id
    here = {"collection_id": collection}
    a = note(tenant, "a", content="only here", **here)
    update(tenant, a, content="second")
    b = note(tenant, "b", content="shared", **here)
    gone = note(tenant, "c", content="third", **here)
    tenant.call("repository.artifacts.delete", {"artifact_id": gone})
    outside = note(tenant, "outside", content="shared")
    edge = tenant.call(
        "repository.relationships.create", {"source_id": outside, "target_id": a, "type": "cites"}
    )
    done = tenant.call("repository.collections.purge", here | WHY)
    assert (done.documents, done.revisions_redacted, done.relationships_removed) == (3, 4, 1)
    assert (done.bytes_deleted, done.bytes_shared) == (len("only heresecondthird"), len("shared"))
    assert content(tenant, outside, 1) == b"shared"
    for identifier in (a, b, gone):
        shown = view(tenant, identifier)
        assert (shown.name, shown.redacted) == (f"redacted:{identifier}", "FULL")
        assert shown.deleted_at is not None
        assert content(tenant, identifier, 1) == "CONTENT_REDACTED"
    assert refusal(tenant, "repository.collections.get", here).code == "GONE"
    assert refusal(tenant, "repository.relationships.get", {"relationship_id": edge.id}).code == "GONE"
    records = tenant.call("repository.changes.list", {"change_set_id": done.change_set_id}).items
    assert sorted(record.action for record in records) == sorted(
        ["UNLINKED", "REDACTED", "DELETED", "REDACTED", "DELETED", "REDACTED", "DELETED"]
    )
    again = tenant.call("repository.collections.purge", here | WHY)
    assert (again.change_set_id, again.revisions_redacted) == (None, 0)
    assert refusal(other_tenant, "repository.collections.purge", here | WHY).code == "COLLECTION_NOT_FOUND"
