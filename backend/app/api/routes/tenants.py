"""L2 HTTP: routes of tenants, keys and the operator."""

from __future__ import annotations

from app.api.routing import OperationRoutes

routes = OperationRoutes("tenants", prefix="")
routes.add("GET", "/tenant", "tenants.get", etag=True)
routes.add("GET", "/tenant/usage", "tenants.usage")
routes.add("POST", "/tenant/freeze", "tenants.freeze")
routes.add("POST", "/tenant/unfreeze", "tenants.unfreeze")

keys = OperationRoutes("keys", prefix="/keys")
keys.add("POST", "", "keys.create", status=201, location="/keys/{key_id}")
keys.add("GET", "", "keys.list")
keys.add("GET", "/{key_id}", "keys.get", etag=True)
keys.add("POST", "/{key_id}/freeze", "keys.freeze", etag=True)
keys.add("POST", "/{key_id}/unfreeze", "keys.unfreeze", etag=True)
keys.add("POST", "/{key_id}/revoke", "keys.revoke", etag=True)

operator = OperationRoutes("operator", prefix="/operator", operator=True)
operator.add("POST", "/tenants", "ops.tenants.create", status=201, location="/operator/tenants/{tenant_id}")
operator.add("GET", "/tenants", "ops.tenants.list")
operator.add("GET", "/tenants/{tenant_id}", "ops.tenants.get", etag=True)
operator.add("PATCH", "/tenants/{tenant_id}", "ops.tenants.update", etag=True)
operator.add("POST", "/tenants/{tenant_id}/suspend", "ops.tenants.suspend", etag=True)
operator.add("POST", "/tenants/{tenant_id}/activate", "ops.tenants.activate", etag=True)
operator.add("POST", "/tenants/{tenant_id}/close", "ops.tenants.close", etag=True)
operator.add("POST", "/tenants/{tenant_id}/keys", "ops.keys.create", status=201)
operator.add("POST", "/tenants/{tenant_id}/keys/{key_id}/revoke", "ops.keys.revoke", etag=True)
operator.add("GET", "/switches", "ops.switches.get")
operator.add("POST", "/killswitch/engage", "ops.killswitch.engage")
operator.add("POST", "/killswitch/release", "ops.killswitch.release")
operator.add("POST", "/degraded/enter", "ops.degraded.enter")
operator.add("POST", "/degraded/exit", "ops.degraded.exit")
operator.add("GET", "/dispatch-records", "ops.dispatches.list")
operator.add("GET", "/metrics/operations", "ops.metrics.operations")
