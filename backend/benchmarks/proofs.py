"""Benchmarks: the proof of a run, inclusion in a large log, what a fact costs, how checkpoints lag."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import time
from collections.abc import Sequence
from typing import Any

import psycopg

from benchmarks.load import Call, Http, load
from benchmarks.report import Round, percentile
from benchmarks.stage import RUN, Stage, make_tenant

FACTS = 1000
LARGE = 10_000_000
WIDTH, HASH_BYTES = 256, 32
ROW = "CREATE TABLE IF NOT EXISTS bench_rows (id text PRIMARY KEY, body text)"


class RunProof:
    """The proof of an ended run of 1000 facts over HTTP, one caller; the floor reads the same rows."""

    name = "proof of a 1000-fact run"
    unit = "proof"
    target = "< 150 ms"
    floor_is = "the run's leaves, steps and evidence read whole by the raw driver, one connection"

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

    def run(self, stage: Stage, *, clients: int, seconds: float) -> Round:  # noqa: ARG002 - one caller's wait
        """Ask for the proof again and again."""

        def make(_number: int) -> Call:
            http = stage.http()

            def call() -> int:
                proof = json.loads(http.call("GET", f"/api/v1/runs/{self._run}/proof?steps_limit=0"))
                if proof["integrity"]["verification_status"] != "VERIFIED":
                    raise RuntimeError(str(proof["integrity"]))
                return 1

            return call

        return load(make, clients=1, seconds=seconds)

    def floor(self, stage: Stage, *, clients: int, seconds: float) -> Round:  # noqa: ARG002 - as above
        """Read the rows."""

        def make(_number: int) -> Call:
            connection = psycopg.connect(stage.dsn)

            def call() -> int:
                for query in (
                    "SELECT * FROM log_leaves WHERE run_id = %s ORDER BY late, fact_no",
                    "SELECT * FROM aos_trace_steps WHERE trace_id = 'trace_' || %s ORDER BY step_index",
                    "SELECT * FROM retrieval_evidence WHERE run_id = %s",
                ):
                    connection.execute(query, (self._run,), prepare=True).fetchall()
                return 1

            return call

        return load(make, clients=1, seconds=seconds)


class Inclusion:
    """An inclusion proof in a log of 10 M leaves over HTTP; only the tiles that its paths need are there."""

    name = "inclusion in a log of 10 M leaves"
    unit = "proof"
    target = "< 5 ms"
    floor_is = "the same tiles by their keys, raw driver, one connection, prepared"

    def prepare(self, stage: Stage) -> None:
        """Say of a log that it is so large, and forge the tiles under some of its paths."""
        self._headers = make_tenant(stage.port, "large")
        self._indices = [number * (LARGE // 8) + 77 for number in range(8)]
        with psycopg.connect(stage.dsn, autocommit=True) as connection:
            connection.execute(
                "UPDATE log_heads SET size = %s, signed_size = %s WHERE tenant_id = 'large'", (LARGE, LARGE)
            )
            for level, number, width in sorted(self._tiles()):
                forged = (level, number, width, os.urandom(width * HASH_BYTES))
                connection.execute("INSERT INTO log_tiles VALUES ('large', 1, %s, %s, %s, %s)", forged)

    def _tiles(self) -> set[tuple[int, int, int]]:
        wanted: set[tuple[int, int, int]] = set()
        for level in range(3):
            count = LARGE >> (8 * level)
            places = {(index >> (8 * level)) // WIDTH for index in self._indices} | {(count - 1) // WIDTH}
            wanted |= {(level, place, min(WIDTH, count - place * WIDTH)) for place in places}
        return {tile for tile in wanted if tile[2] > 0}

    def run(self, stage: Stage, *, clients: int, seconds: float) -> Round:  # noqa: ARG002 - one caller's wait
        """Prove one index after another; the log is large only meanwhile."""

        def make(_number: int) -> Call:
            http, indices = Http(stage.port, self._headers), itertools.cycle(self._indices)

            def call() -> int:
                http.call("GET", f"/api/v1/log/proofs/inclusion?index={next(indices)}&size={LARGE}")
                return 1

            return call

        return load(make, clients=1, seconds=seconds)

    def floor(self, stage: Stage, *, clients: int, seconds: float) -> Round:  # noqa: ARG002 - as above
        """Read the tiles of one path."""

        def make(_number: int) -> Call:
            connection, indices = psycopg.connect(stage.dsn), itertools.cycle(self._indices)

            def call() -> int:
                index = next(indices)
                for level in range(3):
                    places = [(index >> (8 * level)) // WIDTH, ((LARGE >> (8 * level)) - 1) // WIDTH]
                    connection.execute(
                        "SELECT hashes FROM log_tiles WHERE tenant_id = 'large' AND epoch = 1"
                        " AND level = %s AND tile_no = ANY(%s)",
                        (level, places),
                        prepare=True,
                    ).fetchall()
                return 1

            return call

        return load(make, clients=1, seconds=seconds)


class FactOverhead:
    """One row and its fact in a transaction, in process; the floor is the transaction of the row alone."""

    name = "a write with its fact"
    unit = "write"
    target = "< 1 ms more than the floor"
    floor_is = "the same transaction with the row alone, through the same code"

    def prepare(self, stage: Stage) -> None:
        """Make a table for the rows."""
        with psycopg.connect(stage.dsn, autocommit=True) as connection:
            connection.execute(ROW)
            connection.execute("GRANT ALL ON bench_rows TO hoc_app")

    def run(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Write rows with facts."""
        return self._write(stage, clients=clients, seconds=seconds, with_fact=True)

    def floor(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Write rows."""
        return self._write(stage, clients=clients, seconds=seconds, with_fact=False)

    def _write(self, stage: Stage, *, clients: int, seconds: float, with_fact: bool) -> Round:
        import sqlalchemy as sa

        from app.bootstrap import build_spine
        from app.domains.logs.engines.facts import flush
        from app.domains.logs.models.ledger import (
            Fact,
        )
        from app.settings import Settings

        spine = build_spine(Settings(database_url=stage.database_url, log_sequencer="off", pool_size=clients))
        insert = sa.text("INSERT INTO bench_rows VALUES (:id, :body)")
        runs = [stage.start_run() for _ in range(clients)]

        def make(number: int) -> Call:
            def call() -> int:
                name = f"b_{secrets.token_hex(12)}"
                with spine.transactions.write(stage.tenant_id) as connection:
                    connection.execute(insert, {"id": name, "body": "x" * 200})
                    if with_fact:
                        fact_id = spine.services.ids.new("fct")
                        body = {"body": "x" * 200}
                        fact = Fact(fact_id, "audit", "bench_rows", [name], body, run_id=runs[number])
                        now = spine.services.clock.now()
                        flush(connection, [fact], tenant_id=stage.tenant_id, now=now)
                return 1

            return call

        try:
            return load(make, clients=clients, seconds=seconds)
        finally:
            spine.close()


class CheckpointLag:
    """How long after its write a fact is under a signed checkpoint, while writes come as fast as they can."""

    name = "checkpoint lag under load"
    unit = "run"
    target = "p99 < 1 s"
    floor_is = "the same leaves copied one by one by the raw driver; p99 of ours is the lag, not a call"

    def prepare(self, stage: Stage) -> None:
        """Nothing: the stage sequences and signs."""

    def run(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Start and end runs, then ask the log when each fact came under a checkpoint."""
        since = time.time()

        def make(_number: int) -> Call:
            http = stage.http()

            def call() -> int:
                run_id = json.loads(http.call("POST", "/api/v1/runs", RUN))["run_id"]
                http.call("POST", f"/api/v1/runs/{run_id}/complete", {"status": "succeeded"})
                return 1

            return call

        done = load(make, clients=clients, seconds=seconds)
        with psycopg.connect(stage.dsn, autocommit=True) as connection:
            for _ in range(100):
                if connection.execute("SELECT 1 FROM log_heads WHERE size > signed_size").fetchone() is None:
                    break
                time.sleep(0.1)
            lags = connection.execute(
                "SELECT extract(epoch FROM (SELECT min(c.signed_at) FROM log_checkpoints c WHERE"
                " c.tenant_id = l.tenant_id AND c.size > e.idx) - l.created_at) FROM log_leaves l"
                " JOIN log_entries e USING (tenant_id, fact_id) WHERE l.tenant_id = 'bench'"
                " AND l.created_at > to_timestamp(%s)",
                (since,),
            ).fetchall()
        seconds_of = [float(lag) for (lag,) in lags if lag is not None]
        return Round(done.per_second, percentile(seconds_of, 0.99), percentile(seconds_of, 0.95))

    def floor(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Copy a leaf into a table like its own."""

        def make(_number: int) -> Call:
            connection = psycopg.connect(stage.dsn, autocommit=True)
            connection.execute("CREATE TABLE IF NOT EXISTS bench_leaves (LIKE log_leaves INCLUDING ALL)")
            row = connection.execute("SELECT * FROM log_leaves WHERE type = 'run.started' LIMIT 1").fetchone()
            marks = ", ".join(["%s"] * len(row or ()))

            def call() -> int:
                copied = list(row or ())
                copied[1], copied[7:10] = f"fct_{secrets.token_hex(16)}", [None, None, None]
                connection.execute(f"INSERT INTO bench_leaves VALUES ({marks})", copied, prepare=True)
                return 1

            return call

        return load(make, clients=clients, seconds=seconds)


WORKS: Sequence[Any] = (RunProof(), Inclusion(), FactOverhead(), CheckpointLag())
