"""L2 HTTP: routes of policy proposals."""

from app.api.routing import OperationRoutes

routes = OperationRoutes("policies", prefix="/policies/proposals")
routes.add(
    "POST",
    "",
    "policies.proposals.create",
    status=201,
    etag=True,
    location="/policies/proposals/{proposal_id}",
)
routes.add("GET", "", "policies.proposals.list")
routes.add("GET", "/{proposal_id}", "policies.proposals.get", etag=True)
routes.add("PATCH", "/{proposal_id}", "policies.proposals.update", etag=True)
routes.add("POST", "/{proposal_id}/approve", "policies.proposals.approve", etag=True)
routes.add("POST", "/{proposal_id}/reject", "policies.proposals.reject", etag=True)
