"""Witnesses cosign checkpoints that continue what they have seen."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from app.domains.logs.engines import note
from app.domains.logs.engines.note import new_key
from app.domains.logs.models.tree import Cosignatures
from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.spine import Spine
from app.kernel import merkle
from tests.factories.bundles import cosign, load_verifier
from tests.factories.logs import LogWorld
from tests.factories.worlds import start_run

verifier = load_verifier()


@pytest.fixture
def world(make_spine: Callable[..., Spine], new_database: Callable[..., str], tmp_path: Path) -> LogWorld:
    write_new_key(tmp_path / "log-key.pem")
    return LogWorld(make_spine, new_database(), tmp_path)


class Witness(BaseHTTPRequestHandler):
    """A witness of C2SP tlog-witness that remembers how far it has seen each log."""

    key = new_key(b"\x03" * 32)
    name = "witness.example"
    seen: ClassVar[dict[str, tuple[int, bytes]]] = {}
    lies: ClassVar[bool] = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        asked, _, text = body.partition("\n\n")
        first, *proof = asked.split("\n")
        read = note.parse_note(text)
        checkpoint = note.parse_checkpoint(read.text)
        size, root = self.seen.get(checkpoint.origin, (0, b""))
        if first != f"old {size}":
            self._answer(409, f"{size}\n")
            return
        hashes = [base64.b64decode(one) for one in proof]
        whole = size == 0 or merkle.is_consistent(size, checkpoint.size, root, checkpoint.root, hashes)
        if not whole:
            self._answer(422, "")
            return
        self.seen[checkpoint.origin] = (checkpoint.size, checkpoint.root)
        line, _ = cosign("another text\n" if self.lies else read.text, self.name, self.key)
        self._answer(200, line)

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def witness() -> Iterator[str]:
    Witness.seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Witness)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_witness_cosigns_what_continues_what_it_saw(
    world: LogWorld, witness: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = start_run(world.tenant)
    payload = {"run_id": run_id, "status": "succeeded", "expected_steps": 0}
    world.tenant.call("runs.complete", payload)
    world.sequence()
    _, vkey = cosign("", Witness.name, Witness.key)
    keys = world.key_file.with_name("witnesses.txt")
    command = ("log", "cosign", "--tenant-id", world.tenant_id, "--witness", witness, "--json")
    trusted = {"HOC_WITNESS_KEYS_FILE": str(keys)}
    # A witness that nobody named, or one that signs something else, is not believed.
    assert "BAD_COSIGNATURE" in world.hoc(*command, code=1)
    keys.write_text(f"{vkey}\n", encoding="utf-8")
    monkeypatch.setattr(Witness, "lies", True)
    assert "BAD_COSIGNATURE" in world.hoc(*command, code=1, **trusted)
    monkeypatch.setattr(Witness, "lies", False)

    assert json.loads(world.hoc(*command, **trusted)) == {"size": world.status().size, "stored": 1}
    assert json.loads(world.hoc(*command, **trusted))["stored"] == 0
    assert Witness.name in world.tenant.call("log.checkpoint").content
    made = world.tenant.call("runs.bundle", {"run_id": run_id})
    options = verifier.Options(
        keys=(verifier.parse_vkey(world.key.vkey(world.origin)),),
        witnesses=(verifier.parse_vkey(vkey),),
        quorum=1,
    )
    report = verifier.verify_bundle(io.BytesIO(made.content.path.read_bytes()), options)
    assert report.verdict == "VERIFIED", report.failures

    # The log grows, and the witness sees by the proof that it is the same one.
    world.facts(2)
    world.sequence()
    assert json.loads(world.hoc(*command, **trusted)) == {"size": world.status().size, "stored": 1}
    Witness.seen[world.origin] = (Witness.seen[world.origin][0] - 1, bytes(32))
    assert "WITNESS_REFUSED: HTTP 422" in world.hoc(*command, code=1, **trusted)
    context = {"size": 10**6, "content": b"x"}
    assert world.tenant.dispatch("log.cosign", Cosignatures(**context)).error_code == "CHECKPOINT_NOT_FOUND"
    for content in (b"", b"\xff", b"no line\n", b"\n"):
        payload = Cosignatures(size=world.status().size, content=content)
        assert world.tenant.dispatch("log.cosign", payload).error_code == "BAD_COSIGNATURE"
