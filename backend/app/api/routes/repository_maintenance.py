"""L2 HTTP: routes that redact, check, collect and rebuild."""

from __future__ import annotations

from app.api.routing import OperationRoutes

routes = OperationRoutes("repository", prefix="/repository")

routes.add("POST", "/artifacts/{artifact_id}/redact", "repository.artifacts.redact", etag="artifact.version")
routes.add("POST", "/maintenance/verify", "repository.verify")
routes.add("POST", "/maintenance/gc", "repository.gc")
routes.add("POST", "/maintenance/search-rebuild", "repository.search.rebuild")
