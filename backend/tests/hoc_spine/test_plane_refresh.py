"""Refresh: what a plane serves changes at one moment, or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.operation_registry import OperationResult
from app.hoc_spine.spine import Spine
from app.kernel.context import Actor, RequestContext
from tests.factories.planes import index_plane, move, open_jobs, register_plane, state_of, work_jobs
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant

TEXTS = {"a": "valves and pumps", "b": "pumps alone", "c": "gaskets"}


@pytest.fixture
def plane_id(spine: Spine, tenant: Tenant) -> str:
    """A plane in INDEXED over a collection of three documents."""
    tenant.call("repository.collections.create", {"id": "col", "name": "col"})
    for name, text in TEXTS.items():
        create(tenant, name, text)
    made = register_plane(tenant, owned_collection="col")
    index_plane(spine, tenant, made)
    return made


def create(tenant: Tenant, name: str, text: str, collection: str = "col") -> None:
    item = {"id": f"art-{name}", "collection_id": collection, "name": name, "artifact_type": "note"}
    tenant.call("repository.artifacts.create", {**item, "content": text, "media_type": "text/plain"})


def update(tenant: Tenant, name: str, **members: Any) -> None:
    tenant.call("repository.artifacts.update", {"artifact_id": f"art-{name}", **members})


def served(tenant: Tenant, plane_id: str) -> dict[str, int]:
    documents = tenant.call("knowledge.planes.documents", {"plane_id": plane_id}).items
    return {item.name: item.revision for item in documents}


def terms(connection: sa.Connection, plane_id: str) -> dict[str, int]:
    rows = connection.execute(
        sa.text("SELECT term, passage_frequency FROM plane_terms WHERE plane_id = :p AND staged_change = 0"),
        {"p": plane_id},
    )
    return {row.term: row.passage_frequency for row in rows}


def refresh(tenant: Tenant, plane_id: str) -> Any:
    job_id = tenant.call("knowledge.planes.refresh", {"plane_id": plane_id}).job_id
    work_jobs(tenant.spine, tenant)
    return tenant.call("knowledge.jobs.get", {"job_id": job_id})


def worker_call(tenant: Tenant, name: str, payload: dict[str, Any]) -> OperationResult:
    context = RequestContext(
        tenant_id=tenant.tenant_id, actor=Actor("SYSTEM", "w"), request_id="req-w", door="worker"
    )
    return tenant.spine.dispatch(name, context, payload)


def test_a_refresh_adds_changes_and_removes_at_one_moment(
    tenant: Tenant, plane_id: str, second_connection: sa.Connection
) -> None:
    update(tenant, "a", content="pumps and gaskets")
    create(tenant, "d", "valves again")
    tenant.call("repository.artifacts.delete", {"artifact_id": "art-c"})
    before = served(tenant, plane_id)
    job_id = tenant.call("knowledge.planes.refresh", {"plane_id": plane_id}).job_id
    claim = worker_call(tenant, "knowledge.jobs.claim", {"job_id": job_id, "lease_owner": "w"}).unwrap()
    held = {"job_id": job_id, "lease_token": claim.lease_token}
    while not worker_call(tenant, "knowledge.jobs.progress", held).unwrap().done:
        # Nothing of it is visible before its end.
        assert served(tenant, plane_id) == before == {"a": 1, "b": 1, "c": 1}
    worker_call(tenant, "knowledge.jobs.complete", held).unwrap()
    assert served(tenant, plane_id) == {"a": 2, "b": 1, "d": 1}
    data = tenant.call("knowledge.jobs.get", {"job_id": job_id}).result["data"]
    assert (data["added"], data["changed"], data["removed"], data["records_ingested"]) == (1, 1, 1, 3)
    assert terms(second_connection, plane_id) == {
        "pumps": 2, "and": 1, "gaskets": 1, "alone": 1, "valves": 1, "again": 1,
    }  # fmt: skip
    plane = tenant.call("knowledge.planes.get", {"plane_id": plane_id})
    assert (plane.lifecycle_state, plane.generation, plane.document_count) == ("INDEXED", 2, 3)
    assert plane.sensitivity_level == "internal"
    told = tenant.call("knowledge.planes.events", {"plane_id": plane_id, "limit": 500}).items[-2:]
    assert [event.event_type for event in told] == ["LIFECYCLE_JOB_COMPLETED", "PLANE_REFRESHED"]


def test_an_unchanged_source_changes_no_row(
    tenant: Tenant, plane_id: str, second_connection: sa.Connection
) -> None:
    def rows() -> list[Any]:
        tables = ("plane_documents", "plane_passages", "plane_terms")
        statements = [f"SELECT * FROM {table} WHERE plane_id = :p ORDER BY 1, 2, 3" for table in tables]
        return [second_connection.execute(sa.text(text), {"p": plane_id}).all() for text in statements]

    before = rows()
    data = refresh(tenant, plane_id).result["data"]
    assert (data["added"], data["changed"], data["removed"]) == (0, 0, 0)
    assert rows() == before


def test_what_a_refresh_leaves_behind_is_swept_after_a_minute(
    tenant: Tenant, plane_id: str, second_connection: sa.Connection, clock: SteerableClock
) -> None:
    update(tenant, "a", content="changed")
    refresh(tenant, plane_id)
    count = sa.text("SELECT count(*) FROM plane_documents WHERE plane_id = :p")
    assert second_connection.execute(count, {"p": plane_id}).scalar_one() == 4
    clock.advance(seconds=59)
    assert worker_call(tenant, "knowledge.planes.tend", {}).unwrap().swept == 0
    clock.advance(seconds=2)
    assert worker_call(tenant, "knowledge.planes.tend", {}).unwrap().swept == 1
    assert second_connection.execute(count, {"p": plane_id}).scalar_one() == 3
    assert served(tenant, plane_id) == {"a": 2, "b": 1, "c": 1}


def test_a_failed_refresh_leaves_the_plane_serving_and_may_be_retried(
    tenant: Tenant, plane_id: str, second_connection: sa.Connection
) -> None:
    names = [tenant.call("repository.artifacts.delete", {"artifact_id": f"art-{name}"}) for name in TEXTS]
    assert len(names) == 3
    job = refresh(tenant, plane_id)
    assert (job.status, job.error_code) == ("FAILED", "NOTHING_TO_INGEST")
    assert served(tenant, plane_id) == {"a": 1, "b": 1, "c": 1}
    assert state_of(tenant, plane_id) == "INDEXED"
    staged = sa.text("SELECT count(*) FROM plane_documents WHERE plane_id = :p AND gen_to IS NOT NULL")
    assert second_connection.execute(staged, {"p": plane_id}).scalar_one() == 0
    assert terms(second_connection, plane_id)["pumps"] == 2
    create(tenant, "d", "valves again")
    tenant.call("knowledge.jobs.retry", {"job_id": job.job_id})
    work_jobs(tenant.spine, tenant)
    assert served(tenant, plane_id) == {"d": 1}


def test_a_cancelled_refresh_is_taken_back(
    tenant: Tenant, plane_id: str, second_connection: sa.Connection
) -> None:
    update(tenant, "a", content="changed")
    job_id = tenant.call("knowledge.planes.refresh", {"plane_id": plane_id}).job_id
    assert tenant.dispatch("knowledge.planes.refresh", {"plane_id": plane_id}).error_code == "JOB_ACTIVE"
    claim = worker_call(tenant, "knowledge.jobs.claim", {"job_id": job_id, "lease_owner": "w"}).unwrap()
    held = {"job_id": job_id, "lease_token": claim.lease_token}
    for _ in range(3):
        worker_call(tenant, "knowledge.jobs.progress", held).unwrap()
    count = sa.text("SELECT count(*) FROM plane_documents WHERE plane_id = :p")
    assert second_connection.execute(count, {"p": plane_id}).scalar_one() == 4
    tenant.call("knowledge.jobs.cancel", {"job_id": job_id})
    assert second_connection.execute(count, {"p": plane_id}).scalar_one() == 3
    assert worker_call(tenant, "knowledge.jobs.progress", held).error_code == "JOB_NOT_ACTIVE"
    assert served(tenant, plane_id) == {"a": 1, "b": 1, "c": 1}
    assert terms(second_connection, plane_id)["valves"] == 1


def test_a_plane_that_does_not_serve_yet_is_not_refreshed(tenant: Tenant) -> None:
    plane_id = register_plane(tenant, name="other")
    refused = tenant.dispatch("knowledge.planes.refresh", {"plane_id": plane_id})
    assert refused.error_code == "REFRESH_NOT_ALLOWED"
    assert tenant.dispatch("knowledge.planes.refresh", {"plane_id": "kp_no"}).error_code == "PLANE_NOT_FOUND"


def test_a_new_source_takes_effect_when_its_refresh_succeeds(tenant: Tenant, plane_id: str) -> None:
    tenant.call("repository.collections.create", {"id": "more", "name": "more"})
    create(tenant, "m", "flanges: a@example.com", "more")
    config = {"owned_collection": "col", "shared_collections": ["more"]}
    changed = tenant.call("knowledge.planes.update_config", {"plane_id": plane_id, "config": config})
    assert changed.job_id is not None
    assert changed.config == {"owned_collection": "col"}
    assert served(tenant, plane_id) == {"a": 1, "b": 1, "c": 1}
    work_jobs(tenant.spine, tenant)
    plane = tenant.call("knowledge.planes.get", {"plane_id": plane_id})
    assert plane.config == config
    assert (plane.pii_count, plane.document_count) == (1, 4)
    assert served(tenant, plane_id) == {"a": 1, "b": 1, "c": 1, "m": 1}
    # And back: the plane lets go of the collection, and of what it had of it.
    tenant.call(
        "knowledge.planes.update_config", {"plane_id": plane_id, "config": {"owned_collection": "col"}}
    )
    work_jobs(tenant.spine, tenant)
    assert served(tenant, plane_id) == {"a": 1, "b": 1, "c": 1}
    tenant.call("repository.artifacts.delete", {"artifact_id": "art-m"})
    tenant.call("repository.collections.delete", {"collection_id": "more"})


def test_a_candidate_that_cannot_be_read_changes_nothing(tenant: Tenant, plane_id: str) -> None:
    tenant.call("repository.collections.create", {"id": "gone", "name": "gone"})
    config = {"owned_collection": "col", "shared_collections": ["gone"]}
    tenant.call("knowledge.planes.update_config", {"plane_id": plane_id, "config": config})
    tenant.call("repository.collections.delete", {"collection_id": "gone"})
    work_jobs(tenant.spine, tenant)
    (job,) = tenant.call("knowledge.jobs.list", {"plane_id": plane_id, "job_type": "refresh_data"}).items
    assert (job.status, job.error_code) == ("FAILED", "VERIFICATION_FAILED")
    assert tenant.call("knowledge.planes.get", {"plane_id": plane_id}).config == {"owned_collection": "col"}
    assert served(tenant, plane_id) == {"a": 1, "b": 1, "c": 1}


def test_a_redaction_during_and_between_refreshes_keeps_the_terms_exact(
    tenant: Tenant, plane_id: str, second_connection: sa.Connection
) -> None:
    update(tenant, "a", content="pumps in the second text")
    job_id = tenant.call("knowledge.planes.refresh", {"plane_id": plane_id}).job_id
    claim = worker_call(tenant, "knowledge.jobs.claim", {"job_id": job_id, "lease_owner": "w"}).unwrap()
    held = {"job_id": job_id, "lease_token": claim.lease_token}
    for _ in range(3):
        worker_call(tenant, "knowledge.jobs.progress", held).unwrap()
    redact = {"revisions": "all", "reason": "r", "legal_basis": "l", "shared": "keep"}
    tenant.call("repository.artifacts.redact", {"artifact_id": "art-a", **redact})
    while not worker_call(tenant, "knowledge.jobs.progress", held).unwrap().done:
        pass
    worker_call(tenant, "knowledge.jobs.complete", held).unwrap()
    assert terms(second_connection, plane_id) == {"pumps": 1, "alone": 1, "gaskets": 1}
    tenant.call("repository.artifacts.redact", {"artifact_id": "art-b", **redact})
    assert terms(second_connection, plane_id) == {"gaskets": 1}


def test_a_plane_with_auto_refresh_follows_its_collections(tenant: Tenant, plane_id: str) -> None:
    def tended() -> list[str]:
        found = worker_call(tenant, "knowledge.planes.tend", {}).unwrap().refreshed
        work_jobs(tenant.spine, tenant)
        return list(found)

    update(tenant, "a", content="changed")
    assert tended() == []
    config = {"owned_collection": "col", "auto_refresh": True}
    tenant.call("knowledge.planes.update_config", {"plane_id": plane_id, "config": config})
    assert tended() == [plane_id]
    assert served(tenant, plane_id)["a"] == 2
    assert tended() == []
    tenant.call("repository.artifacts.create", {"name": "far away", "artifact_type": "note", "content": "x"})
    assert tended() == []
    tenant.call("repository.artifacts.delete", {"artifact_id": "art-b"})
    assert tended() == [plane_id]
    tenant.call("repository.collections.create", {"id": "away", "name": "away"})
    update(tenant, "c", collection_id="away")
    assert tended() == [plane_id]
    assert served(tenant, plane_id) == {"a": 2}


def test_leaving_a_state_ends_its_refresh(spine: Spine, tenant: Tenant, plane_id: str) -> None:
    tenant.call("knowledge.planes.refresh", {"plane_id": plane_id})
    move(tenant, plane_id, "classify_knowledge_plane")
    assert open_jobs(tenant, plane_id) == []
    (job,) = tenant.call("knowledge.jobs.list", {"plane_id": plane_id, "job_type": "refresh_data"}).items
    assert job.status == "CANCELLED"
    retry = tenant.dispatch("knowledge.jobs.retry", {"job_id": job.job_id})
    assert retry.error_code == "JOB_NOT_RETRYABLE"


def test_the_ledger_tells_who_asked_for_a_refresh(
    tenant: Tenant, plane_id: str, second_connection: sa.Connection
) -> None:
    tenant.call("knowledge.planes.refresh", {"plane_id": plane_id}, actor_id="ada")
    entry = second_connection.execute(
        sa.text(
            "SELECT actor_id, after_state FROM audit_ledger"
            " WHERE tenant_id = :t AND event_type = 'PlaneRefreshRequested'"
        ),
        {"t": tenant.tenant_id},
    ).one()
    assert (entry.actor_id, json.loads(entry.after_state)["plane_id"]) == ("ada", plane_id)
