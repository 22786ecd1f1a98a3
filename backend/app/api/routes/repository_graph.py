"""L2 HTTP: routes of relationships, neighbours and lineage."""

from __future__ import annotations

from app.api.routing import OperationRoutes

DOCUMENTS = ("metadata", "provenance")
routes = OperationRoutes("repository", prefix="/repository")

routes.add(
    "POST",
    "/relationships",
    "repository.relationships.create",
    status=201,
    etag=True,
    documents=DOCUMENTS,
    location="/repository/relationships/{id}",
)
routes.add("GET", "/relationships", "repository.relationships.list")
routes.add("GET", "/relationships/{relationship_id}", "repository.relationships.get", etag=True)
routes.add(
    "PATCH",
    "/relationships/{relationship_id}",
    "repository.relationships.update",
    etag="relationship.version",
    documents=DOCUMENTS,
)
routes.add("DELETE", "/relationships/{relationship_id}", "repository.relationships.delete", etag=True)
routes.add("POST", "/query/relationships", "repository.relationships.query")
routes.add("POST", "/query/relationships/count", "repository.relationships.count")

routes.add("GET", "/artifacts/{artifact_id}/neighbors", "repository.artifacts.neighbors")
routes.add("GET", "/artifacts/{artifact_id}/lineage", "repository.artifacts.lineage")
routes.add("GET", "/artifacts/{artifact_id}/revisions/{revision}/consumers", "repository.revisions.consumers")
