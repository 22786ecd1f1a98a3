"""Roles of PostgreSQL: a unit takes one on that owns nothing, and leaves nothing of it behind."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from app.hoc_spine.spine import Spine
from tests.factories.tenants import Tenant

WHO = sa.text("SELECT current_user, current_setting('hoc.tenant_id', true)")
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
    rights = "SELECT rolcanlogin, rolbypassrls, rolsuper FROM pg_roles"
    ours = sa.text(f"{rights} WHERE rolname IN ('hoc_app', 'hoc_maintenance')")
    assert second_connection.execute(ours).all() == [(False, False, False)] * 2
