"""Row security of PostgreSQL: whatever a statement forgets, the application sees and touches one tenant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from app.db.catalogue import metadata
from app.hoc_spine.spine import Spine
from tests.factories.tenants import Tenant, make_tenant
from tests.factories.worlds import make_world, step

TENANT_TABLES = [table for table in metadata.sorted_tables if table.info.get("tenant")]
GLOBAL_TABLES = ["system_state", "tenants", "worker_leases"]
EVERY_TABLE = [table.name for table in metadata.sorted_tables]
# Derived rows and queues, which the application itself takes away again.
DELETABLE = {
    "artifact_metadata",
    "artifact_search",
    "idempotency_keys",
    "plane_documents",
    "plane_passages",
    "plane_terms",
    "retrieval_attempts",
}

# SQLite has no roles: there the statements alone name the tenant, which a gate checks.
pytestmark = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)


@pytest.fixture(scope="module")
def full(spine: Spine) -> Tenant:
    """A tenant with rows in most tables."""
    tenant = make_tenant(spine)
    tenant.headers()
    world = make_world(spine, tenant)
    world.access("refund").unwrap()
    world.append(step(0))
    world.complete()
    return tenant


@pytest.fixture
def role(database_url: str) -> Iterator[Callable[..., sa.Connection]]:
    """Connect as a role, without the spine: `role("hoc_app", "t-1")`."""
    engine = sa.create_engine(database_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    opened: list[sa.Connection] = []

    def connect(name: str, tenant_id: str | None = None) -> sa.Connection:
        connection = engine.connect()
        opened.append(connection)
        connection.exec_driver_sql(f"SET ROLE {name}")
        if tenant_id is not None:
            connection.execute(sa.text("SELECT set_config('hoc.tenant_id', :t, false)"), {"t": tenant_id})
        return connection

    yield connect
    for connection in opened:
        connection.close()
    engine.dispose()


def count(connection: sa.Connection, table: sa.Table, tenant_id: str | None = None) -> int:
    query = sa.select(sa.func.count()).select_from(table)
    if tenant_id is not None:
        query = query.where(table.c.tenant_id == tenant_id)
    return int(connection.execute(query).scalar_one())


@pytest.mark.parametrize("table", TENANT_TABLES, ids=lambda table: table.name)
def test_row_security_is_forced_on_every_tenant_table(
    second_connection: sa.Connection, table: sa.Table
) -> None:
    forced = sa.text("SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = :name ::regclass")
    assert tuple(second_connection.execute(forced, {"name": table.name}).one()) == (True, True)
    rules = sa.text("SELECT roles, cmd, permissive FROM pg_policies WHERE tablename = :name ORDER BY roles")
    found = [tuple(row) for row in second_connection.execute(rules, {"name": table.name})]
    assert found == [(["hoc_app"], "ALL", "PERMISSIVE"), (["hoc_maintenance"], "ALL", "PERMISSIVE")]


def test_the_tables_without_it_are_the_global_ones(second_connection: sa.Connection) -> None:
    open_tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND NOT rowsecurity ORDER BY 1"
    found = second_connection.execute(sa.text(open_tables)).scalars().all()
    assert found == ["alembic_version", *GLOBAL_TABLES]


def test_the_application_sees_the_rows_of_its_tenant_and_no_others(
    full: Tenant, other_tenant: Tenant, role: Callable[..., sa.Connection], second_connection: sa.Connection
) -> None:
    mine, others = role("hoc_app", full.tenant_id), role("hoc_app", other_tenant.tenant_id)
    filled = 0
    for table in TENANT_TABLES:
        all_of_mine = count(second_connection, table, full.tenant_id)
        assert count(mine, table) == all_of_mine, table.name
        assert count(others, table, full.tenant_id) == 0, table.name
        filled += all_of_mine > 0
    assert filled > 25


@pytest.mark.parametrize("tenant_id", [None, "", "nobody", "%"])
def test_without_a_tenant_the_application_sees_nothing(
    full: Tenant, role: Callable[..., sa.Connection], tenant_id: str | None
) -> None:
    connection = role("hoc_app", tenant_id)
    for table in TENANT_TABLES:
        try:
            seen = count(connection, table)
        except sa.exc.DBAPIError as error:
            assert "hoc.tenant_id" in str(error)  # noqa: PT017 - either it answers nothing or it refuses
            seen = 0
        assert seen == 0, table.name


def test_the_maintenance_role_crosses_tenants(
    full: Tenant, other_tenant: Tenant, role: Callable[..., sa.Connection], second_connection: sa.Connection
) -> None:
    crossing = role("hoc_maintenance")
    for table in TENANT_TABLES:
        assert count(crossing, table) == count(second_connection, table), table.name


def test_the_application_changes_no_row_of_another_tenant(
    full: Tenant, other_tenant: Tenant, role: Callable[..., sa.Connection]
) -> None:
    connection = role("hoc_app", other_tenant.tenant_id)
    for table in TENANT_TABLES:
        theirs = table.c.tenant_id == full.tenant_id
        change = table.update().where(theirs).values(tenant_id=table.c.tenant_id)
        try:
            changed = connection.execute(change).rowcount
        except sa.exc.ProgrammingError as error:
            assert "permission denied" in str(error)  # noqa: PT017 - either it finds no row or it may not look
            changed = 0
        assert changed == 0, table.name
        if table.name in DELETABLE:
            assert connection.execute(table.delete().where(theirs)).rowcount == 0, table.name


def test_the_application_plants_no_row_in_another_tenant(
    full: Tenant, other_tenant: Tenant, role: Callable[..., sa.Connection]
) -> None:
    connection = role("hoc_app", full.tenant_id)
    planted = 0
    for table in TENANT_TABLES:
        columns = [
            sa.literal(other_tenant.tenant_id).label(c.name) if c.name == "tenant_id" else c
            for c in table.columns
        ]
        copy = table.insert().from_select([c.name for c in table.columns], sa.select(*columns).limit(1))
        if count(connection, table) == 0:
            continue
        with pytest.raises(sa.exc.DBAPIError) as caught:
            connection.execute(copy)
        # A trigger that looks at the row may refuse it before row security does.
        refused = (
            "row-level security",
            "integrity_constraint",
            "append-only",
            "IntegrityError",
            "permission denied",
        )
        assert any(word in repr(caught.value) for word in refused), table.name
        planted += "row-level security" in str(caught.value)
    assert planted > 20


def test_the_application_moves_no_row_to_another_tenant(
    full: Tenant, other_tenant: Tenant, role: Callable[..., sa.Connection]
) -> None:
    connection = role("hoc_app", full.tenant_id)
    for table in TENANT_TABLES:
        if count(connection, table):
            move = table.update().values(tenant_id=other_tenant.tenant_id)
            with pytest.raises(sa.exc.DBAPIError):
                connection.execute(move)


@pytest.mark.parametrize("name", EVERY_TABLE)
def test_the_application_has_no_rights_beyond_its_work(second_connection: sa.Connection, name: str) -> None:
    def may(right: str) -> Any:
        query = sa.text("SELECT has_table_privilege('hoc_app', :name, :right)")
        return second_connection.execute(query, {"name": name, "right": right}).scalar_one()

    assert may("SELECT")
    assert not any(may(right) for right in ("TRUNCATE", "REFERENCES", "TRIGGER"))
    assert may("DELETE") == (name in DELETABLE)


@pytest.mark.parametrize("name", ["system_state", "worker_leases"])
def test_the_application_throws_no_switch_of_the_system(
    role: Callable[..., sa.Connection], tenant: Tenant, name: str
) -> None:
    connection = role("hoc_app", tenant.tenant_id)
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        connection.execute(metadata.tables[name].update().values({metadata.tables[name].columns[0]: None}))


@pytest.mark.parametrize("name", ["hoc_app", "hoc_maintenance"])
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (x int)",
        "ALTER TABLE runs DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE audit_ledger DISABLE TRIGGER ALL",
        "DROP TRIGGER audit_ledger_no_update ON audit_ledger",
        "DROP POLICY tenant_rows ON runs",
        "SET session_replication_role = replica",
        "TRUNCATE audit_ledger CASCADE",
    ],
)
def test_no_role_of_the_product_takes_the_guards_away(
    role: Callable[..., sa.Connection], tenant: Tenant, name: str, statement: str
) -> None:
    connection = role(name, tenant.tenant_id)
    with pytest.raises(sa.exc.DBAPIError, match=r"permission denied|must be owner"):
        connection.exec_driver_sql(statement)
