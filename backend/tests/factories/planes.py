"""Test planes: registered, worked and filled through operations, as in production."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.hoc_spine.spine import Spine
from app.hoc_spine.worker import PlaneWorker
from tests.factories.tenants import Tenant

ROOT = "docs"


def write_files(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files under a root, making the folders on the way, and return the root."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def register_plane(tenant: Tenant, *, name: str = "handbook", **config: Any) -> str:
    """Register a repository plane and return its id."""
    payload = {
        "plane_type": "docs",
        "plane_name": name,
        "connector_type": "repository",
        "connector_id": "repo",
        "config": config,
    }
    return str(tenant.call("knowledge.planes.register", payload).plane_id)


def move(tenant: Tenant, plane_id: str, action: str, **members: Any) -> Any:
    """Take an edge by its action and return the transition."""
    return tenant.call("knowledge.planes.transition", {"plane_id": plane_id, "action": action, **members})


def state_of(tenant: Tenant, plane_id: str) -> str:
    """Return the name of a plane's state."""
    return str(tenant.call("knowledge.planes.get", {"plane_id": plane_id}).lifecycle_state)


def open_jobs(tenant: Tenant, plane_id: str | None = None) -> list[Any]:
    """Return the tenant's queued and running jobs, oldest first."""
    wanted = {} if plane_id is None else {"plane_id": plane_id}
    jobs = tenant.call("knowledge.jobs.list", wanted).items
    return [job for job in reversed(jobs) if job.status in ("QUEUED", "RUNNING")]


def work_jobs(spine: Spine, tenant: Tenant) -> int:
    """Work off the tenant's jobs that are due and return how many were taken; other tenants' stay."""
    worker = PlaneWorker(spine, name="test-worker")
    return sum(worker.work(tenant.tenant_id, job.job_id) for job in open_jobs(tenant))


def index_plane(spine: Spine, tenant: Tenant, plane_id: str) -> None:
    """Bring a plane from DRAFT to INDEXED by its jobs."""
    move(tenant, plane_id, "verify_knowledge_plane")
    work_jobs(spine, tenant)
    move(tenant, plane_id, "ingest_knowledge_plane")
    work_jobs(spine, tenant)
