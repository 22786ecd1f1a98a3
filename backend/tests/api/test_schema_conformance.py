"""Every route against its own documentation: generated requests, sane and insane, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
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

if TYPE_CHECKING:
    from app.hoc_spine.spine import Spine
    from tests.factories.tenants import Tenant

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# A made-up precondition or run only ever meets its own refusal, which has tests of its own.
OMITTED = ("X-Run-ID", "If-Match", "If-None-Match", "Idempotency-Key")
EXAMPLES = 6


@cache
def _schema() -> Any:
    return schemathesis.openapi.from_dict(build_document(ROUTES, handlers_registry()))


@pytest.fixture(scope="module")
def session(spine: Spine) -> Iterator[Any]:
    """One client of the product's application for all routes."""
    from app.main import create_app

    with asgi.get_client(create_app(spine)) as client:
        yield client


def _run(route: Route, mode: GenerationMode, send: Callable[[Any], None]) -> None:
    operation = _schema()[route.path][route.method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        for name in OMITTED:
            (case.headers or {}).pop(name, None)
        send(case)

    check()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_a_route_does_what_its_documentation_says(
    route: Route,
    mode: GenerationMode,
    session: Any,
    tenant: Tenant,
    operator_headers: dict[str, str],
) -> None:
    headers = operator_headers if route.operator else tenant.headers()

    def send(case: Any) -> None:
        case.call_and_validate(session=session, headers=headers, checks=CHECKS)

    _run(route, mode, send)
