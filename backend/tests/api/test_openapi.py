"""The OpenAPI document: made from routes and operations, complete, deterministic, checked with the file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest

import app.api.routes
from app.api.openapi import build_document, document_text, handlers_registry, main
from app.api.routing import OperationRoutes
from app.api.table import ROUTES
from app.hoc_spine.operation_registry import OperationRegistry
from tests.api.probes import OPERATIONS, probe_routes

P = "/api/v1/probe"
# Dispatched by a command, by maintenance, or by the purge of a plane, inside its transaction.
WITHOUT_ROUTE = {
    "ops.log.anchor",
    "ops.log.open_epoch",
    "ops.log.resume",
    "ops.retention.end_purge",
    "ops.retention.plan",
    "ops.retention.purge",
    "ops.retention.record_archive",
    "ops.retention.set",
    "ops.retention.show",
    "ops.retention.write_archive",
    "repository.collections.purge",
}


@pytest.fixture
def probes() -> OperationRegistry:
    """A registry of the probe operations."""
    registry = OperationRegistry()
    for operation in OPERATIONS:
        registry.register(operation)
    return registry


@pytest.fixture
def document(probes: OperationRegistry) -> dict[str, Any]:
    """The document of the probe routes."""
    return build_document(probe_routes(), probes)


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for member in node.values():
            yield from _references(member)
    elif isinstance(node, list):
        for item in node:
            yield from _references(item)


def _resolve(document: dict[str, Any], reference: str) -> Any:
    node: Any = document
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return node


def test_every_reference_of_the_products_document_leads_somewhere() -> None:
    document = orjson.loads(document_text(ROUTES, handlers_registry()))
    references = set(_references(document))
    assert references
    for reference in references:
        assert _resolve(document, reference) is not None


def test_every_schema_of_the_products_document_is_a_json_schema() -> None:
    document = orjson.loads(document_text(ROUTES, handlers_registry()))
    for name, schema in document["components"]["schemas"].items():
        jsonschema_rs.meta.validate({**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"})
        assert schema.get("type") or schema.get("anyOf") or schema.get("enum") or schema.get("const"), name


def test_every_route_has_an_entry_under_its_operations_name() -> None:
    document = build_document(ROUTES, handlers_registry())
    entries = {
        (path, method): entry for path, item in document["paths"].items() for method, entry in item.items()
    }
    names = [entry["operationId"] for entry in entries.values()]
    assert len(set(names)) == len(names)
    for route in ROUTES:
        name = entries[(route.template, route.method.lower())]["operationId"]
        assert name == route.operation or name.startswith(f"{route.operation}.")


def test_the_table_holds_the_routes_of_every_module() -> None:
    declared = [
        route
        for module in pkgutil.iter_modules(app.api.routes.__path__)
        for value in vars(importlib.import_module(f"{app.api.routes.__name__}.{module.name}")).values()
        if isinstance(value, OperationRoutes)
        for route in value
    ]
    assert len(declared) > 50
    assert {(route.method, route.path) for route in declared} == {
        (route.method, route.path) for route in ROUTES
    }


def test_every_operation_of_an_outer_door_has_a_route() -> None:
    reached = {route.operation for route in ROUTES}
    missing = {operation.name for operation in handlers_registry() if operation.door != "worker"} - reached
    assert missing == WITHOUT_ROUTE


def test_a_body_lists_what_the_path_does_not_name(document: dict[str, Any]) -> None:
    patch = document["paths"][f"{P}/things/{{thing_id}}"]["patch"]
    schema = patch["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == {"text"}
    assert schema["additionalProperties"] is False
    assert patch["requestBody"]["required"] is False
    made = document["paths"][f"{P}/things"]["post"]["requestBody"]
    reference = made["content"]["application/json"]["schema"]["$ref"]
    assert made["required"] is True
    assert _resolve(document, reference)["required"] == ["thing_id", "text"]


def test_a_query_lists_the_input_fields_under_their_wire_names(document: dict[str, Any]) -> None:
    listed = document["paths"][f"{P}/things"]["get"]["parameters"]
    names = {item["name"] for item in listed if item.get("in") == "query"}
    assert names == {"colour", "size", "weight", "live", "since", "tags", "from", "limit", "cursor"}


def test_every_kind_of_refusal_is_documented(document: dict[str, Any]) -> None:
    patch = document["paths"][f"{P}/things/{{thing_id}}"]["patch"]["responses"]
    expected = {
        200,
        201,
        202,
        400,
        401,
        403,
        404,
        408,
        409,
        410,
        412,
        413,
        414,
        415,
        422,
        428,
        429,
        431,
        500,
        503,
    }
    assert {int(status) for status in patch} == expected
    assert "304" in document["paths"][f"{P}/things/{{thing_id}}"]["get"]["responses"]


def test_doors_are_told_apart(document: dict[str, Any]) -> None:
    assert document["paths"][f"{P}/operator"]["get"]["security"] == [
        {"operatorBearer": []},
        {"operatorKey": []},
    ]
    assert document["paths"][f"{P}/echo"]["post"]["security"] == [{"tenantBearer": []}, {"tenantKey": []}]


def test_the_text_is_the_same_each_time(probes: OperationRegistry) -> None:
    backwards = tuple(reversed(probe_routes()))
    assert document_text(probe_routes(), probes) == document_text(backwards, probes)


def test_the_check_finds_a_document_that_is_old(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "docs" / "openapi.json"
    assert main(["--check", "--file", str(file)]) == 1
    assert main(["--write", "--file", str(file)]) == 0
    assert main(["--check", "--file", str(file)]) == 0
    assert capsys.readouterr().out.endswith("CLEAN\n")
    file.write_text(file.read_text().replace("HOC Spine", "Another"))
    assert main(["--check", "--file", str(file)]) == 1


def test_a_route_to_nowhere_or_through_the_wrong_door_does_not_start(probes: OperationRegistry) -> None:
    nowhere = OperationRoutes("x", prefix="/x")
    nowhere.add("GET", "", "probe.never")
    with pytest.raises(RuntimeError, match="never"):
        build_document(tuple(nowhere), probes)
    wrong = OperationRoutes("x", prefix="/x", operator=True)
    wrong.add("GET", "", "probe.things.list")
    with pytest.raises(RuntimeError, match="tenant door"):
        build_document(tuple(wrong), probes)
