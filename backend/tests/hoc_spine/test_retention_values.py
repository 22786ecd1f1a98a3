"""Values that are over age: taken once, each by its age, never from under a hold, and proved as before."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from app.domains.logs.engines import erasure, over_age
from app.hoc_spine.coordinators.due_work import TENANT_WORK
from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.log_verifier import LogVerifier
from app.hoc_spine.maintenance import Maintenance
from tests.factories.bundles import load_verifier
from tests.factories.databases import Databases, Dialect
from tests.factories.logs import LogWorld, standing_world
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant, make_tenant
from tests.factories.worlds import make_world, start_run, step

verifier = load_verifier()
ERASE = "evidence.erase_over_age"
# The beginning of every story; the floor of 183 days is what its tenant asks for.
BEGIN = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Story:
    """A database whose clock a test moves."""

    log: LogWorld
    clock: SteerableClock

    def day(self, number: int) -> None:
        """Go to a day of the story."""
        self.clock.freeze(BEGIN + timedelta(days=number))

    def tenant(self) -> Tenant:
        """Return a new tenant that keeps values as short as it may, from day 0."""
        self.day(0)
        tenant = make_tenant(self.log.spine)
        tenant.call("ops.retention.set", {"value_days": 183}, door="worker")
        return tenant

    def due(self) -> set[str]:
        """Return the tenants that maintenance would ask."""
        with self.log.spine.transactions.read("_system", role="hoc_maintenance") as connection:
            return set(TENANT_WORK[ERASE].find(connection, self.log.spine.services))


@pytest.fixture(scope="module")
def story(
    databases: Databases, dialect: Dialect, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Story]:
    """A database for all tests of this module; each has a tenant of its own."""
    folder = tmp_path_factory.mktemp("log")
    write_new_key(folder / "log-key.pem")
    clock = SteerableClock()
    with standing_world(databases.new(dialect), folder, facts=0, clock=clock) as world:
        yield Story(world, clock)


def erase(tenant: Tenant) -> int:
    """Take what is over age, to the end, and return how many rows it was of."""
    erased, more = 0, True
    while more:
        done = tenant.call(ERASE, door="worker", actor_type="SYSTEM", actor_id="maintenance")
        erased, more = erased + done.erased, done.more
    return erased


def ended(tenant: Tenant, **members: Any) -> str:
    """Return a run of two steps that has ended."""
    run_id = start_run(tenant, **members)
    tenant.call("traces.steps.append", {"run_id": run_id, "steps": [step(0), step(1)]})
    tenant.call("runs.complete", {"run_id": run_id, "status": "succeeded"})
    return run_id


def goal(tenant: Tenant, run_id: str) -> str | None:
    return tenant.call("runs.get", {"run_id": run_id}).goal  # type: ignore[no-any-return]


def bundle(tenant: Tenant, run_id: str) -> bytes:
    made = tenant.call("runs.bundle", {"run_id": run_id, "include_payloads": True})
    return bytes(made.content.path.read_bytes())


def test_each_value_goes_by_its_own_age_and_everything_still_proves(story: Story) -> None:
    tenant, log = story.tenant(), story.log
    world = make_world(log.spine, tenant, log_queries=True)
    world.access("refund for Trillian").unwrap()
    world.append(step(0), step(1))
    world.complete()
    loose = tenant.call(
        "incidents.create", {"title": "Trillian calls", "error_code": "E"}
    ).incident.incident_id
    key = tenant.call(
        "keys.create", {"name": "k", "actor_type": "AGENT", "actor_id": "a", "scopes": ["runs:read"]}
    )
    tenant.call("keys.freeze", {"key_id": key.key_id, "reason": "Trillian left"})
    log.sequence()
    before, old = world.proof(), bundle(tenant, world.run_id)
    story.day(100)
    tenant.call("incidents.acknowledge", {"incident_id": loose})
    late = tenant.call(
        "incidents.create", {"title": "Late", "source_run_id": world.run_id}
    ).incident.incident_id
    assert (erase(tenant), story.due() & {tenant.tenant_id}) == (0, set())

    story.day(185)
    assert tenant.tenant_id in story.due()
    assert erase(tenant) > before.values.intact
    assert (erase(tenant), story.due() & {tenant.tenant_id}) == (0, set())
    log.sequence()
    after = world.proof()
    assert after.integrity.verification_status == "VERIFIED"
    # The late incident and its event came on day 100; so did the run's row to count them.
    assert (after.values.erased, after.values.tampered) == (before.values.intact - 1, 0)
    assert (after.values.intact > 2, goal(tenant, world.run_id) is None) == (True, False)
    assert tenant.call("keys.get", {"key_id": key.key_id}).frozen_reason is None
    # The incident of no run was written to on day 100.
    titles = [tenant.call("incidents.get", {"incident_id": name}).title for name in (loose, late)]
    assert titles == ["Trillian calls", "Late"]

    story.day(284)
    assert erase(tenant) > 0
    assert goal(tenant, world.run_id) is None
    assert tenant.call("incidents.get", {"incident_id": loose}).protected_state == "ERASED"
    assert tenant.call("incidents.get", {"incident_id": late}).protected_state == "ERASED"
    log.sequence()
    for data, erased in ((old, False), (bundle(tenant, world.run_id), True)):
        options = verifier.Options(
            keys=(verifier.parse_vkey(log.key.vkey(f"hoc.test/{tenant.tenant_id}/1")),)
        )
        report = verifier.verify_file(io.BytesIO(data), options)
        assert report.verdict == "VERIFIED", report.failures
        values = report.figures["values"]
        assert (values["erased"] > 0, values["intact"] > 0) == (erased, not erased)
    assert LogVerifier(log.spine).verify_all(tenant.tenant_id).failures == []
    records = tenant.call("evidence.erasures.list", {"limit": 500}).items
    assert {(one.reason, one.requested_by, one.legal_basis) for one in records} == {
        ("RETENTION", "maintenance", None)
    }
    assert {(one.scope, one.run_id is None) for one in records} == {("RUN", False), ("FACT", True)}
    entries = tenant.call("logs.audit_list", {"event_type": "EvidenceErased"}).items
    # A late entry of the run would keep it as long again.
    assert {entry.run_id for entry in entries} == {None}


def test_what_a_hold_covers_is_left_and_found_again_after_its_release(story: Story) -> None:
    tenant = story.tenant()
    world = make_world(story.log.spine, tenant, log_queries=True)
    world.access().unwrap()
    world.append(step(0))
    world.complete()
    runs = [ended(tenant, subject_ref=subject) for subject in (None, "customer-7", None)]
    placed = [("RUN", runs[0]), ("SUBJECT", "customer-7"), ("PLANE", world.plane_id), ("TENANT", None)]
    holds = [
        tenant.call("evidence.holds.place", {"scope": scope, "scope_id": name, "reason": "matter 7"}).hold_id
        for scope, name in placed
    ]

    def kept() -> list[bool]:
        return [goal(tenant, run_id) is not None for run_id in (*runs[:2], world.run_id, runs[2])]

    story.day(190)
    assert story.due().isdisjoint({tenant.tenant_id}), "held as a whole, nobody need ask"
    assert (erase(tenant), kept()) == (0, [True] * 4)
    tenant.call("evidence.holds.release", {"hold_id": holds.pop(), "reason": "settled"})
    assert tenant.tenant_id in story.due()
    erase(tenant)
    assert kept() == [True, True, True, False]
    assert story.due().isdisjoint({tenant.tenant_id}), "what is held is looked at once"
    for number, hold_id in reversed(list(enumerate(holds))):
        story.day(200 - number)
        assert erase(tenant) == 0
        tenant.call("evidence.holds.release", {"hold_id": hold_id, "reason": "settled"})
        assert erase(tenant) > 0
        assert kept() == [True] * number + [False] * (4 - number)
    assert tenant.call("knowledge.planes.events", {"plane_id": world.plane_id}).items


def test_a_run_that_goes_on_is_left_until_it_has_ended(story: Story) -> None:
    tenant = story.tenant()
    first = ended(tenant)
    going = start_run(tenant)
    tenant.call("traces.steps.append", {"run_id": going, "steps": [step(0)]})
    last = ended(tenant)
    story.day(185)
    assert erase(tenant) > 0
    assert [goal(tenant, run_id) is None for run_id in (first, going, last)] == [True, False, True]
    tenant.call("runs.complete", {"run_id": going, "status": "failed"})
    assert erase(tenant) > 0
    # Its end wrote to the run, so that its goal begins anew; its step is as old as ever.
    assert goal(tenant, going) is not None
    (only,) = tenant.call("traces.steps.list", {"run_id": going}).items
    assert only.protected_state == "ERASED"
    story.day(185 + 184)
    erase(tenant)
    assert goal(tenant, going) is None


def test_it_goes_on_where_it_was_cut_off(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = story.tenant()
    runs = [ended(tenant) for _ in range(6)]
    story.day(185)
    monkeypatch.setattr(over_age, "LEAVES_AT_ONCE", 7)
    monkeypatch.setattr(erasure, "MAX_RECORDS", 1)
    monkeypatch.setattr(erasure, "MAX_COMMITMENTS", 2)
    done = tenant.call(ERASE, door="worker")
    assert (done.erased, done.more) == (2, True)
    # Another process goes on, after this one was killed.
    told = Maintenance(story.log.another_spine()).run_round().done[ERASE]
    assert done.erased + told >= 3 * len(runs)
    assert {goal(tenant, run_id) for run_id in runs} == {None}
    assert erase(tenant) == 0
    monkeypatch.undo()
    records = tenant.call("evidence.erasures.list", {"limit": 500}).items
    assert max(record.values for record in records) == 2
    assert sum(record.values for record in records) >= 3 * len(runs)


def test_maintenance_asks_once_a_day_and_says_when_it_last_looked(story: Story) -> None:
    tenant = story.tenant()
    run_id = ended(tenant)
    story.day(183)
    assert tenant.tenant_id not in story.due()
    story.day(184)
    assert tenant.tenant_id in story.due()
    report = Maintenance(story.log.spine).run_round()
    assert (report.done[ERASE] >= 3, goal(tenant, run_id)) == (True, None)
    looked = REGISTRY.get_sample_value("hoc_retention_last_run_timestamp")
    assert looked == (BEGIN + timedelta(days=184)).timestamp()
    assert story.due() == set()


def test_a_replay_after_a_restore_leaves_values_to_their_age(story: Story, tmp_path: Path) -> None:
    tenant = story.tenant()
    runs = [ended(tenant), ended(tenant)]
    asked = {"scope": "RUN", "reason": "RETENTION"}
    tenant.call("evidence.erase", asked | {"scope_id": runs[0]})
    story.day(185)
    erase(tenant)
    at = ("--tenant-id", tenant.tenant_id)
    listed = json.loads(story.log.hoc("erase", "list", *at, "--json"))
    told = tmp_path / "erasures.json"
    told.write_text(json.dumps(listed))
    # Somebody's own word for why is no age.
    assert story.log.hoc("erase", "replay", *at, "--from", str(told)).splitlines() == [
        f"RUN {runs[0]}: NOTHING_TO_ERASE"
    ]
