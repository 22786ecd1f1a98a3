"""Routes of plane jobs: who may call them, what they answer, and what they do not tell."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.factories.planes import move, register_plane
from tests.factories.tenants import Tenant

JOBS = "/api/v1/knowledge/jobs"
READ = ("knowledge:read",)
WRITE = ("knowledge:write",)


@pytest.fixture
def job_id(tenant: Tenant) -> str:
    return str(move(tenant, register_plane(tenant), "verify_knowledge_plane").job_id)


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json().get("code", "")


def test_a_job_is_shown_without_its_lease_token(client: TestClient, tenant: Tenant, job_id: str) -> None:
    response = client.get(f"{JOBS}/{job_id}", headers=tenant.headers(scopes=READ))
    body = response.json()
    assert response.status_code == 200
    assert (body["job_id"], body["status"], body["job_type"]) == (job_id, "QUEUED", "verify_connectivity")
    assert body["created_at"].endswith("Z")
    assert "lease_token" not in body
    assert "config" not in body


def test_jobs_are_listed_by_filter(client: TestClient, tenant: Tenant, job_id: str) -> None:
    headers = tenant.headers(scopes=READ)
    listed = client.get(JOBS, params={"status": "QUEUED"}, headers=headers).json()
    assert [job["job_id"] for job in listed["items"]] == [job_id]
    assert client.get(JOBS, params={"status": "FAILED"}, headers=headers).json()["items"] == []
    assert code(client.get(JOBS, params={"status": "BROKEN"}, headers=headers)) == (400, "INVALID_QUERY")
    assert code(client.get(JOBS, params={"state": "QUEUED"}, headers=headers)) == (400, "INVALID_QUERY")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", JOBS),
        ("GET", JOBS + "/{job_id}"),
        ("POST", JOBS + "/{job_id}/retry"),
        ("POST", JOBS + "/{job_id}/cancel"),
    ],
)
def test_a_caller_needs_a_key_with_the_scope(
    client: TestClient, tenant: Tenant, job_id: str, method: str, path: str
) -> None:
    url = path.format(job_id=job_id)
    assert client.request(method, url).status_code == 401
    wrong = tenant.headers(scopes=("retrieval:read",))
    assert code(client.request(method, url, headers=wrong)) == (403, "INSUFFICIENT_SCOPE")


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/retry"), ("POST", "/cancel")])
def test_a_foreign_job_looks_like_one_that_never_existed(
    client: TestClient, other_tenant: Tenant, job_id: str, method: str, path: str
) -> None:
    headers = other_tenant.headers()
    foreign = client.request(method, f"{JOBS}/{job_id}{path}", headers=headers)
    unknown = client.request(method, f"{JOBS}/job_unknown{path}", headers=headers)
    assert code(foreign) == code(unknown) == (404, "JOB_NOT_FOUND")
    assert foreign.json()["detail"] == unknown.json()["detail"]


def test_what_cannot_be_retried_or_cancelled_is_a_conflict(
    client: TestClient, tenant: Tenant, job_id: str
) -> None:
    headers = tenant.headers(scopes=WRITE)
    assert code(client.post(f"{JOBS}/{job_id}/retry", headers=headers)) == (409, "JOB_NOT_RETRYABLE")
    assert code(client.post(f"{JOBS}/{job_id}/cancel", headers=headers)) == (409, "JOB_NOT_CANCELLABLE")


def test_the_operations_of_workers_have_no_route(client: TestClient, tenant: Tenant, job_id: str) -> None:
    for verb in ("claim", "progress", "complete", "fail"):
        assert client.post(f"{JOBS}/{job_id}/{verb}", headers=tenant.headers(), json={}).status_code == 404
