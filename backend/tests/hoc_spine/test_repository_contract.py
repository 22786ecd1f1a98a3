"""The contract of a knowledge repository: one suite, run against every backend of the library."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.library import (
    KEEP,
    ConflictError,
    DuplicateError,
    GoneError,
    KnowledgeRepository,
    LimitError,
    NotFoundError,
    OpenError,
    ReferenceMissingError,
    RepositoryContext,
    RepositoryError,
    ValidationError,
    VersionMismatchError,
)
from app.library_face.repository import SpineRepository
from tests.factories.databases import Databases
from tests.factories.library import BACKENDS, Backend, Opened, Roots

Open = Callable[..., Opened]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend in turn."""
    return request.param


@pytest.fixture
def opened(backend: Backend, databases: Databases, tmp_path: Path) -> Iterator[Open]:
    """Open repositories of the test's own; they are closed at the end."""
    with ExitStack() as stack:

        def make(**members: Any) -> Opened:
            url = {"memory": "memory://", "sqlite_file": str(tmp_path / "knowledge.db")}.get(backend)
            made = Opened(backend, url or databases.shared("postgresql"), **members)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture(scope="module")
def roots(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roots]:
    """The repositories that the tests share."""
    made = Roots(tmp_path_factory.mktemp("shared"), databases.shared("postgresql"))
    yield made
    made.close()


@pytest.fixture
def store(roots: Roots, backend: Backend) -> Opened:
    """The shared repository with a tenant of the test's own."""
    return roots.tenant(backend)


@pytest.fixture
def repo(store: Opened) -> SpineRepository:
    """The open repository."""
    return store.repo


def code_of(kind: type[RepositoryError], deed: Callable[[], object]) -> str:
    """Return the code of the refusal of this kind that a call meets."""
    with pytest.raises(kind) as refusal:
        deed()
    return refusal.value.code


def make(repo: SpineRepository, name: str = "note", **members: Any) -> Any:
    """Create an artifact in the default collection."""
    return repo.create_artifact(members.pop("collection_id", None), name, "note", **members)


def test_every_backend_is_a_knowledge_repository(repo: SpineRepository, backend: Backend) -> None:
    assert isinstance(repo, KnowledgeRepository)
    assert repo.capabilities.durable is (backend != "memory")
    assert repo.schema_revision()


def test_what_was_written_is_there_after_reopening(opened: Open) -> None:
    store = opened()
    repo = store.repo
    collection = repo.create_collection("papers", description="all of them", metadata={"a": [1, 1.0, True]})
    made = make(repo, collection_id=collection.id, content="hello world", metadata={"n": 10**40, "z": -0.0})
    changed = repo.update_artifact(made.id, content=b"\xff\x00", expected_version=1)
    again = store.reopen()
    assert again.get_artifact(made.id) == changed.artifact
    assert again.get_content(made.id) == b"\xff\x00"
    assert again.get_content(made.id, 1) == b"hello world"
    assert again.get_collection(collection.id).live_artifacts == 1
    assert [item.revision for item in again.list_revisions(made.id).items] == [1, 2]


def test_metadata_comes_back_as_it_was_written(repo: SpineRepository) -> None:
    values = [1, 1.0, True, -0.0, 1e16, 1.5e-7, 10**40, "é", [], {}, None]
    made = make(repo, metadata={"all": values, **{f"v{i}": value for i, value in enumerate(values)}})
    shown = repo.get_artifact(made.id).metadata
    for found in (shown["all"], [shown[f"v{i}"] for i in range(len(values))]):
        assert [(type(one), repr(one)) for one in found] == [(type(one), repr(one)) for one in values]


def test_a_call_without_context_is_refused(repo: SpineRepository) -> None:
    bare = type(repo)(repo._store, None)
    assert code_of(ValidationError, lambda: make(bare)) == "CONTEXT_REQUIRED"
    assert code_of(ValidationError, lambda: repo.bind(RepositoryContext("", "x"))) == "CONTEXT_REQUIRED"
    assert code_of(ValidationError, lambda: repo.bind(RepositoryContext("t", ""))) == "CONTEXT_REQUIRED"


def test_actor_and_tenant_are_no_members_of_an_input(repo: SpineRepository) -> None:
    item = {"name": "n", "artifact_type": "note", "actor_id": "somebody"}
    assert code_of(ValidationError, lambda: repo.create_artifacts([item])) == "INVALID_INPUT"
    assert code_of(ValidationError, lambda: repo.list_artifacts(tenant_id="other")) == "INVALID_INPUT"


def test_a_tenant_does_not_see_another(store: Opened) -> None:
    made = make(store.repo)
    other = store.repo.bind(RepositoryContext(f"{store.tenant_id}-b", "user-2"))
    assert code_of(NotFoundError, lambda: other.get_artifact(made.id)) == "ARTIFACT_NOT_FOUND"
    assert code_of(NotFoundError, lambda: other.update_artifact(made.id, name="x")) == "ARTIFACT_NOT_FOUND"
    assert other.list_artifacts().items == []
    assert make(other).name == "note"


def test_changing_what_went_in_or_came_out_changes_nothing(repo: SpineRepository) -> None:
    metadata = {"tags": ["a"]}
    made = make(repo, metadata=metadata)
    metadata["tags"].append("b")
    made.metadata["tags"].append("c")
    assert repo.get_artifact(made.id).metadata == {"tags": ["a"]}
    with pytest.raises(Exception, match="frozen"):
        made.name = "other"


def test_keep_leaves_a_member_and_none_empties_it(repo: SpineRepository) -> None:
    made = make(repo, content="text", metadata={"a": 1}, provenance={"from": "here"})
    same = repo.update_artifact(made.id, name=KEEP, content=KEEP)
    assert (same.changed, same.change, same.artifact.version) == (False, None, 1)
    emptied = repo.update_artifact(made.id, content=None)
    assert (emptied.artifact.content_digest, repo.get_content(made.id)) == (None, None)
    assert emptied.artifact.metadata == {"a": 1}
    assert code_of(ValidationError, lambda: repo.update_artifact(made.id, name=None)) == "INVALID_INPUT"


def test_metadata_is_replaced_or_patched(repo: SpineRepository) -> None:
    made = make(repo, metadata={"a": 1, "b": 2})
    assert repo.update_artifact(made.id, metadata_patch={"a": None, "c": 3}).artifact.metadata == {
        "b": 2,
        "c": 3,
    }
    assert repo.update_artifact(made.id, metadata={"x": None}).artifact.metadata == {"x": None}


def test_an_expected_version_is_a_positive_integer(repo: SpineRepository) -> None:
    made = make(repo)
    bad: tuple[Any, ...] = (0, -1, True, "1", 1.0)
    for version in bad:
        with pytest.raises(ValidationError, match="INVALID_INPUT"):
            repo.update_artifact(made.id, name="x", expected_version=version)


def test_a_stale_version_is_refused_with_the_current_one(repo: SpineRepository) -> None:
    made = make(repo)
    repo.update_artifact(made.id, name="b", expected_version=1)
    with pytest.raises(VersionMismatchError) as refusal:
        repo.update_artifact(made.id, name="c", expected_version=1)
    assert (refusal.value.code, refusal.value.extra["current_version"]) == ("VERSION_MISMATCH", 2)


def test_each_kind_of_refusal_has_its_class(repo: SpineRepository) -> None:
    made = make(repo)
    endless = {"a": float("nan")}
    assert code_of(DuplicateError, lambda: make(repo)) == "DUPLICATE_NAME"
    assert code_of(DuplicateError, lambda: make(repo, "b", id=made.id)) == "DUPLICATE_ID"
    assert code_of(ReferenceMissingError, lambda: make(repo, collection_id="no")) == "REFERENCE_NOT_FOUND"
    assert code_of(ValidationError, lambda: make(repo, " b")) == "INVALID_NAME"
    assert code_of(ValidationError, lambda: make(repo, "b", metadata=endless)) == "INVALID_METADATA"
    assert code_of(ValidationError, lambda: make(repo, "b", metadata={1: 2})) == "INVALID_METADATA"
    assert code_of(LimitError, lambda: make(repo, "b", content=b"x" * (16 * 1024 * 1024 + 1))) == "TOO_LARGE"
    assert code_of(ConflictError, lambda: repo.delete_collection("default")) == "COLLECTION_NOT_EMPTY"
    repo.delete_artifact(made.id)
    assert code_of(GoneError, lambda: repo.get_artifact(made.id)) == "GONE"
    assert code_of(GoneError, lambda: repo.delete_artifact(made.id)) == "ALREADY_DELETED"


def test_the_state_at_a_change_or_time_is_shown(repo: SpineRepository) -> None:
    made = make(repo, content="one")
    first = repo.list_changes(entity_id=made.id).items[-1]
    repo.update_artifact(made.id, name="two")
    assert repo.get_artifact(made.id, as_of=first.seq).name == "note"
    assert repo.get_artifact(made.id, as_of=repo.get_artifact(made.id).updated_at).name == "two"
    assert (
        code_of(ValidationError, lambda: repo.get_artifact(made.id, revision=1, as_of=9)) == "INVALID_QUERY"
    )


def test_the_reason_of_the_context_stands_in_for_a_missing_one(store: Opened) -> None:
    repo = store.repo.bind(store.context(reason="monthly load", trace_id="ab" * 16, request_id="req-7"))
    made = make(repo)
    repo.delete_artifact(made.id, reason="by mistake")
    changes = repo.list_changes(entity_id=made.id).items
    assert [change.reason for change in changes] == ["monthly load", "by mistake"]
    assert {(change.trace_id, change.request_id) for change in changes} == {("ab" * 16, "req-7")}


def test_a_write_may_be_made_under_a_workflow_run(store: Opened) -> None:
    store.repo.create_run("load", run_id="load-1")
    under = store.repo.bind(store.context(run_id="load-1"))
    made = make(under, "a")
    with under.transaction() as tx:
        make(tx, "b")
    changes = store.repo.list_changes(run_id="load-1").items
    assert changes[1].entity_id == made.id
    assert len(changes) == 3
    lost = store.repo.bind(store.context(run_id="load-2"))
    assert code_of(NotFoundError, lambda: make(lost, "c")) == "RUN_NOT_FOUND"
    with pytest.raises(NotFoundError), lost.transaction():
        pass


def test_a_query_finds_by_text_and_metadata(repo: SpineRepository) -> None:
    made = make(repo, content="the quick brown fox", metadata={"k": 1})
    make(repo, "other", content="the slow fox", metadata={"k": True})
    found = repo.query_artifacts(text="quick FOX").items
    assert [item.id for item in found] == [made.id]
    assert repo.count_artifacts(metadata=[{"pointer": "/k", "op": "eq", "value": 1.0}]) == 1


def test_a_list_is_the_union_of_its_pages(repo: SpineRepository) -> None:
    repo.create_artifacts([{"name": f"n{i}", "artifact_type": "note"} for i in range(7)])
    seen: list[str] = []
    cursor = None
    while True:
        page = repo.list_artifacts(limit=3, cursor=cursor)
        seen += [item.name for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [f"n{i}" for i in range(7)]


# Transactions.


def test_a_transaction_is_one_change_set(repo: SpineRepository) -> None:
    with repo.transaction() as tx:
        made = make(tx, "a")
        make(tx, "b")
        assert tx.get_artifact(made.id).name == "a"
    changes = repo.list_changes().items
    assert len({change.change_set_id for change in changes}) == 1
    assert [change.seq for change in changes] == [1, 2, 3]


def test_an_exception_leaves_no_trace_of_a_transaction(repo: SpineRepository) -> None:
    make(repo, "before")

    def give_up() -> None:
        with repo.transaction() as tx:
            make(tx, "a", content="unwritten words")
            raise KeyError

    with pytest.raises(KeyError):
        give_up()
    assert [item.name for item in repo.list_artifacts().items] == ["before"]
    assert repo.query_artifacts(text="unwritten").items == []
    make(repo, "after")
    assert [change.seq for change in repo.list_changes().items] == [1, 2, 3]


def test_a_refusal_inside_does_not_spoil_what_follows(repo: SpineRepository) -> None:
    with repo.transaction() as tx:
        make(tx, "a")
        assert code_of(DuplicateError, lambda: make(tx, "a")) == "DUPLICATE_NAME"
        assert code_of(NotFoundError, lambda: tx.get_artifact("nowhere")) == "ARTIFACT_NOT_FOUND"
        make(tx, "b")
    assert [item.name for item in repo.list_artifacts().items] == ["a", "b"]


def test_an_inner_transaction_goes_back_alone(repo: SpineRepository) -> None:

    def give_up(outer: SpineRepository) -> None:
        with outer.transaction() as inner:
            make(inner, "b")
            raise KeyError

    with repo.transaction() as outer:
        make(outer, "a")
        with pytest.raises(KeyError):
            give_up(outer)
        with outer.transaction() as inner:
            make(inner, "c")
    assert [item.name for item in repo.list_artifacts().items] == ["a", "c"]
    assert [change.seq for change in repo.list_changes().items] == [1, 2, 3]


def test_two_names_are_swapped_in_one_transaction(repo: SpineRepository) -> None:
    a, b = make(repo, "a"), make(repo, "b")
    with repo.transaction() as tx:
        tx.update_artifact(a.id, name="c")
        tx.update_artifact(b.id, name="a")
        tx.update_artifact(a.id, name="b")
    assert (repo.get_artifact(a.id).name, repo.get_artifact(b.id).name) == ("b", "a")


def test_nobody_sees_a_transaction_before_its_end(store: Opened, backend: Backend) -> None:
    make(store.repo, "a")
    seen: list[int] = []

    def look() -> None:
        seen.append(len(store.repo.list_artifacts().items))

    watcher = threading.Thread(target=look)
    with store.repo.transaction() as tx:
        make(tx, "b")
        watcher.start()
        watcher.join(0.2 if backend == "memory" else None)
    watcher.join()
    # A database in memory has no second version of a page: who reads waits for who writes.
    assert seen == [2 if backend == "memory" else 1]
    assert len(store.repo.list_artifacts().items) == 2


def test_sixteen_threads_make_one_name_once(repo: SpineRepository) -> None:
    make(repo, "first")
    barrier = threading.Barrier(16)
    outcomes: list[str] = []

    def race() -> None:
        barrier.wait()
        try:
            make(repo, "contested")
            outcomes.append("made")
        except RepositoryError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=race) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["DUPLICATE_NAME"] * 15 + ["made"]
    assert repo.count_artifacts(name="contested") == 1
    assert [change.seq for change in repo.list_changes().items] == [1, 2, 3]


# Opening and closing.


def test_a_closed_repository_refuses_everything(opened: Open) -> None:
    store = opened()
    bound = store.repo.bind(store.context())
    store.repo.close()
    store.repo.close()
    assert code_of(OpenError, bound.list_artifacts) == "REPOSITORY_CLOSED"
    assert code_of(OpenError, lambda: store.repo.bind(store.context())) == "REPOSITORY_CLOSED"
    assert code_of(OpenError, store.repo.schema_revision) == "REPOSITORY_CLOSED"
    with pytest.raises(OpenError), store.repo.transaction():
        pass


def test_a_transaction_of_another_view_makes_a_writer_wait(store: Opened) -> None:
    other = store.repo.bind(RepositoryContext(store.tenant_id, "user-2"))
    outcomes: list[str] = []

    def write() -> None:
        outcomes.append(make(other, "other").name)

    with store.repo.transaction() as tx:
        make(tx, "mine")
        writer = threading.Thread(target=write)
        writer.start()
        writer.join(0.2)
        assert outcomes == []
    writer.join()
    assert outcomes == ["other"]
