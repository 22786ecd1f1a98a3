"""kill -9 right after an answer: after the restart everything that was acknowledged is there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import OPERATOR_TOKEN
from tests.factories.worlds import step

BACKEND = Path(__file__).resolve().parents[2]


class Server:
    """A real server process on a free port of the loopback."""

    def __init__(self, database_url: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        environment = os.environ | {
            "HOC_DATABASE_URL": database_url,
            "HOC_OPERATOR_TOKEN": OPERATOR_TOKEN,
            "HOC_LOG_LEVEL": "ERROR",
            "PYTHONPATH": str(BACKEND),
        }
        command = [sys.executable, "-m", "app.cli", "serve", "--port", str(self.port)]
        self.process = subprocess.Popen(command, env=environment)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        self._await()

    def _await(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if self.http.get("/healthz").status_code == 200:
                    return
            except httpx.TransportError:
                assert self.process.poll() is None, "the server ended before it was ready"
                time.sleep(0.05)
        raise AssertionError("the server was not ready in time")

    def kill(self) -> None:
        """End the process with no chance to tidy up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.http.close()


@contextmanager
def serving(database_url: str) -> Iterator[Server]:
    """Serve until the block ends, however it ends."""
    server = Server(database_url)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()


def ok(response: httpx.Response) -> Any:
    """Return the body of a success."""
    assert response.status_code in (200, 201, 202), response.text
    return response.json()


def prepare(http: httpx.Client) -> dict[str, str]:
    """Make a tenant with a key and return its headers."""
    operator = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
    tenant = {"tenant_id": "acme", "name": "Acme", "plan": "ENTERPRISE"}
    ok(http.post("/api/v1/operator/tenants", json=tenant, headers=operator))
    key = {"name": "k", "role": "OWNER", "actor_type": "HUMAN", "actor_id": "u"}
    made = ok(http.post("/api/v1/operator/tenants/acme/keys", json=key, headers=operator))
    return {"Authorization": f"Bearer {made['api_key']}"}


RUN = {
    "run_id": "run-1",
    "agent_id": "a",
    "goal": "g",
    "actor_type": "SYSTEM",
    "origin_system_id": "tests",
}
PLANE = {"plane_type": "docs", "plane_name": "p", "connector_type": "repository", "connector_id": "r"}
ARTIFACT = {"name": "a.md", "artifact_type": "document", "content": "text"}


def test_what_was_answered_survives_kill_9_at_any_moment(new_database: Callable[..., str]) -> None:
    url = new_database()
    with serving(url) as server:
        headers = prepare(server.http)
        server.http.headers.update(headers)
        ok(server.http.post("/api/v1/runs", json=RUN))
        plane = ok(server.http.post("/api/v1/knowledge/planes", json=PLANE))
        artifact = ok(server.http.post("/api/v1/repository/artifacts", json=ARTIFACT))
        steps = {"steps": [step(0), step(1)]}
        appended = ok(server.http.post("/api/v1/runs/run-1/steps", json=steps))
        answered = stream_steps(server, headers)
        ok(server.http.post("/api/v1/runs", json=RUN | {"run_id": "run-3"}))
        assert server.http.post("/v1/traces", json=export_into("run-3")).json() == {}
        server.kill()
    with serving(url) as server:
        server.http.headers.update(headers)
        check_stream(server, answered)
        (span,) = ok(server.http.get("/api/v1/runs/run-3/steps"))["items"]
        assert span["skill_name"] == "call"
        run = ok(server.http.get("/api/v1/runs/run-1"))
        assert run["status"] == "running"
        listed = ok(server.http.get("/api/v1/runs/run-1/steps"))
        assert [item["step_hash"] for item in listed["items"]][-1] == appended["head_hash"]
        stored = ok(server.http.get(f"/api/v1/knowledge/planes/{plane['plane_id']}"))
        assert stored["version"] == plane["version"]
        kept = server.http.get(f"/api/v1/repository/artifacts/{artifact['id']}/content")
        assert kept.content == b"text"
        again = server.http.post("/api/v1/runs/run-1/steps", json=steps)
        assert ok(again)["replayed"] == 2
        ok(server.http.post("/api/v1/runs/run-1/complete", json={"status": "succeeded"}))
        server.kill()
    with serving(url) as server:
        server.http.headers.update(headers)
        proof = ok(server.http.get("/api/v1/runs/run-1/proof"))
        assert proof["integrity"]["verification_status"] == "VERIFIED"
        assert proof["facts"]["status"] == "COMPLETE"


def stream_steps(server: Server, headers: dict[str, str]) -> list[int]:
    """Append steps one by one to a run of its own, and send one more whose answer nobody hears."""
    ok(server.http.post("/api/v1/runs", json=RUN | {"run_id": "run-2"}))
    answered = []
    for index in range(40):
        ok(server.http.post("/api/v1/runs/run-2/steps", json={"steps": [step(index)]}))
        answered.append(index)
    body = json.dumps({"steps": [step(40)]}).encode()
    head = (
        f"POST /api/v1/runs/run-2/steps HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: {headers['Authorization']}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as unheard:
        unheard.sendall(head.encode() + body)
    return answered


def export_into(run_id: str) -> dict[str, Any]:
    """Return an OTLP export of one span into a run."""
    span = {
        "traceId": "5b8efff798038103d269b633813fc60c",
        "spanId": "eee19b7ec3c1b174",
        "name": "call",
        "startTimeUnixNano": "1770000000000000000",
        "endTimeUnixNano": "1770000000001000000",
        "attributes": [{"key": "hoc.run_id", "value": {"stringValue": run_id}}],
    }
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


def check_stream(server: Server, answered: list[int]) -> None:
    """Assert that every answered step is there, and at most the unheard one beside them."""
    stored = ok(server.http.get("/api/v1/runs/run-2/steps", params={"limit": 500}))["items"]
    assert [item["step_index"] for item in stored][: len(answered)] == answered
    assert len(stored) - len(answered) in (0, 1)
    found = ok(server.http.get("/api/v1/runs/run-2/proof"))["integrity"]
    assert found["failure_reason"] == "Trace not sealed"
