"""L2 HTTP: routes of incidents."""

from collections.abc import Mapping
from typing import Any

from app.api.routing import OperationRoutes


def _created(data: Mapping[str, Any]) -> int:
    return 201 if data.get("result") == "CREATED" and not data.get("replayed") else 200


routes = OperationRoutes("incidents", prefix="")
routes.add("POST", "/incidents", "incidents.create", status=_created, statuses=(200, 201))
routes.add("GET", "/incidents", "incidents.list")
routes.add("GET", "/incident-signatures", "incidents.signatures")
routes.add("GET", "/incidents/{incident_id}", "incidents.get", etag=True)
routes.add("GET", "/incidents/{incident_id}/events", "incidents.events")
routes.add("GET", "/incidents/{incident_id}/links", "incidents.links")
routes.add("POST", "/incidents/{incident_id}/acknowledge", "incidents.acknowledge", etag=True)
routes.add("POST", "/incidents/{incident_id}/escalate", "incidents.escalate", etag=True)
routes.add("POST", "/incidents/{incident_id}/resolve", "incidents.resolve", etag=True)
routes.add("POST", "/incidents/{incident_id}/close", "incidents.close", etag=True)
