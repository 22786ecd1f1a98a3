"""L2 HTTP: routes of the knowledge repository."""

from __future__ import annotations

from app.api.routing import OperationRoutes

DOCUMENTS = ("metadata", "provenance")
routes = OperationRoutes("repository", prefix="/repository")

routes.add(
    "POST",
    "/collections",
    "repository.collections.create",
    status=201,
    etag=True,
    documents=DOCUMENTS,
    location="/repository/collections/{id}",
)
routes.add("GET", "/collections", "repository.collections.list")
routes.add("GET", "/collections/{collection_id}", "repository.collections.get", etag=True)
routes.add(
    "PATCH", "/collections/{collection_id}", "repository.collections.update", etag=True, documents=DOCUMENTS
)
routes.add("DELETE", "/collections/{collection_id}", "repository.collections.delete", etag=True)

routes.add(
    "POST",
    "/artifacts",
    "repository.artifacts.create",
    status=201,
    etag=True,
    documents=DOCUMENTS,
    location="/repository/artifacts/{id}",
)
routes.add(
    "POST",
    "/bulk/artifacts",
    "repository.artifacts.create_bulk",
    status=201,
    documents=DOCUMENTS,
    max_body_bytes="repository_max_bulk_bytes",
)
routes.add("GET", "/artifacts", "repository.artifacts.list")
routes.add("GET", "/artifacts/{artifact_id}", "repository.artifacts.get", etag=True)
routes.add(
    "PATCH",
    "/artifacts/{artifact_id}",
    "repository.artifacts.update",
    etag="artifact.version",
    documents=DOCUMENTS,
)
routes.add("DELETE", "/artifacts/{artifact_id}", "repository.artifacts.delete", etag=True)
routes.add(
    "POST", "/artifacts/{artifact_id}/restore", "repository.artifacts.restore", etag="artifact.version"
)
routes.add(
    "PUT",
    "/artifacts/{artifact_id}/metadata",
    "repository.artifacts.update",
    etag="artifact.version",
    body_member="replace_metadata",
    documents=("metadata",),
)
routes.add(
    "PUT",
    "/artifacts/{artifact_id}/content",
    "repository.artifacts.update",
    etag="artifact.version",
    raw_body=True,
    query=("expected_digest", "produced_by_run", "reason"),
    max_body_bytes="repository_max_content_bytes",
)
routes.add(
    "GET",
    "/artifacts/{artifact_id}/content",
    "repository.artifacts.content",
    etag=True,
    response="bytes",
    statuses=(200, 204),
)
routes.add("GET", "/artifacts/{artifact_id}/revisions", "repository.revisions.list")
routes.add("GET", "/artifacts/{artifact_id}/revisions/{revision}", "repository.revisions.get")
routes.add(
    "GET",
    "/artifacts/{artifact_id}/revisions/{revision}/content",
    "repository.revisions.content",
    etag=True,
    response="bytes",
    statuses=(200, 204),
)
routes.add("GET", "/artifacts/{artifact_id}/diff", "repository.revisions.diff")

routes.add("POST", "/query/artifacts", "repository.artifacts.query")
routes.add("POST", "/query/artifacts/count", "repository.artifacts.count")
routes.add("GET", "/changes", "repository.changes.list")
