"""Migrations: one chain from nothing to the head and back, on both dialects, step by step and twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from app.db.migrations import alembic_config, downgrade, head_revision, upgrade

SCRIPT = ScriptDirectory.from_config(alembic_config("sqlite://"))
CHAIN = [revision.revision for revision in reversed(list(SCRIPT.walk_revisions()))]
OBJECTS = {
    "sqlite": ("SELECT type, name, coalesce(sql, '') FROM sqlite_master",),
    "postgresql": (
        """SELECT 'column', relname, attname, format_type(atttypid, atttypmod), attnotnull,
            pg_get_expr(adbin, adrelid) FROM pg_class c JOIN pg_attribute ON attrelid = c.oid
            LEFT JOIN pg_attrdef ON adrelid = c.oid AND adnum = attnum
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND attnum > 0
            AND NOT attisdropped""",
        "SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
        """SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
            FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
        "SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
        """SELECT 'function', proname, pg_get_functiondef(oid) FROM pg_proc
            WHERE pronamespace = 'public'::regnamespace""",
        "SELECT 'policy', tablename, policyname, roles::text, qual FROM pg_policies",
        """SELECT 'grant', relname, rolname, privilege_type FROM pg_class, aclexplode(relacl)
            JOIN pg_roles ON pg_roles.oid = grantee
            WHERE relnamespace = 'public'::regnamespace AND rolname LIKE 'hoc\\_%'""",
    ),
}

# SQLite has no functions to replace.
UNCHANGED = {("0020", "sqlite")}


@contextmanager
def opened(url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def described(url: str) -> set[tuple[str, ...]]:
    """Return every object of a schema with its definition, as the database itself tells it."""
    with opened(url) as connection:
        return {
            tuple(map(str, row))
            for statement in OBJECTS[connection.dialect.name]
            for row in connection.execute(sa.text(statement.replace(":", "\\:")))
        }


def test_the_chain_is_linear_with_one_head() -> None:
    assert len(SCRIPT.get_heads()) == len(SCRIPT.get_bases()) == 1
    assert [f"{number:04d}" for number in range(1, len(CHAIN) + 1)] == CHAIN
    assert head_revision() == CHAIN[-1]


def test_from_nothing_to_the_head_and_back_leaves_nothing(new_database: Callable[..., str]) -> None:
    url = new_database(migrated=False)
    empty = described(url)
    upgrade(url)
    full = described(url)
    downgrade(url, "base")
    left = described(url) - empty
    assert {item[1] for item in left if "alembic" not in " ".join(item)} == set()
    upgrade(url)
    assert described(url) == full


def test_each_step_goes_up_and_down_twice(new_database: Callable[..., str], dialect: str) -> None:
    url = new_database(migrated=False)
    upgrade(url, CHAIN[0])
    downgrade(url, "base")
    stages = [described(url)]
    for revision in CHAIN:
        upgrade(url, revision)
        stages.append(described(url))
        assert stages[-1] != stages[-2] or (revision, dialect) in UNCHANGED, revision
    for again in (True, False):
        for number in reversed(range(len(CHAIN))):
            downgrade(url, "-1")
            assert described(url) == stages[number], CHAIN[number]
        for number, revision in enumerate(CHAIN, start=1) if again else ():
            upgrade(url, revision)
            assert described(url) == stages[number], revision


def test_a_second_upgrade_does_nothing(new_database: Callable[..., str]) -> None:
    url = new_database()
    before = described(url)
    upgrade(url)
    assert described(url) == before


def test_a_step_that_fails_leaves_the_schema_as_it_was(new_database: Callable[..., str]) -> None:
    url = new_database(migrated=False)
    upgrade(url, CHAIN[0])
    with opened(url) as connection:
        # The last table that the second step would make is in its way.
        connection.execute(sa.text("CREATE TABLE outbox (x int)"))
        connection.commit()
    before = described(url)
    with pytest.raises(sa.exc.DBAPIError):
        upgrade(url)
    assert described(url) == before


def test_the_first_step_plants_the_systems_own_rows(new_database: Callable[..., str]) -> None:
    with opened(new_database()) as connection:
        tenants = connection.execute(sa.text("SELECT tenant_id, status FROM tenants")).all()
        assert [tuple(row) for row in tenants] == [("_system", "CLOSED")]
        switches = connection.execute(sa.text("SELECT kill_engaged, degraded FROM system_state")).all()
        assert [tuple(map(bool, row)) for row in switches] == [(False, False)]


def test_the_system_has_no_key_and_no_second_row_of_switches(new_database: Callable[..., str]) -> None:
    key = """INSERT INTO api_keys (tenant_id, key_id, name, key_hash, prefix, scopes, actor_type, actor_id,
        created_by, status, created_at, updated_at) VALUES ('_system', 'k', 'n', 'h', 'p', '[]', 'HUMAN', 'a',
        'a', 'ACTIVE', '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z')"""
    for statement in (key, "INSERT INTO system_state (id) VALUES (2)", "UPDATE system_state SET id = 2"):
        with opened(new_database()) as connection, pytest.raises(sa.exc.IntegrityError):
            connection.execute(sa.text(statement.replace(":00", "\\:00")))


def test_no_tenant_is_named_default(new_database: Callable[..., str]) -> None:
    with opened(new_database()) as connection, pytest.raises(sa.exc.IntegrityError, match="reserved"):
        connection.execute(
            sa.text(
                "INSERT INTO tenants (tenant_id, name, slug, plan, status, created_at, updated_at) VALUES"
                " ('default', 'd', 'd', 'FREE', 'ACTIVE', '2026-01-01', '2026-01-01')"
            )
        )
