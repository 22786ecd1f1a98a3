"""Benchmarks: the bundle of a run of 1000 facts, and the offline verification of 100 000 leaves."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.load import Call, load
from benchmarks.report import Round
from benchmarks.stage import Stage
from tests.factories.bundles import VERIFIER_FILE, small_run

FACTS = 1000
LEAVES = 100_000


class Bundle:
    """The bundle of an ended run of 1000 facts: proved, signed, sent; the floor copies its lines."""

    name = "bundle of a 1000-fact run"
    unit = "bundle"
    target = "none; its proof < 150 ms"
    floor_is = "the statements of the same facts and the rows of the same steps, read raw, written to a file"

    def prepare(self, stage: Stage) -> None:
        """Record a run of many accesses and many small batches of steps, and end it."""
        http, self._run = stage.http(), stage.start_run()
        access = {"run_id": self._run, "plane_id": stage.plane_id, "action": "search"}
        for number in range(FACTS // 2):
            http.call("POST", "/api/v1/retrieval/access", access | {"payload": {"text": f"w{number}"}})
        for index in range(FACTS // 2 - 4):
            step = {"step_index": index, "skill_id": "s", "skill_name": "s", "status": "success"}
            http.call("POST", f"/api/v1/runs/{self._run}/steps", {"steps": [step | {"params": {"n": index}}]})
        http.call("POST", f"/api/v1/runs/{self._run}/complete", {"status": "succeeded"})

    def run(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Ask for the bundle again and again."""
        path = f"/api/v1/runs/{self._run}/bundle?include_payloads=true&wait_ms=10000"

        def make(_number: int) -> Call:
            http = stage.http()

            def call() -> int:
                http.call("GET", path)
                return 1

            return call

        return load(make, clients=clients, seconds=seconds)

    def floor(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Read the rows and write them."""

        def make(_number: int) -> Call:
            connection = psycopg.connect(stage.dsn)

            def call() -> int:
                with tempfile.TemporaryFile("w") as target:
                    for query in (
                        "SELECT statement FROM log_leaves WHERE run_id = %s ORDER BY late, fact_no",
                        "SELECT * FROM aos_trace_steps WHERE trace_id = 'trace_' || %s ORDER BY step_index",
                    ):
                        for row in connection.execute(query, (self._run,)):
                            target.write(f"{row}\n")
                return 1

            return call

        return load(make, clients=clients, seconds=seconds)


class OfflineVerify:
    """The verifier file over a bundle of 100 000 leaves, as a process of its own, from start to end."""

    name = "offline verify of 100 000 leaves"
    unit = "leaf"
    target = ">= 50 000/s (< 2 s), < 300 MB"
    floor_is = "one JSON reading and one SHA-256 of each line of the same file, in the same Python"
    rounds = 3

    def prepare(self, _stage: Stage) -> None:
        """Forge a true bundle of so many facts."""
        forge = small_run(closed=False)
        ended = small_run()
        access = forge.facts[1]["body"]
        for number in range(LEAVES - len(ended.facts) - 1):
            padded = access | {"evidence_id": f"ev_{number:032d}", "documents": ["x" * 400]}
            forge.fact("retrieval.evidence", padded, table="retrieval_evidence")
        forge.traces[0] |= {name: ended.traces[0][name] for name in ("root_hash", "outcome")}
        for fact in ended.facts[-3:-1]:
            forge.fact(fact["type"], fact["body"])
        forge.close()
        self._folder = tempfile.TemporaryDirectory(prefix="hoc-bench-bundle-")
        self._file = Path(self._folder.name) / "run.hocproof"
        self._file.write_bytes(forge.build())
        self._vkey = forge.vkey

    def run(self, _stage: Stage, *, clients: int, seconds: float) -> Round:  # noqa: ARG002
        """Verify once, in a process whose memory is measured."""
        program = (
            "import runpy, sys; sys.argv = sys.argv[1:]\n"
            "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
            # Not getrusage: that begins with the memory of whoever started the process.
            "finally: print(*(l for l in open('/proc/self/status') if 'VmHWM' in l), file=sys.stderr)\n"
        )
        command = [sys.executable, "-c", program, str(VERIFIER_FILE), str(self._file), "--key", self._vkey]
        begun = time.perf_counter()
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        elapsed = time.perf_counter() - begun
        if not ended.stdout.endswith("VERIFIED\n"):
            raise RuntimeError(ended.stdout + ended.stderr)
        return Round(LEAVES / elapsed, elapsed * 1000, peak_mb=int(ended.stderr.split()[-2]) / 1024)

    def floor(self, _stage: Stage, *, clients: int, seconds: float) -> Round:  # noqa: ARG002
        """Read and hash the lines."""
        begun = time.perf_counter()
        with self._file.open("rb") as stream:
            for line in stream:
                json.loads(line)
                hashlib.sha256(line).digest()
        elapsed = time.perf_counter() - begun
        return Round(LEAVES / elapsed, elapsed * 1000)


WORKS: Sequence[Any] = (Bundle(), OfflineVerify())
