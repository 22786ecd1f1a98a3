"""L2 HTTP: routes of policy rules, conflicts, snapshots, and what rules have done and would do."""

from app.api.routing import OperationRoutes

routes = OperationRoutes("policies", prefix="/policies")
routes.add(
    "POST", "/rules", "policies.rules.create", status=201, etag=True, location="/policies/rules/{rule_id}"
)
routes.add("GET", "/rules", "policies.rules.list")
routes.add("GET", "/rules/{rule_id}", "policies.rules.get", etag=True)
routes.add("PATCH", "/rules/{rule_id}", "policies.rules.update", etag=True)
routes.add("POST", "/rules/{rule_id}/activate", "policies.rules.activate", etag=True)
routes.add("POST", "/rules/{rule_id}/retire", "policies.rules.retire", etag=True)
routes.add("GET", "/rules/{rule_id}/versions", "policies.rules.versions")
routes.add("GET", "/rules/{rule_id}/dependencies", "policies.rules.dependencies")
routes.add("GET", "/conflicts", "policies.conflicts")
routes.add("GET", "/snapshots/{snapshot_id}", "policies.snapshots.get")
routes.add("GET", "/rules/{rule_id}/effect", "policies.rules.effect")
routes.add("GET", "/preventions", "policies.preventions.list")
routes.add("GET", "/evaluations", "policies.evaluations.list")
routes.add("POST", "/simulate", "policies.simulate")
