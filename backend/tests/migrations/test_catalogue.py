"""Migrations: the catalogue that they make is the one that the tables of the program describe."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.dialects import postgresql

from app.db.catalogue import is_described, metadata

# What the tables do not describe, because only one engine has it: the full-text indexes of SQLite with the
# tables that FTS5 keeps for itself. (Two GIN indexes of PostgreSQL are left out by `is_described`.)
ACCELERATORS = re.compile(r"\w+_fts(_\w+)?")
# The number of a row in the search index, which each engine gives in its own way.
NUMBERED_BY_THE_ENGINE = {("modify_default", "artifact_search", "search_no")}
TABLES = sorted(metadata.tables)
_names = postgresql.dialect().identifier_preparer


@pytest.fixture(scope="module")
def made(database_url: str) -> Iterator[sa.Inspector]:
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield sa.inspect(connection)
    engine.dispose()


def _words(text: str) -> set[str]:
    return set(re.findall(r"'([^']*)'", text))


def test_alembic_sees_no_difference(made: sa.Inspector) -> None:
    options = {"compare_type": True, "compare_server_default": True, "include_object": is_described}
    context = MigrationContext.configure(made.bind, opts=options)  # type: ignore[arg-type]
    found = compare_metadata(context, metadata)
    changes = [change for item in found for change in (item if isinstance(item, list) else [item])]
    assert [item for item in changes if (item[0], *item[2:4]) not in NUMBERED_BY_THE_ENGINE] == []


def test_every_table_is_described_or_an_accelerator(made: sa.Inspector) -> None:
    undescribed = set(made.get_table_names()) - {*TABLES, "alembic_version"}
    assert {name for name in undescribed if not ACCELERATORS.fullmatch(name)} == set()


@pytest.mark.parametrize("name", TABLES)
def test_columns_have_order_nullability_and_key_as_described(made: sa.Inspector, name: str) -> None:
    table = metadata.tables[name]
    found = [(column["name"], column["nullable"]) for column in made.get_columns(name)]
    assert found == [(column.name, column.nullable) for column in table.columns]
    assert made.get_pk_constraint(name)["constrained_columns"] == [c.name for c in table.primary_key]


@pytest.mark.parametrize("name", TABLES)
def test_constraints_have_the_names_that_they_are_described_by(made: sa.Inspector, name: str) -> None:
    table = metadata.tables[name]

    def described(kind: type[sa.Constraint]) -> set[str | None]:
        return {_names.format_constraint(item) for item in table.constraints if isinstance(item, kind)}

    assert {item["name"] for item in made.get_foreign_keys(name)} == described(sa.ForeignKeyConstraint)
    assert {item["name"] for item in made.get_unique_constraints(name)} == described(sa.UniqueConstraint)
    assert {made.get_pk_constraint(name)["name"]} == described(sa.PrimaryKeyConstraint)
    # The schema may check more than the program describes (the form of a digest), never less.
    assert described(sa.CheckConstraint) <= {item["name"] for item in made.get_check_constraints(name)}


@pytest.mark.parametrize("name", TABLES)
def test_a_closed_vocabulary_is_closed_in_the_schema_to_the_word(made: sa.Inspector, name: str) -> None:
    stored = {item["name"]: _words(item["sqltext"]) for item in made.get_check_constraints(name)}
    for check in metadata.tables[name].constraints:
        if isinstance(check, sa.CheckConstraint) and " IN (" in str(check.sqltext):
            assert stored[_names.format_constraint(check)] == _words(str(check.sqltext)), check.name


@pytest.mark.parametrize("name", TABLES)
def test_references_keep_rows_and_carry_the_tenant(made: sa.Inspector, name: str) -> None:
    for key in made.get_foreign_keys(name):
        assert key["options"].get("ondelete") == "RESTRICT", key["name"]
        assert key["options"].get("onupdate") in (None, "NO ACTION"), key["name"]
        assert key["constrained_columns"][0] == "tenant_id", key["name"]
        assert key["referred_columns"][0] == "tenant_id", key["name"]
