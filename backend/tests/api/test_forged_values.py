"""Values that fit their models and no column: forged cursors and numbers beyond every integer type."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from app.api.openapi import handlers_registry
from app.api.table import ROUTES
from app.kernel.canonical_json import dumps

if TYPE_CHECKING:
    from app.api.routing import Route
    from tests.api.product_server import ProductServer

FORGED: tuple[Any, ...] = (
    2**63 - 1,
    2**31,
    -1,
    True,
    1.5,
    None,
    "x",
    "",
    "\u0000",
    "2026-01-01",
    [1],
    {"a": 1},
)
# The run of these tests did nothing that fills a second page of these.
# The last asks for a document, which the path alone does not name.
WITHOUT_NEXT_PAGE = {"knowledge.planes.documents", "log.checkpoints.list", "retrieval.affected_runs"}
NUMBERS = (2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**25, -(10**25))


def _lists() -> list[Route]:
    registry = handlers_registry()
    fields = {operation.name: operation.input.model_fields for operation in registry}
    return [route for route in ROUTES if route.method == "GET" and "cursor" in fields[route.operation]]


def _forgeries(cursor: str) -> Iterator[str]:
    binding, *key = orjson.loads(base64.urlsafe_b64decode(cursor + "=="))
    forged = [key[:-1]]
    for part in FORGED:
        forged += [part] * len(key), [*key, part], [part, *key[1:]], [*key[:-1], part]
    # Over a key of one part most of these are the same.
    for text in dict.fromkeys(orjson.dumps([binding, *parts]) for parts in forged):
        yield base64.urlsafe_b64encode(text).decode().rstrip("=")


def test_a_forged_cursor_is_never_a_bug(product: ProductServer) -> None:
    tried = []
    for route in _lists():
        path = product.path_of(route)
        first = None if path is None else product.request(route, f"{path}?limit=1").json()
        if first is None or not first.get("next_cursor"):
            continue
        tried.append(route.operation)
        for cursor in _forgeries(first["next_cursor"]):
            reply = product.request(route, f"{path}?limit=1&cursor={cursor}")
            assert reply.status_code in (200, 400), (route.path, cursor, reply.text)
            assert reply.status_code == 200 or reply.json()["code"] in ("INVALID_CURSOR", "INVALID_QUERY")
    untried = {route.operation for route in _lists()} - set(tried)
    assert untried <= WITHOUT_NEXT_PAGE


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_beyond_every_column_names_nothing(product: ProductServer, number: int) -> None:
    fields = {operation.name: operation.input.model_json_schema() for operation in handlers_registry()}
    tried = 0
    for route in (route for route in ROUTES if route.method == "GET"):
        members = fields[route.operation].get("properties", {})
        numeric = [name for name, schema in members.items() if "integer" in str(schema)]
        for name in numeric:
            in_path = name in route.path_parameters
            path = product.path_of(route, **({name: number} if in_path else {}))
            if path is None:
                continue
            reply = product.request(route, path if in_path else f"{path}?{name}={number}")
            tried += 1
            assert reply.status_code < 500, (path, name, reply.text)
            assert not in_path or reply.status_code == 404, (path, reply.text)
    assert tried > 20


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_beyond_every_column_is_no_bug_in_a_body(product: ProductServer, number: int) -> None:
    routes = {route.operation: route for route in ROUTES if route.method in ("POST", "PATCH", "PUT")}
    step = {"step_index": 9, "skill_id": "s", "skill_name": "n", "params": {}, "status": "success"}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("runs.complete", {"status": "succeeded", "expected_steps": number}),
        ("runs.start", {"goal": "g", "seed": number, "timeout_seconds": number}),
        ("runs.retry", {"from_attempt": number, "reason": "r"}),
        ("traces.steps.append", {"attempt": number, "steps": [step]}),
        ("traces.steps.append", {"steps": [{**step, "step_index": number}]}),
        ("traces.steps.append", {"steps": [{**step, "duration_ms": number}]}),
        ("traces.steps.append", {"steps": [{**step, "cost_cents": number}]}),
        ("traces.steps.append", {"steps": [{**step, "retry_count": number}]}),
        ("keys.create", {"name": "k", "actor_type": "AGENT", "actor_id": "a", "rate_limit_rpm": number}),
        (
            "retrieval.explain",
            {"run_id": "r", "plane_id": "p", "action": "a", "payload": {}, "attempt": number},
        ),
        ("repository.artifacts.create", {"name": "n", "artifact_type": "t", "metadata": {"number": number}}),
    ]
    for operation, body in bodies:
        route = routes[operation]
        path = product.path_of(route)
        assert path is not None
        headers = {**product.headers_for(route), "content-type": "application/json"}
        reply = product.session.request(
            route.method, f"http://testserver{path}", headers=headers, data=dumps(body)
        )
        assert reply.status_code < 500, (operation, body, reply.text)
