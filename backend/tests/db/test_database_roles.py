"""Roles of PostgreSQL: a unit takes one on that owns nothing, and leaves nothing of it behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
import sqlalchemy as sa

from app.bootstrap import build_spine
from app.db.migrations import upgrade
from app.hoc_spine.spine import Spine
from app.settings import Settings
from tests.factories.tenants import Tenant, make_tenant

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


@pytest.fixture
def plain_login(new_database: Callable[..., str]) -> Iterator[tuple[sa.Connection, sa.URL]]:
    """An administrator's connection, and the URL of an empty database of a login that may do nothing else."""
    url = sa.make_url(new_database(migrated=False))
    login = f"plain_{uuid4().hex[:8]}"
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as administrator:
        # Without INHERIT nothing of a role reaches the login unless it takes the role on.
        administrator.exec_driver_sql(f"CREATE ROLE {login} LOGIN NOINHERIT PASSWORD '{login}'")
        administrator.exec_driver_sql(f'ALTER DATABASE "{url.database}" OWNER TO {login}')
        yield administrator, url.set(username=login, password=login)
        administrator.exec_driver_sql(f"REASSIGN OWNED BY {login} TO CURRENT_USER")
        administrator.exec_driver_sql(f"DROP OWNED BY {login}")
        administrator.exec_driver_sql(f"DROP ROLE {login}")
    engine.dispose()


def test_a_login_that_is_no_superuser_migrates_and_serves(plain_login: tuple[sa.Connection, sa.URL]) -> None:
    administrator, url = plain_login
    administrator.exec_driver_sql(f"GRANT hoc_app, hoc_maintenance TO {url.username}")
    text = url.render_as_string(hide_password=False)
    upgrade(text)
    spine = build_spine(Settings(database_url=text))
    try:
        tenant = make_tenant(spine)
        made = tenant.call("repository.collections.create", {"name": "Handbook"})
        assert tenant.call("repository.collections.get", {"collection_id": made.id}).name == "Handbook"
        assert make_tenant(spine).call("repository.collections.list").items == []
    finally:
        spine.close()


def test_a_login_that_may_not_take_on_the_roles_is_told_the_grant(
    plain_login: tuple[sa.Connection, sa.URL],
) -> None:
    _, url = plain_login
    with pytest.raises(
        sa.exc.ProgrammingError,
        match=f"an administrator must run: GRANT hoc_app, hoc_maintenance TO {url.username}",
    ):
        upgrade(url.render_as_string(hide_password=False))
