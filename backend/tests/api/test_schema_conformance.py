"""Every route against its own documentation: generated requests, sane and insane, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.api.openapi import build_document, handlers_registry
from app.api.routing import Route
from app.api.table import ROUTES
from tests.api.conftest import with_probes
from tests.api.probes import OPERATIONS, probe_routes

if TYPE_CHECKING:
    from tests.factories.databases import Databases, Dialect
    from tests.factories.tenants import Tenant

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
CREDENTIALS = {"authorization", "x-api-key"}
EXAMPLES = 3


@dataclass
class Server:
    """A running application, headers for both doors, and ids that exist."""

    session: Any
    tenant: Mapping[str, str]
    operator: Mapping[str, str]
    known: Mapping[str, Any]

    def try_route(self, schema: Any, route: Route, mode: GenerationMode) -> set[int]:
        """Send generated requests, each also with ids that exist, and return the statuses seen."""
        operation = schema[route.path][route.method]
        statuses: set[int] = set()
        headers = dict(self.operator if route.operator else self.tenant)

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            for name in [name for name in case.headers or () if name.lower() in CREDENTIALS]:
                del case.headers[name]
            statuses.add(self._send(case, headers))
            found = {name: self.known[name] for name in case.path_parameters or () if name in self.known}
            if found:
                case.path_parameters.update(found)
                statuses.add(self._send(case, headers))

        check()
        return statuses

    def _send(self, case: Any, headers: Mapping[str, str]) -> int:
        return int(case.call_and_validate(session=self.session, headers=headers, checks=CHECKS).status_code)


@cache
def _schema() -> Any:
    document = build_document(ROUTES, handlers_registry())
    for methods in document["paths"].values():
        for entry in methods.values():
            # A made-up precondition or run only ever meets its own refusal; headers have tests of their own.
            entry["parameters"] = [item for item in entry.get("parameters", ()) if "$ref" not in item]
    return schemathesis.openapi.from_dict(document)


@pytest.fixture(scope="module")
def server(databases: Databases, dialect: Dialect) -> Iterator[Server]:
    """The product on a database of its own: its switches and tenants are thrown about."""
    from app.api.application import build_application
    from app.api.worker_pool import DispatchPool
    from app.bootstrap import build_spine
    from app.settings import Settings
    from tests.factories.tenants import make_tenant

    spine = build_spine(
        Settings(database_url=databases.new(dialect), operator_token="t", rate_limit_enabled=False)  # type: ignore[arg-type]
    )
    pool = DispatchPool(4)
    tenant, victim = make_tenant(spine), make_tenant(spine)
    routes = (*ROUTES, *probe_routes())
    with asgi.get_client(build_application(with_probes(spine), pool=pool, routes=routes)) as session:
        known = {**_seed(tenant), "tenant_id": victim.tenant_id}
        yield Server(session, tenant.headers(), {"Authorization": "Bearer t"}, known)
    pool.close()
    spine.close()


def _seed(tenant: Tenant) -> dict[str, Any]:
    plane = {
        "plane_type": "docs",
        "plane_name": "p",
        "connector_type": "repository",
        "connector_id": "repo",
        "config": {},
    }
    run = {
        "goal": "Try everything.",
        "agent_id": "agent-1",
        "actor_type": "SYSTEM",
        "origin_system_id": "tests",
        "max_attempts": 20,
    }
    key = {"name": "k", "scopes": ["*"], "actor_type": "AGENT", "actor_id": "a"}
    return {
        "plane_id": tenant.call("knowledge.planes.register", plane).plane_id,
        "run_id": tenant.call("runs.start", run).run_id,
        "key_id": tenant.call("keys.create", key).key_id,
        "attempt": 1,
        "revision": 1,
    }


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_route_does_what_its_documentation_says(route: Route, server: Server) -> None:
    sane = server.try_route(_schema(), route, GenerationMode.POSITIVE)
    insane = server.try_route(_schema(), route, GenerationMode.NEGATIVE)
    assert sane | insane


def test_the_checks_find_a_route_that_breaks_its_promise(server: Server) -> None:
    from app.hoc_spine.operation_registry import OperationRegistry

    registry = OperationRegistry()
    for operation in OPERATIONS:
        registry.register(operation)
    by_operation = {route.operation: route for route in probe_routes()}
    broken = schemathesis.openapi.from_dict(build_document(probe_routes(), registry))
    with pytest.raises(FailureGroup, match="Server error"):
        server.try_route(broken, by_operation["probe.fail"], GenerationMode.POSITIVE)
    document = build_document(probe_routes(), registry)
    route = by_operation["probe.context"]
    del document["paths"][route.path]["post"]["responses"]["200"]
    with pytest.raises(FailureGroup, match="Undocumented status code"):
        server.try_route(schemathesis.openapi.from_dict(document), route, GenerationMode.POSITIVE)
