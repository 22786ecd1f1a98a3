"""L2 HTTP: the OpenAPI document, made from routes and operations; `--check` or `--write` the file."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import orjson

import app.hoc_spine.handlers as handlers
from app.api import openapi_parts as parts
from app.api.endpoint import BODY_METHODS, operation_of, query_names
from app.api.openapi_parts import Json
from app.api.openapi_schemas import Schemas
from app.api.routing import Route
from app.api.table import ROUTES
from app.hoc_spine.operation_registry import Operation, OperationRegistry
from app.kernel.pages import Page

DOCUMENT_FILE: Final = Path(__file__).resolve().parents[3] / "docs" / "openapi.json"
API_VERSION: Final = "1"


def build_document(routes: Sequence[Route], registry: OperationRegistry) -> Json:
    """Return the OpenAPI 3.1 document of the routes."""
    pairs = [(route, operation_of(route, registry)) for route in routes]
    schemas = Schemas(operation for _, operation in pairs)
    paths: dict[str, Json] = parts.health_paths()
    named: set[str] = set()
    for route, operation in pairs:
        entry = _operation(route, operation, schemas)
        if operation.name in named:
            # Another form of the same operation: an id is unique in a document.
            entry["operationId"] = f"{operation.name}.{route.path.rsplit('/', 1)[1]}"
        named.add(operation.name)
        paths.setdefault(route.template, {})[route.method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {"title": "HOC Spine", "version": API_VERSION, "description": parts.DESCRIPTION},
        "tags": [{"name": name} for name in sorted({"health", *(route.tag for route in routes)})],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted({**schemas.reachable(paths), "Problem": parts.PROBLEM}.items())),
            "responses": parts.problem_responses(),
            "parameters": parts.PARAMETERS,
            "headers": parts.HEADERS,
            "securitySchemes": parts.SECURITY_SCHEMES,
        },
    }


def document_text(routes: Sequence[Route], registry: OperationRegistry) -> str:
    """Return the committed form of the document: sorted keys, so that a difference is a change."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(build_document(routes, registry), option=options).decode()


def refusal_statuses(route: Route, operation: Operation) -> list[int]:
    """Return every status other than success that a route can answer with."""
    statuses = {400, 401, 403, 404, 414, 422, 429, 431, 500, 503, *route.refusals}
    if route.method in BODY_METHODS:
        statuses |= {408, 413, 415}
    if route.path_parameters:
        statuses.add(410)
    if operation.mode == "write":
        statuses |= {409, 410, 412, 428}
    return sorted(statuses)


def _operation(route: Route, operation: Operation, schemas: Schemas) -> Json:
    model = schemas.resolved(schemas.input(operation))
    queried = query_names(route, tuple(model.get("properties", {})))
    output = schemas.output(operation)
    entry: Json = {
        "operationId": operation.name,
        "summary": _summary(operation),
        "tags": [route.tag],
        "security": _security(route),
        "parameters": [*_own_parameters(route, model, queried), *_header_parameters(route, operation)],
        "responses": {
            **{str(status): _success(route, operation, status, output) for status in route.statuses},
            **{
                str(status): {"$ref": f"#/components/responses/Problem{status}"}
                for status in refusal_statuses(route, operation)
            },
        },
        "x-mode": operation.mode,
    }
    if operation.scope is not None:
        entry["x-required-scope"] = operation.scope
    if route.protocol == "otlp":
        entry["responses"] = parts.otlp_responses(refusal_statuses(route, operation))
        entry["requestBody"] = {"required": False, "content": parts.OTLP_CONTENT}
        return entry
    if route.etag and route.method == "GET":
        entry["responses"]["304"] = {
            "description": "The version is known.",
            "headers": parts.STANDING_HEADERS,
        }
    body = _body(route, schemas.input(operation), model, queried)
    if body is not None:
        entry["requestBody"] = body
    return entry


def _summary(operation: Operation) -> str:
    text = (operation.handler.__doc__ or operation.input.__doc__ or operation.name).strip()
    return text.split("\n\n")[0].replace("\n", " ").strip()


def _security(route: Route) -> list[Json]:
    names = ("operatorBearer", "operatorKey") if route.operator else ("tenantBearer", "tenantKey")
    return [{name: []} for name in names]


def _own_parameters(route: Route, model: Json, queried: Sequence[str]) -> list[Json]:
    properties = model.get("properties", {})
    required = set(model.get("required", ()))
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": properties[name]}
        for name in route.path_parameters
    ]
    in_query = [
        {"name": name, "in": "query", "required": name in required, "schema": properties[name]}
        for name in sorted(queried)
    ]
    return [*in_path, *in_query]


def _header_parameters(route: Route, operation: Operation) -> list[Json]:
    names = ["RequestId", "Traceparent"]
    if operation.mode == "write":
        names += [] if route.operator else ["RunId"]
        names += ["IdempotencyKey"] if operation.creates else []
        names += ["IfMatch"] if route.path_parameters else []
    elif route.etag:
        names.append("IfNoneMatch")
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


def _body(route: Route, whole: Json, model: Json, queried: Sequence[str]) -> Json | None:
    if route.method not in BODY_METHODS:
        return None
    if route.raw_body:
        return {"required": False, "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
    if route.body_member is not None:
        free: Json = {"type": "object", "additionalProperties": True}
        return {"required": True, "content": {"application/json": {"schema": free}}}
    elsewhere = {*route.path_parameters, *queried}
    properties = {
        name: schema for name, schema in model.get("properties", {}).items() if name not in elsewhere
    }
    if not properties:
        return None
    required = [name for name in model.get("required", ()) if name in properties]
    if not elsewhere:
        return {"required": bool(required), "content": {"application/json": {"schema": whole}}}
    schema: Json = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        schema["required"] = required
    return {"required": bool(required), "content": {"application/json": {"schema": schema}}}


def _success(route: Route, operation: Operation, status: int, output: Json) -> Json:
    headers: Json = dict(parts.STANDING_HEADERS)
    if route.etag:
        headers["ETag"] = {"$ref": "#/components/headers/ETag"}
    if route.location is not None:
        headers["Location"] = {"$ref": "#/components/headers/Location"}
    if operation.creates:
        headers["Idempotent-Replay"] = {"$ref": "#/components/headers/IdempotentReplay"}
    if isinstance(operation.output, type) and issubclass(operation.output, Page):
        headers["Link"] = {"$ref": "#/components/headers/Link"}
    if route.response in ("bytes", "file"):
        headers["Content-Digest"] = {"$ref": "#/components/headers/ContentDigest"}
        if "snapshot_digest" in getattr(operation.output, "model_fields", ()):
            headers["Snapshot-Digest"] = {"$ref": "#/components/headers/SnapshotDigest"}
        if status == 204:
            return {"description": "There is no content.", "headers": headers}
        content: Json = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
    elif route.response == "text_or_json":
        as_json = output["anyOf"][0]
        content = {"application/json": {"schema": as_json}, "text/plain": {"schema": {"type": "string"}}}
    else:
        content = {"application/json": {"schema": output}}
    return {"description": _SUCCESS.get(status, "Done."), "headers": headers, "content": content}


_SUCCESS: Final[Mapping[int, str]] = {200: "Done.", 201: "Made.", 202: "Accepted; a job goes on with it."}


def handlers_registry() -> OperationRegistry:
    """Return the registry of every handler module, without a database."""
    registry = OperationRegistry()
    for module in sorted(pkgutil.iter_modules(handlers.__path__), key=lambda found: found.name):
        for operation in getattr(
            importlib.import_module(f"{handlers.__name__}.{module.name}"), "OPERATIONS", ()
        ):
            registry.register(operation)
    registry.freeze()
    return registry


def main(arguments: Sequence[str] | None = None) -> int:
    """Check or write the committed document; exit 0 when it is current, 1 when it differs."""
    parser = argparse.ArgumentParser(prog="python -m app.api.openapi", description=main.__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="compare the file with the routes")
    action.add_argument("--write", action="store_true", help="write the file anew")
    parser.add_argument("--file", type=Path, default=DOCUMENT_FILE)
    options = parser.parse_args(arguments)
    text = document_text(ROUTES, handlers_registry())
    if options.write:
        options.file.parent.mkdir(parents=True, exist_ok=True)
        options.file.write_text(text, encoding="utf-8")
        print(f"wrote {options.file.name}")  # noqa: T201
        return 0
    if options.file.is_file() and options.file.read_text(encoding="utf-8") == text:
        print("CLEAN")  # noqa: T201
        return 0
    print(f"{options.file.name} differs; run `python -m app.api.openapi --write`")  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
