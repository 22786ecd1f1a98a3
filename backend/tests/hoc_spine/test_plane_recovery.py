"""kill -9 of a worker inside each stage: the plane still arrives, once, with everything indexed once."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from app.hoc_spine.spine import Spine
from app.hoc_spine.worker import PlaneWorker
from tests.factories.planes import ROOT, move, register_plane, state_of, work_jobs, write_files
from tests.factories.processes import fork
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant, make_tenant

FILES = {f"f{number:03}.txt": f"document number {number} speaks of valves" for number in range(130)}
# The worker dies before one of these statements of each try, wherever in its work that happens to be.
DEATHS = (9, 31, 67)


def die_while_working(make: Callable[[], Spine], tenant: Tenant, job_id: str, at: int) -> bool:
    """Work a job in a process that is killed before a statement; tell whether it died of that."""
    child = fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    try:
        spine = make()
        seen = 0

        def count(*_: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)

        sa.event.listen(spine.transactions.engine, "before_cursor_execute", count)
        PlaneWorker(spine, name="doomed").work(tenant.tenant_id, job_id)
    finally:
        os._exit(0)


def arrive(make: Callable[[], Spine], clock: SteerableClock, tenant: Tenant, job_id: str) -> int:
    """Let three workers die over a job and a fourth one finish it; return how many died."""
    died = 0
    for at in DEATHS:
        died += die_while_working(make, tenant, job_id, at)
        clock.advance(seconds=61)
    work_jobs(tenant.spine, tenant)
    return died


def test_a_worker_killed_in_each_stage_leaves_a_plane_that_arrives_once(
    make_spine: Callable[..., Spine],
    new_database: Callable[..., str],
    clock: SteerableClock,
    tmp_path: Path,
) -> None:
    root = write_files(tmp_path / "root", FILES)
    members: dict[str, Any] = {
        "database_url": new_database(),
        "ingest_roots": {ROOT: root},
        "archive_dir": tmp_path / "archive",
    }
    tenant = make_tenant(make_spine(**members))
    plane_id = register_plane(
        tenant, source={"kind": "files", "root": ROOT}, grace_period_days=0, retention_days=0
    )

    def work(job_id: str) -> int:
        return arrive(partial(make_spine, **members), clock, tenant, job_id)

    died = {"verify": work(move(tenant, plane_id, "verify_knowledge_plane").job_id)}
    died["ingest"] = work(move(tenant, plane_id, "ingest_knowledge_plane").job_id)
    assert state_of(tenant, plane_id) == "INDEXED"
    write_files(root, {"f001.txt": "another text", "new.txt": "gaskets"})
    died["refresh"] = work(tenant.call("knowledge.planes.refresh", {"plane_id": plane_id}).job_id)
    assert_indexed_once(tenant, plane_id)
    take_out_of_service(tenant, plane_id)
    died["archive"] = work(move(tenant, plane_id, "archive_knowledge_plane").job_id)
    (folder,) = (tmp_path / "archive" / tenant.tenant_id).iterdir()
    assert len(list(folder.iterdir())) == 1
    tenant.call("knowledge.planes.approve_purge", {"plane_id": plane_id, "reason": "seen"}, actor_id="bob")
    died["delete"] = work(move(tenant, plane_id, "purge_knowledge_plane", reason="over").job_id)
    assert state_of(tenant, plane_id) == "PURGED"
    assert not any((tmp_path / "archive").rglob("*.zip"))
    # A short stage is over before the later deaths.
    assert died["ingest"] == died["refresh"] == 3
    assert min(died.values()) >= 1
    told = tenant.call("knowledge.planes.events", {"plane_id": plane_id, "limit": 500}).items
    completed = Counter(event.job_id for event in told if event.event_type == "LIFECYCLE_JOB_COMPLETED")
    assert len(completed) == 5
    assert set(completed.values()) == {1}
    assert [event.seq for event in told] == list(range(1, len(told) + 1))


def assert_indexed_once(tenant: Tenant, plane_id: str) -> None:
    documents = []
    cursor = None
    while True:
        page = tenant.call(
            "knowledge.planes.documents", {"plane_id": plane_id, "limit": 500, "cursor": cursor}
        )
        documents += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    assert Counter(item.name for item in documents) == Counter([*FILES, "new.txt"])
    assert {item.revision for item in documents if item.name == "f001.txt"} == {2}
    with tenant.spine.transactions.read(tenant.tenant_id) as connection:
        frequency = connection.execute(
            sa.text("SELECT passage_frequency FROM plane_terms WHERE plane_id = :p AND term = 'valves'"),
            {"p": plane_id},
        ).scalar_one()
    assert frequency == len(FILES) - 1


def take_out_of_service(tenant: Tenant, plane_id: str) -> None:
    rule = {"rule_id": "allow", "kind": "ACCESS", "name": "allow", "effect": "ALLOW", "activate": True}
    tenant.call("policies.rules.create", rule)
    move(tenant, plane_id, "classify_knowledge_plane")
    move(tenant, plane_id, "request_activation")
    bound = {"plane_id": plane_id, "policy_id": "allow"}
    tenant.call("knowledge.planes.bind_policy", bound)
    move(tenant, plane_id, "activate_knowledge_plane")
    move(tenant, plane_id, "deregister_knowledge_plane")
    tenant.call("knowledge.planes.unbind_policy", bound)
    move(tenant, plane_id, "deactivate_knowledge_plane")
