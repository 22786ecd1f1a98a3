"""L2 HTTP: routes of limits, their breaches and overrides, and of the use of runs."""

from app.api.routing import OperationRoutes

routes = OperationRoutes("controls", prefix="")
routes.add("POST", "/limits", "controls.limits.create", status=201, etag=True, location="/limits/{limit_id}")
routes.add("GET", "/limits", "controls.limits.list")
# No ETag: its use moves while its version stays, and a 304 would hide that.
routes.add("GET", "/limits/{limit_id}", "controls.limits.get")
routes.add("PATCH", "/limits/{limit_id}", "controls.limits.update", etag=True)
routes.add("POST", "/limits/{limit_id}/disable", "controls.limits.disable", etag=True)
routes.add("POST", "/limits/{limit_id}/enable", "controls.limits.enable", etag=True)
routes.add("GET", "/limit-breaches", "controls.breaches.list")
routes.add(
    "POST",
    "/limit-overrides",
    "controls.overrides.request",
    status=201,
    etag=True,
    location="/limit-overrides/{override_id}",
)
routes.add("GET", "/limit-overrides", "controls.overrides.list")
routes.add("GET", "/limit-overrides/{override_id}", "controls.overrides.get", etag=True)
routes.add("POST", "/limit-overrides/{override_id}/approve", "controls.overrides.approve", etag=True)
routes.add("POST", "/limit-overrides/{override_id}/reject", "controls.overrides.reject", etag=True)
routes.add("POST", "/limit-overrides/{override_id}/cancel", "controls.overrides.cancel", etag=True)

usage = OperationRoutes("runs", prefix="/runs")
usage.add("POST", "/{run_id}/usage", "runs.usage.record")
usage.add("GET", "/{run_id}/usage", "usage.get")
usage.add("POST", "/{run_id}/reservations/{reservation_id}/release", "reservations.release")
