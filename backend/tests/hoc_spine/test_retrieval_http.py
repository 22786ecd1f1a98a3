"""The http connector against a local service that misbehaves: what does not fit is a failure, in time."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.connectors.credentials import Credentials
from app.connectors.guard import MAX_CALLS, CallGuard
from app.connectors.hosts import HostPolicy
from app.connectors.http import HttpConnector
from app.connectors.values import Caps, ConnectorFailedError, ConnectorRefusedError, ConnectorResult
from app.domains.knowledge.engines.config_shapes import HttpConfig
from tests.factories.foreign import Listener, WebService, answer_of, make_certificate

PLANE = {"plane_id": "kp_1", "config_digest": "d1"}
ITEMS = {"data": {"items": [{"id": 1, "title": "created_at"}, {"id": 2, "title": "credit union"}]}}
ENDPOINT: dict[str, Any] = {
    "id": "search",
    "path": "/v1/items/{kind}",
    "query": {"q": "{text}", "fixed": "yes", "page": "{page}"},
    "params": [
        {"name": "kind", "type": "str"},
        {"name": "text", "type": "str"},
        {"name": "page", "type": "int", "required": False},
    ],
    "items_pointer": "/data/items",
    "key_fields": ["id"],
}


class Client:
    """A connector that may reach the local service, and a plane over it."""

    def __init__(self, service: WebService, *, hosts: list[str] | None = None) -> None:
        self.service = service
        self.now = 0.0
        credentials = Credentials(
            key=None, old_keys=(), environment={"TOKEN": "t0ken"}, env_allow=("acme/TOKEN",)
        )
        policy = HostPolicy([f"127.0.0.1:{service.port}"] if hosts is None else hosts)
        self.connector = HttpConnector(policy, credentials, guard=CallGuard(now=lambda: self.now))

    def config(self, endpoint: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
        shape = {
            "base_url": f"http://127.0.0.1:{self.service.port}/api",
            "health_path": "/health",
            "methods": ["GET", "POST"],
            "endpoints": [endpoint or ENDPOINT],
        }
        return HttpConfig.model_validate(shape | members).model_dump(mode="json")

    def ask(
        self, endpoint: dict[str, Any] | None = None, *, seconds: float = 5, **members: Any
    ) -> ConnectorResult:
        params = members.pop("params", {"kind": "books", "text": "a b"})
        config = self.config(endpoint, **members)
        payload = {"endpoint_id": "search", "params": params}
        self.connector.check(action="query", payload=payload, config=config)
        return self.connector.execute(
            None,
            tenant_id="acme",
            plane=PLANE,
            action="query",
            payload=payload,
            config=config,
            caps=Caps(100, 1_000_000),
            deadline=time.monotonic() + seconds,
        )

    def fails(self, *args: Any, **members: Any) -> str:
        with pytest.raises(ConnectorFailedError) as failure:
            self.ask(*args, **members)
        return failure.value.code


@pytest.fixture
def service() -> Iterator[WebService]:
    made = WebService()
    made.answers["/api/v1/items/books"] = answer_of(200, json.dumps(ITEMS).encode())
    yield made
    made.close()


@pytest.fixture
def client(service: WebService) -> Client:
    return Client(service)


def test_the_items_of_an_answer_are_documents(client: Client, service: WebService) -> None:
    auth: dict[str, Any] = {"auth": {"scheme": "bearer"}, "credential_ref": "env://TOKEN"}
    found = client.ask(**auth).documents
    assert [document.doc_ref for document in found] == ["search:[1]", "search:[2]"]
    (request,) = service.requests
    assert request.startswith("GET /api/v1/items/books?q=a+b&fixed=yes HTTP/1.1\r\n")
    assert "Authorization: Bearer t0ken" in request
    assert "cookie" not in request.lower()


def test_a_body_is_filled_with_typed_values_and_the_header_may_be_another(
    client: Client, service: WebService
) -> None:
    service.answers["/api/find"] = answer_of(200, b'[{"id": "x"}]')
    endpoint = {
        "id": "search", "method": "POST", "path": "/find", "body": {"q": "{text}", "top": {"n": "{n}"}},
        "params": [{"name": "text", "type": "str"}, {"name": "n", "type": "int", "max": 9}],
        "items_pointer": "", "key_fields": ["id"],
    }  # fmt: skip
    header = {"scheme": "header", "header": "X-Key"}
    auth: dict[str, Any] = {"auth": header, "credential_ref": "env://TOKEN"}
    client.ask(endpoint, params={"text": '{n}", "evil": "', "n": 3}, **auth)
    head, _, body = service.requests[0].partition("\r\n\r\n")
    assert "X-Key: t0ken" in head
    assert json.loads(body) == {"q": '{n}", "evil": "', "top": {"n": 3}}


@pytest.mark.parametrize("value", ["..", ".", "", "a\x00", 7])
def test_a_path_value_is_one_whole_segment(client: Client, service: WebService, value: object) -> None:
    with pytest.raises(ConnectorRefusedError) as refusal:
        client.ask(params={"kind": value, "text": "x"})
    assert refusal.value.code == "INVALID_PAYLOAD"
    assert service.requests == []


def test_what_a_path_value_holds_stays_inside_its_segment(client: Client, service: WebService) -> None:
    assert client.fails(params={"kind": "../../admin?x=1#y/%2e%2e", "text": "x"}) == "CONNECTOR_ERROR"
    target = service.requests[0].split(" ")[1]
    assert target.startswith("/api/v1/items/..%2F..%2Fadmin%3Fx%3D1%23y%2F%252e%252e?q=x")


GOOD = json.dumps(ITEMS).encode()
ANSWERS: dict[str, tuple[bytes, str]] = {
    "a redirect": (answer_of(302, b"{}", "Location: http://127.0.0.1:1/"), "CONNECTOR_ERROR"),
    "a refusal": (answer_of(403, GOOD), "CONNECTOR_ERROR"),
    "an outage": (answer_of(503, GOOD), "CONNECTOR_ERROR"),
    "a page": (answer_of(200, GOOD, kind="text/html"), "RESPONSE_INVALID"),
    "no type": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "RESPONSE_INVALID"),
    "an encoding": (answer_of(200, GOOD, "Content-Encoding: gzip"), "RESPONSE_INVALID"),
    "no JSON": (answer_of(200, b'{"data": '), "RESPONSE_INVALID"),
    "no number": (answer_of(200, b'{"data": {"items": [{"id": NaN}]}}'), "RESPONSE_INVALID"),
    "two members": (answer_of(200, b'{"data": {"items": [{"id": 1, "id": 2}]}}'), "RESPONSE_INVALID"),
    "another shape": (answer_of(200, b'{"data": {"items": {"id": 1}}}'), "RESPONSE_INVALID"),
    "no items": (answer_of(200, b'{"data": []}'), "RESPONSE_INVALID"),
    "a null key": (answer_of(200, b'{"data": {"items": [{"id": null}]}}'), "RESPONSE_INVALID"),
    "a deep one": (answer_of(200, b"[" * 100_000), "RESPONSE_INVALID"),
    "an empty one": (answer_of(204, b""), "RESPONSE_INVALID"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9\r\n\r\n", "CONNECTOR_ERROR"),
    "a short body": (answer_of(200, GOOD)[:-5], "CONNECTOR_ERROR"),
    "endless headers": (b"HTTP/1.1 200 OK\r\n" + b"X-Y: z\r\n" * 50_000, "CONNECTOR_ERROR"),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_that_does_not_fit_is_a_failure(client: Client, service: WebService, case: str) -> None:
    answer, code = ANSWERS[case]
    service.answers["/api/v1/items/books"] = answer
    assert client.fails() == code
    assert len(service.requests) == 1


def _endless(line: socket.socket) -> None:
    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        line.sendall(b"1000\r\n" + b"[" * 4096 + b"\r\n")


def test_an_endless_body_is_cut_off_at_the_cap(client: Client, service: WebService) -> None:
    service.answers["/api/v1/items/books"] = _endless
    assert client.fails(ENDPOINT | {"max_bytes": 20_000}) == "RESPONSE_TOO_LARGE"


def _dripping(first: bytes, drop: bytes) -> Callable[[socket.socket], None]:
    def drip(line: socket.socket) -> None:
        line.sendall(first)
        pause = threading.Event()
        for _ in range(200):
            pause.wait(0.02)
            line.sendall(drop)

    return drip


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"", b""),
    ],
    ids=["a slow body", "slow headers", "silence"],
)
def test_the_deadline_is_total(client: Client, service: WebService, first: bytes, drop: bytes) -> None:
    service.answers["/api/v1/items/books"] = _dripping(first, drop)
    began = time.monotonic()
    assert client.fails(seconds=0.2) == "CONNECTOR_TIMEOUT"
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    ("hosts", "base_url"),
    [
        ([], "http://127.0.0.1:{port}"),
        (["example.com"], "http://127.0.0.1:{port}"),
        (["127.0.0.1:1"], "http://127.0.0.1:{port}"),
        (["*.localhost"], "http://x.localhost:{port}"),
        (["*.0.0.1"], "https://127.0.0.1:{port}"),
        (["169.254.169.254"], "http://169.254.169.254/latest"),
        (["0.0.0.0"], "http://0.0.0.0:{port}"),
        (["::ffff:169.254.1.1"], "http://[::ffff:169.254.1.1]/"),
        (["2130706433"], "https://2130706434/"),
        (["*.example"], "https://a..example/"),
    ],
)
def test_a_host_outside_the_list_is_never_reached(
    service: WebService, hosts: list[str], base_url: str
) -> None:
    client = Client(service, hosts=hosts)
    assert client.fails(base_url=base_url.format(port=service.port)) == "HOST_NOT_ALLOWED"
    assert service.requests == []


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(service: WebService) -> None:
    asked: list[str] = []

    def rebinding(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    client = Client(service)
    client.connector._hosts = HostPolicy(["books.example"], resolver=rebinding)
    base_url = f"http://books.example:{service.port}/api"
    assert len(client.ask(base_url=base_url).documents) == 2
    assert asked == ["books.example"]
    assert f"Host: books.example:{service.port}" in service.requests[0]
    assert client.fails(base_url=base_url) == "HOST_NOT_ALLOWED"


def test_a_credential_that_no_header_carries_is_not_sent(service: WebService) -> None:
    client = Client(service)
    client.connector._credentials = Credentials(
        key=None, old_keys=(), environment={"TOKEN": "a\r\nX-Evil: 1"}, env_allow=("*/TOKEN",)
    )
    auth: dict[str, Any] = {"auth": {"scheme": "bearer"}, "credential_ref": "env://TOKEN"}
    assert client.fails(**auth) == "CREDENTIAL_UNAVAILABLE"
    assert service.requests == []


def test_the_verification_asks_the_health_path(client: Client, service: WebService) -> None:
    for status, works in ((200, True), (301, True), (404, False), (500, False)):
        service.answers["/api/health"] = answer_of(status, b"ok", kind="text/plain")
        if works:
            found = client.connector.verify(tenant_id="acme", plane=PLANE, config=client.config())
            assert found == {"endpoints": ["search"]}
        else:
            with pytest.raises(ConnectorFailedError) as failure:
                client.connector.verify(tenant_id="acme", plane=PLANE, config=client.config())
            assert failure.value.lasting is (status == 404)


def test_five_failures_in_a_row_open_a_pause_of_30_seconds(client: Client, service: WebService) -> None:
    good = service.answers["/api/v1/items/books"]
    service.answers["/api/v1/items/books"] = answer_of(500, b"{}")
    for _ in range(4):
        assert client.fails() == "CONNECTOR_ERROR"
    service.answers["/api/v1/items/books"] = good
    client.ask()
    service.answers["/api/v1/items/books"] = answer_of(500, b"{}")
    for _ in range(5):
        assert client.fails() == "CONNECTOR_ERROR"
    known = len(service.requests)
    assert client.fails() == "CONNECTOR_UNAVAILABLE"
    client.now = 29.9
    assert client.fails() == "CONNECTOR_UNAVAILABLE"
    assert len(service.requests) == known
    client.now = 30.0
    assert client.fails() == "CONNECTOR_ERROR"
    assert client.fails() == "CONNECTOR_UNAVAILABLE"
    client.now = 60.0
    service.answers["/api/v1/items/books"] = good
    client.ask()
    client.ask()


def test_at_most_8_calls_of_a_plane_run_at_once(client: Client, service: WebService) -> None:
    release, waiting = threading.Event(), threading.Semaphore(0)

    def hold(line: socket.socket) -> None:
        waiting.release()
        release.wait(5)
        line.sendall(answer_of(200, GOOD))

    service.answers["/api/v1/items/books"] = hold
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(len(client.ask().documents))) for _ in range(MAX_CALLS)
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert waiting.acquire(timeout=5)
    assert client.fails() == "CONNECTOR_BUSY"
    release.set()
    for thread in threads:
        thread.join()
    assert results == [2] * MAX_CALLS


def test_a_service_that_hangs_up_is_a_failure(service: WebService) -> None:
    gone = Listener(lambda line: line.close())
    client = Client(service, hosts=["127.0.0.1"])
    assert client.fails(base_url=f"http://127.0.0.1:{gone.port}") == "CONNECTOR_ERROR"
    gone.close()
    assert client.fails(base_url=f"http://127.0.0.1:{gone.port}") == "CONNECTOR_ERROR"


def test_the_certificate_is_that_of_the_name_although_an_address_is_connected_to(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "books.example")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    trust = ssl.create_default_context(cafile=str(certificate))
    service = WebService(tls=server)
    service.answers["/v1/items/books"] = answer_of(200, GOOD)
    client = Client(service)
    hosts = HostPolicy(["books.example", "other.example"], resolver=lambda _host, _port: ["127.0.0.1"])
    client.connector = HttpConnector(hosts, client.connector._credentials, trust=trust)
    try:
        assert len(client.ask(base_url=f"https://books.example:{service.port}").documents) == 2
        assert client.fails(base_url=f"https://other.example:{service.port}") == "CONNECTOR_ERROR"
        client.connector = HttpConnector(hosts, client.connector._credentials)
        # A certificate that nobody vouches for is none.
        assert client.fails(base_url=f"https://books.example:{service.port}") == "CONNECTOR_ERROR"
        assert len(service.requests) == 1
    finally:
        service.close()
