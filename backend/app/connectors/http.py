"""Connectors: web services through declared endpoints; no redirects, no proxy, no cookies, JSON alone."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Annotated, Any, Final

import httpcore
import structlog
from pydantic import Field, StringConstraints, ValidationError

from app.connectors.credentials import Credentials
from app.connectors.guard import CallGuard
from app.connectors.hosts import HostPolicy
from app.connectors.http_line import CheckedBackend
from app.connectors.http_request import HttpRequest, Place, make_request
from app.connectors.parameters import read_params
from app.connectors.rows import invalid, make_document
from app.connectors.values import (
    Caps,
    ConnectorDocument,
    ConnectorFailedError,
    ConnectorRefusedError,
    ConnectorResult,
    within_caps,
)
from app.kernel.canonical_json import CanonicalJsonError, dumps, loads
from app.kernel.inputs import Input, Text

HEALTH_BYTES: Final = 65_536
_AGENT: Final = "hoc-spine"
# What fits does not depend on where the service is.
_NOWHERE: Final = Place("https", "", 443, "")
_log = structlog.get_logger(__name__)
Config = Mapping[str, Any]


class EndpointPayload(Input):
    """Payload of a query: an endpoint of the plane, and its parameters."""

    endpoint_id: Annotated[Text, StringConstraints(min_length=1, max_length=64)]
    params: dict[str, Any] = Field(default_factory=dict)


class HttpConnector:
    """Serves query: the items of an endpoint's JSON answer, as documents."""

    actions = frozenset({"query"})
    reads_database = False

    def __init__(
        self,
        hosts: HostPolicy,
        credentials: Credentials,
        *,
        guard: CallGuard | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = hosts
        self._credentials = credentials
        self._guard = guard or CallGuard()
        self._trust = trust

    def check(self, *, action: str, payload: Mapping[str, Any], config: Config) -> None:
        """Raise ConnectorRefusedError for an unknown action, an unfit payload, an unknown endpoint."""
        endpoint, params = _read(action, payload, config)
        make_request(_NOWHERE, endpoint, params)

    def execute(
        self,
        connection: Any,  # noqa: ARG002
        *,
        tenant_id: str,
        plane: Mapping[str, Any],
        action: str,
        payload: Mapping[str, Any],
        config: Config,
        caps: Caps,
        deadline: float,
    ) -> ConnectorResult:
        """Return the items of an answer as documents; raise ConnectorRefusedError, ConnectorFailedError."""
        endpoint, params = _read(action, payload, config)
        found = self._ask(tenant_id, plane, config, endpoint, params, deadline)
        documents, dropped = within_caps(found, caps)
        return ConnectorResult(documents, truncated=dropped)

    def verify(self, *, tenant_id: str, plane: Mapping[str, Any], config: Config) -> dict[str, Any]:
        """Ask health_path, whose status must be below 400; raise ConnectorFailedError."""
        place = Place.of(config["base_url"])
        request = HttpRequest("GET", place.path + config["health_path"])
        deadline = time.monotonic() + config["timeout_seconds"]
        with self._called(tenant_id, plane):
            headers = self._headers(tenant_id, config, request)
            with self._answer(place, request, headers, deadline) as response:
                if response.status >= 400:
                    raise _refused(response.status)
                _read_body(response, HEALTH_BYTES)
        return {"endpoints": [endpoint["id"] for endpoint in config["endpoints"]]}

    def sample(self, *, tenant_id: str, plane: Mapping[str, Any], config: Config, rows: int) -> Sequence[str]:
        """Return items, as canonical text, of the endpoints that have sample_params."""
        texts: list[str] = []
        deadline = time.monotonic() + config["timeout_seconds"]
        for endpoint in config["endpoints"]:
            if endpoint["sample_params"] is None or len(texts) >= rows:
                continue
            params = dict(read_params(endpoint["params"], endpoint["sample_params"]))
            found = self._ask(tenant_id, plane, config, endpoint, params, deadline)
            texts.extend(dumps(dict(document.row or {})) for document in found[: rows - len(texts)])
        return texts

    def _ask(
        self,
        tenant_id: str,
        plane: Mapping[str, Any],
        config: Config,
        endpoint: Mapping[str, Any],
        params: Mapping[str, Any],
        deadline: float,
    ) -> list[ConnectorDocument]:
        place = Place.of(config["base_url"])
        request = make_request(place, endpoint, params)
        if endpoint["timeout_seconds"] is not None:
            deadline = min(deadline, time.monotonic() + endpoint["timeout_seconds"])
        with self._called(tenant_id, plane):
            headers = self._headers(tenant_id, config, request)
            with self._answer(place, request, headers, deadline) as response:
                _check_answer(response)
                body = _read_body(response, endpoint["max_bytes"] or config["max_response_bytes"])
            items = _items(body, endpoint["items_pointer"])
            return [make_document(endpoint["id"], endpoint["key_fields"], item) for item in items]

    @contextmanager
    def _called(self, tenant_id: str, plane: Mapping[str, Any]) -> Iterator[None]:
        try:
            with self._guard.call((tenant_id, plane["plane_id"])):
                yield
        except ConnectorFailedError as failure:
            _log.warning("connector.http_failed", plane_id=plane["plane_id"], detail=str(failure))
            raise

    def _headers(self, tenant_id: str, config: Config, request: HttpRequest) -> list[tuple[bytes, bytes]]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": _AGENT}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        auth = config["auth"]
        if auth is not None:
            secret = self._credentials.resolve(config["credential_ref"], tenant_id=tenant_id)
            if not secret.isascii() or not secret.isprintable():
                raise ConnectorFailedError("CREDENTIAL_UNAVAILABLE", "no header carries it", lasting=True)
            bearer = auth["scheme"] == "bearer"
            headers["Authorization" if bearer else auth["header"]] = f"Bearer {secret}" if bearer else secret
        return [(name.encode(), value.encode()) for name, value in headers.items()]

    @contextmanager
    def _answer(
        self, place: Place, request: HttpRequest, headers: list[tuple[bytes, bytes]], deadline: float
    ) -> Iterator[httpcore.Response]:
        if place.scheme != "https" and not self._hosts.is_exact(place.host, place.port):
            raise ConnectorFailedError("HOST_NOT_ALLOWED", "http without TLS to no listed host", lasting=True)
        url = httpcore.URL(
            scheme=place.scheme, host=place.host.encode(), port=place.port, target=request.target
        )
        backend = CheckedBackend(self._hosts, deadline)
        trust = self._trust or _system_trust()
        # One line for one call: nothing of it is left for the next one.
        with (
            _failures(deadline),
            httpcore.ConnectionPool(ssl_context=trust, network_backend=backend, retries=0) as pool,
            pool.stream(request.method, url, headers=headers, content=request.body) as response,
        ):
            yield response


@contextmanager
def _failures(deadline: float) -> Iterator[None]:
    try:
        yield
    except httpcore.TimeoutException as error:
        raise ConnectorFailedError("CONNECTOR_TIMEOUT", "the deadline passed") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError, OSError) as error:
        if time.monotonic() > deadline:
            raise ConnectorFailedError("CONNECTOR_TIMEOUT", "the deadline passed") from error
        raise ConnectorFailedError("CONNECTOR_ERROR", f"no answer: {type(error).__name__}") from error


def _check_answer(response: httpcore.Response) -> None:
    if not 200 <= response.status < 300:
        raise _refused(response.status)
    headers = {name.lower(): value for name, value in response.headers}
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json" and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        raise invalid("the answer is no JSON")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise invalid("the answer is encoded")


def _refused(status: int) -> ConnectorFailedError:
    # A service that is overloaded or restarts says so; every other refusal stands.
    passing = status in (408, 425, 429) or status >= 500
    return ConnectorFailedError("CONNECTOR_ERROR", f"status {status}", lasting=not passing)


def _read_body(response: httpcore.Response, limit: int) -> bytes:
    """Return the body; raise RESPONSE_TOO_LARGE as soon as it is over the limit."""
    body = bytearray()
    for chunk in response.iter_stream():
        body += chunk
        if len(body) > limit:
            raise ConnectorFailedError("RESPONSE_TOO_LARGE", f"over {limit} bytes", lasting=True)
    return bytes(body)


def _items(body: bytes, pointer: str) -> list[Mapping[str, Any]]:
    try:
        found = loads(body)
    except (CanonicalJsonError, RecursionError) as error:
        raise invalid("the body is no strict JSON") from error
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isascii() and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise invalid("items_pointer leads nowhere")
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise invalid("the items are no list of objects")
    return found


@cache
def _system_trust() -> ssl.SSLContext:
    # Reading the system's certificates takes a while: at the first call, and once.
    return ssl.create_default_context()


def _read(
    action: str, payload: Mapping[str, Any], config: Config
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    if action != "query":
        raise ConnectorRefusedError("ACTION_NOT_SUPPORTED", "the http connector knows query alone")
    try:
        asked = EndpointPayload.model_validate(dict(payload), strict=True)
    except ValidationError as error:
        raise ConnectorRefusedError("INVALID_PAYLOAD", "the payload does not fit") from error
    for endpoint in config["endpoints"]:
        if endpoint["id"] == asked.endpoint_id:
            return endpoint, dict(read_params(endpoint["params"], asked.params))
    raise ConnectorRefusedError("TEMPLATE_NOT_ALLOWED", "the plane has no such endpoint")
