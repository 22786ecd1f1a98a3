"""Opening a repository of the library: what is made, what is refused, and what is never touched."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from app.library import (
    InMemoryKnowledgeRepository,
    OpenError,
    PostgresKnowledgeRepository,
    RepositoryContext,
    RepositoryError,
    SQLiteKnowledgeRepository,
    open_repository,
)
from tests.factories.databases import Databases

CONTEXT = RepositoryContext("acme", "alice")


def refused(deed: Callable[[], object]) -> str:
    """Return the code with which opening is refused."""
    with pytest.raises(RepositoryError) as refusal:
        deed()
    return refusal.value.code


def execute(path: Path, statement: str) -> None:
    """Run one statement on a SQLite file."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def test_each_url_opens_its_kind_of_repository(tmp_path: Path, databases: Databases) -> None:
    file = tmp_path / "k.db"
    url = databases.shared("postgresql")
    for text, kind in (
        ("memory://", InMemoryKnowledgeRepository),
        (str(file), SQLiteKnowledgeRepository),
        (file, SQLiteKnowledgeRepository),
        (f"sqlite:///{file}", SQLiteKnowledgeRepository),
        (url, PostgresKnowledgeRepository),
        (url.replace("postgresql+psycopg", "postgresql"), PostgresKnowledgeRepository),
    ):
        with open_repository(text) as repository:
            assert type(repository) is kind


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "sqlite:///", "http://x", "memory://x"])
def test_another_url_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError, match="memory://"):
        open_repository(url)


def test_two_repositories_in_memory_share_nothing() -> None:
    with (
        open_repository("memory://", context=CONTEXT) as one,
        open_repository("memory://", context=CONTEXT) as two,
    ):
        one.create_artifact(None, "a", "note")
        assert two.list_artifacts().items == []


def test_an_absent_or_empty_file_becomes_a_repository(tmp_path: Path) -> None:
    empty = tmp_path / "empty.db"
    empty.touch()
    for path in (tmp_path / "folder" / "absent.db", empty):
        with open_repository(path, context=CONTEXT) as repository:
            made = repository.create_artifact(None, "a", "note")
        with open_repository(path, context=CONTEXT, create=False) as repository:
            assert repository.get_artifact(made.id).name == "a"


def test_nothing_is_made_where_that_is_not_wanted(tmp_path: Path) -> None:
    path = tmp_path / "absent.db"
    assert refused(lambda: open_repository(path, create=False)) == "NOT_A_REPOSITORY"
    assert not path.exists()


def test_a_tenant_is_not_made_where_that_is_not_wanted(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    open_repository(path).close()
    with open_repository(path, context=CONTEXT, create=False) as repository:
        assert refused(lambda: repository.create_artifact(None, "a", "note")) == "TENANT_NOT_FOUND"


def test_what_is_no_repository_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("these are words, and no database at all " * 50)
    foreign = tmp_path / "foreign.db"
    execute(foreign, "CREATE TABLE other (x)")
    before = {path: path.read_bytes() for path in (text, foreign)}
    for path in (text, foreign, tmp_path):
        assert refused(lambda path=path: open_repository(path)) == "NOT_A_REPOSITORY"
    assert {path: path.read_bytes() for path in (text, foreign)} == before


def test_an_older_or_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    open_repository(path).close()
    execute(path, "UPDATE alembic_version SET version_num = '0001'")
    assert refused(lambda: open_repository(path)) == "SCHEMA_OUTDATED"
    execute(path, "UPDATE alembic_version SET version_num = '9999'")
    assert refused(lambda: open_repository(path)) == "SCHEMA_TOO_NEW"


def test_a_server_database_is_made_only_when_asked(databases: Databases) -> None:
    url = databases.new("postgresql", migrated=False)
    assert refused(lambda: open_repository(url)) == "NOT_A_REPOSITORY"
    with open_repository(url, context=CONTEXT, create=True) as repository:
        assert repository.create_artifact(None, "a", "note").version == 1


def test_a_server_that_does_not_answer_is_busy_and_keeps_its_password() -> None:
    with pytest.raises(RepositoryError) as refusal:
        open_repository("postgresql://user:hidden-word@127.0.0.1:1/none")
    assert refusal.value.code == "BUSY"
    assert "hidden-word" not in str(refusal.value)


def test_a_context_needs_no_repository_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(OpenError) as refusal:
        open_repository(tmp_path / "k.db", context=RepositoryContext("no tenant id", "x"))
    assert refusal.value.code == "INVALID_INPUT"


def test_the_library_works_alone_in_a_process(tmp_path: Path) -> None:
    program = """
from app.library import RepositoryContext, open_repository
context = RepositoryContext("acme", "alice")
with open_repository("knowledge.db", context=context) as repository:
    made = repository.create_artifact(None, "note", "note", content="hello world")
    repository.update_artifact(made.id, metadata={"a": 1})
with open_repository("knowledge.db", context=context) as repository:
    found = repository.query_artifacts(text="hello").items
    print(found[0].name, found[0].version, found[0].metadata, repository.get_content(made.id))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("note 2 {'a': 1} b'hello world'\n", "")
