"""Benchmarks: a durable PostgreSQL, one server process, one tenant with a filled plane."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.load import Http
from tests.factories.servers import PostgresServer

TOKEN = "the-operator-of-the-benchmarks"
DOCUMENTS = 2000
WORDS = 5000
RUN = {"agent_id": "bench", "goal": "measure", "actor_type": "SYSTEM", "origin_system_id": "bench"}


@dataclass(slots=True)
class Stage:
    """What every work needs: the database, the server's port, a key, a plane and a run."""

    database_url: str
    port: int
    tenant_id: str
    headers: dict[str, str]
    plane_id: str
    run_id: str
    pids: tuple[int, ...] = ()
    """The server and PostgreSQL."""

    @property
    def dsn(self) -> str:
        """The database as the driver writes it."""
        return self.database_url.replace("postgresql+psycopg://", "postgresql://")

    def http(self) -> Http:
        """Return a new connection with the tenant's key."""
        return Http(self.port, self.headers)

    def start_run(self) -> str:
        """Start a run and return its id."""
        return str(json.loads(self.http().call("POST", "/api/v1/runs", RUN))["run_id"])


@contextmanager
def staged() -> Iterator[Stage]:
    """Build the stage and take it down, whatever happens on it."""
    from app.db.migrations import upgrade
    from app.hoc_spine.coordinators.log_files import write_new_key

    with tempfile.TemporaryDirectory(prefix="hoc-bench-") as folder:
        # A server that may not run as root still has to reach its data.
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder), durable=True)
        server.start()
        try:
            url = server.url.replace("postgresql://", "postgresql+psycopg://")
            upgrade(url)
            key_file = Path(folder) / "log-key.pem"
            write_new_key(key_file)
            with _serving(url, key_file) as (port, pid):
                stage = _furnish(url, port)
                stage.pids = (pid, server.pid or 0)
                # As autovacuum would have done some minutes later.
                with psycopg.connect(stage.dsn, autocommit=True) as owner:
                    owner.execute("ANALYZE")
                yield stage
        finally:
            server.stop()


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve_command(port: int) -> list[str]:
    """Return the command line of one server process."""
    return [sys.executable, "-m", "app.cli", "serve", "--port", str(port)]


def server_environment(url: str, key_file: Path) -> dict[str, str]:
    """Return the environment of a server on this database."""
    return os.environ | {
        "HOC_DATABASE_URL": url,
        "HOC_OPERATOR_TOKEN": TOKEN,
        "HOC_LOG_KEY_FILE": str(key_file),
        "HOC_RATE_LIMIT_ENABLED": "false",
        "HOC_LOG_LEVEL": "ERROR",
    }


@contextmanager
def _serving(url: str, key_file: Path) -> Iterator[tuple[int, int]]:
    port = free_port()
    process = subprocess.Popen(serve_command(port), env=server_environment(url, key_file))
    try:
        _await(process, port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(30)


def _await(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise RuntimeError("the server ended before it was ready")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the server was not ready in time")


def make_tenant(port: int, name: str) -> dict[str, str]:
    """Make a tenant with a key and return the headers of that key."""
    operator = Http(port, {"Authorization": f"Bearer {TOKEN}"})
    tenant = {"tenant_id": name, "name": name, "plan": "ENTERPRISE"}
    operator.call("POST", "/api/v1/operator/tenants", tenant)
    key = {"name": name, "role": "OWNER", "actor_type": "HUMAN", "actor_id": "bench"}
    made = json.loads(operator.call("POST", f"/api/v1/operator/tenants/{name}/keys", key))
    return {"Authorization": f"Bearer {made['api_key']}"}


def _furnish(url: str, port: int) -> Stage:
    stage = Stage(url, port, "bench", make_tenant(port, "bench"), "", "")
    stage.plane_id = _plane(stage)
    stage.run_id = stage.start_run()
    return stage


def _plane(stage: Stage) -> str:
    http = stage.http()
    collection = _json(http.call("POST", "/api/v1/repository/collections", {"name": "bench"}))["id"]
    words = random.Random(7)
    for start in range(0, DOCUMENTS, 500):
        items = [
            {"name": f"d{n}.txt", "artifact_type": "document", "content": _text(words)}
            for n in range(start, start + 500)
        ]
        body = {"collection_id": collection, "items": items}
        http.call("POST", "/api/v1/repository/bulk/artifacts", body)
    rule = {"kind": "ACCESS", "name": "bench", "effect": "ALLOW", "scope": "TENANT", "activate": True}
    rule |= {"condition": 'run.agent_id == "bench"'}
    rule_id = _json(http.call("POST", "/api/v1/policies/rules", rule))["rule_id"]
    plane = {
        "plane_type": "bench",
        "plane_name": "bench",
        "connector_type": "repository",
        "connector_id": "bench",
        "config": {"owned_collection": collection},
    }
    plane_id = str(_json(http.call("POST", "/api/v1/knowledge/planes", plane))["plane_id"])
    path = f"/api/v1/knowledge/planes/{plane_id}"
    for action, arrives in (
        ("verify_knowledge_plane", "VERIFIED"),
        ("ingest_knowledge_plane", "INDEXED"),
        ("classify_knowledge_plane", "CLASSIFIED"),
        ("request_activation", "PENDING_ACTIVATE"),
        ("activate_knowledge_plane", "ACTIVE"),
    ):
        if arrives == "ACTIVE":
            http.call("PUT", f"{path}/policies/{rule_id}")
        http.call("POST", f"{path}/transitions", {"action": action}, expect=(200, 202))
        while _json(http.call("GET", path))["lifecycle_state"] != arrives:
            time.sleep(0.1)
    return plane_id


def _text(words: random.Random) -> str:
    # A few words are frequent and most are rare, as in real text.
    return " ".join(f"w{int(WORDS * words.random() ** 3)}" for _ in range(150))


def _json(content: bytes) -> Any:
    return json.loads(content)
