"""The way out: an archive that is really written, a purge that really destroys, and what certifies it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.bootstrap import build_spine
from app.hoc_spine.coordinators.plane_archive import write_archive
from app.hoc_spine.spine import Spine
from app.kernel.canonical_json import dumps
from app.kernel.context import RequestContext
from app.kernel.hashing import digest_of, text_hash
from app.settings import Settings
from tests.factories.databases import DIALECTS, Databases
from tests.factories.planes import move, state_of, work_jobs
from tests.factories.steering import SteerableClock, SteerableIds
from tests.factories.tenants import Tenant, make_tenant, operator_context
from tests.factories.worlds import make_plane, make_rule

DOCUMENTS = {"one.md": "The first text: a@example.com", "two.md": "The second text"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def tenant(make_spine: Callable[..., Spine], folder: Path) -> Tenant:
    """A tenant on a spine that archives into a folder of the test."""
    return make_tenant(make_spine(archive_dir=folder))


def plane_out_of_use(tenant: Tenant, **config: Any) -> str:
    """Return a plane in DEACTIVATED that served two documents."""
    rule = make_rule(tenant)
    plane_id, _ = make_plane(
        tenant.spine, tenant, rule_ids=(rule,), documents=DOCUMENTS, retention_days=0, **config
    )
    move(tenant, plane_id, "deregister_knowledge_plane")
    tenant.call("knowledge.planes.unbind_policy", {"plane_id": plane_id, "policy_id": rule})
    if config.get("grace_period_days") == 0:
        move(tenant, plane_id, "deactivate_knowledge_plane")
    else:
        move(tenant, plane_id, "deactivate_knowledge_plane", force=True, reason="now")
    return plane_id


def archive(tenant: Tenant, plane_id: str) -> Any:
    move(tenant, plane_id, "archive_knowledge_plane")
    work_jobs(tenant.spine, tenant)
    return tenant.call("knowledge.planes.get", {"plane_id": plane_id})


def purge(tenant: Tenant, plane_id: str) -> Any:
    tenant.call("knowledge.planes.approve_purge", {"plane_id": plane_id, "reason": "seen"}, actor_id="bob")
    return move(tenant, plane_id, "purge_knowledge_plane", reason="the end of the contract")


def last_events(tenant: Tenant, plane_id: str, count: int) -> list[Any]:
    listed = tenant.call("knowledge.planes.events", {"plane_id": plane_id, "limit": 500}).items
    return list(listed[-count:])


def test_an_archive_holds_the_collection_the_plane_and_its_events(tenant: Tenant, folder: Path) -> None:
    plane_id = plane_out_of_use(tenant)
    plane = archive(tenant, plane_id)
    path = folder / plane.archive_key
    assert plane.archive_key == f"{tenant.tenant_id}/{plane_id}/{plane.archive_digest[7:]}.zip"
    assert digest_of(path.read_bytes()) == plane.archive_digest
    assert path.stat().st_size == plane.archive_size_bytes
    assert plane.retention_until == plane.archived_at
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    with zipfile.ZipFile(path) as packed:
        names = packed.namelist()
        parts = {name: packed.read(name) for name in names}
    assert names == ["events.jsonl", "manifest.json", "plane.json", "repository.zip"]
    manifest = json.loads(parts["manifest.json"])
    for part in manifest["parts"]:
        assert hashlib.sha256(parts[part["name"]]).hexdigest() == part["sha256"]
    body = json.loads(parts["plane.json"])
    assert body["plane"]["plane_id"] == plane_id
    assert "archive_digest" not in body["plane"]
    assert {pin["name"] for pin in body["pins"]} == set(DOCUMENTS)
    assert [binding["policy_id"] for binding in body["bindings"]]
    events = [json.loads(line) for line in parts["events.jsonl"].splitlines()]
    assert (events[0]["seq"], events[-1]["to_state_value"]) == (1, 320)
    (folder / "repository.zip").write_bytes(parts["repository.zip"])
    with zipfile.ZipFile(folder / "repository.zip") as snapshot:
        texts = {snapshot.read(name).decode() for name in snapshot.namelist() if name.startswith("blobs/")}
    assert texts == set(DOCUMENTS.values())


def test_the_same_facts_give_the_same_bytes(tenant: Tenant, folder: Path) -> None:
    plane_id = plane_out_of_use(tenant)
    move(tenant, plane_id, "archive_knowledge_plane")
    spine = tenant.spine
    prepare = spine.executor.prepare_context(tenant.context(), spine.services.clock.now())
    plane = {"plane_id": plane_id}
    first = write_archive(prepare, plane, job_id="one", attempt=1)
    assert write_archive(prepare, plane, job_id="two", attempt=1) == first
    work_jobs(spine, tenant)
    assert tenant.call("knowledge.planes.get", {"plane_id": plane_id}).archive_digest == first.digest
    assert len(list((folder / tenant.tenant_id / plane_id).iterdir())) == 1


class CountingIds:
    """Ids in the order in which they are asked for, the same in every world."""

    def __init__(self) -> None:
        self._count = 0

    def new(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}_{self._count:032x}"


class SameTenant(Tenant):
    """A tenant whose requests have one id, the same in every world."""

    def context(self, **members: Any) -> RequestContext:
        return super().context(**members, request_id="req-1")


def test_both_dialects_write_the_same_bytes(databases: Databases, tmp_path: Path) -> None:
    found = []
    for dialect in DIALECTS:
        clock = SteerableClock()
        clock.freeze(datetime(2026, 1, 1, tzinfo=UTC))
        settings = Settings(
            database_url=databases.new(dialect), archive_dir=tmp_path / dialect, log_sequencer="off"
        )
        spine = build_spine(settings, clock=clock, ids=CountingIds())
        try:
            made = {"tenant_id": "acme", "name": "Acme", "slug": "acme", "plan": "ENTERPRISE"}
            spine.dispatch("ops.tenants.create", operator_context(), made).unwrap()
            tenant = SameTenant(spine, "acme")
            # Without a reason anywhere: what is protected has a salt of its own in every world.
            plane_id = plane_out_of_use(tenant, grace_period_days=0)
            found.append(archive(tenant, plane_id).archive_digest)
        finally:
            spine.close()
    assert found[0] == found[1]


def test_a_folder_that_cannot_be_written_is_retried_and_then_failed(
    tenant: Tenant, folder: Path, clock: SteerableClock
) -> None:
    plane_id = plane_out_of_use(tenant)
    folder.write_text("in the way")
    job_id = move(tenant, plane_id, "archive_knowledge_plane").job_id
    for _ in range(4):
        work_jobs(tenant.spine, tenant)
        clock.advance(hours=2)
    job = tenant.call("knowledge.jobs.get", {"job_id": job_id})
    assert (job.status, job.error_code, job.attempt) == ("FAILED", "ARCHIVE_FAILED", 4)
    # The state never moves: the gate of the purge says what is to be done.
    assert state_of(tenant, plane_id) == "ARCHIVED"
    (edge,) = [
        item
        for item in tenant.call("knowledge.planes.next_actions", {"plane_id": plane_id}).actions
        if item.to_state == "PURGED"
    ]
    assert edge.gate.required_action == "retry_job"
    folder.unlink()
    tenant.call("knowledge.jobs.retry", {"job_id": job_id})
    work_jobs(tenant.spine, tenant)
    assert tenant.call("knowledge.planes.get", {"plane_id": plane_id}).archive_digest is not None


def test_a_purge_leaves_no_passage_and_a_certificate_that_verifies(
    tenant: Tenant, folder: Path, second_connection: sa.Connection
) -> None:
    plane_id = plane_out_of_use(tenant)
    plane = archive(tenant, plane_id)
    view = purge(tenant, plane_id)
    assert (view.to_state, view.gate.decision) == ("PURGED", "ALLOWED")
    after = tenant.call("knowledge.planes.get", {"plane_id": plane_id})
    moved, started = last_events(tenant, plane_id, 2)
    certificate = moved.details["certificate"]
    assert text_hash(dumps(certificate)) == after.purge_certificate
    assert certificate == {
        "plane_id": plane_id,
        "tenant_id": tenant.tenant_id,
        "purged_at": moved.occurred_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "actor_id": "user-1",
        "approval_id": moved.approval_id,
        "approved_by": "bob",
        "archive_digest": plane.archive_digest,
        "documents": 2,
        "revisions_redacted": 2,
        "bytes_deleted": sum(len(text) for text in DOCUMENTS.values()),
        "bytes_shared": 0,
        "change_set_id": certificate["change_set_id"],
        "config_digest": plane.config_digest,
        "audit_preserved": True,
    }
    for table in ("plane_passages", "plane_documents", "plane_terms"):
        statement = sa.text(f"SELECT count(*) FROM {table} WHERE plane_id = :p")
        assert second_connection.execute(statement, {"p": plane_id}).scalar_one() == 0
    blobs = sa.text("SELECT count(*) FROM blobs WHERE tenant_id = :t AND data IS NOT NULL")
    assert second_connection.execute(blobs, {"t": tenant.tenant_id}).scalar_one() == 0
    held = sa.text("SELECT count(*) FROM plane_collections WHERE plane_id = :p AND released_at IS NULL")
    assert second_connection.execute(held, {"p": plane_id}).scalar_one() == 0
    # Then the archive goes too, by a job of its own.
    assert started.event_type == "LIFECYCLE_JOB_STARTED"
    assert (folder / plane.archive_key).exists()
    work_jobs(tenant.spine, tenant)
    assert not (folder / plane.archive_key).parent.exists()
    assert [event.event_type for event in last_events(tenant, plane_id, 2)] == [
        "LIFECYCLE_JOB_COMPLETED",
        "PLANE_ARCHIVE_DELETED",
    ]
    # Bindings, approvals and events stay; the name is free, the id is not.
    assert len(last_events(tenant, plane_id, 100)) > 15


def test_bytes_that_others_cite_are_kept_and_counted(tenant: Tenant) -> None:
    plane_id = plane_out_of_use(tenant)
    text = DOCUMENTS["one.md"]
    tenant.call("repository.artifacts.create", {"name": "n", "artifact_type": "note", "content": text})
    archive(tenant, plane_id)
    purge(tenant, plane_id)
    certificate = last_events(tenant, plane_id, 2)[0].details["certificate"]
    assert certificate["bytes_shared"] == len(text)
    assert certificate["bytes_deleted"] == len(DOCUMENTS["two.md"])


def test_a_purge_is_allowed_once_and_by_a_second_person(tenant: Tenant, clock: SteerableClock) -> None:
    plane_id = plane_out_of_use(tenant)
    archive(tenant, plane_id)
    payload = {"plane_id": plane_id, "action": "purge_knowledge_plane", "reason": "r"}
    approve = {"plane_id": plane_id, "reason": "seen"}
    tenant.call("knowledge.planes.approve_purge", approve)
    assert tenant.dispatch("knowledge.planes.transition", payload).error_code == "POLICY_GATE_PENDING"
    agent = tenant.dispatch("knowledge.planes.approve_purge", approve, actor_type="AGENT", actor_id="bot")
    assert agent.error_code == "HUMAN_REQUIRED"
    tenant.call("knowledge.planes.approve_purge", approve, actor_id="bob")
    clock.advance(days=8)
    assert tenant.dispatch("knowledge.planes.transition", payload).error_code == "POLICY_GATE_PENDING"
    tenant.call("knowledge.planes.approve_purge", approve, actor_id="bob")
    assert tenant.call("knowledge.planes.transition", payload).to_state == "PURGED"
    again = tenant.dispatch("knowledge.planes.transition", payload)
    assert again.error_code == "INVALID_ACTION"
    for action in ("retry", "cancel"):
        job = tenant.call("knowledge.jobs.list", {"plane_id": plane_id, "job_type": "delete_archive"}).items[
            0
        ]
        assert not tenant.dispatch(f"knowledge.jobs.{action}", {"job_id": job.job_id}).success


def test_retention_is_waited_for(
    make_spine: Callable[..., Spine], folder: Path, clock: SteerableClock, ids: SteerableIds
) -> None:
    tenant = make_tenant(make_spine(archive_dir=folder))
    clock.freeze()
    rule = make_rule(tenant)
    plane_id, _ = make_plane(tenant.spine, tenant, rule_ids=(rule,), retention_days=30)
    move(tenant, plane_id, "deregister_knowledge_plane")
    tenant.call("knowledge.planes.unbind_policy", {"plane_id": plane_id, "policy_id": rule})
    clock.advance(days=7)
    move(tenant, plane_id, "deactivate_knowledge_plane")
    plane = archive(tenant, plane_id)
    assert (plane.retention_until - plane.archived_at).days == 30
    clock.advance(days=29)
    tenant.call("knowledge.planes.approve_purge", {"plane_id": plane_id, "reason": "seen"}, actor_id="bob")
    payload = {"plane_id": plane_id, "action": "purge_knowledge_plane", "reason": "r"}
    refused = tenant.dispatch("knowledge.planes.transition", payload)
    assert refused.error is not None
    assert refused.error.extra["required_action"] == "wait_retention"
    clock.advance(days=1)
    assert tenant.call("knowledge.planes.transition", payload).to_state == "PURGED"
