"""Every route against its own documentation: generated requests, sane and insane, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.api.openapi import build_document, handlers_registry
from app.api.routing import Route
from app.api.table import ROUTES
from app.hoc_spine.operation_registry import OperationRegistry
from tests.api.probes import OPERATIONS, probe_routes

if TYPE_CHECKING:
    from tests.api.product_server import ProductServer

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
CREDENTIALS = {"authorization", "x-api-key"}
EXAMPLES = 2


@cache
def _schema() -> Any:
    document = build_document(ROUTES, handlers_registry())
    for methods in document["paths"].values():
        for entry in methods.values():
            # A made-up precondition or run only ever meets its own refusal; headers have tests of their own.
            entry["parameters"] = [item for item in entry.get("parameters", ()) if "$ref" not in item]
    return schemathesis.openapi.from_dict(document)


def _try_route(
    products: Sequence[ProductServer], schema: Any, route: Route, mode: GenerationMode
) -> set[int]:
    """Send generated requests to each product, also with ids that exist there; return the statuses seen."""
    statuses: set[int] = set()
    # Stored bytes come back under the type that somebody gave them, which may be YAML and no YAML at all.
    stored = route.response in ("bytes", "file")
    checks = [check for check in CHECKS if not (stored and check is response_schema_conformance)]

    @given(case=schema[route.template][route.method].as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        for name in [name for name in case.headers or () if name.lower() in CREDENTIALS]:
            del case.headers[name]
        made_up = dict(case.path_parameters or {})
        for product in products:
            headers = product.headers_for(route)
            case.path_parameters.update(made_up)
            statuses.add(_send(product, case, headers, checks))
            found = {name: product.known[name] for name in made_up if name in product.known}
            if found:
                case.path_parameters.update(found)
                statuses.add(_send(product, case, headers, checks))

    check()
    return statuses


def _send(
    product: ProductServer, case: Any, headers: Mapping[str, str], checks: Sequence[Callable[..., Any]]
) -> int:
    return int(case.call_and_validate(session=product.session, headers=headers, checks=checks).status_code)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_route_does_what_its_documentation_says(route: Route, products: Sequence[ProductServer]) -> None:
    sane = _try_route(products, _schema(), route, GenerationMode.POSITIVE)
    insane = _try_route(products, _schema(), route, GenerationMode.NEGATIVE)
    assert sane | insane


def test_the_checks_find_a_route_that_breaks_its_promise(product: ProductServer) -> None:
    registry = OperationRegistry()
    for operation in OPERATIONS:
        registry.register(operation)
    by_operation = {route.operation: route for route in probe_routes()}
    document = build_document(probe_routes(), registry)
    route = by_operation["probe.context"]
    del document["paths"][route.path]["post"]["responses"]["200"]
    schema = schemathesis.openapi.from_dict(document)
    with pytest.raises(FailureGroup, match="Undocumented status code"):
        _try_route([product], schema, route, GenerationMode.POSITIVE)
    with pytest.raises(FailureGroup, match="Server error"):
        _try_route([product], schema, by_operation["probe.fail"], GenerationMode.POSITIVE)
