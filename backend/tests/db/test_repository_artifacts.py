"""Artifacts: identity, names, revisions, versions, deletion, restoration, as the operations keep them."""

from __future__ import annotations

from typing import Any

from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant


def create(tenant: Tenant, name: str = "note", **members: Any) -> Any:
    """Create a note and return it."""
    return tenant.call("repository.artifacts.create", {"name": name, "artifact_type": "note", **members})


def refusal(tenant: Tenant, operation: str, payload: dict[str, Any], **context: Any) -> str | None:
    """Return the code with which an operation refuses."""
    return tenant.dispatch(f"repository.{operation}", payload, **context).error_code


def update(tenant: Tenant, artifact_id: str, **members: Any) -> Any:
    """Patch an artifact."""
    return tenant.call("repository.artifacts.update", {"artifact_id": artifact_id, **members})


def changes(tenant: Tenant, **filters: Any) -> list[Any]:
    """Return the whole feed."""
    return list(tenant.call("repository.changes.list", {"limit": 500, **filters}).items)


def test_a_created_artifact_reads_back_as_it_was_written(tenant: Tenant) -> None:
    made = create(tenant, "report", content="hello\r\n", metadata={"k": [1, 1.0, True, None, "x"]})
    seen = tenant.call("repository.artifacts.get", {"artifact_id": made.id})
    assert seen == made
    assert (seen.version, seen.head_revision, seen.collection_id) == (1, 1, "default")
    assert seen.media_type == "text/plain; charset=utf-8"
    content = tenant.call("repository.artifacts.content", {"artifact_id": made.id})
    assert content.content == b"hello\r\n"
    assert content.content_digest == made.content_digest


VALUES = [1, 1.0, True, -0.0, 1e16, 10**40, 5e-324, 1.7976931348623157e308, "\U0001f600", "é", {}, [], None]


def test_a_metadata_value_comes_back_with_its_exact_type(tenant: Tenant) -> None:
    for number, value in enumerate(VALUES):
        made = create(tenant, f"note {number}", metadata={"v": value})
        seen = tenant.call("repository.artifacts.get", {"artifact_id": made.id}).metadata["v"]
        assert repr(seen) == repr(value)


BAD_IDS = ["a/b", "..", "a\x00b", "a" * 129, "", "\u0430rt", " a", "a ", "-a", "a\n"]


def test_a_malformed_id_is_refused(tenant: Tenant) -> None:
    for identifier in BAD_IDS:
        payload = {"id": identifier, "name": "n", "artifact_type": "note"}
        assert refusal(tenant, "artifacts.create", payload) == "INVALID_ID", identifier
        assert refusal(tenant, "collections.create", {"id": identifier, "name": "n"}) == "INVALID_ID"


BAD_NAMES = [
    "",
    " a",
    "a ",
    "a\x00",
    "a\nb",
    "\u200bx",
    "a\u202eb",
    "\ufeffa",
    "redacted:x",
    "a" * 256,
    "a\u2028b",
]


def test_a_malformed_name_is_refused(tenant: Tenant) -> None:
    for name in BAD_NAMES:
        artifact = {"name": name, "artifact_type": "n"}
        assert refusal(tenant, "artifacts.create", artifact) == "INVALID_NAME", name
        assert refusal(tenant, "collections.create", {"name": name}) == "INVALID_NAME"


UNUSUAL_NAMES = ["👩\u200d👩\u200d👧", "a/b", "\u0645\u06cc\u200c\u062e", "x" * 255, "%_\\'\"--;"]


def test_unusual_but_legal_names_are_kept_as_typed(tenant: Tenant) -> None:
    for name in UNUSUAL_NAMES:
        assert create(tenant, name).name == name


def test_an_id_is_never_used_again(tenant: Tenant, other_tenant: Tenant) -> None:
    create(tenant, "one", id="art-1")
    payload = {"id": "art-1", "name": "two", "artifact_type": "note"}
    assert refusal(tenant, "artifacts.create", payload) == "DUPLICATE_ID"
    tenant.call("repository.artifacts.delete", {"artifact_id": "art-1"})
    assert refusal(tenant, "artifacts.create", payload) == "DUPLICATE_ID"
    assert create(other_tenant, "one", id="art-1").id == "art-1"


def test_a_name_is_taken_once_among_the_live_artifacts_of_a_collection(tenant: Tenant) -> None:
    first = create(tenant, "caf\u00e9")
    taken = {"name": "cafe\u0301", "artifact_type": "note"}
    assert refusal(tenant, "artifacts.create", taken) == "DUPLICATE_NAME"
    tenant.call("repository.collections.create", {"id": "col-2", "name": "second"})
    assert create(tenant, "cafe\u0301", collection_id="col-2").name == "cafe\u0301"
    assert create(tenant, "CAF\u00c9").name == "CAF\u00c9"
    tenant.call("repository.artifacts.delete", {"artifact_id": first.id})
    assert create(tenant, "cafe\u0301").name == "cafe\u0301"


def test_a_rename_meets_the_name_rule_but_not_itself(tenant: Tenant) -> None:
    a, b = create(tenant, "a"), create(tenant, "b")
    assert refusal(tenant, "artifacts.update", {"artifact_id": a.id, "name": "b"}) == "DUPLICATE_NAME"
    assert update(tenant, a.id, name="a").changed is False
    decomposed = update(tenant, a.id, name="e\u0301")
    assert decomposed.artifact.name == "e\u0301"
    composed = update(tenant, a.id, name="\u00e9")
    assert (composed.changed, composed.artifact.name, composed.artifact.version) == (True, "\u00e9", 3)
    update(tenant, a.id, name="spare")
    assert update(tenant, b.id, name="a").artifact.name == "a"


def test_a_move_needs_a_live_collection_of_the_tenant_and_a_free_name(
    tenant: Tenant, other_tenant: Tenant
) -> None:
    made = create(tenant, "a")
    other_tenant.call("repository.collections.create", {"id": "foreign", "name": "foreign"})
    for identifier in ("col-2", "dead", "full"):
        tenant.call("repository.collections.create", {"id": identifier, "name": identifier})
    tenant.call("repository.collections.delete", {"collection_id": "dead"})
    create(tenant, "a", collection_id="full")
    for missing in ("foreign", "dead", "unknown", "a\x00b"):
        code = refusal(tenant, "artifacts.update", {"artifact_id": made.id, "collection_id": missing})
        assert code == "REFERENCE_NOT_FOUND", missing
        payload = {"name": "z", "artifact_type": "note", "collection_id": missing}
        assert refusal(tenant, "artifacts.create", payload) == "REFERENCE_NOT_FOUND", missing
    payload = {"artifact_id": made.id, "collection_id": "full"}
    assert refusal(tenant, "artifacts.update", payload) == "DUPLICATE_NAME"
    moved = update(tenant, made.id, collection_id="col-2")
    assert (moved.artifact.collection_id, moved.change.changed_fields) == ("col-2", ["collection_id"])


def test_an_update_that_changes_nothing_writes_nothing(tenant: Tenant) -> None:
    made = create(tenant, content="same", metadata={"a": 1})
    before = changes(tenant)
    again = update(tenant, made.id, content="same", metadata={"a": 1}, name="note")
    assert (again.changed, again.change, again.artifact) == (False, None, made)
    assert changes(tenant) == before
    assert len(tenant.call("repository.revisions.list", {"artifact_id": made.id}).items) == 1


def test_one_and_one_point_zero_and_true_are_three_values(tenant: Tenant) -> None:
    made = create(tenant, metadata={"a": 1})
    for version, value in ((2, 1.0), (3, True), (4, 1)):
        result = update(tenant, made.id, metadata={"a": value})
        assert (result.changed, result.artifact.version) == (True, version)
        assert repr(result.artifact.metadata["a"]) == repr(value)


def test_metadata_is_patched_or_replaced(tenant: Tenant) -> None:
    made = create(tenant, metadata={"a": {"b": 1, "c": 2}, "d": 3})
    patched = update(tenant, made.id, metadata={"a": {"b": None, "e": [1]}, "d": 4})
    assert patched.artifact.metadata == {"a": {"c": 2, "e": [1]}, "d": 4}
    replaced = update(tenant, made.id, replace_metadata={"n": None})
    assert replaced.artifact.metadata == {"n": None}
    for wrong in (None, [], "x", 1):
        payload = {"artifact_id": made.id, "metadata": wrong}
        assert refusal(tenant, "artifacts.update", payload) == "INVALID_METADATA"


def test_content_may_be_absent_empty_and_removed(tenant: Tenant) -> None:
    absent = create(tenant, "absent")
    empty = create(tenant, "empty", content="")
    assert (absent.content_digest, absent.size, absent.content_state) == (None, None, "NONE")
    assert (empty.size, empty.content_state) == (0, "PRESENT")
    assert tenant.call("repository.artifacts.content", {"artifact_id": empty.id}).content == b""
    assert tenant.call("repository.artifacts.content", {"artifact_id": absent.id}).content is None
    removed = update(tenant, empty.id, content=None)
    assert (removed.changed, removed.artifact.content_digest) == (True, None)


def test_a_field_that_never_changes_is_refused_as_such(tenant: Tenant) -> None:
    made = create(tenant)
    for field in ["id", "artifact_type", "created_at", "created_by"]:
        assert refusal(tenant, "artifacts.update", {"artifact_id": made.id, field: "x"}) == "IMMUTABLE_FIELD"


def test_shape_errors_are_told_apart(tenant: Tenant) -> None:
    base = {"name": "n", "artifact_type": "note"}
    cases = {
        "INVALID_METADATA": [
            {"metadata": {"a": float("nan")}},
            {"metadata": []},
            {"metadata": {"a": 10**301}},
        ],
        "INVALID_INPUT": [
            {"content": "a", "content_base64": "YQ=="},
            {"content_base64": "not base64"},
            {"media_type": "text"},
            {"media_type": "text/plain\r\nX: y"},
            {"artifact_type": "Note"},
            {"expected_digest": "sha256:xyz"},
            {"tenant_id": "t"},
            {"actor_id": "a"},
            {"reason": "x" * 1001},
        ],
        "DIGEST_MISMATCH": [{"content": "a", "expected_digest": "sha256:" + "0" * 64}],
        "REFERENCE_NOT_FOUND": [{"produced_by_run": "run-1"}],
    }
    for code, payloads in cases.items():
        for members in payloads:
            assert refusal(tenant, "artifacts.create", {**base, **members}) == code, members


def test_deep_and_broad_metadata_is_refused_with_its_pointer(tenant: Tenant) -> None:
    deep: Any = 1
    for _ in range(40):
        deep = {"a": deep}
    for metadata in (deep, {"k": list(range(2001))}, {"k": "x" * (256 * 1024)}):
        payload = {"name": "n", "artifact_type": "note", "metadata": metadata}
        result = tenant.dispatch("repository.artifacts.create", payload)
        assert result.error_code == "INVALID_METADATA"
        assert result.error is not None
        assert "pointer" in result.error.extra


def test_content_over_the_limit_is_too_large(tenant: Tenant) -> None:
    payload = {"name": "n", "artifact_type": "note", "content": "x" * (16 * 1024 * 1024 + 1)}
    result = tenant.dispatch("repository.artifacts.create", payload)
    assert result.error is not None
    assert (result.error_code, result.error.extra["limit"]) == ("TOO_LARGE", 16777216)


def test_a_deleted_artifact_is_gone_but_its_history_stays(tenant: Tenant, other_tenant: Tenant) -> None:
    made = create(tenant, content="text")
    deleted = tenant.call("repository.artifacts.delete", {"artifact_id": made.id, "reason": "old"})
    assert (deleted.version, deleted.change.action, deleted.change.reason) == (2, "DELETED", "old")
    assert deleted.change.old_revision_digest == made.revision_digest
    result = tenant.dispatch("repository.artifacts.get", {"artifact_id": made.id})
    assert result.error is not None
    assert (result.error_code, result.error.extra["tombstone"]["last_revision"]) == ("GONE", 1)
    assert refusal(tenant, "artifacts.delete", {"artifact_id": made.id}) == "ALREADY_DELETED"
    assert refusal(tenant, "artifacts.update", {"artifact_id": made.id, "name": "x"}) == "GONE"
    assert refusal(tenant, "artifacts.content", {"artifact_id": made.id}) == "GONE"
    assert refusal(other_tenant, "artifacts.delete", {"artifact_id": made.id}) == "ARTIFACT_NOT_FOUND"
    payload = {"artifact_id": made.id, "revision": 1}
    assert tenant.call("repository.revisions.content", payload).content == b"text"
    assert len(changes(tenant, entity_id=made.id)) == 2
    seen = tenant.call("repository.artifacts.get", {"artifact_id": made.id, "include_deleted": True})
    assert seen.deleted_by == "user-1"


def test_restoring_brings_back_the_same_revision(tenant: Tenant) -> None:
    made = create(tenant, "keep", content="text")
    assert refusal(tenant, "artifacts.restore", {"artifact_id": made.id}) == "NOT_DELETED"
    tenant.call("repository.artifacts.delete", {"artifact_id": made.id})
    rival = create(tenant, "keep")
    assert refusal(tenant, "artifacts.restore", {"artifact_id": made.id}) == "DUPLICATE_NAME"
    renamed = tenant.call("repository.artifacts.restore", {"artifact_id": made.id, "new_name": "kept"})
    assert (renamed.artifact.version, renamed.artifact.head_revision) == (3, 2)
    assert renamed.change.action == "RESTORED"
    tenant.call("repository.artifacts.delete", {"artifact_id": rival.id})
    back = tenant.call("repository.artifacts.restore", {"artifact_id": rival.id})
    assert (back.artifact.version, back.artifact.head_revision) == (3, 1)
    assert back.artifact.revision_digest == rival.revision_digest


def test_an_artifact_is_not_restored_into_a_deleted_collection(tenant: Tenant) -> None:
    tenant.call("repository.collections.create", {"id": "col-1", "name": "one"})
    made = create(tenant, collection_id="col-1")
    tenant.call("repository.artifacts.delete", {"artifact_id": made.id})
    tenant.call("repository.collections.delete", {"collection_id": "col-1"})
    assert refusal(tenant, "artifacts.restore", {"artifact_id": made.id}) == "REFERENCE_NOT_FOUND"


def test_the_past_is_read_by_number_and_by_time(tenant: Tenant, clock: SteerableClock) -> None:
    clock.freeze()
    made = create(tenant, "v1", content="one")
    born = changes(tenant)[-1]
    between = clock.advance(seconds=10)
    clock.advance(seconds=10)
    update(tenant, made.id, name="v2", content="two")
    clock.advance(seconds=10)
    gone = tenant.call("repository.artifacts.delete", {"artifact_id": made.id}).change
    for when in ({"as_of_seq": born.seq}, {"as_of": between.isoformat()}):
        past = tenant.call("repository.artifacts.get", {"artifact_id": made.id, **when})
        assert (past.name, past.version, past.head_revision, past.deleted_at) == ("v1", 1, 1, None)
    early = {"artifact_id": made.id, "as_of_seq": born.seq - 1}
    assert refusal(tenant, "artifacts.get", early) == "ARTIFACT_NOT_FOUND"
    assert refusal(tenant, "artifacts.get", {"artifact_id": made.id, "as_of_seq": gone.seq}) == "GONE"
    both = {"artifact_id": made.id, "as_of_seq": 1, "as_of": between.isoformat()}
    assert refusal(tenant, "artifacts.get", both) == "INVALID_QUERY"


def test_revisions_are_compared(tenant: Tenant) -> None:
    made = create(tenant, content="a\nb\nc\n", metadata={"x": {"y": 1}, "l": [1, 2], "gone": 0})
    update(tenant, made.id, content="a\nB\nc\n", metadata={"x": {"y": 1.0}, "l": [1], "gone": None, "n~/": 1})
    result = tenant.call(
        "repository.revisions.diff", {"artifact_id": made.id, "from": 1, "to": 2, "text": True}
    )
    assert result.metadata.added == ["/n~0~1"]
    assert sorted(result.metadata.removed) == ["/gone", "/l/1"]
    assert result.metadata.changed == ["/x/y"]
    assert result.content.state == "different"
    assert "-b\n+B\n" in result.content.text
    same = tenant.call("repository.revisions.diff", {"artifact_id": made.id, "from": 1, "to": 1})
    assert same.content.state == "equal"
    unknown = {"artifact_id": made.id, "from": 1, "to": 3}
    assert refusal(tenant, "revisions.diff", unknown) == "REVISION_NOT_FOUND"


def test_a_revision_that_is_not_there_is_not_found(tenant: Tenant) -> None:
    made = create(tenant)
    for revision in [0, -1, 2, 2**31, 10**30]:
        payload = {"artifact_id": made.id, "revision": revision}
        for operation in ("artifacts.get", "revisions.get", "revisions.content"):
            assert refusal(tenant, operation, payload) == "REVISION_NOT_FOUND"


def test_another_tenants_artifact_was_never_there(tenant: Tenant, other_tenant: Tenant) -> None:
    made = create(tenant, content="mine")
    for operation, members in (
        ("artifacts.get", {}),
        ("artifacts.content", {}),
        ("artifacts.update", {"name": "x"}),
        ("artifacts.restore", {}),
        ("revisions.list", {}),
        ("revisions.get", {"revision": 1}),
        ("revisions.content", {"revision": 1}),
        ("artifacts.get", {"as_of_seq": 5}),
    ):
        code = refusal(other_tenant, operation, {"artifact_id": made.id, **members})
        assert code == "ARTIFACT_NOT_FOUND", operation


def test_what_was_passed_in_or_handed_out_can_be_changed_without_harm(tenant: Tenant) -> None:
    metadata = {"list": [1]}
    made = create(tenant, metadata=metadata)
    metadata["list"].append(2)
    made.metadata["list"].append(3)
    assert tenant.call("repository.artifacts.get", {"artifact_id": made.id}).metadata == {"list": [1]}


def test_a_revision_shows_its_values_and_its_place_in_the_chain(tenant: Tenant) -> None:
    made = create(tenant, "first", content="one", metadata={"a": 1.0}, provenance={"by": "me"})
    update(tenant, made.id, name="second", collection_id="default")
    first, second = (
        tenant.call("repository.revisions.get", {"artifact_id": made.id, "revision": number})
        for number in (1, 2)
    )
    assert (first.name, first.parent_digest, first.provenance) == ("first", None, {"by": "me"})
    assert (second.name, second.parent_digest) == ("second", first.revision_digest)
    assert second.content_digest == first.content_digest == made.content_digest
    assert (second.metadata, second.produced_by, second.redaction) == ({"a": 1.0}, None, None)
    page = tenant.call("repository.revisions.list", {"artifact_id": made.id, "limit": 1})
    rest = tenant.call(
        "repository.revisions.list", {"artifact_id": made.id, "limit": 1, "cursor": page.next_cursor}
    )
    assert (page.items, rest.items, rest.next_cursor) == ([first], [second], None)
