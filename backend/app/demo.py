"""The demonstration of `hoc demo`: a real server, one governed run over real documents, its proof offline."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import orjson
import typer

from app.bootstrap import build_spine
from app.hoc_spine.coordinators.log_files import write_new_key
from app.kernel.context import Actor, RequestContext
from app.kernel.ids import Uuid7Ids
from app.settings import Settings
from verifier import hoc_verify

PAGES = Path(__file__).resolve().parents[2] / "docs"
AGENT = "docs-assistant"
PURPOSE = "answer_question"
STARTUP_SECONDS = 30
JOB_SECONDS = 120
CHECKPOINT_SECONDS = 10
# Where the demonstration leaves what it made, and keeps a key that nobody named a place for.
FOLDER = Path("var")
KEY_FILE = FOLDER / "hoc-log-key.pem"
BUNDLE_FILE = FOLDER / "demo.hocproof"


class DemoError(RuntimeError):
    """The demonstration met something it did not expect."""


def play(settings: Settings) -> None:
    """Play the whole story against a server of its own; raise DemoError when anything is not as it should."""
    token = secrets.token_urlsafe(32)
    key_file = _log_key(settings)
    with (
        _documents() as folder,
        _server(settings.database_url, token, folder, key_file) as base_url,
        # A proxy of the environment has no business on the loopback.
        httpx.Client(base_url=base_url, timeout=30, trust_env=False) as http,
    ):
        key = _tenant(http, token)
        http.headers["Authorization"] = f"Bearer {key}"
        rule_id = _policy(http)
        plane_id = _plane(http, rule_id)
        run_id = _run(http)
        _allowed(http, run_id, plane_id)
        _denied(http, run_id, plane_id)
        _react(http, run_id)
        _finish(http, run_id)
        _report(http, run_id)
        vkey = _take_home(http, run_id)
    # The server is gone; what follows needs nothing of it.
    if vkey is not None and hoc_verify.main([str(BUNDLE_FILE), "--key", vkey]) != 0:
        raise DemoError("the bundle does not verify")


def _log_key(settings: Settings) -> Path | None:
    """Return the file of the key that signs the logs, made where nobody has signed them yet.

    SQLite: the server sees to it. Where the logs are signed with a key that is not here, there is none: they
    would be halted over another one.
    """
    if settings.backend == "sqlite":
        return None
    file = settings.log_key_path or KEY_FILE
    if not file.exists():
        if _is_signed(settings):
            return None
        write_new_key(file)
        _say("log key", f"made {file}; set HOC_LOG_KEY_FILE to it, and keep a copy")
    return file


def _is_signed(settings: Settings) -> bool:
    """Tell whether any tenant's log has a checkpoint."""
    spine = build_spine(settings, verify_schema=False)

    def call(name: str, payload: dict[str, Any], tenant_id: str | None = None) -> Any:
        context = RequestContext(
            tenant_id=tenant_id or "_system",
            actor=Actor("SYSTEM", "demo"),
            request_id=Uuid7Ids().new("req"),
            door="worker" if tenant_id else "operator",
        )
        return spine.dispatch(name, context, payload).unwrap()

    try:
        cursor: str | None = None
        while True:
            page = call("ops.tenants.list", {"limit": 500, "cursor": cursor})
            if any(call("log.status", {}, tenant.tenant_id).signed_size for tenant in page.items):
                return True
            cursor = page.next_cursor
            if cursor is None:
                return False
    finally:
        spine.close()


@contextmanager
def _documents() -> Iterator[Path]:
    """Give a folder with the project's own pages, without the documents that only machines read."""
    if not PAGES.is_dir():
        raise DemoError("the demonstration reads the project's docs folder, which is not beside this program")
    with TemporaryDirectory(prefix="hoc-demo-") as directory:
        folder = Path(directory) / "pages"
        shutil.copytree(PAGES, folder, ignore=shutil.ignore_patterns("*.json"))
        yield folder.resolve()


@contextmanager
def _server(database_url: str, token: str, documents: Path, key_file: Path | None) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "HOC_DATABASE_URL": database_url,
        "HOC_OPERATOR_TOKEN": token,
        "HOC_INGEST_ROOTS": orjson.dumps({"docs": str(documents)}).decode(),
        "HOC_PLANE_WORKERS": "1",
        "HOC_LOG_LEVEL": "ERROR",
    }
    if key_file is not None:
        environment["HOC_LOG_KEY_FILE"] = str(key_file)
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port)]
    server = subprocess.Popen(command, env=environment)  # noqa: S603 - this program, by its own interpreter
    try:
        base_url = f"http://127.0.0.1:{port}"
        _await_ready(server, base_url)
        _say("server", f"{base_url} on {database_url.partition('://')[0]}")
        yield base_url
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _await_ready(server: "subprocess.Popen[bytes]", base_url: str) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    # One client for all questions: each new one reads the system's certificates.
    with httpx.Client(base_url=base_url, timeout=2, trust_env=False) as http:
        while time.monotonic() < deadline:
            if server.poll() is not None:
                raise DemoError(f"the server ended with {server.returncode} before it was ready")
            try:
                if http.get("/healthz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
    raise DemoError(f"the server was not ready within {STARTUP_SECONDS} s")


def _tenant(http: httpx.Client, token: str) -> str:
    operator = {"Authorization": f"Bearer {token}"}
    tenant_id = f"demo-{secrets.token_hex(4)}"
    tenant = {"tenant_id": tenant_id, "name": "Demonstration", "plan": "PRO"}
    _expect(http.post("/api/v1/operator/tenants", json=tenant, headers=operator), 201)
    key = {"name": "demonstration", "role": "ADMIN", "actor_type": "HUMAN", "actor_id": "demo-operator"}
    made = _expect(http.post(f"/api/v1/operator/tenants/{tenant_id}/keys", json=key, headers=operator), 201)
    _say("tenant", f"{tenant_id}, key {made['key_id']}")
    return str(made["api_key"])


def _policy(http: httpx.Client) -> str:
    rule = {
        "kind": "ACCESS",
        "name": "Assistants may answer questions from the documentation",
        "effect": "ALLOW",
        "scope": "TENANT",
        "condition": f'run.agent_id == "{AGENT}" && request.purpose == "{PURPOSE}"',
        "constraints": {"actions": ["search", "retrieve"], "max_documents": 5},
        "activate": True,
    }
    made = _expect(http.post("/api/v1/policies/rules", json=rule), 201)
    _say("policy", f"{made['rule_id']}: {rule['effect']} if {rule['condition']}")
    return str(made["rule_id"])


def _plane(http: httpx.Client, rule_id: str) -> str:
    plane = {
        "plane_type": "documentation",
        "plane_name": "Project documentation",
        "connector_type": "repository",
        "connector_id": "repository",
        "config": {"source": {"kind": "files", "root": "docs"}},
    }
    made = _expect(http.post("/api/v1/knowledge/planes", json=plane), 201)
    path = f"/api/v1/knowledge/planes/{made['plane_id']}"
    _say("plane", f"{made['plane_id']} {made['lifecycle_state']}")
    for action, arrives in (
        ("verify_knowledge_plane", "VERIFIED"),
        ("ingest_knowledge_plane", "INDEXED"),
        ("classify_knowledge_plane", "CLASSIFIED"),
        ("request_activation", "PENDING_ACTIVATE"),
    ):
        _transition(http, path, action, arrives)
    _expect(http.put(f"{path}/policies/{rule_id}"), 200)
    _transition(http, path, "activate_knowledge_plane", "ACTIVE")
    view = _expect(http.get(path), 200)
    _say(
        "plane",
        f"serves {view['document_count']} documents in {view['passage_count']} passages,"
        f" sensitivity {view['sensitivity_level']}",
    )
    return str(made["plane_id"])


def _transition(http: httpx.Client, path: str, action: str, arrives: str) -> None:
    _expect(http.post(f"{path}/transitions", json={"action": action}), 200, 202)
    deadline = time.monotonic() + JOB_SECONDS
    while (state := _expect(http.get(path), 200)["lifecycle_state"]) != arrives:
        if state == "FAILED" or time.monotonic() > deadline:
            raise DemoError(f"the plane is {state} after {action}, not {arrives}")
        time.sleep(0.05)
    _say("plane", f"{action} -> {arrives}")


def _run(http: httpx.Client) -> str:
    run = {
        "agent_id": AGENT,
        "goal": "Explain what happens to a run's facts when it ends",
        "actor_type": "SYSTEM",
        "origin_system_id": "hoc-demo",
    }
    started = _expect(http.post("/api/v1/runs", json=run), 201)
    run_id = str(started["run_id"])
    _say("run", f"{run_id} running under {started['policy_snapshot_id']}")
    return run_id


def _allowed(http: httpx.Client, run_id: str, plane_id: str) -> None:
    access = {
        "run_id": run_id,
        "plane_id": plane_id,
        "action": "search",
        "payload": {"text": "how is a governed run proved", "limit": 3},
        "purpose": PURPOSE,
    }
    found = _expect(http.post("/api/v1/retrieval/access", json=access), 200)
    documents = found["data"]["documents"]
    if not documents:
        raise DemoError("the search found nothing in the documentation")
    _say("retrieval", f"{found['outcome']} ({found['evidence_id']}), {found['tokens_consumed']} tokens")
    for document in documents:
        _say("", f"{document['artifact_id']} r{document['revision']} {document['digest']} {document['name']}")
    steps = [
        _step(0, "retrieve", {"evidence_id": found["evidence_id"]}, {"documents": len(documents)}),
        _step(1, "compose_answer", {"from": [d["artifact_id"] for d in documents]}, {"characters": 412}),
    ]
    _append(http, run_id, steps)


def _denied(http: httpx.Client, run_id: str, plane_id: str) -> None:
    access = {
        "run_id": run_id,
        "plane_id": plane_id,
        "action": "search",
        "payload": {"text": "customers"},
        "purpose": "marketing",
    }
    refused = _expect(http.post("/api/v1/retrieval/access", json=access), 403)
    _say("retrieval", f"DENIED {refused['code']} ({refused['evidence_id']}): {refused['detail']}")
    _append(http, run_id, [_step(2, "retrieve", {"evidence_id": refused["evidence_id"]}, None, "skipped")])


def _react(http: httpx.Client, run_id: str) -> None:
    rule = {
        "kind": "ACCESS",
        "name": f"No marketing use (proposed after {run_id})",
        "effect": "DENY",
        "scope": "TENANT",
        "condition": 'request.purpose == "marketing"',
    }
    # X-Run-ID ties this change to the run that gave rise to it.
    made = _expect(http.post("/api/v1/policies/rules", json=rule, headers={"X-Run-ID": run_id}), 201)
    _say("policy", f"{made['rule_id']}: {rule['effect']} drafted because of {run_id}")


def _step(
    index: int, skill: str, params: dict[str, Any], data: dict[str, Any] | None, status: str = "success"
) -> dict[str, Any]:
    return {
        "step_index": index,
        "skill_id": skill,
        "skill_name": skill,
        "params": params,
        "outcome_data": data,
        "status": status,
        "duration_ms": 1.5,
    }


def _append(http: httpx.Client, run_id: str, steps: list[dict[str, Any]]) -> None:
    appended = _expect(http.post(f"/api/v1/runs/{run_id}/steps", json={"steps": steps}), 200)
    _say("steps", f"{appended['step_count']} recorded, head {appended['head_hash'][:16]}…")


def _finish(http: httpx.Client, run_id: str) -> None:
    body = {"status": "succeeded", "expected_steps": 3}
    ended = _expect(http.post(f"/api/v1/runs/{run_id}/complete", json=body), 200)
    _say("run", f"{ended['status']}, evaluation {ended['evaluation']['outcome']}")


def _report(http: httpx.Client, run_id: str) -> None:
    evidence = _expect(http.get(f"/api/v1/runs/{run_id}/evidence"), 200)
    for name, source in evidence["sources"].items():
        shown = f"{source['total']} items" if source["status"] == "ok" else source["error_code"]
        _say("evidence", f"{name}: {shown}")
    for access in evidence["retrievals"]:
        outcome = f"{access['outcome']} {access['reason_code']}"
        _say("", f"{access['evidence_id']} {outcome} {access['doc_count']} documents")
    events = _expect(http.get(f"/api/v1/logs/runs/{run_id}/governance"), 200)
    _say("governance log", f"{events['total_events']} events")
    for event in events["events"]:
        _say("", f"{event['timestamp']} {event['event_type']} {event['entity_id']}")
    proof = _proof(http, run_id)
    integrity, facts = proof["integrity"], proof["facts"]
    _say("proof", f"{facts['found']} of {facts['expected']} facts, {integrity['chain_length']} steps chained")
    _say("proof", f"root {integrity['root_hash']}")
    log = proof["log"]
    _say("log", f"{log['status']}, {log['size']} entries signed as {log['origin']}")
    typer.echo(f"proof: {integrity['verification_status']}")
    if integrity["verification_status"] != "VERIFIED":
        raise DemoError(str(integrity["failure_reason"]))


def _take_home(http: httpx.Client, run_id: str) -> str | None:
    """Write the run's bundle to a file and return the verifier key of its log; None where no key signs it."""
    vkeys = _expect(http.get("/api/v1/log"), 200)["vkeys"]
    if not vkeys:
        _say("bundle", "none: the key that signed this database's logs is not here (HOC_LOG_KEY_FILE)")
        return None
    query = {"include_payloads": "true", "wait_ms": str(CHECKPOINT_SECONDS * 1000)}
    answer = http.get(f"/api/v1/runs/{run_id}/bundle", params=query)
    if answer.status_code != 200:
        raise DemoError(f"the bundle gave {answer.status_code}: {answer.text}")
    BUNDLE_FILE.parent.mkdir(parents=True, exist_ok=True)
    BUNDLE_FILE.write_bytes(answer.content)
    _say("bundle", f"{BUNDLE_FILE}, {len(answer.content)} bytes")
    _say("offline", f"hoc verify {BUNDLE_FILE} --key {vkeys[0]}")
    return str(vkeys[0])


def _proof(http: httpx.Client, run_id: str) -> dict[str, Any]:
    """Return the proof once the newest checkpoint covers the run; at once where no key signs any."""
    signs = bool(_expect(http.get("/api/v1/log"), 200)["vkeys"])
    deadline = time.monotonic() + CHECKPOINT_SECONDS
    while True:
        proof = _expect(http.get(f"/api/v1/runs/{run_id}/proof"), 200)
        if proof["log"]["status"] == "INCLUDED" or not signs or time.monotonic() > deadline:
            return proof
        time.sleep(0.1)


def _expect(response: httpx.Response, *statuses: int) -> dict[str, Any]:
    if response.status_code not in statuses:
        request = response.request
        raise DemoError(f"{request.method} {request.url.path} gave {response.status_code}: {response.text}")
    return dict(response.json())


def _say(what: str, text: str) -> None:
    typer.echo(f"{what:<15} {text}")
