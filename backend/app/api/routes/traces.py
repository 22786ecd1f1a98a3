"""L2 HTTP: routes of traces and their steps."""

from app.api.routing import OperationRoutes

routes = OperationRoutes("traces", prefix="/runs")
routes.add("POST", "/{run_id}/steps", "traces.steps.append")
routes.add("GET", "/{run_id}/steps", "traces.steps.list")
routes.add(
    "GET", "/{run_id}/traces/{attempt}", "traces.get", etag=True, missing={"attempt": "TRACE_NOT_FOUND"}
)

# The path that every OpenTelemetry exporter appends to its endpoint.
otlp = OperationRoutes("traces", prefix="", root="")
otlp.add("POST", "/v1/traces", "traces.otlp.ingest", query=(), protocol="otlp")
