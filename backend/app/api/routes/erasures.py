"""L2 HTTP: routes of erasures and legal holds."""

from __future__ import annotations

from app.api.routing import OperationRoutes

routes = OperationRoutes("evidence", prefix="/erasures")
routes.add("POST", "", "evidence.erase", status=201)
routes.add("GET", "", "evidence.erasures.list")

holds = OperationRoutes("evidence", prefix="/legal-holds")
holds.add("POST", "", "evidence.holds.place", status=201, etag=True)
holds.add("GET", "", "evidence.holds.list")
holds.add("POST", "/{hold_id}/release", "evidence.holds.release", etag=True)
