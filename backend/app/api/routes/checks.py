"""L2 HTTP: the route of the governed check."""

from app.api.routing import OperationRoutes

routes = OperationRoutes("runs", prefix="/runs")
routes.add("POST", "/{run_id}/checks", "runs.check")
