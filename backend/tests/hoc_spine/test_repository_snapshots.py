"""Snapshots: one digest for one state everywhere, exact return, merging, and refusal of every damage."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from app.domains.repository.models.snapshots import Fault
from app.kernel.canonical_json import dumps, loads
from app.kernel.merkle import MerkleRoot
from app.library import LimitError, NotFoundError, RepositoryContext, SnapshotError
from app.library_face.repository import SpineRepository
from tests.docs.pages import fences, read, rows, word
from tests.factories.databases import Databases
from tests.factories.library import BACKENDS, Backend, CountingIds, Opened, Roots, SteppingClock
from tests.factories.snapshots import Parts, populate, write_zip
from tests.factories.tenants import Tenant

Open = Callable[..., Opened]
# The digest of the checked-in snapshot: a change of it is a change of the format.
GOLDEN = Path(__file__).parent / "golden_snapshot"
GOLDEN_DIGEST = "sha256:c61a8b86cd4c3ae0cf44f4942564934d6cf6a7ce77866743b2f03fa8158a8cec"
GOLDEN_STATE = "sha256:8aecfe3dfb423644394a0d5f685a158bc940aed85d0c1ae2390ad233478d8941"


@pytest.fixture
def opened(databases: Databases, tmp_path: Path) -> Iterator[Open]:
    """Open repositories: `opened("postgres")`."""
    with ExitStack() as stack:

        def make(backend: Backend = "memory", **members: Any) -> Opened:
            urls = {"memory": "memory://", "sqlite_file": str(tmp_path / "knowledge.db")}
            made = Opened(backend, urls.get(backend) or databases.shared("postgresql"), **members)
            stack.callback(made.close)
            return made

        yield make


def twin(opened: Open, backend: Backend) -> SpineRepository:
    """Return a repository whose clock and ids are the same on every backend."""
    return opened(backend, clock=SteppingClock(), ids=CountingIds()).repo


@pytest.fixture(scope="module")
def roots(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roots]:
    """The repositories that the tests share."""
    made = Roots(tmp_path_factory.mktemp("shared"), databases.shared("postgresql"))
    yield made
    made.close()


@pytest.fixture
def repo(roots: Roots) -> SpineRepository:
    """The shared repository in memory, as a new tenant."""
    return roots.tenant("memory").repo


def export(repo: SpineRepository, path: Path) -> Path:
    """Export everything to a zip."""
    repo.export_snapshot(path)
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot with every kind of record."""
    source = Opened("memory", "memory://")
    populate(source.repo)
    path = export(source.repo, tmp_path_factory.mktemp("base") / "base.zip")
    source.close()
    return path


def refusal(repo: SpineRepository, path: Path, **options: Any) -> tuple[str, Any, Any]:
    """Return code, reason and line with which an import is refused."""
    with pytest.raises(SnapshotError) as refused:
        repo.import_snapshot(path, **options)
    error = refused.value
    return error.code, error.extra.get("reason"), error.extra.get("line")


# One digest for one state.


def test_one_state_has_one_snapshot_on_every_backend(opened: Open, tmp_path: Path) -> None:
    files = []
    for backend in BACKENDS:
        source = twin(opened, backend)
        populate(source)
        files.append(export(source, tmp_path / f"{backend}.zip").read_bytes())
    assert files[0] == files[1] == files[2]


def test_the_checked_in_snapshot_keeps_its_digest(opened: Open, tmp_path: Path) -> None:
    source = twin(opened, "memory")
    populate(source)
    made = source.export_snapshot(tmp_path / "made")
    assert (made.snapshot_digest, made.state_digest) == (GOLDEN_DIGEST, GOLDEN_STATE)
    for part in ("records.jsonl", "records.sha256", "manifest.json"):
        assert (tmp_path / "made" / part).read_bytes() == (GOLDEN / part).read_bytes()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_checked_in_snapshot_is_imported_and_comes_back(
    opened: Open, tmp_path: Path, backend: Backend
) -> None:
    repo = opened(backend).repo
    report = repo.import_snapshot(GOLDEN)
    assert (report.mode, report.conflicts_total, report.created["artifact"]) == ("adopt", 0, 4)
    assert repo.export_snapshot(tmp_path / "again.zip").snapshot_digest == GOLDEN_DIGEST


def test_a_host_of_other_habits_exports_the_same_bytes(base: Path, tmp_path: Path) -> None:
    program = """
import sys
from app.library import RepositoryContext, open_repository
with open_repository("memory://", context=RepositoryContext("t", "u")) as repository:
    repository.import_snapshot(sys.argv[1])
    repository.export_snapshot(sys.argv[2])
"""
    root = str(Path(__file__).resolve().parents[2])
    # This process, which made `base`, has the habits of its own host.
    habits = {"LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Apia", "PYTHONHASHSEED": "1"}
    target = tmp_path / "away.zip"
    subprocess.run(
        [sys.executable, "-c", program, str(base), str(target)],
        env={"PYTHONPATH": root, "PATH": os.environ["PATH"], **habits},
        check=True,
        timeout=60,
    )
    assert target.read_bytes() == base.read_bytes()


def test_two_exports_without_a_write_between_are_the_same(repo: SpineRepository, tmp_path: Path) -> None:
    populate(repo)
    first = export(repo, tmp_path / "1.zip").read_bytes()
    assert export(repo, tmp_path / "2.zip").read_bytes() == first


def test_an_empty_repository_has_a_snapshot(repo: SpineRepository, opened: Open, tmp_path: Path) -> None:
    path = export(repo, tmp_path / "empty.zip")
    other = opened().repo
    assert other.import_snapshot(path).created == {}
    assert export(other, tmp_path / "again.zip").read_bytes() == path.read_bytes()


def test_the_order_of_writing_shows_in_the_feed_and_not_in_the_state(opened: Open, tmp_path: Path) -> None:
    made = []
    for names in (("a", "b"), ("b", "a")):
        source = opened(clock=SteppingClock(), ids=CountingIds()).repo
        for name in names:
            source.create_artifact(None, name, "note", id=f"art-{name}")
        made.append(source.export_snapshot(tmp_path / f"{names[0]}.zip"))
    assert made[0].state_digest == made[1].state_digest
    assert made[0].snapshot_digest != made[1].snapshot_digest


def test_another_tenant_is_never_in_a_snapshot(opened: Open, tmp_path: Path) -> None:
    store = opened()
    other = store.repo.bind(RepositoryContext(f"{store.tenant_id}-b", "secret-actor"))
    other.create_artifact(None, "secret-name", "note", content="secret-content")
    store.repo.create_artifact(None, "mine", "note")
    data = export(store.repo, tmp_path / "mine.zip").read_bytes()
    assert b"secret" not in data
    assert store.tenant_id.encode() not in data


# Export and import are inverse.


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_import_into_nothing_comes_back_byte_for_byte(
    base: Path, opened: Open, tmp_path: Path, backend: Backend
) -> None:
    target = opened(backend).repo
    report = target.import_snapshot(base)
    assert (report.mode, report.errors, report.conflicts) == ("adopt", [], [])
    assert export(target, tmp_path / "again.zip").read_bytes() == base.read_bytes()
    assert [item.name for item in target.query_artifacts(text="hello").items] == ["two"]
    assert target.count_artifacts(metadata=[{"pointer": "/a", "op": "eq", "value": True}]) == 1
    found = target.verify()
    assert [item for item in found.findings if item.code.startswith("E")] == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_repository_goes_on_after_an_import(base: Path, opened: Open, backend: Backend) -> None:
    target = opened(backend).repo
    last = target.import_snapshot(base).last_seq
    made = target.create_artifact(None, "new", "note")
    assert made.version == 1
    assert target.list_changes(since_seq=last).items[0].seq == last + 1


def test_a_folder_and_a_zip_are_one_snapshot(repo: SpineRepository, opened: Open, tmp_path: Path) -> None:
    populate(repo)
    repo.export_snapshot(tmp_path / "folder")
    assert (tmp_path / "folder" / "info.json").is_file()
    other = opened().repo
    other.import_snapshot(tmp_path / "folder")
    assert export(other, tmp_path / "b.zip").read_bytes() == export(repo, tmp_path / "a.zip").read_bytes()


def test_a_zip_is_written_the_same_way_everywhere(base: Path) -> None:
    with zipfile.ZipFile(base) as archive:
        names = archive.namelist()
        entries = archive.infolist()
    assert names == sorted(names, key=str.encode)
    assert names[-3:] == ["manifest.json", "records.jsonl", "records.sha256"]
    assert {(e.date_time, e.compress_type, e.external_attr >> 16, e.extra) for e in entries} == {
        ((1980, 1, 1, 0, 0, 0), zipfile.ZIP_STORED, stat.S_IFREG | 0o644, b"")
    }


def test_an_import_follows_its_source(repo: SpineRepository, opened: Open, tmp_path: Path) -> None:
    ids = populate(repo)
    target = opened().repo
    target.import_snapshot(export(repo, tmp_path / "1.zip"))
    repo.update_artifact(ids["one"], name="two-and-a-half", metadata={"b": 2})
    repo.restore_artifact(ids["gone"], with_relationships=True)
    repo.delete_relationship(ids["edge"])
    repo.delete_artifact(ids["two"], mode="detach")
    repo.create_artifact(None, "two", "note", content="the name is taken anew")
    repo.update_collection(ids["papers"], name="articles")
    repo.create_collection("papers")
    repo.redact_artifact(ids["one"], reason="asked for", legal_basis="GDPR 17", revisions=[1], shared="keep")
    repo.transition_run("run-b", "running")
    second = export(repo, tmp_path / "2.zip")
    report = target.import_snapshot(second, policy="fast_forward")
    assert (report.mode, report.conflicts_total) == ("adopt", 0)
    assert export(target, tmp_path / "3.zip").read_bytes() == second.read_bytes()
    assert [f for f in target.verify().findings if f.code.startswith("E")] == []


def test_a_redacted_repository_comes_back(repo: SpineRepository, opened: Open, tmp_path: Path) -> None:
    ids = populate(repo)
    repo.redact_artifact(ids["two"], reason="asked", legal_basis="GDPR 17", shared="redact")
    path = export(repo, tmp_path / "1.zip")
    target = opened().repo
    target.import_snapshot(path)
    assert export(target, tmp_path / "2.zip").read_bytes() == path.read_bytes()
    assert b"hello world" not in path.read_bytes()


# Policies.


def test_importing_twice_depends_on_the_policy(base: Path, repo: SpineRepository, tmp_path: Path) -> None:
    repo.import_snapshot(base)
    assert refusal(repo, base)[0] == "SNAPSHOT_CONFLICT"
    for policy in ("skip_identical", "fast_forward"):
        report = repo.import_snapshot(base, policy=policy)
        assert (report.created, report.appended, report.first_seq) == ({}, {}, None)
        assert report.identical["artifact"] == 4
    assert export(repo, tmp_path / "again.zip").read_bytes() == base.read_bytes()


def test_a_repository_that_is_ahead_is_left_alone(base: Path, repo: SpineRepository, tmp_path: Path) -> None:
    repo.import_snapshot(base)
    one = repo.list_artifacts(name="one").items[0]
    repo.update_artifact(one.id, name="renamed")
    assert refusal(repo, base, policy="skip_identical")[0] == "SNAPSHOT_CONFLICT"
    report = repo.import_snapshot(base, policy="fast_forward")
    assert (report.mode, report.behind) == ("merge", {"artifact": 1})
    assert repo.get_artifact(one.id).name == "renamed"


def test_what_grew_apart_is_refused_whatever_the_policy(
    base: Path, repo: SpineRepository, opened: Open, tmp_path: Path
) -> None:
    repo.import_snapshot(base)
    one = repo.list_artifacts(name="one").items[0]
    other = opened().repo
    other.import_snapshot(base)
    repo.update_artifact(one.id, name="here")
    other.update_artifact(one.id, name="there")
    before = export(repo, tmp_path / "before.zip").read_bytes()
    path = export(other, tmp_path / "other.zip")
    with pytest.raises(SnapshotError) as refused:
        repo.import_snapshot(path, policy="fast_forward")
    assert refused.value.extra["conflicts"] == [{"kind": "artifact", "key": [one.id], "reason": "DIVERGED"}]
    assert export(repo, tmp_path / "after.zip").read_bytes() == before


def test_a_merge_makes_one_record_for_each_thing(base: Path, repo: SpineRepository) -> None:
    repo.create_artifact(None, "mine", "note")
    conflicts = repo.import_snapshot(base, policy="fast_forward", dry_run=True).conflicts
    assert [(item.kind, item.key, item.reason) for item in conflicts] == [
        ("collection", ["default"], "DIVERGED")
    ]


def test_a_name_that_is_taken_is_a_conflict(repo: SpineRepository, opened: Open, tmp_path: Path) -> None:
    source = opened().repo
    shared = source.create_collection("papers", id="col-papers")
    source.create_artifact(shared.id, "one", "note")
    repo.create_collection("papers", id="col-mine")
    path = export(source, tmp_path / "s.zip")
    report = repo.import_snapshot(path, dry_run=True)
    assert [(item.kind, item.reason) for item in report.conflicts] == [("collection", "NAME_TAKEN")]
    assert refusal(repo, path)[0] == "SNAPSHOT_CONFLICT"


def test_a_merge_brings_chains_over_whole(repo: SpineRepository, opened: Open, tmp_path: Path) -> None:
    source = opened().repo
    papers = source.create_collection("papers")
    one = source.create_artifact(papers.id, "one", "note", content="first words")
    source.update_artifact(one.id, content="second words")
    repo.create_artifact(None, "mine", "note")
    path = export(source, tmp_path / "s.zip")
    report = repo.import_snapshot(path)
    assert (report.mode, report.created) == ("merge", {"collection": 1, "artifact": 1})
    changes = repo.list_changes(action="IMPORTED").items
    assert [change.entity_id for change in changes] == [papers.id, one.id]
    assert changes[1].detail["snapshot_digest"] == report.snapshot_digest
    assert [r.revision_digest for r in repo.list_revisions(one.id).items] == [
        r.revision_digest for r in source.list_revisions(one.id).items
    ]
    assert [item.id for item in repo.query_artifacts(text="second").items] == [one.id]
    assert [f for f in repo.verify().findings if f.code.startswith("E")] == []
    source.update_artifact(one.id, content="third words")
    again = repo.import_snapshot(export(source, tmp_path / "t.zip"), policy="fast_forward")
    assert (again.mode, again.appended) == ("merge", {"artifact": 1})
    assert repo.get_content(one.id) == b"third words"
    assert repo.query_artifacts(text="second").items == []


def test_a_stub_never_erases_what_is_there(repo: SpineRepository, opened: Open, tmp_path: Path) -> None:
    source = opened().repo
    papers = source.create_collection("papers")
    one = source.create_artifact(papers.id, "one", "note", content="words")
    repo.create_artifact(None, "mine", "note")
    repo.import_snapshot(export(source, tmp_path / "s.zip"))
    source.redact_artifact(one.id, reason="asked", legal_basis="GDPR 17")
    report = repo.import_snapshot(export(source, tmp_path / "t.zip"), policy="fast_forward", dry_run=True)
    assert [item.reason for item in report.conflicts] == ["REDACTED_IN_SNAPSHOT"]
    assert repo.get_content(one.id) == b"words"


def test_a_redaction_here_is_not_undone(repo: SpineRepository, opened: Open, tmp_path: Path) -> None:
    source = opened().repo
    papers = source.create_collection("papers")
    one = source.create_artifact(papers.id, "one", "note", content="words")
    path = export(source, tmp_path / "s.zip")
    repo.import_snapshot(path)
    repo.redact_artifact(one.id, reason="asked", legal_basis="GDPR 17")
    report = repo.import_snapshot(path, policy="fast_forward")
    assert report.behind == {"artifact": 1}
    assert repo.get_revision(one.id, 1).redaction == "FULL"
    assert b"words" not in export(repo, tmp_path / "t.zip").read_bytes()


def test_a_dry_run_writes_nothing(base: Path, repo: SpineRepository, tmp_path: Path) -> None:
    before = export(repo, tmp_path / "before.zip").read_bytes()
    report = repo.import_snapshot(base, dry_run=True)
    assert (report.dry_run, report.created["artifact"], report.first_seq) == (True, 4, None)
    assert export(repo, tmp_path / "after.zip").read_bytes() == before


# Parts of a repository.


def test_a_partial_snapshot_holds_what_belongs_together(
    repo: SpineRepository, opened: Open, tmp_path: Path
) -> None:
    ids = populate(repo)
    whole = repo.export_snapshot(tmp_path / "part.zip", collections=[ids["papers"]])
    assert (whole.scope, whole.change_head) == ([ids["papers"]], None)
    # The run stays behind: the run that it goes back to has no output inside.
    assert (whole.counts["artifact"], whole.counts["operation_run"], whole.counts["change"]) == (3, 0, 0)
    assert whole.omitted["relationship"] == 2
    target = opened().repo
    report = target.import_snapshot(tmp_path / "part.zip")
    assert (report.mode, report.created) == ("merge", {"collection": 1, "artifact": 3})
    assert target.get_content(ids["one"], 1) == b"hello world"
    assert [f for f in target.verify().findings if f.code.startswith("E")] == []


def test_a_partial_snapshot_takes_runs_that_lie_inside(
    repo: SpineRepository, opened: Open, tmp_path: Path
) -> None:
    one = repo.create_artifact(None, "one", "note", content="in")
    bundle = repo.create_bundle([{"artifact_id": one.id, "role": "input"}])
    repo.create_run("copy", run_id="run-1", bundle_id=bundle.id, steps=[{"step_id": "s", "position": 0}])
    repo.transition_run("run-1", "running")
    repo.publish_run(
        "run-1",
        artifacts=[{"name": "two", "artifact_type": "note", "content": "out"}],
        status="succeeded",
        manifest={"diagnostics": []},
    )
    part = repo.export_snapshot(tmp_path / "part.zip", collections=["default"])
    kinds = ("input_bundle", "operation_run", "workflow_step", "run_output", "run_manifest")
    assert [part.counts[kind] for kind in kinds] == [1, 1, 1, 1, 1]
    target = opened().repo
    target.import_snapshot(tmp_path / "part.zip")
    assert target.get_run("run-1").outputs_total == 1
    assert target.get_manifest("run-1") == repo.get_manifest("run-1")


def test_an_unknown_collection_has_no_snapshot(repo: SpineRepository, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as refused:
        repo.export_snapshot(tmp_path / "part.zip", collections=["nowhere"])
    assert refused.value.code == "COLLECTION_NOT_FOUND"
    assert not (tmp_path / "part.zip").exists()


# Damage: each kind has its reason, and nothing is written.


def change(kind: str, number: int = 0, **members: Any) -> Callable[[Parts], None]:
    """Change members of a record, hashes and roots made anew."""

    def apply(parts: Parts) -> None:
        parts.find(kind, number)["d"].update(members)

    return apply


def drop(kind: str, number: int = 0) -> Callable[[Parts], None]:
    """Take a record away."""
    return lambda parts: parts.records.remove(parts.find(kind, number))


def swap(parts: Parts) -> None:
    first, second = parts.find("artifact", 0), parts.find("artifact", 1)
    at = parts.records.index(first)
    parts.records[at : at + 2] = [second, first]


def repeat(parts: Parts) -> None:
    first = parts.find("artifact")
    parts.records.insert(parts.records.index(first), first)


def rename_kind(parts: Parts) -> None:
    parts.find("artifact")["k"] = "planet"


def lead_away(parts: Parts) -> None:
    record = parts.find("run_output")
    record["d"]["revision"] = record["key"][2] = 9


def spoil_blob(parts: Parts) -> None:
    name = next(name for name, data in parts.blobs.items() if data)
    parts.blobs[name] = b"X" + parts.blobs[name][1:]


def lose_blob(parts: Parts) -> None:
    del parts.blobs[next(iter(parts.blobs))]


def add_blob(parts: Parts) -> None:
    parts.blobs["blobs/sha256/00/" + "0" * 64] = b"x"


def misname_blob(parts: Parts) -> None:
    parts.blobs["blobs/sha256/00/" + "1" * 64] = b"x"


DAMAGE: tuple[tuple[str, Callable[[Parts], None]], ...] = (
    ("UNSUPPORTED_VERSION", change("header", format_version=2)),
    ("UNKNOWN_KIND", rename_kind),
    ("UNKNOWN_FIELD", change("artifact", colour="red")),
    ("UNKNOWN_FIELD", change("header", colour="red")),
    ("BAD_ORDER", swap),
    ("DUPLICATE_RECORD", repeat),
    ("BAD_VALUE", change("artifact", version="1")),
    ("BAD_VALUE", change("artifact", version=True)),
    ("BAD_VALUE", change("artifact", created_at="2026-01-01T00:00:00+00:00")),
    ("BAD_VALUE", change("artifact", id="other")),
    ("BAD_VALUE", change("artifact", name=" padded", name_key=" padded")),
    ("BAD_VALUE", change("blob", state="LOST")),
    ("BAD_VALUE", change("header", scope=7)),
    ("BAD_VALUE", change("operation_run", status="running")),
    ("BLOB_MISSING", lose_blob),
    ("BLOB_MISMATCH", spoil_blob),
    ("BLOB_UNLISTED", add_blob),
    ("BLOB_UNLISTED", misname_blob),
    ("DANGLING_REFERENCE", drop("collection")),
    ("DANGLING_REFERENCE", drop("blob", 1)),
    ("DANGLING_REFERENCE", drop("artifact")),
    ("DANGLING_REFERENCE", drop("relationship", 0)),
    ("DANGLING_REFERENCE", drop("input_bundle")),
    ("DANGLING_REFERENCE", drop("operation_run", 0)),
    ("DANGLING_REFERENCE", lead_away),
    ("DANGLING_REFERENCE", change("operation_run", parent_run_id="nowhere")),
    ("BAD_VALUE", change("run_output", revision=9)),
    ("BAD_VALUE", change("operation_run", 1, parent_run_id="run-a")),
    ("REVISION_GAP", drop("revision", 0)),
    ("BAD_HEAD", change("artifact", head_revision=7)),
    ("BAD_HEAD", change("artifact", artifact_type="other")),
    ("BAD_HEAD", change("artifact", version=9)),
    ("DIGEST_MISMATCH", change("revision", metadata={"a": 2})),
    ("DIGEST_MISMATCH", change("revision", created_by="somebody")),
    ("DIGEST_MISMATCH", change("run_manifest", body={})),
    ("DIGEST_MISMATCH", change("input_bundle", bundle_digest="sha256:" + "0" * 64)),
    ("DIGEST_MISMATCH", change("context_package", purpose="another")),
    ("DIGEST_MISMATCH", change("context_item", note="another")),
    ("CHAIN_BROKEN", change("revision", 1, parent_digest="sha256:" + "0" * 64)),
    ("CHAIN_BROKEN", change("change", actor_id="somebody")),
    ("CHAIN_BROKEN", drop("change", 2)),
    ("CHAIN_BROKEN", drop("change", -1)),
)


@pytest.mark.parametrize(("reason", "damage"), DAMAGE, ids=[f"{i}-{d[0]}" for i, d in enumerate(DAMAGE)])
def test_damage_that_hides_behind_good_hashes_is_found(
    base: Path, repo: SpineRepository, tmp_path: Path, reason: str, damage: Callable[[Parts], None]
) -> None:
    parts = Parts.of(base)
    damage(parts)
    path = write_zip(tmp_path / "damaged.zip", parts.files())
    code, found, _ = refusal(repo, path)
    assert (code, found) == ("SNAPSHOT_INVALID", reason)
    assert repo.list_changes().items == []
    told = repo.verify_snapshot(path)
    assert (told.valid, [error.code for error in told.errors]) == (False, [reason])
    assert repo.import_snapshot(path, dry_run=True).errors == told.errors


def raw(name: str, alter: Callable[[bytes], bytes]) -> Callable[[dict[str, bytes]], None]:
    """Change the bytes of a file."""

    def apply(files: dict[str, bytes]) -> None:
        files[name] = alter(files[name])

    return apply


def flip(at: int) -> Callable[[bytes], bytes]:
    """Change one byte."""

    def alter(data: bytes) -> bytes:
        index = at % len(data)
        return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]

    return alter


def lose(name: str) -> Callable[[dict[str, bytes]], None]:
    """Take a file away."""
    return lambda files: files.pop(name) and None


def put(name: str) -> Callable[[dict[str, bytes]], None]:
    """Put a file beside."""
    return lambda files: files.update({name: b"x"})


def manifest(**members: Any) -> Callable[[dict[str, bytes]], None]:
    """Change members of the manifest."""

    def alter(data: bytes) -> bytes:
        return dumps(loads(data.strip()) | members).encode() + b"\n"

    return raw("manifest.json", alter)


RECORDS, HASHES = "records.jsonl", "records.sha256"
RAW: tuple[tuple[str, Callable[[dict[str, bytes]], None]], ...] = (
    ("LINE_HASH_MISMATCH", raw(RECORDS, flip(300))),
    ("LINE_HASH_MISMATCH", raw(HASHES, flip(3))),
    ("LINE_HASH_MISMATCH", raw(HASHES, lambda d: d.replace(b"  1  header", b"  1  change"))),
    ("TRUNCATED", raw(RECORDS, lambda d: d[:-5])),
    ("TRUNCATED", raw(RECORDS, lambda d: d[: d[:-1].rindex(b"\n") + 1])),
    ("TRUNCATED", lose(RECORDS)),
    ("TRUNCATED", lose(HASHES)),
    ("TRUNCATED", lose("manifest.json")),
    ("TRAILING_DATA", raw(RECORDS, lambda d: d + b"{}\n")),
    ("TRAILING_DATA", put("README")),
    ("BLOB_UNLISTED", put("blobs/sha256/zz/name")),
    ("COUNT_MISMATCH", manifest(counts={"header": 1})),
    ("COUNT_MISMATCH", manifest(blob_count=9)),
    ("COUNT_MISMATCH", manifest(blob_bytes=1.0)),
    ("MANIFEST_MISMATCH", manifest(snapshot_digest="sha256:" + "0" * 64)),
    ("MANIFEST_MISMATCH", manifest(state_digest="sha256:" + "0" * 64)),
    ("MANIFEST_MISMATCH", manifest(records_sha256="0" * 64)),
    ("MANIFEST_MISMATCH", manifest(scope=["x"])),
    ("MANIFEST_MISMATCH", manifest(colour="red")),
    ("MANIFEST_MISMATCH", raw("manifest.json", lambda _: b"[]\n")),
    ("MANIFEST_MISMATCH", raw("manifest.json", lambda _: b"no json\n")),
    ("UNSUPPORTED_VERSION", manifest(format_version=2)),
    ("UNSUPPORTED_VERSION", manifest(format="other")),
    ("NOT_CANONICAL", raw("manifest.json", lambda d: d.replace(b":", b": ", 1))),
)


@pytest.mark.parametrize(("reason", "damage"), RAW, ids=[f"{i}-{d[0]}" for i, d in enumerate(RAW)])
@pytest.mark.parametrize("form", ["zip", "folder"])
def test_damaged_bytes_are_found(
    base: Path,
    repo: SpineRepository,
    tmp_path: Path,
    form: str,
    reason: str,
    damage: Callable[[dict[str, bytes]], None],
) -> None:
    files = Parts.of(base).files()
    damage(files)
    path = tmp_path / "damaged"
    if form == "zip":
        write_zip(path, files)
    else:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    assert refusal(repo, path)[:2] == ("SNAPSHOT_INVALID", reason)
    assert repo.list_changes().items == []


@pytest.mark.parametrize(
    "alter",
    [
        lambda line: line + b"\r",
        lambda line: b"\xef\xbb\xbf" + line,
        lambda line: line.replace(b":", b": ", 1),
        lambda line: line.replace(b'"k":"artifact"', b'"k":"artifact","k":"artifact"'),
        lambda line: (
            b"{" + b",".join([line[line.index(b'"k":') : -1], line[1 : line.index(b',"k":')]]) + b"}"
        ),
        lambda line: line.replace(b'"version":1', b'"version":1.0e0'),
    ],
)
def test_a_line_has_one_form(
    base: Path, repo: SpineRepository, tmp_path: Path, alter: Callable[[bytes], bytes]
) -> None:
    parts = Parts.of(base)
    number = parts.records.index(parts.find("artifact", 1))
    lines = [dumps(record).encode() for record in parts.records]
    lines[number] = alter(lines[number])
    path = write_zip(tmp_path / "damaged.zip", parts.files(lines))
    assert refusal(repo, path) == ("SNAPSHOT_INVALID", "NOT_CANONICAL", number + 1)


def test_a_line_of_more_than_eight_megabytes_is_too_large(
    base: Path, repo: SpineRepository, tmp_path: Path
) -> None:
    parts = Parts.of(base)
    parts.find("artifact")["d"]["name"] = "x" * (8 * 1024 * 1024)
    with pytest.raises(LimitError) as refused:
        repo.import_snapshot(write_zip(tmp_path / "large.zip", parts.files()))
    assert refused.value.code == "TOO_LARGE"


def hostile(path: Path, kind: str) -> None:
    """Write a zip of an unfriendly kind."""
    with zipfile.ZipFile(path, "w") as target:
        if kind == "link":
            entry = zipfile.ZipInfo("records.jsonl")
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            target.writestr(entry, "/etc/passwd")
        elif kind == "compressed":
            target.writestr("records.jsonl", b"0" * 1000, compress_type=zipfile.ZIP_DEFLATED)
        elif kind == "double":
            target.writestr("records.jsonl", b"1")
            with pytest.warns(UserWarning, match="Duplicate"):
                target.writestr("records.jsonl", b"2")
        else:
            target.writestr(zipfile.ZipInfo(kind), b"x")


@pytest.mark.parametrize(
    "kind", ["link", "compressed", "double", "../records.jsonl", "/records.jsonl", "a\\b", "blobs//x"]
)
def test_a_hostile_archive_is_refused(repo: SpineRepository, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "hostile.zip"
    hostile(path, kind)
    assert refusal(repo, path) == ("SNAPSHOT_INVALID", "BAD_ARCHIVE", None)


@pytest.mark.parametrize("data", [b"", b"words", b"PK\x03\x04", b"PK\x05\x06" + b"\x00" * 18])
def test_what_is_no_snapshot_is_refused(repo: SpineRepository, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "none.zip"
    path.write_bytes(data)
    assert refusal(repo, path)[1] in ("BAD_ARCHIVE", "TRUNCATED")


def test_bytes_around_an_archive_are_refused(base: Path, repo: SpineRepository, tmp_path: Path) -> None:
    for number, data in enumerate((base.read_bytes() + b"more", b"before" + base.read_bytes())):
        path = tmp_path / f"{number}.zip"
        path.write_bytes(data)
        assert refusal(repo, path)[1] in ("TRAILING_DATA", "BAD_ARCHIVE")


def test_a_link_in_a_folder_is_refused(base: Path, repo: SpineRepository, tmp_path: Path) -> None:
    with zipfile.ZipFile(base) as source:
        source.extractall(tmp_path / "folder")
    shutil.move(tmp_path / "folder" / RECORDS, tmp_path / "elsewhere")
    (tmp_path / "folder" / RECORDS).symlink_to(tmp_path / "elsewhere")
    assert refusal(repo, tmp_path / "folder")[1] == "BAD_ARCHIVE"


# Over HTTP, and what is kept of it.


def test_a_snapshot_goes_through_http(
    client: TestClient, tenant: Tenant, other_tenant: Tenant, tmp_path: Path
) -> None:
    tenant.call("repository.artifacts.create", {"name": "a", "artifact_type": "note", "content": "words"})
    root = "/api/v1/repository/snapshots"
    answer = client.post(f"{root}/export", json={}, headers=tenant.headers())
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert answer.headers["snapshot-digest"].startswith("sha256:")
    assert answer.headers["content-digest"].startswith("sha-256=:")
    told = client.post(f"{root}/verify", content=answer.content, headers=tenant.headers())
    assert (told.status_code, told.json()["valid"]) == (200, True)
    assert told.json()["summary"]["snapshot_digest"] == answer.headers["snapshot-digest"]
    target = f"{root}/import?policy=skip_identical&dry_run=false"
    report = client.post(target, content=answer.content, headers=other_tenant.headers())
    assert (report.status_code, report.json()["mode"]) == (200, "adopt")
    again = client.post(f"{root}/export", headers=other_tenant.headers())
    assert again.content == answer.content
    damaged = client.post(f"{root}/import", content=answer.content[:-40], headers=other_tenant.headers())
    assert (damaged.status_code, damaged.json()["code"]) == (422, "SNAPSHOT_INVALID")
    taken = client.post(f"{root}/import", content=answer.content, headers=other_tenant.headers())
    assert (taken.status_code, taken.json()["code"]) == (409, "SNAPSHOT_CONFLICT")
    path = client.post(f"{root}/import", json={"content": str(tmp_path)}, headers=tenant.headers())
    assert (path.status_code, path.json()["reason"]) == (422, "BAD_ARCHIVE")


def test_snapshots_need_their_scopes(client: TestClient, tenant: Tenant) -> None:
    headers = tenant.headers(scopes=("repository:read", "repository:write"))
    root = "/api/v1/repository/snapshots"
    assert client.post(f"{root}/export", headers=headers).status_code == 403
    assert client.post(f"{root}/import", headers=headers).status_code == 403
    assert client.post(f"{root}/verify", headers=headers).json()["errors"][0]["code"] == "BAD_ARCHIVE"


@pytest.mark.parametrize(
    "name", ["repository.snapshots.export", "repository.snapshots.import", "repository.snapshots.verify"]
)
def test_no_value_of_json_names_a_file_of_this_host(tenant: Tenant, name: str) -> None:
    result = tenant.dispatch(name, {"content": "/etc/passwd", "path": "/etc/passwd"})
    assert result.error_code == "INVALID_INPUT"


def test_export_and_import_are_in_the_ledger(
    spine: Any, tenant: Tenant, tmp_path: Path, second_connection: Any
) -> None:
    tenant.call("repository.artifacts.create", {"name": "a", "artifact_type": "note"})
    made = tenant.call("repository.snapshots.export", {})
    rows = second_connection.execute(
        sa.text("SELECT event_type, entity_id FROM audit_ledger WHERE tenant_id = :t ORDER BY entry_id"),
        {"t": tenant.tenant_id},
    ).all()
    assert rows[-1] == ("RepositoryExported", made.snapshot_digest)


def test_an_imported_output_belongs_to_no_run_in_the_log(
    repo: SpineRepository, base: Path, opened: Open, databases: Databases
) -> None:
    store = opened("postgres")
    store.repo.import_snapshot(base)
    with store.repo._store.spine.transactions.read(store.tenant_id) as connection:
        rows = connection.execute(
            sa.text("SELECT type, run_id FROM log_leaves WHERE tenant_id = :t AND type <> 'audit'"),
            {"t": store.tenant_id},
        ).all()
    kinds = [
        "context.package",
        "context.package",
        "repository.changed",
        "run.input",
        "run.manifest",
        "run.output",
    ]
    assert sorted(row[0] for row in rows) == kinds
    assert {row[1] for row in rows} == {None}


# What the pages say.


def test_each_reason_is_on_the_page_of_the_format() -> None:
    page = [word(row["fault"]) for row in rows(read("docs/snapshot-format.md"), "fault")]
    assert page == [str(fault) for fault in Fault]
    assert {reason for reason, _ in (*DAMAGE, *RAW)} | {"NOT_CANONICAL", "BAD_ARCHIVE"} == set(page)


def test_the_program_on_the_page_of_the_library_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (program,) = fences(read("docs/repository-library.md"), "python")
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    exec(compile(program, "page", "exec"), known)
    assert [item.name for item in known["found"]] == ["first"]
    assert (tmp_path / "knowledge.zip").is_file()


@pytest.mark.parametrize(
    ("size", "root"),
    [
        (7, "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
        (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
    ],
)
def test_the_digest_is_the_published_tree_hash(size: int, root: str) -> None:
    entries = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ]
    tree = MerkleRoot()
    for entry in entries[:size]:
        tree.append(bytes.fromhex(entry))
    assert tree.hexdigest() == root


def test_the_digest_of_a_snapshot_is_the_tree_hash_of_its_lines(base: Path) -> None:
    with zipfile.ZipFile(base) as source:
        lines = source.read(RECORDS).splitlines()
        said = loads(source.read("manifest.json").strip())
    whole, state = MerkleRoot(), MerkleRoot()
    for line in lines:
        whole.append(line)
        if loads(line)["k"] not in ("header", "change"):
            state.append(line)
    assert said["snapshot_digest"] == f"sha256:{whole.hexdigest()}"
    assert said["state_digest"] == f"sha256:{state.hexdigest()}"
