"""Generated over the route table: fixed paths win, and every list pages and filters truthfully."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from app.api.openapi import handlers_registry
from app.api.path_table import PathTable
from app.api.table import ROUTES
from app.kernel.pages import MAX_LIMIT

if TYPE_CHECKING:
    from app.api.routing import Route
    from tests.api.product_server import ProductServer

INPUTS = {operation.name: operation.input for operation in handlers_registry()}
LISTS = [
    route for route in ROUTES if route.method == "GET" and "cursor" in INPUTS[route.operation].model_fields
]
# What a list asks for, from the things that exist.
DEMANDED = {"retrieval.affected_runs": ("artifact_id",)}
# What a filter is called in the items, where that is another word.
CALLED = {
    "signature": "recurrence_signature",
    "outcome": "decision_outcome",
    "state": "lifecycle_state",
}
# What chooses a span, a count or an attempt, or what a view does not show; each has a test of its own.
NOT_EQUAL = {
    "attempt",
    "created_after",
    "created_before",
    "started_after",
    "started_before",
    "since",
    "from",
    "to",
    "days",
    "min_count",
    "include_synthetic",
    "include_deleted",
    "name_prefix",
    "digest",
    "memory_ref",
    "memory_system",
}
# A package is found by what it pins, which its list does not spell out.
BY_CONTENT = {
    ("repository.context_packages.list", "artifact_id"),
    ("repository.context_packages.list", "revision"),
}


def test_no_fixed_path_is_shadowed_by_a_parameter_path() -> None:
    table: PathTable[str] = PathTable()
    for template in dict.fromkeys(route.path for route in ROUTES):
        table.put(template, template)
    fixed = 0
    for route in ROUTES:
        path = route.template
        for name in route.path_parameters:
            path = path.replace("{" + name + "}", "x1")
        found = table.find(path)
        assert found is not None, route.path
        assert found[0] == route.path, f"{path} is answered by {found[0]}"
        fixed += not route.path_parameters
    assert fixed > 20


def test_every_list_has_the_same_items_in_the_same_order_however_it_is_paged(product: ProductServer) -> None:
    paged = 0
    for route in LISTS:
        path = product.path_of(route)
        assert path is not None, route.operation
        whole = items_of(route, get(product, route, path, limit=MAX_LIMIT))
        seen: list[Any] = []
        cursor: dict[str, Any] = {}
        while len(seen) <= len(whole):
            page = get(product, route, path, limit=1, **cursor)
            seen += items_of(route, page)
            if not page.get("next_cursor"):
                break
            cursor = {"cursor": page["next_cursor"]}
        assert seen == whole, route.operation
        assert all(one != other for one, other in pairwise(whole)), route.operation
        for name in ("total_events", "total_steps"):
            assert page.get(name, len(whole)) == len(whole), route.operation
        paged += len(whole) > 1
    assert paged > 10


def test_every_filter_keeps_exactly_what_it_names(product: ProductServer) -> None:
    """A filter by a member of the items finds those whose member has the value, and no other."""
    tried = set()
    unknown = []
    for route in LISTS:
        path = product.path_of(route)
        assert path is not None
        whole = items_of(route, get(product, route, path, limit=MAX_LIMIT))
        for name in filters_of(route) if whole else ():
            member = name if name in whole[0] else CALLED.get(name, name)
            if name in NOT_EQUAL or (route.operation, name) in BY_CONTENT:
                continue
            if member not in whole[0]:
                unknown.append((route.operation, name))
                continue
            for value in {item[member] for item in whole if isinstance(item[member], str | int)}:
                found = items_of(route, get(product, route, path, limit=MAX_LIMIT, **{name: wire(value)}))
                assert found == [item for item in whole if item[member] == value], (route.operation, name)
                tried.add((route.operation, name))
    assert not unknown, unknown
    assert len(tried) > 15


def filters_of(route: Route) -> list[str]:
    fields = INPUTS[route.operation].model_fields
    named = {field.alias or name for name, field in fields.items()}
    return sorted(named - {"limit", "cursor", *route.path_parameters, *DEMANDED.get(route.operation, ())})


def items_of(route: Route, page: dict[str, Any]) -> list[Any]:
    (items,) = (value for value in page.values() if isinstance(value, list))
    return list(items)


def wire(value: str | int) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def get(product: ProductServer, route: Route, path: str, **query: Any) -> dict[str, Any]:
    query |= {name: product.known[name] for name in DEMANDED.get(route.operation, ())}
    reply = product.request(route, path, params=query)
    if reply.status_code != 200:
        pytest.fail(f"{route.operation} {path} {query}: {reply.text}")
    answer: dict[str, Any] = reply.json()
    return answer
