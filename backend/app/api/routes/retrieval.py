"""L2 HTTP: routes of mediated retrieval and its evidence."""

from __future__ import annotations

from app.api.routing import OperationRoutes

routes = OperationRoutes("retrieval", prefix="/retrieval")
routes.add("POST", "/access", "retrieval.access", refusals=(502, 504))
routes.add("POST", "/explain", "retrieval.explain")
routes.add("GET", "/evidence", "retrieval.evidence.list")
routes.add("GET", "/affected-runs", "retrieval.affected_runs")
routes.add("GET", "/observations", "retrieval.observations.list")
routes.add("GET", "/evidence/{evidence_id}", "retrieval.evidence.get")
