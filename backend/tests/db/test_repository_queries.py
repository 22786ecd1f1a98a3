"""Search, metadata filters, lists, pages, bulk creation and collections of the repository."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant, make_tenant

VALUES: dict[str, Any] = {
    "int": 1,
    "float": 1.0,
    "negative": -0.5,
    "smaller": -0.51,
    "zero": 0,
    "minus_zero": -0.0,
    "big": 10**40,
    "bigger": 10**40 + 1,
    "tiny": 5e-324,
    "huge": 1.7976931348623157e308,
    "true": True,
    "false": False,
    "null": None,
    "one": "1",
    "word": "word",
    "words": "words",
    "upper": "Word",
    "odd": "%_\\'\";--",
    "long": "x" * 600,
    "longer": "x" * 600 + "y",
    "accent": "\u00e9",
    "emoji": "\U0001f600",
    "list": [1, "a", None, [2]],
    "object": {"k": 1},
}


def create(tenant: Tenant, name: str, **members: Any) -> Any:
    """Create a note and return it."""
    return tenant.call("repository.artifacts.create", {"name": name, "artifact_type": "note", **members})


def names(tenant: Tenant, **query: Any) -> list[str]:
    """Return the names that a query finds, in its order."""
    page = tenant.call("repository.artifacts.query", {"limit": 500, **query})
    count = {k: v for k, v in query.items() if k not in ("order_by", "direction", "limit", "cursor")}
    assert tenant.call("repository.artifacts.count", count).count == len(page.items)
    return [item.name for item in page.items]


def code(tenant: Tenant, operation: str, **payload: Any) -> str | None:
    """Return the refusal of an operation."""
    return tenant.dispatch(f"repository.{operation}", payload).error_code


def holds(stored: Any, op: str, value: Any) -> bool:
    """Say independently whether a present value meets a condition."""

    def kind(v: Any) -> str:
        if v is None or isinstance(v, bool | list | dict):
            return type(v).__name__
        return "str" if isinstance(v, str) else "number"

    same = kind(stored) == kind(value) and stored == value
    if op == "eq":
        return same
    if op == "ne":
        return not same
    if op == "contains":
        return isinstance(stored, list) and any(kind(v) == kind(value) and v == value for v in stored)
    if op == "prefix":
        return isinstance(stored, str) and stored.startswith(value)
    if kind(stored) != kind(value):
        return False
    return {"lt": stored < value, "lte": stored <= value, "gt": stored > value, "gte": stored >= value}[op]


@pytest.fixture
def stocked(tenant: Tenant) -> Tenant:
    """A tenant with one artifact for each value, and one without any."""
    items = [{"name": key, "artifact_type": "v", "metadata": {"v": value}} for key, value in VALUES.items()]
    items.append({"name": "missing", "artifact_type": "v"})
    tenant.call("repository.artifacts.create_bulk", {"items": items})
    return tenant


def test_each_metadata_condition_means_what_it_says(stocked: Tenant) -> None:
    scalars = [value for value in VALUES.values() if not isinstance(value, list | dict)]
    scalars += ["x" * 599, "wor", "", 2, 10**40 - 1, "a"]
    for op, value in itertools.product(("eq", "ne", "contains", "lt", "lte", "gt", "gte", "prefix"), scalars):
        ordered = isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool))
        condition = [{"pointer": "/v", "op": op, "value": value}]
        if (op in ("lt", "lte", "gt", "gte") and not ordered) or (
            op == "prefix" and not isinstance(value, str)
        ):
            assert code(stocked, "artifacts.query", metadata=condition) == "INVALID_FILTER"
            continue
        expected = [key for key, stored in VALUES.items() if holds(stored, op, value)]
        page = stocked.call("repository.artifacts.query", {"limit": 500, "metadata": condition})
        assert [item.name for item in page.items] == expected, (op, value)


def test_presence_elements_and_membership(stocked: Tenant) -> None:
    every = list(VALUES)
    assert names(stocked, metadata=[{"pointer": "/v", "op": "exists", "value": True}]) == every
    assert names(stocked, metadata=[{"pointer": "/v", "op": "exists", "value": False}]) == ["missing"]
    assert names(stocked, metadata=[{"pointer": "", "op": "exists", "value": True}]) == [*every, "missing"]
    assert names(stocked, metadata=[{"pointer": "", "op": "eq", "value": 1}]) == []
    assert names(stocked, metadata=[{"pointer": "/v/1", "op": "eq", "value": "a"}]) == ["list"]
    assert names(stocked, metadata=[{"pointer": "/v/k", "op": "eq", "value": 1.0}]) == ["object"]
    chosen = [{"pointer": "/v", "op": "in", "value": [1, "word", None, True, "x" * 600]}]
    assert names(stocked, metadata=chosen) == ["int", "float", "true", "null", "word", "long"]
    assert names(stocked, metadata=[{"pointer": "/v", "op": "in", "value": []}]) == []
    assert names(stocked, ids=[]) == []
    many = [{"pointer": "/v", "op": "in", "value": [*range(10, 49_990), "word", "x" * 600]}]
    assert names(stocked, metadata=many) == ["word", "long"]


def test_a_pointer_escapes_its_tokens(tenant: Tenant) -> None:
    create(tenant, "odd", metadata={"a/b": {"m~n": 1}, "": 2})
    assert names(tenant, metadata=[{"pointer": "/a~1b/m~0n", "op": "eq", "value": 1}]) == ["odd"]
    assert names(tenant, metadata=[{"pointer": "/", "op": "eq", "value": 2}]) == ["odd"]


@pytest.mark.parametrize(
    "condition",
    [
        {"pointer": "v", "op": "eq", "value": 1},
        {"pointer": "/a~2", "op": "eq", "value": 1},
        {"pointer": "/" + "a" * 512, "op": "eq", "value": 1},
        {"pointer": "/v", "op": "like", "value": "x"},
        {"pointer": "/v", "op": "eq", "value": [1]},
        {"pointer": "/v", "op": "eq", "value": {}},
        {"pointer": "/v", "op": "in", "value": "x"},
        {"pointer": "/v", "op": "in", "value": [[1]]},
        {"pointer": "/v", "op": "exists", "value": 1},
        {"pointer": "/v", "op": "eq", "value": "a\x00"},
        {"pointer": "/v", "op": "eq", "value": 10**301},
    ],
)
def test_a_meaningless_condition_is_refused_with_its_index(tenant: Tenant, condition: dict[str, Any]) -> None:
    fine = {"pointer": "/a", "op": "eq", "value": 1}
    result = tenant.dispatch("repository.artifacts.query", {"metadata": [fine, condition]})
    assert result.error is not None
    assert (result.error_code, result.error.extra["index"]) == ("INVALID_FILTER", 1)


def test_text_is_found_by_all_its_words(tenant: Tenant) -> None:
    create(tenant, "Annual_Report", content="Revenue grew by 12 percent. Stra\u00dfe")
    create(tenant, "other", content="Revenue fell")
    assert names(tenant, text="revenue") == ["Annual_Report", "other"]
    assert names(tenant, text="GREW revenue") == ["Annual_Report"]
    assert names(tenant, text="report annual strasse") == ["Annual_Report"]
    assert names(tenant, text="revenue absent") == []
    assert names(tenant, text="rev") == []


@pytest.mark.parametrize(
    ("content", "query"),
    [
        ("\u6771\u4eac\u90fd\u306b\u4f4f\u3080", "\u4eac\u90fd"),
        ("\u6771\u4eac", "\u6771"),
        ("\u0130stanbul", "\u0130STANBUL"),
        ("\ufb01sh", "fish"),
        ("cafe\u0301", "CAF\u00c9"),
        ("a\u0327\u0301b", "a\u0301\u0327b"),
        ("\U0001f600 smile", "smile \U0001f600"),
        ("AND or not", "AND"),
        ("near miss", "NEAR("),
        ("col:term", "col:term"),
        ("minus x", "-x"),
        ("quo\"te's", "quo\"te's"),
        ("star*s", "star*"),
        ("\ud55c\uad6d\uc5b4", "\ud55c\uad6d"),
        ("x" * 100, "x" * 64),
    ],
)
def test_every_script_and_every_sign_is_only_text(tenant: Tenant, content: str, query: str) -> None:
    create(tenant, "n1", content=content)
    create(tenant, "n2", content="nothing of the kind")
    assert names(tenant, text=query) == ["n1"]


def test_a_query_without_a_word_is_refused(tenant: Tenant) -> None:
    for text in ["", "   ", "!?.", '"', "*", "\U0001f600", "__"]:
        assert code(tenant, "artifacts.query", text=text) == "EMPTY_QUERY"


def test_a_query_of_too_many_words_is_refused(tenant: Tenant) -> None:
    assert code(tenant, "artifacts.query", text=" ".join(f"w{i}" for i in range(64))) is None
    assert code(tenant, "artifacts.query", text=" ".join(f"w{i}" for i in range(65))) == "INVALID_FILTER"
    create(tenant, "long", content=" ".join(f"w{i}" for i in range(10_000)))
    assert names(tenant, text="w9999") == ["long"]


def test_the_index_follows_each_write(tenant: Tenant) -> None:
    made = create(tenant, "first", content="alpha", metadata={"k": "old"})
    old, new = ({"pointer": "/k", "op": "eq", "value": value} for value in ("old", "new"))
    change = {"artifact_id": made.id, "content": "beta", "metadata": {"k": "new"}, "name": "second"}
    tenant.call("repository.artifacts.update", change)
    assert [names(tenant, text=word) for word in ("alpha", "first", "beta", "second")] == [
        [], [], ["second"], ["second"],
    ]  # fmt: skip
    assert (names(tenant, metadata=[old]), names(tenant, metadata=[new])) == ([], ["second"])
    tenant.call("repository.artifacts.update", {"artifact_id": made.id, "name": "third"})
    assert (names(tenant, text="third beta"), names(tenant, text="second")) == (["third"], [])
    tenant.call("repository.artifacts.delete", {"artifact_id": made.id})
    assert (names(tenant, text="beta"), names(tenant, metadata=[new])) == ([], [])
    tenant.call("repository.artifacts.restore", {"artifact_id": made.id})
    assert (names(tenant, text="beta"), names(tenant, metadata=[new])) == (["third"], ["third"])
    media = {"artifact_id": made.id, "media_type": "application/octet-stream"}
    tenant.call("repository.artifacts.update", media)
    assert (names(tenant, text="beta"), names(tenant, text="third")) == ([], ["third"])


def test_only_textual_utf8_is_indexed(tenant: Tenant) -> None:
    create(tenant, "binary", content_base64="d29yZA==")
    create(tenant, "broken", content_base64="d29yZP8=", media_type="text/plain")
    create(tenant, "json", content='{"a": "word"}', media_type="application/vnd.api+json; charset=utf-8")
    create(tenant, "zero", content_base64="d29yZAB6ZXJv", media_type="text/plain")
    assert names(tenant, text="word") == ["json", "zero"]
    assert names(tenant, text="broken") == ["broken"]


def test_search_stays_in_its_tenant(tenant: Tenant, other_tenant: Tenant) -> None:
    create(other_tenant, "theirs", content="shared words")
    create(tenant, "mine", content="shared words")
    assert names(tenant, text="shared") == ["mine"]
    assert names(tenant, text=f"t{tenant.tenant_id.encode().hex()}") == []


def test_plain_filters(tenant: Tenant, clock: SteerableClock) -> None:
    clock.freeze()
    tenant.call("repository.collections.create", {"id": "c2", "name": "c2"})
    a = create(tenant, "caf\u00e9 a", content="one")
    later = clock.advance(minutes=1)
    b = create(tenant, "cafe\u0301 b", content="one", collection_id="c2")
    tenant.call("repository.artifacts.create", {"name": "c_%", "artifact_type": "other"})
    digest = a.content_digest
    for form in (digest, digest.removeprefix("sha256:"), digest[7:15]):
        assert names(tenant, digest=form) == [a.name, b.name]
    assert code(tenant, "artifacts.query", digest="abc") == "INVALID_FILTER"
    assert names(tenant, name="cafe\u0301 a") == [a.name]
    assert names(tenant, name_prefix="caf\u00e9") == [a.name, b.name]
    assert names(tenant, name_prefix="c_") == ["c_%"]
    assert names(tenant, name_prefix="%") == []
    assert names(tenant, collection_id="c2") == [b.name]
    assert names(tenant, artifact_type="other") == ["c_%"]
    assert names(tenant, ids=[a.id, "unknown"]) == [a.name]
    assert names(tenant, created_to=later.isoformat()) == [a.name]
    assert names(tenant, created_from=later.isoformat()) == [b.name, "c_%"]
    tenant.call("repository.artifacts.delete", {"artifact_id": a.id})
    assert names(tenant, digest=digest) == [b.name]
    assert names(tenant, digest=digest, include_deleted=True) == [a.name, b.name]
    assert names(tenant, text="one", include_deleted=True) == [b.name]
    assert code(tenant, "artifacts.query", created_from="2030-01-01T00:00:00") == "INVALID_INPUT"
    assert code(tenant, "artifacts.query", unknown=1) == "INVALID_INPUT"
    assert code(tenant, "artifacts.query", ids=["x"] * 501) == "TOO_LARGE"


@pytest.mark.parametrize("order_by", ["created_seq", "name", "updated_at", "id"])
@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_pages_joined_are_the_whole_list(
    tenant: Tenant, clock: SteerableClock, order_by: str, direction: str
) -> None:
    clock.freeze()
    letters = ("z", "A", "\u00e9", "\u4e00")
    items = [
        {"id": f"{'Ba'[i % 2]}{i}", "name": f"{letters[i % 4]}{i}", "artifact_type": "n"} for i in range(23)
    ]
    tenant.call("repository.artifacts.create_bulk", {"items": items})
    query = {"order_by": order_by, "direction": direction}
    whole = tenant.call("repository.artifacts.query", {**query, "limit": 500}).items
    keys = [getattr(item, order_by) if order_by != "created_seq" else i for i, item in enumerate(whole)]
    if order_by in ("name", "id"):
        keys = [key.encode() for key in keys]
        assert keys == sorted(keys, reverse=direction == "desc")
    seen, cursor = [], None
    for extra in itertools.count():
        page = tenant.call("repository.artifacts.query", {**query, "limit": 5, "cursor": cursor})
        seen += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
        if extra == 1 and order_by == "created_seq" and direction == "asc":
            create(tenant, "written while paging")
    assert [item.id for item in seen][: len(whole)] == [item.id for item in whole]
    assert len({item.id for item in seen}) == len(seen)


def test_a_cursor_belongs_to_its_tenant_filter_and_order(tenant: Tenant, other_tenant: Tenant) -> None:
    for each in (tenant, other_tenant):
        create(each, "a")
        create(each, "b")
    cursor = tenant.call("repository.artifacts.query", {"limit": 1}).next_cursor
    assert code(other_tenant, "artifacts.query", limit=1, cursor=cursor) == "INVALID_CURSOR"
    assert code(tenant, "artifacts.query", limit=1, cursor=cursor, order_by="name") == "INVALID_CURSOR"
    assert code(tenant, "artifacts.query", limit=1, cursor=cursor, artifact_type="n") == "INVALID_CURSOR"
    assert code(tenant, "artifacts.query", limit=1, cursor="rubbish") == "INVALID_CURSOR"
    assert code(tenant, "artifacts.list", limit=1, cursor=cursor) == "INVALID_CURSOR"
    assert code(tenant, "artifacts.query", limit=2, cursor=cursor) is None


def test_related_artifacts_and_detaching_deletes(tenant: Tenant, second_connection: sa.Connection) -> None:
    a, b, c = (create(tenant, name) for name in "abc")
    insert = sa.text(
        "INSERT INTO relationships (tenant_id, id, source_id, target_id, type, metadata, provenance, "
        "version, created_seq, created_at, created_by, updated_at, updated_by) "
        "SELECT tenant_id, :id, :source, :target, :type, '{}', '{}', 1, 99, created_at, 'u', created_at, 'u' "
        "FROM artifacts WHERE tenant_id = :t AND id = :source"
    )
    for index, (source, target, kind) in enumerate(((a, b, "cites"), (c, a, "part_of"))):
        members = {"id": f"rel-{index}", "source": source.id, "target": target.id, "type": kind}
        second_connection.execute(insert, {**members, "t": tenant.tenant_id})
    assert names(tenant, related_to={"artifact_id": a.id}) == ["b", "c"]
    assert names(tenant, related_to={"artifact_id": a.id, "direction": "out"}) == ["b"]
    assert names(tenant, related_to={"artifact_id": a.id, "direction": "in", "type": "cites"}) == []
    text_of = {"artifact_id": b.id, "content": "many words", "metadata": {"k": 1}}
    tenant.call("repository.artifacts.update", text_of)
    condition = {"pointer": "/k", "op": "eq", "value": 1}
    everything = {"text": "words", "metadata": [condition], "related_to": {"artifact_id": a.id}}
    assert names(tenant, **everything) == ["b"]
    for missing in (
        {"text": "other"},
        {"metadata": [condition | {"value": 2}]},
        {"related_to": {"artifact_id": b.id}},
    ):
        assert names(tenant, **everything | missing) == []
    absent = {"pointer": "/l", "op": "exists", "value": False}
    assert names(tenant, **everything | {"metadata": [condition, absent]}) == ["b"]
    refused = tenant.dispatch("repository.artifacts.delete", {"artifact_id": a.id})
    assert refused.error is not None
    assert refused.error_code == "ARTIFACT_HAS_RELATIONSHIPS"
    assert (refused.error.extra["relationships"], refused.error.extra["total"]) == (["rel-0", "rel-1"], 2)
    deleted = tenant.call("repository.artifacts.delete", {"artifact_id": a.id, "mode": "detach"})
    assert deleted.detached == ["rel-0", "rel-1"]
    assert deleted.change.detail == {"detached": 2}
    records = tenant.call("repository.changes.list", {"change_set_id": deleted.change.change_set_id}).items
    assert [record.action for record in records] == ["DELETED", "UNLINKED", "UNLINKED"]
    tenant.call("repository.artifacts.delete", {"artifact_id": c.id})
    back = tenant.call("repository.artifacts.restore", {"artifact_id": a.id, "with_relationships": True})
    assert (back.relationships_restored, back.relationships_skipped) == (["rel-0"], ["rel-1"])
    assert names(tenant, related_to={"artifact_id": b.id}) == ["a"]


def item(name: str, **members: Any) -> dict[str, Any]:
    """Return one item of a bulk call."""
    return {"name": name, "artifact_type": "note", **members}


def test_bulk_items_follow_one_another_in_the_feed(tenant: Tenant) -> None:
    items = [item(f"n{i}", content="same", metadata={"i": i}) for i in range(5)]
    result = tenant.call("repository.artifacts.create_bulk", {"items": items, "reason": "load"})
    records = tenant.call("repository.changes.list", {"since_seq": result.first_seq}).items
    assert (result.first_seq, result.last_seq) == (1, 6)  # the default collection comes first
    assert [record.entity_id for record in records] == [made.id for made in result.items]
    assert {record.change_set_id for record in records} == {result.change_set_id}
    assert {record.reason for record in records} == {"load"}
    assert tenant.call("repository.changes.list", {"since_seq": 6}).next_since_seq == 6


def test_bulk_is_all_or_nothing_and_names_each_bad_item(tenant: Tenant) -> None:
    create(tenant, "taken", id="used")
    cases: list[tuple[str, list[int], list[dict[str, Any]]]] = [
        ("INVALID_NAME", [1], [item("a"), item(" b")]),
        ("DUPLICATE_NAME", [0, 2], [item("taken"), item("a"), item("a")]),
        ("DUPLICATE_ID", [0, 2], [item("a", id="used"), item("b", id="x"), item("c", id="x")]),
        ("REFERENCE_NOT_FOUND", [1], [item("a"), item("b", collection_id="nowhere")]),
        ("DIGEST_MISMATCH", [0], [item("a", content="x", expected_digest="sha256:" + "0" * 64)]),
        ("INVALID_METADATA", [0], [item("a", metadata=[])]),
    ]
    before = tenant.call("repository.changes.list").items
    for expected, indexes, items in cases:
        result = tenant.dispatch("repository.artifacts.create_bulk", {"items": items})
        assert result.error is not None
        assert result.error_code == expected
        assert [entry["index"] for entry in result.error.errors] == indexes, expected
    assert code(tenant, "artifacts.create_bulk", items=[]) == "INVALID_INPUT"
    too_many = [item(f"m{i}") for i in range(1001)]
    assert code(tenant, "artifacts.create_bulk", items=too_many) == "TOO_LARGE"
    assert tenant.call("repository.changes.list").items == before


def test_bulk_updates_what_bears_the_name(tenant: Tenant) -> None:
    first = tenant.call(
        "repository.artifacts.create_bulk",
        {
            "items": [
                item("a", content="1", metadata={"k": 1}),
                item("b", content="2"),
                item("c", content="3"),
            ]
        },
    )
    again = tenant.call(
        "repository.artifacts.create_bulk",
        {
            "on_existing": "update",
            "items": [
                item("a", content="1"),
                item("b", content="two"),
                item("d"),
                item("c", metadata={"x": 1}),
            ],
        },
    )
    assert [made.result for made in again.items] == ["unchanged", "updated", "created", "updated"]
    assert [made.id for made in again.items[:2]] == [made.id for made in first.items[:2]]
    assert (again.items[3].content_digest, again.items[3].version) == (first.items[2].content_digest, 2)
    kept = tenant.call("repository.artifacts.get", {"artifact_id": again.items[0].id})
    assert (kept.version, kept.metadata) == (1, {"k": 1})
    nothing = tenant.call(
        "repository.artifacts.create_bulk", {"on_existing": "update", "items": [item("a", content="1")]}
    )
    assert (nothing.change_set_id, nothing.first_seq) == (None, None)
    twice = {"on_existing": "update", "items": [item("a", content="new"), item("a", content="newer")]}
    assert code(tenant, "artifacts.create_bulk", **twice) == "DUPLICATE_NAME"
    assert tenant.call("repository.artifacts.get", {"artifact_id": again.items[0].id}) == kept
    other = {"on_existing": "update", "items": [{**item("a"), "artifact_type": "other"}]}
    assert code(tenant, "artifacts.create_bulk", **other) == "IMMUTABLE_FIELD"
    assert names(tenant, text="two") == ["b"]


def test_equal_content_is_stored_once(tenant: Tenant, second_connection: sa.Connection) -> None:
    tenant.call("repository.artifacts.create_bulk", {"items": [item(f"n{i}", content="x") for i in range(3)]})
    create(tenant, "again", content="x")
    count = sa.text("SELECT count(*) FROM blobs WHERE tenant_id = :t")
    assert second_connection.execute(count, {"t": tenant.tenant_id}).scalar_one() == 1


def test_damaged_bytes_never_leave(tenant: Tenant, new_database: Callable[..., str], make_spine: Any) -> None:
    url = new_database()
    here = make_tenant(make_spine(database_url=url))
    made = create(here, "a", content="true")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE blobs SET data = :d"), {"d": b"lies"})
    engine.dispose()
    assert code(here, "artifacts.content", artifact_id=made.id) == "CONTENT_CORRUPT"
    assert code(here, "revisions.content", artifact_id=made.id, revision=1) == "CONTENT_CORRUPT"


def test_collections_have_names_versions_and_tombstones(tenant: Tenant, other_tenant: Tenant) -> None:
    made = tenant.call("repository.collections.create", {"name": "c", "metadata": {"a": 1.0}})
    assert made.id.startswith("col_")
    assert (made.version, made.live_artifacts, made.planes) == (1, 0, [])
    assert code(tenant, "collections.create", name="c") == "DUPLICATE_NAME"
    assert code(tenant, "collections.create", name="d", id=made.id) == "DUPLICATE_ID"
    assert code(other_tenant, "collections.get", collection_id=made.id) == "COLLECTION_NOT_FOUND"
    change = {"collection_id": made.id, "name": "c2", "description": "d", "metadata": {"b": 2}}
    changed = tenant.call("repository.collections.update", change)
    assert (changed.version, changed.name, changed.metadata) == (2, "c2", {"a": 1.0, "b": 2})
    assert tenant.call("repository.collections.update", change).version == 2
    held = create(tenant, "held", collection_id=made.id)
    refused = tenant.dispatch("repository.collections.delete", {"collection_id": made.id})
    assert refused.error is not None
    assert (refused.error_code, refused.error.extra["count"]) == ("COLLECTION_NOT_EMPTY", 1)
    tenant.call("repository.artifacts.delete", {"artifact_id": held.id})
    deleted = tenant.call("repository.collections.delete", {"collection_id": made.id})
    assert (deleted.version, deleted.change.action) == (3, "DELETED")
    assert code(tenant, "collections.delete", collection_id=made.id) == "ALREADY_DELETED"
    assert code(tenant, "collections.get", collection_id=made.id) == "GONE"
    assert code(tenant, "collections.update", collection_id=made.id, name="x") == "GONE"
    assert code(tenant, "collections.create", name="c2") is None
    records = tenant.call("repository.changes.list", {"entity_id": made.id}).items
    assert [record.action for record in records] == ["CREATED", "UPDATED", "DELETED"]
    assert records[1].changed_fields == ["description", "metadata", "name"]


def test_collections_are_listed_in_order_of_creation(tenant: Tenant) -> None:
    for index in range(5):
        tenant.call("repository.collections.create", {"id": f"c{4 - index}", "name": f"n{index}"})
    page = tenant.call("repository.collections.list", {"limit": 3})
    rest = tenant.call("repository.collections.list", {"limit": 3, "cursor": page.next_cursor})
    assert [each.id for each in (*page.items, *rest.items)] == ["c4", "c3", "c2", "c1", "c0"]
    assert rest.next_cursor is None
    assert [each.id for each in tenant.call("repository.collections.list", {"name": "n1"}).items] == ["c3"]
