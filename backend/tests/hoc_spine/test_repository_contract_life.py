"""The contract of a knowledge repository, continued: graph, runs, redaction, upkeep, snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.library import (
    ConflictError,
    DuplicateError,
    GoneError,
    ReferenceMissingError,
    RepositoryContext,
    RepositoryError,
    ValidationError,
    VersionMismatchError,
    open_repository,
)
from app.library_face.repository import SpineRepository
from tests.factories.databases import Databases
from tests.factories.library import BACKENDS, Backend, Opened, Roots, SteppingClock


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend in turn."""
    return request.param


@pytest.fixture
def own(backend: Backend, databases: Databases, tmp_path: Path) -> Iterator[Opened]:
    """A repository of the test's own, with `reopen()` and a clock that the test moves."""
    url = {"memory": "memory://", "sqlite_file": str(tmp_path / "knowledge.db")}.get(backend)
    opened = Opened(backend, url or databases.shared("postgresql"), clock=SteppingClock())
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def roots(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roots]:
    """The repositories that the other tests share."""
    folder = tmp_path_factory.mktemp("shared")
    made = Roots(folder, databases.shared("postgresql"), SteppingClock())
    yield made
    made.close()


@pytest.fixture
def store(roots: Roots, backend: Backend) -> Opened:
    """The shared repository with a tenant of the test's own, and a clock that only goes forward."""
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


def notes(repo: SpineRepository, *names: str, **members: Any) -> list[str]:
    """Create notes and return their ids."""
    return [repo.create_artifact(None, name, "note", **members).id for name in names]


def is_clean(repo: SpineRepository) -> bool:
    """Tell whether a check of everything finds nothing."""
    return bool(repo.verify().clean)


def test_a_graph_is_there_after_reopening(own: Opened) -> None:
    repo = own.repo
    a, b, c = notes(repo, "a", "b", "c")
    first = repo.create_relationship(a, b, "derived_from", source_revision=1, metadata={"w": 1.0})
    repo.create_relationship(b, c, "derived_from")
    for refused, deed in (
        ("RELATIONSHIP_CYCLE", lambda: repo.create_relationship(c, a, "derived_from")),
        ("ARTIFACT_HAS_RELATIONSHIPS", lambda: repo.delete_artifact(b)),
    ):
        assert code_of(ConflictError, deed) == refused
    assert code_of(DuplicateError, lambda: repo.create_relationship(a, b, "derived_from")) == (
        "DUPLICATE_RELATIONSHIP"
    )
    assert code_of(ReferenceMissingError, lambda: repo.create_relationship(a, "no", "cites")) == (
        "ENDPOINT_NOT_FOUND"
    )
    assert code_of(ValidationError, lambda: repo.create_relationship(a, a, "cites")) == "SELF_RELATIONSHIP"
    repo.update_relationship(first.id, metadata_patch={"w": 2}, expected_version=1)
    again = own.reopen()
    kept = again.get_relationship(first.id)
    assert (kept.version, kept.metadata, kept.source_revision) == (2, {"w": 2}, 1)
    assert [edge.target_id for edge in again.list_relationships().items] == [b, c]
    assert [node.id for node in again.lineage(a, direction="upstream").nodes] == [a, b, c]
    assert [item.artifact_id for item in again.neighbors(b, direction="in").items] == [a]
    assert [item.id for item in again.query_artifacts(related_to={"artifact_id": a}).items] == [b]
    done = again.delete_artifact(b, mode="detach")
    assert (len(done.detached), again.count_relationships()) == (2, 0)
    again.restore_artifact(b, with_relationships=True)
    assert again.count_relationships() == 2
    again.delete_relationship(first.id)
    assert code_of(GoneError, lambda: again.get_relationship(first.id)) == "GONE"
    assert is_clean(again)


def test_the_state_of_a_run_is_there_after_reopening_and_who_lost_it_cannot_end_it(own: Opened) -> None:
    clock = own.clock
    assert clock is not None
    repo = own.repo
    (source,) = notes(repo, "source", content="text")
    bundle = repo.create_bundle([{"artifact_id": source, "role": "input"}])
    steps = [{"step_id": "read", "position": 0}, {"step_id": "write", "position": 1, "depends_on": ["read"]}]
    run = repo.create_run("summarise", bundle_id=bundle.id, parameters={"k": 1.0}, steps=steps).run_id
    repo.claim_run(run, worker="one", lease_seconds=60)
    repo.transition_run(run, "running", worker="one")
    repo.put_step(run, "read", status="running", worker="one")
    again = own.reopen()
    kept = again.get_run(run)
    assert (kept.status, kept.lease_owner, kept.parameters) == ("running", "one", {"k": 1.0})
    assert [step.status for step in again.list_steps(run).items] == ["running", "pending"]
    take = {"worker": "two", "lease_seconds": 60}
    assert code_of(ConflictError, lambda: again.claim_run(run, **take)) == "LEASE_HELD"
    assert again.list_resumable().items == []
    clock.moment += timedelta(seconds=61)
    assert [item.run_id for item in again.list_resumable().items] == [run]
    again.claim_run(run, **take)
    for late in (
        lambda: again.transition_run(run, "succeeded", worker="one"),
        lambda: again.put_step(run, "read", status="succeeded", worker="one"),
    ):
        assert code_of(ConflictError, late) == "LEASE_HELD"
    out = {"name": "out", "artifact_type": "note", "content": "result"}
    published = again.publish_run(run, artifacts=[out], status="succeeded", manifest={}, worker="two")
    assert code_of(ConflictError, lambda: again.seal_manifest(run, environment={"other": 1})) == "SEALED"
    assert again.seal_manifest(run).changed is False
    last = own.reopen()
    assert last.get_manifest(run).manifest_digest == published.manifest.manifest_digest
    assert [item.role for item in last.get_run(run).outputs] == ["output"]
    made = last.get_run(run).outputs[0].artifact_id
    assert [
        node.id for node in last.lineage(made, direction="upstream").nodes if node.kind == "artifact"
    ] == [
        made,
        source,
    ]
    assert is_clean(last)


def test_what_was_redacted_stays_a_stub_everywhere(own: Opened, tmp_path: Path) -> None:
    repo = own.repo
    (secret,) = notes(repo, "secret plan", content="secret words", metadata={"who": "me"})
    repo.update_artifact(secret, content="more secret words")
    package = repo.create_context_package("context", [{"kind": "artifact", "artifact_id": secret}])
    bundle = repo.create_bundle([{"artifact_id": secret, "revision": 1, "role": "input"}])
    digests = [item.revision_digest for item in repo.list_revisions(secret).items]
    repo.redact_artifact(secret, revisions="all", reason="asked for", legal_basis="a law")
    again = own.reopen()
    assert code_of(GoneError, lambda: again.get_content(secret)) == "CONTENT_REDACTED"
    assert code_of(GoneError, lambda: again.get_content(secret, 1)) == "CONTENT_REDACTED"
    stub = again.get_artifact(secret)
    assert (stub.name, stub.metadata, stub.provenance) == (f"redacted:{secret}", None, None)
    revisions = again.list_revisions(secret).items
    assert [(item.name, item.metadata, item.revision_digest) for item in revisions] == [
        (None, None, digest) for digest in digests
    ]
    assert again.query_artifacts(text="secret").items == []
    condition = {"pointer": "/who", "op": "exists", "value": True}
    assert again.query_artifacts(metadata=[condition]).items == []
    resolved = again.get_context_package(package.id, resolve=True)
    assert [item.resolution for item in resolved.items] == ["redacted"]
    assert [item.target_state for item in again.get_bundle(bundle.id).items] == ["redacted"]
    assert is_clean(again)
    again.export_snapshot(tmp_path / "snapshot")
    files = [path.read_bytes() for path in (tmp_path / "snapshot").rglob("*") if path.is_file()]
    assert b"secret" not in b"".join(files)


def test_a_version_that_went_away_and_came_back_is_another_one(repo: SpineRepository) -> None:
    (made,) = notes(repo, "a", content="A")
    repo.update_artifact(made, content="B")
    assert repo.update_artifact(made, content="A").artifact.version == 3
    for version in (1, 2, 4):
        stale = code_of(
            VersionMismatchError,
            lambda version=version: repo.update_artifact(made, content="C", expected_version=version),
        )
        assert stale == "VERSION_MISMATCH"
    assert repo.update_artifact(made, content="C", expected_version=3).changed


def test_bytes_that_nothing_needs_are_collected_and_the_rest_stays(own: Opened) -> None:
    clock = own.clock
    assert clock is not None
    repo = own.repo
    gone, kept = notes(repo, "gone", content="only here") + notes(repo, "kept", content="still read")
    repo.delete_artifact(gone)
    clock.moment += timedelta(days=31)
    assert (repo.gc().candidates, repo.gc(dry_run=False).collected) == (1, 1)
    again = own.reopen()
    assert code_of(GoneError, lambda: again.get_content(gone, 1)) == "CONTENT_COLLECTED"
    assert code_of(ConflictError, lambda: again.restore_artifact(gone)) == "RESTORE_IMPOSSIBLE"
    assert again.get_content(kept) == b"still read"
    assert is_clean(again)


def test_the_changes_replayed_from_any_number_give_the_state(repo: SpineRepository) -> None:
    """The feed says of every artifact version, last revision and its digest, and whether it is live."""
    shelf = repo.create_collection("shelf").id
    a, b = notes(repo, "a", "b", content="one")
    repo.update_artifact(a, content="two", name="c")
    repo.create_artifacts([{"name": "a", "artifact_type": "note"}, {"name": "d", "artifact_type": "note"}])
    repo.create_relationship(a, b, "cites")
    repo.delete_artifact(b, mode="detach")
    repo.update_artifact(a, collection_id=shelf)
    repo.restore_artifact(b, new_name="e")
    repo.redact_artifact(a, revisions=[1], reason="asked for", legal_basis="a law", shared="keep")
    feed = repo.list_changes(limit=500).items
    state: dict[str, tuple[Any, ...]] = {}
    for record in feed:
        if record.entity_type != "ARTIFACT":
            continue
        revision = record.new_revision or record.old_revision
        digest = record.new_revision_digest or record.old_revision_digest
        state[record.entity_id] = (record.new_version, revision, digest, record.action == "DELETED")
        for identifier, expected in state.items():
            seen = repo.get_artifact(identifier, as_of=record.seq, include_deleted=True)
            shown = (seen.version, seen.head_revision, seen.revision_digest, seen.deleted_at is not None)
            assert shown == expected
            said = repo.get_revision(identifier, int(expected[1]))
            assert seen.name == said.name
    assert [record.seq for record in feed] == list(range(1, len(feed) + 1))
    now = repo.list_artifacts(include_deleted=True).items
    assert {
        item.id: (item.version, item.head_revision, item.revision_digest, item.deleted_at is not None)
        for item in now
    } == state


# A database in memory has no second version of a page: there, who writes waits for who reads.
@pytest.mark.parametrize("backend", ["sqlite_file", "postgres"])
def test_what_is_written_during_an_export_stays_out(store: Opened, tmp_path: Path) -> None:
    repo = store.repo
    notes(repo, "before", content="words")
    alone = repo.export_snapshot(tmp_path / "alone.zip")
    written: list[str] = []

    with open_repository(store.url, context=store.context()) as other:

        def interrupt(_c: Any, _cursor: Any, statement: str, _p: Any, _x: Any, _m: bool) -> None:
            if "FROM artifact_revisions" in statement and not written:
                written.extend(notes(other, "meanwhile", content="other words"))

        engine = repo._store.spine.transactions.engine
        sa.event.listen(engine, "before_cursor_execute", interrupt)
        during = repo.export_snapshot(tmp_path / "during.zip")
        sa.event.remove(engine, "before_cursor_execute", interrupt)
    assert written
    assert during.snapshot_digest == alone.snapshot_digest
    assert repo.export_snapshot(tmp_path / "after.zip").counts["artifact"] == 2


def test_a_snapshot_goes_into_another_tenant_of_the_same_database(store: Opened, tmp_path: Path) -> None:
    made = notes(store.repo, "a", content="words")
    exported = store.repo.export_snapshot(tmp_path / "a.zip")
    other = store.repo.bind(RepositoryContext(f"{store.tenant_id}-b", "user-2"))
    other.import_snapshot(tmp_path / "a.zip")
    assert other.get_content(made[0]) == b"words"
    assert other.export_snapshot(tmp_path / "b.zip").snapshot_digest == exported.snapshot_digest
    other.update_artifact(made[0], content="other words")
    assert store.repo.get_content(made[0]) == b"words"
    assert is_clean(other)
