"""L2 HTTP: the routes of plane jobs."""

from __future__ import annotations

from app.api.routing import OperationRoutes

routes = OperationRoutes("knowledge", prefix="/knowledge")
routes.add("POST", "/credentials/seal", "knowledge.credentials.seal")
routes.add("GET", "/jobs", "knowledge.jobs.list")
routes.add("GET", "/jobs/{job_id}", "knowledge.jobs.get", refusals=(404,))
routes.add("POST", "/jobs/{job_id}/retry", "knowledge.jobs.retry", refusals=(404, 409))
routes.add("POST", "/jobs/{job_id}/cancel", "knowledge.jobs.cancel", refusals=(404, 409))
