"""L2 HTTP: the parts of the OpenAPI document that do not depend on any operation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.api.errors import PROBLEM_MEDIA_TYPE
from app.kernel.ids import ID_PATTERN

Json = dict[str, Any]

DESCRIPTION: Final = (
    "HOC Spine decides what an AI run may do and see, records what happened and can later prove it.\n\n"
    "Every route dispatches exactly one operation (`operationId`). The tenant comes from the credential;"
    " an object of another tenant is answered like one that never existed. Refusals are RFC 9457 problems"
    " with a stable `code`. An unknown query parameter, an unknown body member and a body on GET or DELETE"
    " are refused."
)

REASONS: Final[Mapping[int, str]] = {
    400: "Malformed: JSON, query string, header, cursor, or two credentials at once.",
    401: "The credential is missing or does not open this door; the answer never says why.",
    403: "The credential lacks the scope, or a rule refuses.",
    404: "There is no such object in this tenant, or X-Run-ID names no run of it.",
    408: "The rest of the body did not arrive in time.",
    409: "The state of the object refuses this.",
    410: "The object was deleted.",
    412: "If-Match names another version than the current one.",
    413: "The body, or something in it, is too large.",
    414: "Path and query are too long.",
    415: "The body is not JSON in UTF-8.",
    422: "The input does not fit; `errors` says where.",
    428: "This change needs If-Match.",
    429: "A rate limit or quota is used up.",
    431: "The header fields are too large.",
    500: "A bug, or stored data that fails its own check; nothing was written.",
    502: "A system behind a connector failed.",
    503: "Busy or degraded; try again after Retry-After seconds.",
    504: "A system behind a connector did not answer in time.",
}

PROBLEM: Final[Json] = {
    "type": "object",
    "description": "RFC 9457 problem; some codes add members.",
    "required": ["type", "title", "status", "detail", "instance", "code", "request_id", "errors"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "The path of the request."},
        "code": {"type": "string", "pattern": "^[A-Z][A-Z0-9_]*$"},
        "request_id": {"type": "string", "pattern": ID_PATTERN},
        "errors": {"type": "array", "items": {"type": "object"}},
    },
    "additionalProperties": True,
}

SECURITY_SCHEMES: Final[Json] = {
    "tenantBearer": {"type": "http", "scheme": "bearer", "description": "A tenant's API key, `hoc_...`."},
    "tenantKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
    "operatorBearer": {"type": "http", "scheme": "bearer", "description": "The operator's token."},
    "operatorKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same token."},
}

_TRACEPARENT: Final = "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$"
_TAG_LIST: Final = r'^(\*|(W/)?"[^"]*"( *, *(W/)?"[^"]*")*)$'


def _parameter(name: str, description: str, **schema: Any) -> Json:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string", **schema},
    }


PARAMETERS: Final[Json] = {
    "RequestId": _parameter("X-Request-ID", "Echoed; made when absent or not an id.", pattern=ID_PATTERN),
    "RunId": _parameter("X-Run-ID", "Ties the write to a governed run of the tenant.", pattern=ID_PATTERN),
    "Traceparent": _parameter(
        "traceparent", "W3C Trace Context; ignored when invalid.", pattern=_TRACEPARENT
    ),
    "IdempotencyKey": _parameter(
        "Idempotency-Key",
        "Same key and same body replay the answer for 24 hours; another body is 422 IDEMPOTENCY_KEY_REUSED.",
        pattern="^[!-~]([ -~]{0,253}[!-~])?$",
        minLength=1,
        maxLength=255,
    ),
    "IfMatch": _parameter("If-Match", 'The version to change, `"v7"`; a list, or `*`.', pattern=_TAG_LIST),
    "IfNoneMatch": _parameter(
        "If-None-Match", "Answer 304 when the version is one of these.", pattern=_TAG_LIST
    ),
}


def _header(description: str, kind: str = "string") -> Json:
    return {"description": description, "schema": {"type": kind}}


HEADERS: Final[Json] = {
    "RequestId": _header("The request's id, given or made."),
    "RateLimit": _header('What is left: `"key";r=59;t=41` (IETF draft, structured field list).'),
    "RateLimitPolicy": _header('The quotas: `"key";q=60;w=60` (IETF draft, structured field list).'),
    "ETag": _header('`"v<version>"`, a strong tag.'),
    "Location": _header("The path of what was made."),
    "Link": _header('The next page: `<...>; rel="next"`.'),
    "RetryAfter": _header("Seconds to wait.", "integer"),
    "IdempotentReplay": _header("`true` when the answer is a replay."),
    "WWWAuthenticate": _header("`Bearer`."),
    "ContentDigest": _header("RFC 9530 digest of the content, sha-256."),
    "SnapshotDigest": _header("Tree hash of the records: one value for one state, on any backend."),
}

STANDING_HEADERS: Final[Json] = {
    "X-Request-ID": {"$ref": "#/components/headers/RequestId"},
    "RateLimit": {"$ref": "#/components/headers/RateLimit"},
    "RateLimit-Policy": {"$ref": "#/components/headers/RateLimitPolicy"},
}


OTLP_CONTENT: Final[Json] = {
    "application/x-protobuf": {"schema": {"type": "string", "format": "binary"}},
    "application/json": {"schema": {"type": "object"}},
}


def otlp_responses(refusals: Sequence[int]) -> Json:
    """Return the responses of a route that speaks OTLP: the messages of the protocol, coded as asked."""
    done: Json = {
        "description": "Done.",
        "headers": dict(STANDING_HEADERS),
        "content": OTLP_CONTENT,
    }
    refused = {str(status): {**_problem_response(status), "content": OTLP_CONTENT} for status in refusals}
    return {"200": done, **refused}


def problem_responses() -> Json:
    """Return the reusable problem response of every refusal status, named `Problem<status>`."""
    return {f"Problem{status}": _problem_response(status) for status in REASONS}


def _problem_response(status: int) -> Json:
    headers = dict(STANDING_HEADERS)
    if status in (429, 503):
        headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    if status == 401:
        headers["WWW-Authenticate"] = {"$ref": "#/components/headers/WWWAuthenticate"}
    return {
        "description": REASONS[status],
        "headers": headers,
        "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def health_paths() -> Json:
    """Return the paths of the operator's probes, which need no credential."""
    probe = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
    json_body = {"application/json": {"schema": probe}}
    return {
        "/healthz": {
            "get": {
                "operationId": "healthz",
                "summary": "Tell that the process answers.",
                "tags": ["health"],
                "security": [],
                "responses": {"200": {"description": "The process answers.", "content": json_body}},
            }
        },
        "/readyz": {
            "get": {
                "operationId": "readyz",
                "summary": "Tell whether the database answers and its schema is at head.",
                "tags": ["health"],
                "security": [],
                "responses": {
                    "200": {"description": "Ready; every component is listed.", "content": json_body},
                    "503": {"description": "Not ready; every component is listed.", "content": json_body},
                },
            }
        },
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "Return the metrics of this process in the Prometheus text format.",
                "tags": ["health"],
                "security": [],
                "responses": {
                    "200": {
                        "description": "Metrics.",
                        "content": {"text/plain": {"schema": {"type": "string"}}},
                    }
                },
            }
        },
    }
