"""A repository of the library when things go wrong around it: kill -9, a full disk, a read-only file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa

from app.library import RepositoryContext, RepositoryError, RetryableError, open_repository
from app.library_face.repository import SpineRepository

CONTEXT = RepositoryContext("acme", "alice")
BACKEND = Path(__file__).resolve().parents[2]
NOBODY = 65534
WORKING = """
import sys
from app.library import RepositoryContext, open_repository
repo = open_repository(sys.argv[1], context=RepositoryContext("acme", "alice"), create=True)
one = repo.create_artifact(None, "committed", "note", content="first words", metadata={"n": 1})
repo.update_artifact(one.id, content="second words")
print(one.id, flush=True)
with repo.transaction() as unit:
    unit.update_artifact(one.id, name="uncommitted", content="third words")
    unit.create_artifact(None, "never", "note", content="third words")
    print("in the middle", flush=True)
    sys.stdin.read()
"""
READING = """
import os, sys
from app.library import RepositoryContext, RepositoryError, open_repository
if os.geteuid() == 0:
    # To the superuser every file can be written.
    os.setgroups([])
    os.setuid(int(sys.argv[1]))
context = RepositoryContext("acme", "alice")
deeds = (
    lambda r: print([item.name for item in r.list_artifacts().items]),
    lambda r: r.create_artifact(None, "another", "note"),
)
for path in sys.argv[2:]:
    for deed in deeds:
        try:
            with open_repository(path, context=context, create=False) as repo:
                deed(repo)
        except RepositoryError as error:
            print(error.code)
"""


@contextmanager
def running(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program in a process of its own until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | {"PYTHONPATH": str(BACKEND), "HOC_LOG_LEVEL": "ERROR"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def url(new_database: Callable[..., str]) -> str:
    """A database of this test alone."""
    return new_database()


@pytest.fixture
def repo(url: str) -> Iterator[SpineRepository]:
    """A repository in it with one artifact."""
    with open_repository(url, context=CONTEXT, create=True) as repo:
        repo.create_artifact(None, "kept", "note", content="kept words")
        yield repo


def is_sound(repo: SpineRepository) -> bool:
    """Tell whether a check finds nothing, bytes that nothing cites included."""
    found = repo.verify()
    return found.clean and not found.findings


def test_kill_9_loses_nothing_that_was_committed_and_keeps_nothing_that_was_not(url: str) -> None:
    with running(WORKING, url) as process:
        assert process.stdout is not None
        made = process.stdout.readline().strip()
        assert process.stdout.readline() == "in the middle\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    with open_repository(url, context=CONTEXT) as repo:
        (kept,) = repo.list_artifacts().items
        assert (kept.id, kept.name, kept.version) == (made, "committed", 2)
        assert [repo.get_content(made, number) for number in (1, 2)] == [b"first words", b"second words"]
        assert [len(repo.query_artifacts(text=word).items) for word in ("second", "third")] == [1, 0]
        assert [change.seq for change in repo.list_changes().items] == [1, 2, 3]
        assert is_sound(repo)
        assert repo.update_artifact(made, name="onwards").artifact.version == 3


def test_a_full_disk_is_told_and_leaves_what_was_there(repo: SpineRepository, dialect: str) -> None:
    engine = repo._store.spine.transactions.engine
    with engine.connect() as connection:
        if dialect == "sqlite":
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one() + 20
        else:
            for statement in FULL:
                connection.exec_driver_sql(statement)

    def limit(connection: Any, _record: Any, _proxy: Any) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}")

    def lift(connection: Any, _record: Any, _proxy: Any) -> None:
        connection.execute("PRAGMA max_page_count=4294967294")

    def too_much() -> None:
        with repo.transaction() as unit:
            unit.create_artifact(None, "small", "note", content="small words")
            unit.create_artifact(None, "large", "note", content=os.urandom(1_000_000))

    if dialect == "sqlite":
        sa.event.listen(engine, "checkout", limit)
    with pytest.raises(RetryableError) as refusal:
        too_much()
    assert refusal.value.code == "STORAGE_FAILED"
    assert [item.name for item in repo.list_artifacts().items] == ["kept"]
    if dialect == "sqlite":
        sa.event.remove(engine, "checkout", limit)
        sa.event.listen(engine, "checkout", lift)
    else:
        with engine.connect() as connection:
            connection.exec_driver_sql("DROP TRIGGER full_disk ON blobs")
    assert repo.create_artifact(None, "small", "note", content="small words").version == 1
    assert [change.seq for change in repo.list_changes().items] == [1, 2, 3]
    assert is_sound(repo)


FULL = (
    """CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.size > 1000 THEN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END IF;
        RETURN NEW; END $$""",
    "CREATE TRIGGER full_disk BEFORE INSERT ON blobs FOR EACH ROW EXECUTE FUNCTION full_disk()",
)


def test_a_file_that_is_read_only_is_read_and_not_written() -> None:
    with TemporaryDirectory(prefix="hoc-read-only-") as folder:
        Path(folder).chmod(0o755)
        paths = []
        for mode in (0o777, 0o555):
            place = Path(folder, oct(mode))
            with open_repository(place / "knowledge.db", context=CONTEXT) as repo:
                repo.create_artifact(None, "kept", "note")
            paths.append(place / "knowledge.db")
            paths[-1].chmod(0o444)
            place.chmod(mode)
        before = [path.read_bytes() for path in paths]
        with running(READING, str(NOBODY), *map(str, paths)) as process:
            told = process.communicate(timeout=60)[0].splitlines()
        # The log of a database lies beside it: where none can be made, nothing can be read either.
        assert told == ["['kept']", "STORAGE_FAILED", "STORAGE_FAILED", "STORAGE_FAILED"]
        assert [path.read_bytes() for path in paths] == before


def test_a_writer_that_is_kept_waiting_too_long_is_told_so(
    repo: SpineRepository, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two repositories on one database; the second gives up and can try again."""
    monkeypatch.setenv("HOC_LOCK_TIMEOUT_MS", "50")
    with open_repository(url, context=CONTEXT) as other:
        outcomes: list[str] = []

        def write() -> None:
            try:
                outcomes.append(other.create_artifact(None, "mine too", "note").name)
            except RepositoryError as error:
                outcomes.append(error.code)

        with repo.transaction() as unit:
            unit.create_artifact(None, "mine", "note")
            thread = threading.Thread(target=write)
            thread.start()
            thread.join()
        write()
        assert outcomes == ["BUSY", "mine too"]
        assert [item.name for item in other.list_artifacts().items] == ["kept", "mine", "mine too"]
        assert is_sound(other)
