"""Start-up: a database that is not exactly what the program needs is refused with what mends it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.bootstrap import build_spine
from app.db.engine import make_engine
from app.db.migrations import SchemaError, check_schema, downgrade, head_revision, upgrade
from app.settings import Settings

MIGRATE = "Run `hoc migrate`."


def execute(url: str, *statements: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def refused(url: str) -> SchemaError:
    """Return why the program does not start on this database."""
    with pytest.raises(SchemaError) as caught:
        build_spine(Settings(database_url=url))
    with pytest.raises(SchemaError, match=caught.value.code):
        check_schema(url)
    assert str(caught.value).startswith(f"{caught.value.code}: ")
    return caught.value


def test_a_migrated_database_is_taken(new_database: Callable[..., str]) -> None:
    url = new_database()
    check_schema(url)
    build_spine(Settings(database_url=url)).close()


def test_an_empty_database_is_missing_its_schema(new_database: Callable[..., str]) -> None:
    url = new_database(migrated=False)
    error = refused(url)
    assert error.code == "SCHEMA_MISSING"
    assert MIGRATE in str(error)
    upgrade(url)
    check_schema(url)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_file_that_is_not_there_is_not_made_by_looking(dialect: str, tmp_path: Path) -> None:
    file = tmp_path / "none" / "hoc.db"
    error = refused(f"sqlite:///{file}")
    assert (error.code, MIGRATE in str(error)) == ("SCHEMA_MISSING", True)
    assert not file.parent.exists()


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_file_that_is_no_database_is_foreign(dialect: str, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("These are my notes, and they are much longer than the header of a database. " * 20)
    before = file.read_bytes()
    assert refused(f"sqlite:///{file}").code == "SCHEMA_FOREIGN"
    assert file.read_bytes() == before


def test_a_step_behind_is_outdated(new_database: Callable[..., str]) -> None:
    url = new_database()
    downgrade(url, "-1")
    error = refused(url)
    assert error.code == "SCHEMA_OUTDATED"
    assert head_revision() in str(error)
    assert MIGRATE in str(error)
    upgrade(url)
    check_schema(url)


def test_a_stamp_of_a_later_release_is_too_new(new_database: Callable[..., str]) -> None:
    url = new_database()
    execute(url, "UPDATE alembic_version SET version_num = '9999'")
    error = refused(url)
    assert error.code == "SCHEMA_TOO_NEW"
    assert "9999" in str(error)
    assert "newer release" in str(error)


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TABLE runs (id int)",),
        ("CREATE TABLE customers (id int)",),
        (
            "CREATE TABLE customers (id int)",
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
            "INSERT INTO alembic_version VALUES ('4f1c07a2b9d3')",
        ),
    ],
    ids=("a table of our name", "a table of another name", "another program's stamp"),
)
def test_tables_of_somebody_else_are_foreign(
    new_database: Callable[..., str], statements: tuple[str, ...]
) -> None:
    url = new_database(migrated=False)
    execute(url, *statements)
    error = refused(url)
    assert (error.code, "an empty one" in str(error)) == ("SCHEMA_FOREIGN", True)


def test_a_stamped_but_empty_database_is_a_mismatch(new_database: Callable[..., str]) -> None:
    url = new_database(migrated=False)
    execute(
        url,
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        f"INSERT INTO alembic_version VALUES ('{head_revision()}')",
    )
    error = refused(url)
    assert error.code == "SCHEMA_MISMATCH"
    assert "backup" in str(error)


def test_a_stamp_table_without_a_stamp_is_outdated(new_database: Callable[..., str]) -> None:
    url = new_database(migrated=False)
    execute(url, "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    error = refused(url)
    assert (error.code, "nothing" in str(error)) == ("SCHEMA_OUTDATED", True)


@pytest.mark.parametrize(
    ("statement", "missing"),
    [
        ("DROP TABLE worker_leases", "worker_leases"),
        ("ALTER TABLE outbox DROP COLUMN last_error", "outbox.last_error"),
    ],
)
def test_what_is_missing_is_named(new_database: Callable[..., str], statement: str, missing: str) -> None:
    url = new_database()
    execute(url, statement)
    error = refused(url)
    assert (error.code, missing in str(error)) == ("SCHEMA_MISMATCH", True)


@pytest.mark.parametrize("url", ["mysql://localhost/hoc", "oracle://localhost/hoc"])
def test_another_kind_of_database_is_refused_by_name(url: str) -> None:
    with pytest.raises(ValueError, match="use sqlite or postgresql"):
        make_engine(url)
