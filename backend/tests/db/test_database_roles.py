"""Roles of PostgreSQL: a unit works as one that owns nothing, sees one tenant and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from app.db.catalogue import metadata
from app.hoc_spine.spine import Spine
from tests.factories.tenants import Tenant
from tests.factories.worlds import make_world

WHO = sa.text("SELECT current_user, current_setting('hoc.tenant_id', true)")
TENANT_TABLES = [table for table in metadata.sorted_tables if table.info.get("tenant")]


# SQLite has no roles: there the statements alone name the tenant, which a gate checks.
pytestmark = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)


def test_a_unit_takes_on_role_and_tenant_and_gives_both_back(spine: Spine, tenant: Tenant) -> None:
    with spine.transactions.write(tenant.tenant_id) as connection:
        assert connection.execute(WHO).one() == ("hoc_app", tenant.tenant_id)
    with spine.transactions.read("_system", role="hoc_maintenance") as connection:
        assert connection.execute(WHO).one()[0] == "hoc_maintenance"
    with spine.transactions.engine.connect() as raw:
        login, named = raw.execute(WHO).one()
    assert login not in ("hoc_app", "hoc_maintenance")
    assert named in (None, "")


def test_the_roles_own_no_table_and_cannot_log_in(spine: Spine, second_connection: sa.Connection) -> None:
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    assert not set(second_connection.scalars(sa.text(owners))) & {"hoc_app", "hoc_maintenance"}
    rights = sa.text("SELECT rolcanlogin, rolbypassrls, rolsuper FROM pg_roles WHERE rolname LIKE 'hoc\\_%'")
    assert second_connection.execute(rights).all() == [(False, False, False)] * 2


def test_a_statement_that_forgets_the_tenant_sees_its_own_rows_alone(
    spine: Spine, tenant: Tenant, new_tenant: Callable[..., Tenant], second_connection: sa.Connection
) -> None:
    make_world(spine, new_tenant())
    seen: dict[str, Any] = {}
    hidden: dict[str, int] = {}
    with spine.transactions.read(tenant.tenant_id) as connection:
        for table in TENANT_TABLES:
            every = sa.select(table.c.tenant_id).distinct()
            seen[table.name] = set(connection.scalars(every)) - {tenant.tenant_id}
            hidden[table.name] = len(set(second_connection.scalars(every)) - {tenant.tenant_id})
    assert {name for name, tenants in seen.items() if tenants} == set()
    assert sum(count > 0 for count in hidden.values()) > 20


def test_a_row_of_another_tenant_cannot_be_written(
    spine: Spine, tenant: Tenant, other_tenant: Tenant
) -> None:
    change = sa.text("UPDATE tenant_state SET frozen_by = 'me' WHERE tenant_id = :t")
    plant = sa.text("INSERT INTO log_pending (tenant_id, fact_id, enqueued_at) VALUES (:t, 'fct_x', now())")
    with spine.transactions.write(tenant.tenant_id) as connection:
        assert connection.execute(change, {"t": other_tenant.tenant_id}).rowcount == 0
        with (
            pytest.raises(sa.exc.DBAPIError, match="row-level security"),
            spine.transactions.savepoint(connection),
        ):
            connection.execute(plant, {"t": other_tenant.tenant_id})
