"""Archives of a log: what goes is in them, they verify alone, and nothing counts before it was read back."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cryptography
import pytest
import sqlalchemy as sa

from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.coordinators.retention_archive import publish
from app.hoc_spine.log_verifier import LogVerifier
from app.kernel.errors import HocError
from tests.factories.bundles import OTHER_KEY, VERIFIER_FILE, header_of, load_verifier
from tests.factories.databases import Databases, Dialect
from tests.factories.logs import LogWorld, standing_world
from tests.factories.processes import fork
from tests.factories.steering import SteerableClock
from tests.factories.tenants import make_tenant
from tests.factories.worlds import World, make_world, start_run, step, without_triggers

verifier = load_verifier()
LONG_AGO = timedelta(days=3000)


@pytest.fixture(scope="module")
def log(
    databases: Databases, dialect: Dialect, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LogWorld]:
    """A tenant with a log of which most is over age: many runs, of which one goes on."""
    folder = tmp_path_factory.mktemp("log")
    write_new_key(folder / "log-key.pem")
    clock = SteerableClock()
    clock.freeze(datetime.now(UTC) - LONG_AGO)
    with standing_world(databases.new(dialect), folder, facts=0, clock=clock) as world:
        plane = make_world(world.spine, world.tenant, log_queries=True)
        for number in range(37):
            _run(world, plane.with_run_of_its_own(), number)
        world.sequence()
        clock.reset()
        start_run(world.tenant)
        world.sequence()
        yield world


def _run(log: LogWorld, world: World, number: int) -> None:
    world.access(f"refund {number}").unwrap()
    world.append(step(0), step(1))
    if number % 10 == 3:
        world.append(step(2))
    world.complete()
    if number == 7:
        asked = {"scope": "RUN", "scope_id": world.run_id, "reason": "asked"}
        log.tenant.call("evidence.erase", asked)


def operate(log: LogWorld, name: str, payload: Any) -> Any:
    """Dispatch an operation of the operator inside the tenant."""
    return log.tenant.call(name, payload, door="worker")


def archive(log: LogWorld, folder: Path, *, with_values: bool = False) -> tuple[Any, bytes]:
    """Archive what is over age, as the command does, and return its record and its bytes."""
    wish = {"folder": str(folder), "with_values": with_values}
    written = operate(log, "ops.retention.write_archive", wish)
    publish(written)
    kept = operate(log, "ops.retention.record_archive", written.archive)
    return kept, Path(kept.path).read_bytes()


def refusal(log: LogWorld, folder: Path, **options: Any) -> str:
    """Return code and detail of the refusal of an archive."""
    with pytest.raises(HocError) as refused:
        archive(log, folder, **options)
    return f"{refused.value.code}: {refused.value.detail}"


def hoc(log: LogWorld, name: str, *arguments: str, code: int = 0) -> str:
    """Run a command of `hoc retention`."""
    return log.hoc("retention", name, "--tenant-id", log.tenant_id, *arguments, code=code)


def check(log: LogWorld, data: bytes, **options: Any) -> Any:
    """Return the report of the verifier file, which trusts the log's key."""
    keys = (verifier.parse_vkey(log.key.vkey(log.origin)),)
    return verifier.verify_file(io.BytesIO(data), verifier.Options(keys=keys, strict=True, **options))


def recorded(log: LogWorld) -> int:
    """Return how many archives the database knows."""
    with log.connect() as connection:
        return len(log.rows(connection, "SELECT archive_id FROM log_archives WHERE tenant_id = :t"))


def test_an_archive_holds_what_goes_and_is_recorded_with_a_fact_and_an_entry(
    log: LogWorld, tmp_path: Path
) -> None:
    plan = json.loads(hoc(log, "plan", "--json"))
    shown = hoc(log, "archive", "--to", str(tmp_path / "new" / "folder"), "--with-values", "--json")
    said = json.loads(shown)
    data = Path(said["path"]).read_bytes()
    report = check(log, data)
    figures = report.figures
    assert report.verdict == "VERIFIED", report.failures
    assert (figures["facts"] + figures["late"], figures["runs"]) == (plan["facts"], plan["runs"])
    assert (figures["archive"], figures["to"], figures["completeness"]) == (
        said["archive_id"], plan["cut"], "COMPLETE",
    )  # fmt: skip
    counts = {"statements": plan["facts"], "runs": plan["runs"], "steps": figures["steps"]}
    assert said["counts"] == counts | {"root": figures["root"], "values": said["counts"]["values"]}
    assert (said["sha256"], said["size"]) == (hashlib.sha256(data).hexdigest(), len(data))
    # The run that was erased has its erasure in the context, which stays in the log.
    values = figures["values"]
    assert (values["erased"], values["withheld"], values["tampered"]) == (4, 0, 0)
    # Each step, and of each run its goal and its query.
    assert values["intact"] + values["erased"] == figures["steps"] + 2 * figures["runs"] > 100
    assert [part["lines"] for part in header_of(data)["sections"][:2]] == [1, plan["facts"]]
    assert b"refund 8" in data
    assert b"refund 7" not in data

    with log.connect() as connection:
        (row,) = log.rows(
            connection,
            "SELECT * FROM log_archives WHERE tenant_id = :t AND archive_id = :a",
            a=said["archive_id"],
        )
        leaf = "SELECT type, ref_table, statement FROM log_leaves WHERE tenant_id = :t AND fact_id = :f"
        (fact,) = log.rows(connection, leaf, f=row["fact_id"])
        repeated = "SELECT statement FROM log_leaves WHERE tenant_id = '_system' AND type = 'log.archived'"
        noted = [json.loads(text) for text in connection.execute(sa.text(repeated)).scalars()]
    assert (fact["type"], fact["ref_table"]) == ("log.archived", "log_archives")
    body = json.loads(fact["statement"])["body"]
    assert (body["sha256"], body["counts"], body["to_idx"]) == (said["sha256"], said["counts"], plan["cut"])
    assert [(other["table"], other["body"]) for other in noted if other["body"]["path"] == said["path"]] == [
        (None, body)
    ]
    (entry, *_) = log.tenant.call("logs.audit_list", {"event_type": "EvidenceArchived"}).items
    assert (entry.entity_type, entry.entity_id) == ("EVIDENCE", said["archive_id"])
    assert Path(said["path"]).stat().st_mode & 0o777 == 0o600


def test_values_are_in_an_archive_when_asked_for_and_archives_are_listed_newest_first(
    log: LogWorld, tmp_path: Path
) -> None:
    said, data = archive(log, tmp_path)
    report = check(log, data)
    assert report.verdict == "VERIFIED", report.failures
    assert said.counts.values == 0
    assert report.figures["values"]["withheld"] > 100
    assert b"refund 8" not in data
    # Nothing has changed since: but for its name and values the second is as the first.
    later, again = archive(log, tmp_path)
    assert data.split(b"\n")[1:] == again.split(b"\n")[1:]
    first = log.tenant.call("log.archives.list", {"limit": 1})
    second = log.tenant.call("log.archives.list", {"limit": 1, "cursor": first.next_cursor})
    assert (first.items, second.items) == ([later], [said])
    every = log.tenant.call("log.archives.list").items
    assert len({item.archive_id for item in every}) == len(every) == recorded(log)


def test_the_verifier_file_alone_reads_an_archive(log: LogWorld, tmp_path: Path) -> None:
    said, _ = archive(log, tmp_path, with_values=True)
    library = tmp_path / "library"
    library.mkdir()
    site = Path(cryptography.__file__).parents[1]
    for name in ("cryptography", "cffi", *(path.name for path in site.glob("_cffi_backend*"))):
        if (site / name).exists():
            (library / name).symlink_to(site / name)
    (tmp_path / "hoc_verify.py").write_bytes(VERIFIER_FILE.read_bytes())
    command = [
        sys.executable,
        "-S",
        "hoc_verify.py",
        said.path,
        "--key",
        log.key.vkey(log.origin),
        "--json",
    ]
    ended = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(library)}, capture_output=True, timeout=60, check=False
    )
    assert (ended.returncode, json.loads(ended.stdout)["verdict"]) == (0, "VERIFIED"), ended.stderr
    shown = log.hoc("verify", said.path, "--key", log.key.vkey(log.origin))
    assert f"archive {said.archive_id} of {log.tenant_id}" in shown


def test_each_damage_of_a_real_archive_is_found(log: LogWorld, tmp_path: Path) -> None:
    _, data = archive(log, tmp_path, with_values=True)
    lines = data.splitlines(keepends=True)
    begin = dict(zip(("context", "statements", "traces", "values"), _starts(data), strict=True))

    def flipped(at: int) -> bytes:
        line = bytearray(lines[at])
        line[len(line) // 2] ^= 1
        return b"".join([*lines[:at], bytes(line), *lines[at + 1 :]])

    at = begin["statements"] + 3
    for name, damaged, codes in (
        ("statement", flipped(at), {"NOT_INCLUDED"}),
        ("step", flipped(begin["traces"] + 1), {"HEAD_MISMATCH"}),
        ("value", flipped(begin["values"] + 1), {"VALUE_TAMPERED"}),
        ("dropped", b"".join([*lines[:at], *lines[at + 1 :]]), {"LINE_COUNT", "NOT_INCLUDED"}),
        ("repeated", b"".join([*lines[:at], *lines[at - 1 :]]), {"LINE_COUNT", "DUPLICATE_FACT"}),
        ("swapped", b"".join([*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]), {"NOT_INCLUDED"}),
        ("cut", data[:-20], {"LINE_COUNT"}),
    ):
        report = check(log, damaged)
        assert report.exit_code in (1, 2), name
        assert report.unreadable or codes <= report.codes, (name, report.codes)
    other = OTHER_KEY.vkey(log.origin)
    trusted = verifier.Options(keys=(verifier.parse_vkey(other),))
    assert verifier.verify_file(io.BytesIO(data), trusted).codes == {"BAD_SIGNATURE"}


def _starts(data: bytes) -> list[int]:
    """Return the line at which each section begins."""
    lines = [part["lines"] for part in header_of(data)["sections"]]
    return [1 + sum(lines[:place]) for place in range(len(lines))]


def test_what_does_not_read_back_as_it_was_written_is_never_recorded(
    log: LogWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, sync = recorded(log), os.fsync

    def spoil(spoiled: Callable[[Path], None]) -> None:
        def fsync(descriptor: int) -> None:
            sync(descriptor)
            for file in tmp_path.glob(".arc_*.part"):
                spoiled(file)

        monkeypatch.setattr(os, "fsync", fsync)

    def lie(at: bytes) -> Callable[[Path], None]:
        """Return a disk that keeps one letter wrong after it said that it has everything."""

        def write(file: Path) -> None:
            data = bytearray(file.read_bytes())
            place = data.index(at) + len(at)
            # The folder is synced too, after the file.
            if data[place] != ord("~"):
                data[place] = ord("~")
                file.write_bytes(data)

        return write

    def full(_file: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for disk, codes in (
        (lie(b'"type":"run.'), ("ARCHIVE_UNVERIFIED", "NOT_INCLUDED")),
        # No hash of the log covers it, and still it is not what was written.
        (lie(b'"id":"arc_'), ("ARCHIVE_UNVERIFIED", "ARCHIVE_DIFFERS")),
        (lie(b'{"arc'), ("ARCHIVE_UNVERIFIED", "UNREADABLE")),
        (full, ("STORAGE_FAILED", "No space left")),
    ):
        spoil(disk)
        said = refusal(log, tmp_path)
        assert all(code in said for code in codes), said
        assert list(tmp_path.iterdir()) == []
    spoil(lie(b'"type":"run.'))
    assert "ARCHIVE_UNVERIFIED" in hoc(log, "archive", "--to", str(tmp_path), code=1)
    monkeypatch.undo()
    (tmp_path / "file").write_text("x")
    assert "STORAGE_FAILED" in refusal(log, tmp_path / "file")
    assert recorded(log) == before


def test_a_writer_that_is_killed_leaves_nothing_that_counts(log: LogWorld, tmp_path: Path) -> None:
    before, sync = recorded(log), os.fsync

    def die(descriptor: int) -> None:
        # The file is whole by now, and has not been read back.
        if list(tmp_path.glob(".arc_*.part")):
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    child = fork()
    if not child:
        try:
            os.fsync = die  # type: ignore[assignment]
            hoc(log, "archive", "--to", str(tmp_path))
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert recorded(log) == before
    left = [path.name for path in tmp_path.iterdir()]
    assert left
    assert all(name.startswith(".arc_") and not name.endswith(".hoclog") for name in left)
    said, data = archive(log, tmp_path)
    assert check(log, data).verdict == "VERIFIED"
    assert said.archive_id not in "".join(left)


def test_no_archive_is_made_of_damaged_records(log: LogWorld, tmp_path: Path) -> None:
    with log.connect() as connection:
        (row,) = log.rows(
            connection,
            "SELECT query, evidence_id FROM retrieval_evidence"
            " WHERE tenant_id = :t AND query LIKE '%refund 12%'",
        )
        change = "UPDATE retrieval_evidence SET query = :q WHERE evidence_id = :e"
        without_triggers(connection, change, q="x", e=row["evidence_id"])
        said = refusal(log, tmp_path, with_values=True)
        without_triggers(connection, change, q=row["query"], e=row["evidence_id"])
        assert "INTEGRITY_FAILED" in said
        # A chain that was edited shows when the file is read back, with values or without.
        edit = "UPDATE aos_trace_steps SET skill_name = :n WHERE tenant_id = :t AND step_index = 2"
        without_triggers(connection, edit, n="x", t=log.tenant_id)
        said = refusal(log, tmp_path)
        without_triggers(connection, edit, n="step 2", t=log.tenant_id)
    assert "ARCHIVE_UNVERIFIED" in said
    assert "HEAD_MISMATCH" in said
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_is_over_age_there_is_nothing_to_archive(log: LogWorld, tmp_path: Path) -> None:
    young = make_tenant(log.spine)
    assert young.call("log.archives.list").items == []
    start_run(young)
    log.sequence()
    said = log.hoc("retention", "archive", "--tenant-id", young.tenant_id, "--to", str(tmp_path), code=1)
    assert said.splitlines()[-1].startswith("NOTHING_TO_ARCHIVE: ")
    assert list(tmp_path.iterdir()) == []


def test_how_long_evidence_is_kept_is_said_once_for_a_tenant_and_audited(log: LogWorld) -> None:
    tenant = make_tenant(log.spine)

    def said(name: str, **days: Any) -> Any:
        return tenant.dispatch(f"ops.retention.{name}", days, door="worker")

    assert said("show").unwrap().model_dump() == {
        "retention_days": 2557, "value_retention_days": 2557, "version": 0, "updated_at": None,
    }  # fmt: skip
    for few in ({"days": 182}, {"value_days": 182}, {"days": 400, "value_days": 1}):
        assert said("set", **few).error_code == "RETENTION_BELOW_FLOOR"
    for wrong in ({}, {"days": 0}, {"days": 40_000}, {"value_days": "x"}):
        assert said("set", **wrong).error_code == "INVALID_INPUT"
    assert said("show").unwrap().version == 0
    assert said("set", value_days=183, reason="the works council").unwrap().version == 1
    at = ("--tenant-id", tenant.tenant_id)
    log.hoc("retention", "set", *at, "--days", "3650")
    changed = json.loads(log.hoc("retention", "show", *at, "--json"))
    assert (changed["retention_days"], changed["value_retention_days"], changed["version"]) == (3650, 183, 2)
    with log.connect() as connection:
        query = sa.text("SELECT * FROM tenant_retention WHERE tenant_id = :t")
        row = connection.execute(query, {"t": tenant.tenant_id}).mappings().one()
    assert (row["retention_days"], row["value_retention_days"], row["version"]) == (3650, 183, 2)
    entries = tenant.call("logs.audit_list", {"event_type": "RetentionChanged"}).items
    assert [(entry.entity_type, entry.action_reason) for entry in entries] == [
        ("RETENTION", None),
        ("RETENTION", "the works council"),
    ]
    detail = tenant.call("logs.audit_get", {"entry_id": entries[0].entry_id})
    assert detail.before_state is not None
    assert detail.after_state is not None
    assert (detail.before_state["retention_days"], detail.after_state["retention_days"]) == (2557, 3650)
    log.sequence()
    assert LogVerifier(log.spine).verify_all(tenant.tenant_id).failures == []


def test_a_pruned_log_is_exported_verifies_and_continues_what_was_kept(log: LogWorld, tmp_path: Path) -> None:
    # The last test of this module: what the others archive is gone after it.
    kept = tmp_path / "kept"
    kept.write_text(log.tenant.call("log.checkpoint").content)
    said, data = archive(log, tmp_path, with_values=True)
    hoc(log, "purge")
    log.sequence()
    assert log.tenant.call("log.archives.list", {"limit": 1}).items[0].purged_at is not None
    folder, key = tmp_path / "log", log.key.vkey(log.origin)
    exported = json.loads(log.hoc("log", "export", str(folder), "--tenant-id", log.tenant_id, "--json"))
    assert exported["pruned_tiles"] == 1
    arguments = (
        "verify",
        "--log",
        str(folder),
        "--key",
        key,
        "--checkpoint",
        str(kept),
        "--strict",
        "--json",
    )
    found = json.loads(log.hoc(*arguments))
    assert (found["verdict"], found["facts"]) == ("VERIFIED", exported["entries"])
    (warning,) = found["warnings"]
    assert warning.startswith(f"{said.to_idx} entries below {said.to_idx} are archived")
    # The archive is where those entries are now, and it needs nothing of the server.
    assert check(log, data).verdict == "VERIFIED"
    assert "NOTHING_TO_ARCHIVE" in refusal(log, tmp_path)
