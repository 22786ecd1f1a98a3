"""L2 HTTP: routes of workflow runs, input bundles and context packages."""

from collections.abc import Mapping
from typing import Any

from app.api.routing import OperationRoutes


def _created(data: Mapping[str, Any]) -> int:
    return 201 if data.get("created") else 200


def _sealed(data: Mapping[str, Any]) -> int:
    return 201 if data.get("changed") else 200


VALUES = ("inputs", "outputs", "data")
routes = OperationRoutes("repository", prefix="/repository")

routes.add(
    "POST",
    "/runs",
    "repository.runs.create",
    status=201,
    etag=True,
    documents=("parameters", *VALUES),
    location="/repository/runs/{run_id}",
)
routes.add("GET", "/runs", "repository.runs.list")
routes.add("GET", "/resumable-runs", "repository.runs.resumable")
routes.add("GET", "/runs/{run_id}", "repository.runs.get", etag=True)
routes.add("POST", "/runs/{run_id}/transition", "repository.runs.transition", etag="run.version")
routes.add("POST", "/runs/{run_id}/claim", "repository.runs.claim", etag=True)
routes.add("POST", "/runs/{run_id}/release", "repository.runs.release", etag=True)
routes.add(
    "PUT",
    "/runs/{run_id}/steps/{step_id}",
    "repository.steps.put",
    status=_created,
    statuses=(200, 201),
    etag=True,
    documents=VALUES,
    # A put makes the step: an id that no step can bear is no path.
    missing={"step_id": "ROUTE_NOT_FOUND"},
)
routes.add("GET", "/runs/{run_id}/steps", "repository.steps.list")
routes.add("POST", "/runs/{run_id}/outputs", "repository.outputs.add", status=201, etag=True)
routes.add(
    "POST",
    "/runs/{run_id}/publish",
    "repository.runs.publish",
    status=201,
    etag="run.version",
    documents=("metadata", "provenance", "environment", "data"),
    max_body_bytes="repository_max_bulk_bytes",
)
routes.add(
    "PUT",
    "/runs/{run_id}/manifest",
    "repository.manifests.seal",
    status=_sealed,
    statuses=(200, 201),
    etag=True,
    documents=("environment", "data"),
)
routes.add("GET", "/runs/{run_id}/manifest", "repository.manifests.get")

routes.add(
    "POST",
    "/input-bundles",
    "repository.bundles.create",
    status=_created,
    statuses=(200, 201),
    location="/repository/input-bundles/{id}",
)
routes.add("GET", "/input-bundles/{bundle_id}", "repository.bundles.get")

NAMELESS = {"package_id": "CONTEXT_PACKAGE_NOT_FOUND"}
routes.add(
    "POST",
    "/context-packages",
    "repository.context_packages.create",
    status=201,
    documents=("metadata", "provenance"),
    location="/repository/context-packages/{id}",
)
routes.add("GET", "/context-packages", "repository.context_packages.list")
routes.add("GET", "/context-packages/{package_id}", "repository.context_packages.get", missing=NAMELESS)
routes.add(
    "POST",
    "/context/artifacts/{artifact_id}",
    "repository.context_packages.for_artifact",
    status=201,
    location="/repository/context-packages/{id}",
)
