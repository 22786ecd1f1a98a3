"""Harness: tenants, keys, clock and client work on both dialects as tests rely on them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import sqlalchemy as sa
from starlette.testclient import TestClient

from app.hoc_spine.spine import Spine
from tests.factories.steering import SteerableClock, SteerableIds
from tests.factories.tenants import Tenant


def test_a_tenant_is_active_and_its_own(tenant: Tenant, other_tenant: Tenant) -> None:
    seen = tenant.call("tenants.get")
    assert (seen.tenant_id, seen.status) == (tenant.tenant_id, "ACTIVE")
    assert other_tenant.tenant_id != tenant.tenant_id


def test_what_a_dispatch_commits_is_seen_from_outside(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    tenant.call("tenants.freeze", {"reason": "test"})
    frozen = sa.text("SELECT frozen FROM tenant_state WHERE tenant_id = :tenant_id")
    assert second_connection.execute(frozen, {"tenant_id": tenant.tenant_id}).scalar_one()


def test_a_context_has_the_scopes_and_actor_it_is_given(tenant: Tenant) -> None:
    refused = tenant.dispatch("tenants.freeze", {"reason": "test"}, scopes=["tenant:read"])
    assert refused.error_code == "INSUFFICIENT_SCOPE"
    assert tenant.context(actor_type="AGENT", actor_id="a-1").actor.id == "a-1"


def test_headers_open_the_routes_of_their_scopes(tenant: Tenant, client: TestClient) -> None:
    assert client.get("/api/v1/tenant").status_code == 401
    answer = client.get("/api/v1/tenant", headers=tenant.headers(scopes=["tenant:read"]))
    assert answer.status_code == 200
    assert answer.json()["tenant_id"] == tenant.tenant_id


def test_the_clock_of_the_spine_goes_where_the_test_says(
    tenant: Tenant, spine: Spine, clock: SteerableClock
) -> None:
    moment = datetime(2031, 1, 1, tzinfo=UTC)
    clock.freeze(moment)
    assert spine.services.clock.now() == moment
    assert clock.advance(minutes=1).minute == 1


def test_the_clock_follows_the_host_without_steering(spine: Spine) -> None:
    assert abs((spine.services.clock.now() - datetime.now(UTC)).total_seconds()) < 1


def test_ids_in_line_come_first(spine: Spine, ids: SteerableIds) -> None:
    ids.give("first")
    assert spine.services.ids.new("any") == "first"
    assert spine.services.ids.new("any").startswith("any_")


def test_a_further_spine_has_its_own_settings(
    make_spine: Callable[..., Spine], new_database: Callable[..., str]
) -> None:
    made = make_spine(pool_size=2, database_url=new_database())
    assert made.services.settings.pool_size == 2
