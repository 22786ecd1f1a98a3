"""L2 HTTP: routes of knowledge planes."""

from __future__ import annotations

from typing import Any

from app.api.routing import OperationRoutes


def _accepted_when_queued(data: Any) -> int:
    return 202 if data.job_id is not None else 200


routes = OperationRoutes("knowledge", prefix="/knowledge")
routes.add(
    "POST",
    "/planes",
    "knowledge.planes.register",
    status=201,
    etag=True,
    location="/knowledge/planes/{plane_id}",
)
routes.add("GET", "/planes", "knowledge.planes.list")
routes.add("GET", "/planes/{plane_id}", "knowledge.planes.get", etag=True)
routes.add(
    "PUT",
    "/planes/{plane_id}/config",
    "knowledge.planes.update_config",
    etag=True,
    status=_accepted_when_queued,
    statuses=(200, 202),
)
routes.add(
    "POST",
    "/planes/{plane_id}/transitions",
    "knowledge.planes.transition",
    etag=True,
    status=_accepted_when_queued,
    statuses=(200, 202),
)
routes.add("GET", "/planes/{plane_id}/next-actions", "knowledge.planes.next_actions")
routes.add(
    "PUT",
    "/planes/{plane_id}/policies/{policy_id}",
    "knowledge.planes.bind_policy",
    etag=True,
    missing={"policy_id": "RULE_NOT_FOUND"},
)
routes.add(
    "DELETE",
    "/planes/{plane_id}/policies/{policy_id}",
    "knowledge.planes.unbind_policy",
    etag=True,
    missing={"policy_id": "RULE_NOT_FOUND"},
)
routes.add(
    "POST", "/planes/{plane_id}/purge-approvals", "knowledge.planes.approve_purge", status=201, etag=True
)
routes.add("PUT", "/planes/{plane_id}/suspension", "knowledge.planes.set_suspension", etag=True)
routes.add("POST", "/planes/{plane_id}/refresh", "knowledge.planes.refresh", status=202, etag=True)
routes.add("GET", "/planes/{plane_id}/events", "knowledge.planes.events")
routes.add("GET", "/planes/{plane_id}/documents", "knowledge.planes.documents")
