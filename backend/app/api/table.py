"""L2 HTTP: all routes of the product, domain by domain."""

from __future__ import annotations

from app.api.routes import (
    knowledge,
    knowledge_jobs,
    logs,
    policies,
    repository,
    repository_graph,
    repository_maintenance,
    repository_runs,
    repository_snapshots,
    retrieval,
    runs,
    tenant_log,
    tenants,
    traces,
)
from app.api.routing import Route

ROUTES: tuple[Route, ...] = (
    *tenants.routes,
    *tenants.keys,
    *tenants.operator,
    *policies.routes,
    *runs.routes,
    *traces.routes,
    *logs.runs,
    *logs.routes,
    *tenant_log.routes,
    *knowledge.routes,
    *knowledge_jobs.routes,
    *retrieval.routes,
    *repository.routes,
    *repository_graph.routes,
    *repository_maintenance.routes,
    *repository_runs.routes,
    *repository_snapshots.routes,
)
