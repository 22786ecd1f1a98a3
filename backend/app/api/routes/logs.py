"""L2 HTTP: routes of a run's evidence, proof and governance log, and of the audit ledger."""

from __future__ import annotations

from app.api.routing import OperationRoutes

runs = OperationRoutes("evidence", prefix="/runs")
runs.add("GET", "/{run_id}/evidence", "runs.evidence")
runs.add("GET", "/{run_id}/proof", "runs.proof", refusals=(410,))
runs.add("GET", "/{run_id}/completeness", "runs.completeness")
runs.add("GET", "/{run_id}/bundle", "runs.bundle", response="file", refusals=(409, 410, 413))

routes = OperationRoutes("logs", prefix="/logs")
routes.add("GET", "/runs/{run_id}/governance", "logs.run_governance")
routes.add("GET", "/runs/{run_id}/envelope", "logs.run_envelope")
routes.add("GET", "/runs/{run_id}/trace", "logs.run_trace")
routes.add("GET", "/runs/{run_id}/replay", "logs.run_replay")
routes.add("GET", "/audit", "logs.audit_list")
routes.add("GET", "/audit/{entry_id}", "logs.audit_get")
routes.add("GET", "/audit-integrity", "logs.audit_integrity")
routes.add("GET", "/dispatches", "logs.dispatches")
