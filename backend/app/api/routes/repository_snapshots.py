"""L2 HTTP: snapshots of the knowledge repository, as zip files."""

from __future__ import annotations

from app.api.routing import OperationRoutes

_LIMIT = "repository_max_snapshot_bytes"
routes = OperationRoutes("repository", prefix="/repository/snapshots")

routes.add("POST", "/export", "repository.snapshots.export", response="file")
routes.add(
    "POST", "/import", "repository.snapshots.import", spool_body=True, max_body_bytes=_LIMIT, refusals=(413,)
)
routes.add("POST", "/verify", "repository.snapshots.verify", spool_body=True, max_body_bytes=_LIMIT)
