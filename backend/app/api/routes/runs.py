"""L2 HTTP: routes of runs and their attempts."""

from collections.abc import Mapping
from typing import Any

from app.api.routing import OperationRoutes


def _started(data: Mapping[str, Any]) -> int:
    return 200 if data.get("replayed") else 201


routes = OperationRoutes("runs", prefix="/runs")
routes.add(
    "POST",
    "",
    "runs.start",
    status=_started,
    statuses=(200, 201),
    etag=True,
    location="/runs/{run_id}",
    refusals=(410,),
)
routes.add("GET", "", "runs.list")
routes.add("GET", "/{run_id}", "runs.get", etag=True)
routes.add("GET", "/{run_id}/attempts", "attempts.list")
routes.add("POST", "/{run_id}/retry", "runs.retry", etag=True)
routes.add("POST", "/{run_id}/complete", "runs.complete", etag=True)
routes.add("POST", "/{run_id}/halt", "runs.halt", etag=True)
routes.add("POST", "/{run_id}/cancel", "runs.cancel", etag=True)
