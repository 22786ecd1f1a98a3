"""Maintenance ends what is past its deadline, in every tenant, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from app.hoc_spine.maintenance import Maintenance, drain
from app.hoc_spine.spine import Spine
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant, make_tenant
from tests.factories.worlds import start_run


def test_a_round_expires_the_runs_of_every_tenant_that_are_past_their_deadline(
    new_database: Callable[..., str], make_spine: Callable[..., Spine], clock: SteerableClock
) -> None:
    spine = make_spine(database_url=new_database())
    tenants = [make_tenant(spine) for _ in range(3)]
    short = [start_run(tenant, timeout_seconds=60) for tenant in tenants]
    long = [start_run(tenant, timeout_seconds=7200) for tenant in tenants]
    tenants[1].suspend()
    assert Maintenance(spine).run_round().runs_expired == 0
    clock.advance(minutes=2)
    jobs, report = drain(spine)
    assert (jobs, report.tenants, report.runs_expired) == (0, 3, 3)
    for tenant, ended, running in zip(tenants, short, long, strict=True):
        if tenant is not tenants[1]:
            run = tenant.call("runs.get", {"run_id": ended})
            assert (run.status.value, run.termination_reason.value) == ("failed", "timeout")
            assert tenant.call("runs.get", {"run_id": running}).status.value == "running"
    assert Maintenance(spine).run_round().runs_expired == 0


def test_a_server_starts_and_stops_its_background_services(
    make_spine: Callable[..., Spine], tenant: Tenant
) -> None:
    spine = make_spine()
    spine.start()
    assert Tenant(spine, tenant.tenant_id).call("tenants.get").tenant_id == tenant.tenant_id
