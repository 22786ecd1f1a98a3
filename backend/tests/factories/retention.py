"""Test retention: a tenant with years behind it, its archives and its purges."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from app.db.metadata import metadata
from app.domains.logs.models.retention import Plan
from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.coordinators.retention_plan import make_plan
from app.hoc_spine.log_purge import LogPurge, Purged
from app.hoc_spine.log_verifier import LogVerifier
from app.hoc_spine.spine import Spine
from app.kernel.context import Actor, RequestContext
from app.kernel.ids import Uuid7Ids
from tests.factories.limits import limit, record
from tests.factories.logs import LogWorld
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant
from tests.factories.worlds import World, make_world, start_run, step

OPERATOR = Actor("HUMAN", "operator")


class AgedWorld(LogWorld):
    """A log whose clock a test moves on."""

    clock: SteerableClock

    def operate(self, name: str, payload: Any, *, tenant_id: str | None = None) -> Any:
        """Dispatch an operation of the operator inside the tenant."""
        context = RequestContext(
            tenant_id=tenant_id or self.tenant_id,
            actor=OPERATOR,
            request_id=Uuid7Ids().new("req"),
            door="worker",
        )
        return self.spine.dispatch(name, context, payload).unwrap()

    def plan(self, cut: int | None = None) -> Plan:
        """Return the plan of now."""
        with self.spine.transactions.read(
            self.tenant_id, snapshot=True, role="hoc_maintenance"
        ) as connection:
            return make_plan(connection, tenant_id=self.tenant_id, now=self.clock.now(), cut=cut)

    def archive(self, folder: Path) -> str:
        """Record an archive of what goes now, with a file that nobody reads; return its id."""
        plan = self.plan()
        archive_id = Uuid7Ids().new("arc")
        path = folder / f"{archive_id}.hoclog"
        path.write_bytes(archive_id.encode())
        counts = {
            "statements": len(plan.facts),
            "runs": len(plan.run_ids),
            "steps": 0,
            "values": 0,
            "root": plan.root,
        }
        archive = {
            "archive_id": archive_id,
            "epoch": plan.epoch,
            "from_idx": 0,
            "to_idx": plan.cut,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size": path.stat().st_size,
            "path": str(path),
            "counts": counts,
        }
        self.operate("ops.retention.record_archive", archive)
        return archive_id

    def purge(self, spine: Spine | None = None, **given: Any) -> Purged:
        """Purge, as the operator's command does."""
        return LogPurge(spine or self.spine, tenant_id=self.tenant_id, actor=OPERATOR).run(**given)

    def verify(self) -> list[Any]:
        """Verify the whole log; return what failed."""
        report = LogVerifier(self.spine).verify_all(self.tenant_id)
        assert report.is_supported
        return report.failures

    def grow(self, count: int) -> None:
        """Record facts that are of no run and go by their age alone."""
        for _ in range(count):
            self.tenant.call("tenants.freeze", {"reason": "a drill"})
            self.tenant.call("tenants.unfreeze", {"reason": "it is over"})


def ended_run(
    tenant: Tenant,
    *,
    steps: int = 2,
    status: str = "succeeded",
    error_code: str | None = None,
    **members: Any,
) -> str:
    """Run something to its end and return the run."""
    ending = {} if error_code is None else {"error_code": error_code}
    run_id = start_run(tenant, **members)
    batch = [step(index) for index in range(steps)]
    if batch:
        tenant.call("traces.steps.append", {"run_id": run_id, "steps": batch})
    tenant.call("runs.complete", {"run_id": run_id, "status": status, **ending})
    return run_id


def resolve(tenant: Tenant, incident_id: str) -> None:
    """Resolve an incident."""
    how = {"incident_id": incident_id, "resolution_method": "MANUAL", "summary": "Mended"}
    tenant.call("incidents.resolve", how)


def settle(tenant: Tenant, run_id: str) -> None:
    """Resolve the incidents of a run, and put its lessons aside."""
    for incident in tenant.call("incidents.list", {"source_run_id": run_id}).items:
        if incident.lifecycle_state != "RESOLVED":
            resolve(tenant, incident.incident_id)
    for lesson in tenant.call("lessons.list", {"source_run_id": run_id}).items:
        tenant.call("lessons.dismiss", {"lesson_id": lesson.lesson_id, "reason": "Known"})


# The runs of a history that are over age and go, whatever else stays.
GOING = ("r-plain", "r-parent-gone", "r-child-gone", "r-settled", "r-erased", "r-used", "r-told")
# Why others stay.
STAYING = {
    "r-running": "RUNNING",
    "r-recent": "RECENT",
    "r-held": "HELD",
    "r-subject": "HELD",
    "r-incident": "OPEN_INCIDENT",
    "r-again": "OPEN_INCIDENT",
    "r-lesson": "OPEN_LESSON",
    "r-proposed": "NEEDED",
    "r-parent": "NEEDED",
    "r-recurring": "NEEDED",
    "r-ruled": "NEEDED",
}


def make_history(log: AgedWorld) -> World:
    """Make runs that go and runs that stay for each reason there is, and move the clock on by 200 days."""
    tenant, call = log.tenant, log.tenant.call
    log.operate("ops.retention.set", {"days": 183})
    world = make_world(log.spine, tenant)
    limit(tenant)
    world.run_id = start_run(tenant, run_id="r-told")
    world.access().unwrap()
    world.append(step(0))
    world.complete()
    settle(tenant, "r-told")
    ended_run(tenant, run_id="r-plain")
    ended_run(tenant, run_id="r-parent-gone")
    ended_run(tenant, run_id="r-child-gone", parent_run_id="r-parent-gone")
    ended_run(tenant, run_id="r-settled", status="failed", error_code="TIMEOUT")
    settle(tenant, "r-settled")
    ended_run(tenant, run_id="r-erased")
    call("evidence.erase", {"scope": "RUN", "scope_id": "r-erased", "reason": "asked"}, idempotency_key="e-1")
    start_run(tenant, run_id="r-used")
    check = {"action": {"kind": "MODEL", "name": "m"}, "estimate": {"COST_USD": 1}}
    call("runs.check", {"run_id": "r-used", "check_id": "c-1", **check})
    record(tenant, "u-1", run_id="r-used", usage={"COST_USD": 3})
    call("runs.complete", {"run_id": "r-used", "status": "succeeded"})
    start_run(tenant, run_id="r-running", timeout_seconds=604_800)
    for run_id in ("r-recent", "r-held", "r-parent"):
        ended_run(tenant, run_id=run_id, steps=1)
    ended_run(tenant, run_id="r-subject", steps=1, subject_ref="customer-7")
    for run_id, code in (("r-incident", "E_ONE"), ("r-lesson", "E_TWO"), ("r-proposed", "E_THREE")):
        ended_run(tenant, run_id=run_id, steps=1, status="failed", error_code=code)
    for incident in call("incidents.list", {"source_run_id": "r-lesson"}).items:
        resolve(tenant, incident.incident_id)
    (incident,) = call("incidents.list", {"source_run_id": "r-proposed"}).items
    rule = {"kind": "ACCESS", "name": "No more", "effect": "DENY", "scope": "TENANT", "condition": "true"}
    proposal = {"kind": "RULE", "title": "Never again", "rationale": "It broke", "proposed": rule}
    call("policies.proposals.create", {**proposal, "source_incident_id": incident.incident_id})
    settle(tenant, "r-proposed")
    ended_run(tenant, run_id="r-recurring", status="failed", error_code="E_FOUR", agent_id="worker")
    settle(tenant, "r-recurring")
    # What recurs of it is open.
    ended_run(tenant, run_id="r-again", status="failed", error_code="E_FOUR", agent_id="worker")
    start_run(tenant, run_id="r-ruled")
    call("policies.rules.create", {**rule, "name": "Made in a run"}, run_id="r-ruled")
    call("runs.complete", {"run_id": "r-ruled", "status": "succeeded"})
    call("evidence.holds.place", {"scope": "RUN", "scope_id": "r-held", "reason": "a court asks"})
    call("evidence.holds.place", {"scope": "SUBJECT", "scope_id": "customer-7", "reason": "a court asks"})
    log.sequence()
    log.grow((512 + 40 - log.status().size) // 2)
    log.sequence()
    log.clock.advance(days=200)
    ended_run(tenant, run_id="r-child", parent_run_id="r-parent")
    late = {"title": "Found late", "source_run_id": "r-recent", "error_code": "LATE"}
    resolve(tenant, call("incidents.create", late).incident.incident_id)
    log.sequence()
    return world


def naming(connection: sa.Connection, tenant_id: str, text: str) -> set[str]:
    """Return every table with a row of the tenant that holds a text in some column."""
    found = set()
    for name, table in metadata.tables.items():
        if "tenant_id" not in table.c:
            continue
        columns = [column.name for column in table.columns]
        said = " OR ".join(f'CAST("{column}" AS TEXT) LIKE :text' for column in columns)
        query = f"SELECT 1 FROM {name} WHERE tenant_id = :t AND ({said}) LIMIT 1"
        if connection.execute(sa.text(query), {"t": tenant_id, "text": f"%{text}%"}).first():
            found.add(name)
    return found


@contextmanager
def aged_world(url: str, folder: Path) -> Iterator[AgedWorld]:
    """Give a world whose clock can be moved on."""
    from app.bootstrap import build_spine
    from app.settings import Settings

    clock = SteerableClock()
    write_new_key(folder / "log-key.pem")
    with ExitStack() as stack:

        def make(**settings: Any) -> Spine:
            built = build_spine(Settings(**settings), clock=clock, verify_schema=False)
            stack.callback(built.close)
            return built

        world = AgedWorld(make, url, folder)
        world.clock = clock
        yield world
