"""L2 HTTP: routes of the tenant's own log: checkpoints, tiles, facts and proofs."""

from __future__ import annotations

from app.api.routing import OperationRoutes

# A tile or bundle never changes under its name; it is the tenant's, so no shared cache may keep it.
IMMUTABLE = "private, max-age=31536000, immutable"
FRESH = "private, no-cache"

routes = OperationRoutes("log", prefix="/log")
routes.add("GET", "", "log.status")
routes.add("GET", "/checkpoint", "log.checkpoint", response="bytes", query=(), cache_control=FRESH)
routes.add(
    "GET",
    "/checkpoints/{size}",
    "log.checkpoint",
    response="bytes",
    cache_control=FRESH,
    missing={"size": "CHECKPOINT_NOT_FOUND"},
)
routes.add("GET", "/checkpoints", "log.checkpoints.list")
routes.add(
    "POST",
    "/checkpoints/{size}/cosignatures",
    "log.cosign",
    status=201,
    raw_body=True,
    missing={"size": "CHECKPOINT_NOT_FOUND"},
)
routes.add("GET", "/keys", "log.keys")
routes.add("POST", "/verify", "log.verify", status=202)
routes.add("GET", "/integrity", "log.integrity")
routes.add("GET", "/verifications", "log.verifications.list")
routes.add("GET", "/archives", "log.archives.list")
routes.add(
    "GET",
    "/tile/{level}/{tile*}",
    "log.tile",
    response="bytes",
    cache_control=IMMUTABLE,
    missing={"level": "TILE_NOT_FOUND"},
    refusals=(410,),
)
routes.add("GET", "/facts/{fact_id}", "log.fact", refusals=(410,))
routes.add("GET", "/proofs/inclusion", "log.inclusion", response="text_or_json", refusals=(409, 410))
routes.add("GET", "/proofs/consistency", "log.consistency")
