"""Plane jobs through the spine: verification and ingest really happen, once, and failures have their way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.operation_registry import Operation, OperationResult
from app.hoc_spine.spine import Spine
from app.hoc_spine.worker import PlaneWorker, PlaneWorkers
from app.kernel.context import Actor, RequestContext
from app.kernel.errors import HocError
from app.kernel.hashing import digest_of
from tests.factories.planes import (
    ROOT,
    index_plane,
    move,
    open_jobs,
    register_plane,
    state_of,
    work_jobs,
    write_files,
)
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant, make_tenant, operator_context

FILES = {
    "b/two.md": "# Two\nThe second document speaks of pumps.",
    "a.txt": "The first document speaks of valves. " * 40,
    "c.csv": "part,price\nvalve,3\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_files(tmp_path / "root", FILES)


@pytest.fixture
def served(make_spine: Callable[..., Spine], root: Path) -> Tenant:
    """A tenant on a spine whose ingest root holds files."""
    return make_tenant(make_spine(ingest_roots={ROOT: root}))


def over_files(tenant: Tenant, **config: Any) -> str:
    return register_plane(tenant, source={"kind": "files", "root": ROOT}, **config)


def events(tenant: Tenant, plane_id: str) -> list[Any]:
    return list(tenant.call("knowledge.planes.events", {"plane_id": plane_id, "limit": 500}).items)


def worker_call(tenant: Tenant, name: str, payload: dict[str, Any]) -> OperationResult:
    context = RequestContext(
        tenant_id=tenant.tenant_id, actor=Actor("SYSTEM", "w"), request_id="req-w", door="worker"
    )
    return tenant.spine.dispatch(name, context, payload)


def claim(tenant: Tenant, job_id: str) -> dict[str, str] | None:
    token = (
        worker_call(tenant, "knowledge.jobs.claim", {"job_id": job_id, "lease_owner": "w"})
        .unwrap()
        .lease_token
    )
    return None if token is None else {"job_id": job_id, "lease_token": token}


def start_ingest(tenant: Tenant, **config: Any) -> tuple[str, str]:
    """Return a plane in INGESTING and its queued job."""
    plane_id = over_files(tenant, **config)
    move(tenant, plane_id, "verify_knowledge_plane")
    work_jobs(tenant.spine, tenant)
    return plane_id, move(tenant, plane_id, "ingest_knowledge_plane").job_id


def count(connection: sa.Connection, table: str, plane_id: str) -> int:
    statement = sa.text(f"SELECT count(*) FROM {table} WHERE plane_id = :p")
    return int(connection.execute(statement, {"p": plane_id}).scalar_one())


def test_a_plane_over_files_is_verified_ingested_and_indexed(
    served: Tenant, second_connection: sa.Connection
) -> None:
    plane_id = over_files(served)
    verify = move(served, plane_id, "verify_knowledge_plane")
    assert state_of(served, plane_id) == "PENDING_VERIFY"
    assert work_jobs(served.spine, served) == 1
    assert state_of(served, plane_id) == "VERIFIED"
    job = served.call("knowledge.jobs.get", {"job_id": verify.job_id})
    assert (job.status, job.attempt, job.result["status"]) == ("SUCCEEDED", 1, "success")
    assert job.result["data"]["source_type"] == "repository"

    ingest = move(served, plane_id, "ingest_knowledge_plane")
    assert work_jobs(served.spine, served) == 1
    assert state_of(served, plane_id) == "INDEXED"
    data = served.call("knowledge.jobs.get", {"job_id": ingest.job_id}).result["data"]
    assert data["records_ingested"] == 3
    assert data["bytes_processed"] == sum(len(text.encode()) for text in FILES.values())
    assert data["skipped"] == 0

    plane = served.call("knowledge.planes.get", {"plane_id": plane_id})
    assert plane.document_count == 3
    assert plane.passage_count == count(second_connection, "plane_passages", plane_id) == 6
    assert plane.generation == 1
    assert plane.ingested_seq >= 3
    documents = served.call("knowledge.planes.documents", {"plane_id": plane_id}).items
    assert {item.name: item.content_digest for item in documents} == {
        name: digest_of(text.encode()) for name, text in FILES.items()
    }


def test_the_job_and_the_edge_are_told_in_one_commit_each_with_its_fact(
    served: Tenant, second_connection: sa.Connection
) -> None:
    plane_id = over_files(served)
    index_plane(served.spine, served, plane_id)
    told = events(served, plane_id)
    assert [(event.event_type, event.to_state) for event in told] == [
        ("LIFECYCLE_TRANSITION", "DRAFT"),
        ("LIFECYCLE_TRANSITION", "PENDING_VERIFY"),
        ("LIFECYCLE_JOB_STARTED", None),
        ("LIFECYCLE_JOB_COMPLETED", None),
        ("LIFECYCLE_TRANSITION", "VERIFIED"),
        ("LIFECYCLE_TRANSITION", "INGESTING"),
        ("LIFECYCLE_JOB_STARTED", None),
        ("LIFECYCLE_JOB_COMPLETED", None),
        ("LIFECYCLE_TRANSITION", "INDEXED"),
    ]
    assert [event.seq for event in told] == list(range(1, 10))
    assert told[-1].action == "job_complete"
    assert told[-1].actor_type == "SYSTEM"
    assert len(told[-2].details["pins_digest"]) == 64
    leaves = second_connection.execute(
        sa.text("SELECT count(*) FROM log_leaves WHERE tenant_id = :t AND type = 'knowledge.transition'"),
        {"t": served.tenant_id},
    ).scalar_one()
    assert leaves == 9


def test_files_become_artifacts_of_the_owned_collection_under_their_paths(
    served: Tenant, second_connection: sa.Connection
) -> None:
    plane_id = over_files(served)
    index_plane(served.spine, served, plane_id)
    rows = second_connection.execute(
        sa.text(
            "SELECT name, collection_id, artifact_type FROM artifacts"
            " WHERE tenant_id = :t ORDER BY created_seq"
        ),
        {"t": served.tenant_id},
    ).all()
    # In path order: a file sorts with the folders beside it by name.
    assert [row.name for row in rows] == ["a.txt", "b/two.md", "c.csv"]
    assert {row.collection_id for row in rows} == {f"plane-{plane_id}"}
    assert {row.artifact_type for row in rows} == {"document"}


def test_what_is_no_plain_text_file_is_passed_over_with_a_diagnostic(served: Tenant, root: Path) -> None:
    write_files(root, {"d.pdf": "x", "e.txt": b"\xff\xfe", "f.txt": b"a\x00b", "g/h.md": "fine"})
    (root / "big.txt").write_bytes(b"x" * (8 * 1024 * 1024 + 1))
    outside = write_files(root.parent / "outside", {"secret.txt": "secret"})
    (root / "link.txt").symlink_to(outside / "secret.txt")
    (root / "linked").symlink_to(outside)
    plane_id, job_id = start_ingest(served)
    work_jobs(served.spine, served)
    data = served.call("knowledge.jobs.get", {"job_id": job_id}).result["data"]
    assert data["records_ingested"] == 4
    assert data["diagnostics"] == [
        ["big.txt", "TOO_LARGE"],
        ["d.pdf", "SUFFIX"],
        ["e.txt", "NOT_UTF8"],
        ["f.txt", "NOT_UTF8"],
        ["link.txt", "SYMLINK"],
        ["linked", "SUFFIX"],
    ]
    names = {item.name for item in served.call("knowledge.planes.documents", {"plane_id": plane_id}).items}
    assert names == {*FILES, "g/h.md"}


def test_a_file_that_the_repository_refuses_does_not_stop_the_others(served: Tenant, root: Path) -> None:
    write_files(root, {" leading.txt": "a name that no artifact may have"})
    plane_id, job_id = start_ingest(served)
    work_jobs(served.spine, served)
    data = served.call("knowledge.jobs.get", {"job_id": job_id}).result["data"]
    assert data["records_ingested"] == 3
    assert data["diagnostics"] == [[" leading.txt", "INVALID_NAME"]]
    assert state_of(served, plane_id) == "INDEXED"


def test_more_files_than_a_batch_are_ingested_in_several(served: Tenant, root: Path) -> None:
    write_files(root, {f"many/{n:03}.txt": f"document number {n}" for n in range(230)})
    _plane_id, job_id = start_ingest(served)
    work_jobs(served.spine, served)
    job = served.call("knowledge.jobs.get", {"job_id": job_id})
    assert job.result["data"]["records_ingested"] == 233
    assert job.result["data"]["batch_count"] == 6


def test_collections_are_pinned_at_their_head_and_shared_ones_too(spine: Spine, tenant: Tenant) -> None:
    tenant.call("repository.collections.create", {"id": "col-own", "name": "own"})
    tenant.call("repository.collections.create", {"id": "col-shared", "name": "shared"})
    create = {"artifact_type": "note", "media_type": "text/plain; charset=utf-8"}
    for collection, name in (("col-own", "one"), ("col-shared", "two")):
        item = {**create, "id": f"art-{name}", "collection_id": collection, "name": name, "content": "first"}
        tenant.call("repository.artifacts.create", item)
    binary = {**create, "media_type": "application/octet-stream", "name": "bin", "content": "x"}
    tenant.call("repository.artifacts.create", {**binary, "collection_id": "col-own"})
    tenant.call("repository.artifacts.update", {"artifact_id": "art-two", "content": "second"})
    plane_id = register_plane(tenant, owned_collection="col-own", shared_collections=["col-shared"])
    index_plane(spine, tenant, plane_id)
    documents = tenant.call("knowledge.planes.documents", {"plane_id": plane_id}).items
    assert [(item.artifact_id, item.revision) for item in documents] == [("art-one", 1), ("art-two", 2)]


def test_an_empty_source_is_a_failure_and_not_a_success(spine: Spine, tenant: Tenant) -> None:
    plane_id = register_plane(tenant)
    index_plane(spine, tenant, plane_id)
    assert state_of(tenant, plane_id) == "VERIFIED"
    job = tenant.call("knowledge.jobs.list", {"plane_id": plane_id, "job_type": "ingest_data"}).items[0]
    assert (job.status, job.error_code, job.retryable) == ("FAILED", "NOTHING_TO_INGEST", False)
    told = events(tenant, plane_id)
    assert [event.event_type for event in told[-2:]] == ["LIFECYCLE_JOB_FAILED", "LIFECYCLE_ROLLBACK"]
    assert told[-2].details["will_retry"] is False
    assert (told[-1].to_state, told[-1].action) == ("VERIFIED", "retry_knowledge_plane")


@pytest.mark.parametrize("folder", ["missing", "a.txt", "linked"])
def test_an_unreadable_root_fails_the_verification_and_the_plane_goes_back(
    served: Tenant, root: Path, folder: str
) -> None:
    (root / "linked").symlink_to(root / "b")
    plane_id = register_plane(served, source={"kind": "files", "root": ROOT, "folder": folder})
    job_id = move(served, plane_id, "verify_knowledge_plane").job_id
    work_jobs(served.spine, served)
    job = served.call("knowledge.jobs.get", {"job_id": job_id})
    assert (job.status, job.error_code) == ("FAILED", "VERIFICATION_FAILED")
    assert state_of(served, plane_id) == "DRAFT"


def test_a_root_that_the_server_does_not_know_fails_the_verification(spine: Spine, tenant: Tenant) -> None:
    plane_id = over_files(tenant)
    move(tenant, plane_id, "verify_knowledge_plane")
    work_jobs(spine, tenant)
    assert state_of(tenant, plane_id) == "DRAFT"


def test_a_deleted_shared_collection_fails_the_verification(spine: Spine, tenant: Tenant) -> None:
    tenant.call("repository.collections.create", {"id": "col-s", "name": "shared"})
    plane_id = register_plane(tenant, shared_collections=["col-s"])
    tenant.call("repository.collections.delete", {"collection_id": "col-s"})
    job_id = move(tenant, plane_id, "verify_knowledge_plane").job_id
    work_jobs(spine, tenant)
    assert tenant.call("knowledge.jobs.get", {"job_id": job_id}).error_code == "VERIFICATION_FAILED"


def test_a_source_without_its_credential_fails_honestly(spine: Spine, tenant: Tenant) -> None:
    config = {
        "driver": "postgresql",
        "credential_ref": "env://DSN",
        "templates": [{"id": "t", "sql": "SELECT 1 AS n", "key_columns": ["n"]}],
    }
    payload = {"plane_type": "docs", "plane_name": "sql", "connector_type": "sql", "connector_id": "c"}
    plane_id = tenant.call("knowledge.planes.register", {**payload, "config": config}).plane_id
    job_id = move(tenant, plane_id, "verify_knowledge_plane").job_id
    work_jobs(spine, tenant)
    job = tenant.call("knowledge.jobs.get", {"job_id": job_id})
    assert (job.status, job.error_code, job.retryable) == ("FAILED", "VERIFICATION_FAILED", False)
    assert state_of(tenant, plane_id) == "DRAFT"


def test_only_one_of_two_workers_gets_a_job_until_the_lease_runs_out(
    served: Tenant, clock: SteerableClock
) -> None:
    _plane_id, job_id = start_ingest(served)
    assert claim(served, job_id) is not None
    assert claim(served, job_id) is None
    clock.advance(seconds=59)
    assert claim(served, job_id) is None
    clock.advance(seconds=2)
    assert claim(served, job_id) is not None
    assert served.call("knowledge.jobs.get", {"job_id": job_id}).attempt == 2


def test_a_job_of_a_dead_worker_goes_on_where_it_stopped_and_completes_once(
    served: Tenant, root: Path, clock: SteerableClock, second_connection: sa.Connection
) -> None:
    write_files(root, {f"many/{n:03}.txt": f"document number {n}" for n in range(150)})
    plane_id, job_id = start_ingest(served)
    held = claim(served, job_id)
    assert held is not None
    for _ in range(5):
        assert worker_call(served, "knowledge.jobs.progress", held).unwrap().done is False
    half = served.call("knowledge.jobs.get", {"job_id": job_id}).progress
    assert (half["phase"], half["documents"]) == ("pin", 100)
    clock.advance(seconds=61)
    assert work_jobs(served.spine, served) == 1
    assert worker_call(served, "knowledge.jobs.progress", held).error_code == "JOB_NOT_ACTIVE"
    assert worker_call(served, "knowledge.jobs.complete", held).error_code == "JOB_NOT_ACTIVE"
    plane = served.call("knowledge.planes.get", {"plane_id": plane_id})
    assert (plane.lifecycle_state, plane.document_count) == ("INDEXED", 153)
    assert count(second_connection, "plane_documents", plane_id) == 153
    completed = [event for event in events(served, plane_id) if event.event_type == "LIFECYCLE_JOB_COMPLETED"]
    assert len(completed) == 2


def test_a_job_that_is_not_done_cannot_be_completed(served: Tenant) -> None:
    plane_id, job_id = start_ingest(served)
    held = claim(served, job_id)
    assert held is not None
    assert worker_call(served, "knowledge.jobs.complete", held).error_code == "JOB_NOT_ACTIVE"
    assert state_of(served, plane_id) == "INGESTING"


def test_a_second_completion_writes_nothing(served: Tenant) -> None:
    plane_id, job_id = start_ingest(served)
    held = claim(served, job_id)
    assert held is not None
    while not worker_call(served, "knowledge.jobs.progress", held).unwrap().done:
        pass
    worker_call(served, "knowledge.jobs.complete", held).unwrap()
    before = events(served, plane_id)
    assert worker_call(served, "knowledge.jobs.complete", held).error_code == "JOB_NOT_ACTIVE"
    fail = {**held, "error_code": "X", "message": "late", "retryable": True}
    assert worker_call(served, "knowledge.jobs.fail", fail).error_code == "JOB_NOT_ACTIVE"
    assert events(served, plane_id) == before


def test_a_cancelled_ingest_stops_and_the_next_one_starts_clean(
    served: Tenant, second_connection: sa.Connection
) -> None:
    plane_id, job_id = start_ingest(served)
    held = claim(served, job_id)
    assert held is not None
    for _ in range(4):
        worker_call(served, "knowledge.jobs.progress", held).unwrap()
    assert count(second_connection, "plane_passages", plane_id) > 0
    move(served, plane_id, "retry_knowledge_plane")
    assert served.call("knowledge.jobs.get", {"job_id": job_id}).status == "CANCELLED"
    assert worker_call(served, "knowledge.jobs.progress", held).error_code == "JOB_NOT_ACTIVE"
    assert served.call("knowledge.planes.documents", {"plane_id": plane_id}).items == []
    move(served, plane_id, "ingest_knowledge_plane")
    work_jobs(served.spine, served)
    plane = served.call("knowledge.planes.get", {"plane_id": plane_id})
    assert (plane.lifecycle_state, plane.document_count, plane.passage_count) == ("INDEXED", 3, 6)
    assert count(second_connection, "plane_passages", plane_id) == 6
    frequency = second_connection.execute(
        sa.text("SELECT passage_frequency FROM plane_terms WHERE plane_id = :p AND term = 'valves'"),
        {"p": plane_id},
    ).scalar_one()
    assert frequency == 4


def test_a_retryable_failure_waits_and_tries_again(served: Tenant, clock: SteerableClock) -> None:
    plane_id, job_id = start_ingest(served)
    clock.freeze()
    held = claim(served, job_id)
    assert held is not None
    failure = {**held, "error_code": "BUSY", "message": "the database is busy", "retryable": True}
    job = worker_call(served, "knowledge.jobs.fail", failure).unwrap()
    waited = (job.next_attempt_at - clock.now()).total_seconds()
    assert (job.status, 24 <= waited <= 36) == ("QUEUED", True)
    told = events(served, plane_id)[-1]
    assert (told.event_type, told.error_code) == ("LIFECYCLE_JOB_FAILED", "INGESTION_FAILED")
    assert told.details["cause"] == "BUSY"
    assert told.details["will_retry"] is True
    assert state_of(served, plane_id) == "INGESTING"
    assert claim(served, job_id) is None
    clock.advance(seconds=37)
    assert work_jobs(served.spine, served) == 1
    assert state_of(served, plane_id) == "INDEXED"


def test_used_up_tries_fail_the_plane_and_drop_what_was_written(
    served: Tenant, clock: SteerableClock, second_connection: sa.Connection
) -> None:
    plane_id, job_id = start_ingest(served)
    for attempt in range(1, 5):
        held = claim(served, job_id)
        assert held is not None
        if attempt == 1:
            for _ in range(4):
                worker_call(served, "knowledge.jobs.progress", held).unwrap()
        failure = {**held, "error_code": "BUSY", "message": "busy", "retryable": True}
        job = worker_call(served, "knowledge.jobs.fail", failure).unwrap()
        clock.advance(hours=2)
    assert (job.status, job.attempt) == ("FAILED", 4)
    assert state_of(served, plane_id) == "FAILED"
    assert [
        count(second_connection, table, plane_id)
        for table in ("plane_documents", "plane_passages", "plane_terms")
    ] == [0, 0, 0]


def test_a_worker_that_dies_at_every_try_fails_the_plane_in_the_end(
    served: Tenant, clock: SteerableClock
) -> None:
    plane_id, job_id = start_ingest(served)
    for _ in range(4):
        assert claim(served, job_id) is not None
        clock.advance(seconds=61)
    assert work_jobs(served.spine, served) == 1
    job = served.call("knowledge.jobs.get", {"job_id": job_id})
    assert (job.status, job.error_code) == ("FAILED", "INGESTION_FAILED")
    told = [event for event in events(served, plane_id) if event.event_type == "LIFECYCLE_JOB_FAILED"]
    assert [event.details["cause"] for event in told] == ["LEASE_LOST"]
    assert state_of(served, plane_id) == "FAILED"


def test_a_worker_that_dies_before_the_completion_leaves_nothing_to_do_twice(
    served: Tenant, clock: SteerableClock
) -> None:
    plane_id, job_id = start_ingest(served)
    held = claim(served, job_id)
    assert held is not None
    while not worker_call(served, "knowledge.jobs.progress", held).unwrap().done:
        pass
    clock.advance(seconds=61)
    assert work_jobs(served.spine, served) == 1
    data = served.call("knowledge.jobs.get", {"job_id": job_id}).result["data"]
    assert data["bytes_processed"] == sum(len(text.encode()) for text in FILES.values())
    assert (data["records_ingested"], data["passages_created"]) == (3, 6)
    assert state_of(served, plane_id) == "INDEXED"


def test_without_auto_advance_the_job_succeeds_and_an_actor_takes_the_edge(served: Tenant) -> None:
    plane_id = over_files(served, auto_advance=False)
    job_id = move(served, plane_id, "verify_knowledge_plane").job_id
    work_jobs(served.spine, served)
    assert served.call("knowledge.jobs.get", {"job_id": job_id}).status == "SUCCEEDED"
    assert state_of(served, plane_id) == "PENDING_VERIFY"
    served.call("knowledge.planes.transition", {"plane_id": plane_id, "to_state": "VERIFIED"})
    move(served, plane_id, "ingest_knowledge_plane")
    work_jobs(served.spine, served)
    plane = served.call("knowledge.planes.get", {"plane_id": plane_id})
    assert (plane.lifecycle_state, plane.document_count, plane.generation) == ("INGESTING", 3, 1)
    move(served, plane_id, "index_knowledge_plane")
    assert state_of(served, plane_id) == "INDEXED"


def test_the_kill_switch_stops_claims_and_its_release_lets_them_go_on(
    make_spine: Callable[..., Spine], new_database: Callable[..., str]
) -> None:
    spine = make_spine(database_url=new_database())
    tenant = make_tenant(spine)
    plane_id = register_plane(tenant)
    move(tenant, plane_id, "verify_knowledge_plane")
    spine.dispatch("ops.killswitch.engage", operator_context(), {"reason": "drill"}).unwrap()
    assert PlaneWorker(spine).drain() == 0
    assert state_of(tenant, plane_id) == "PENDING_VERIFY"
    spine.dispatch("ops.killswitch.release", operator_context(), {"reason": "over"}).unwrap()
    assert PlaneWorker(spine).drain() == 1
    assert state_of(tenant, plane_id) == "VERIFIED"


def test_one_worker_drains_the_jobs_of_every_tenant(
    make_spine: Callable[..., Spine], new_database: Callable[..., str]
) -> None:
    spine = make_spine(database_url=new_database())
    planes = [(tenant, register_plane(tenant)) for tenant in (make_tenant(spine), make_tenant(spine))]
    for tenant, plane_id in planes:
        move(tenant, plane_id, "verify_knowledge_plane")
    assert PlaneWorker(spine).drain() == 2
    assert [state_of(tenant, plane_id) for tenant, plane_id in planes] == ["VERIFIED", "VERIFIED"]
    assert PlaneWorker(spine).drain() == 0


def test_one_of_many_workers_claims_a_job(served: Tenant) -> None:
    _plane_id, job_id = start_ingest(served)
    with ThreadPoolExecutor(4) as pool:
        claims = list(pool.map(lambda _: claim(served, job_id), range(8)))
    assert len([held for held in claims if held is not None]) == 1


def test_a_worker_thread_does_the_jobs_of_the_process_it_runs_in(
    make_spine: Callable[..., Spine], new_database: Callable[..., str]
) -> None:
    spine = make_spine(database_url=new_database(), plane_workers=2)
    tenant = make_tenant(spine)
    plane_id = register_plane(tenant)
    workers = PlaneWorkers(spine)
    workers.start()
    try:
        move(tenant, plane_id, "verify_knowledge_plane")
        patience = threading.Event()
        for _ in range(500):
            if state_of(tenant, plane_id) == "VERIFIED":
                break
            patience.wait(0.02)
    finally:
        workers.stop()
    assert state_of(tenant, plane_id) == "VERIFIED"


def test_a_plane_over_files_reaches_active_with_its_class_known(served: Tenant, root: Path) -> None:
    write_files(root, {"staff.txt": "Invoice, payment and revenue: jane@example.com, 123-45-6789."})
    plane_id = over_files(served)
    index_plane(served.spine, served, plane_id)
    move(served, plane_id, "classify_knowledge_plane")
    plane = served.call("knowledge.planes.get", {"plane_id": plane_id})
    assert (plane.sensitivity_level, plane.pii_count) == ("restricted", 2)
    assert plane.classification["counts"] == {"email": 1, "ssn": 1}
    assert plane.classification["content_categories"] == ["financial"]
    move(served, plane_id, "request_activation")
    rule = {"rule_id": "allow-all", "kind": "ACCESS", "name": "allow all", "effect": "ALLOW"}
    created = served.call("policies.rules.create", rule)
    served.call("policies.rules.activate", {"rule_id": created.rule_id})
    served.call("knowledge.planes.bind_policy", {"plane_id": plane_id, "policy_id": "allow-all"})
    move(served, plane_id, "activate_knowledge_plane")
    assert state_of(served, plane_id) == "ACTIVE"


def test_the_commit_that_queues_a_job_wakes_the_workers(spine: Spine, tenant: Tenant) -> None:
    wake = spine.services.caches["plane_wake"]
    plane_id = register_plane(tenant)
    wake.clear()
    move(tenant, plane_id, "verify_knowledge_plane")
    assert wake.is_set()


def test_a_tenant_key_cannot_call_what_belongs_to_workers(tenant: Tenant) -> None:
    payload = {"job_id": "job_1", "lease_owner": "me"}
    assert tenant.dispatch("knowledge.jobs.claim", payload).error_code == "INSUFFICIENT_SCOPE"


def test_a_job_of_another_tenant_does_not_exist(tenant: Tenant, other_tenant: Tenant) -> None:
    plane_id = register_plane(tenant)
    job_id = move(tenant, plane_id, "verify_knowledge_plane").job_id
    for verb in ("get", "retry", "cancel"):
        assert (
            other_tenant.dispatch(f"knowledge.jobs.{verb}", {"job_id": job_id}).error_code == "JOB_NOT_FOUND"
        )
    assert (
        worker_call(other_tenant, "knowledge.jobs.claim", {"job_id": job_id, "lease_owner": "w"})
        .unwrap()
        .lease_token
        is None
    )


def test_jobs_are_listed_newest_first_in_pages_by_filter(tenant: Tenant) -> None:
    planes = [register_plane(tenant, name=f"p{n}") for n in range(3)]
    ids = [move(tenant, plane_id, "verify_knowledge_plane").job_id for plane_id in planes]
    first = tenant.call("knowledge.jobs.list", {"limit": 2})
    rest = tenant.call("knowledge.jobs.list", {"limit": 2, "cursor": first.next_cursor})
    assert [job.job_id for job in (*first.items, *rest.items)] == sorted(ids, reverse=True)
    assert rest.next_cursor is None
    mine = tenant.call("knowledge.jobs.list", {"plane_id": planes[1], "status": "QUEUED"}).items
    assert [job.job_id for job in mine] == [ids[1]]
    assert tenant.call("knowledge.jobs.list", {"status": "FAILED"}).items == []
    wrong = {"limit": 2, "cursor": first.next_cursor, "status": "QUEUED"}
    assert tenant.dispatch("knowledge.jobs.list", wrong).error_code == "INVALID_CURSOR"


def test_a_verification_is_neither_retried_nor_cancelled_by_its_job(tenant: Tenant) -> None:
    plane_id = register_plane(tenant)
    job_id = move(tenant, plane_id, "verify_knowledge_plane").job_id
    assert tenant.dispatch("knowledge.jobs.retry", {"job_id": job_id}).error_code == "JOB_NOT_RETRYABLE"
    assert tenant.dispatch("knowledge.jobs.cancel", {"job_id": job_id}).error_code == "JOB_NOT_CANCELLABLE"
    assert [job.status for job in open_jobs(tenant, plane_id)] == ["QUEUED"]


def write_prepared(tenant: Tenant, operation: Operation, prepared: Any, payload: Any) -> None:
    """Run the write unit of an operation on what its prepare step returned earlier."""
    with tenant.spine.transactions.write(tenant.tenant_id) as unit:
        ctx = tenant.spine.executor.context(
            operation, tenant.context(), unit, tenant.spine.services.clock.now()
        )
        ctx.prepared = prepared
        operation.handler(ctx, payload)


def test_an_artifact_that_changes_while_it_is_read_is_read_again(served: Tenant) -> None:
    spine = served.spine
    plane_id, job_id = start_ingest(served)
    held = claim(served, job_id)
    assert held is not None
    for _ in range(3):
        worker_call(served, "knowledge.jobs.progress", held).unwrap()
    operation = spine.registry.get("knowledge.jobs.progress")
    context = served.context()
    payload = operation.input(**held)
    prepared = operation.prepare(spine.executor.prepare_context(context, spine.services.clock.now()), payload)
    changed = prepared.ingest.documents[0].pin.artifact_id
    served.call("repository.artifacts.update", {"artifact_id": changed, "content": "another text"})
    with pytest.raises(HocError, match="STEP_STALE"):
        write_prepared(served, operation, prepared, payload)
    while not worker_call(served, "knowledge.jobs.progress", held).unwrap().done:
        pass
    worker_call(served, "knowledge.jobs.complete", held).unwrap()
    documents = served.call("knowledge.planes.documents", {"plane_id": plane_id}).items
    assert {item.artifact_id: item.revision for item in documents}[changed] == 2
