"""Benchmarks: the works and, for each, the floor that the same rows or reads cost without us."""

from __future__ import annotations

import itertools
import json
import random
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from benchmarks.load import Call, load
from benchmarks.report import Round
from benchmarks.stage import Stage

BATCH = 100


class Retrieval:
    """A mediated search with its evidence, over HTTP; the floor writes the same rows in one transaction."""

    name = "mediated retrieval"
    unit = "access"
    target = ">= 800/s"
    floor_is = "the same evidence, document, leaf and counter rows, one transaction each, raw driver"

    def prepare(self, stage: Stage) -> None:
        """Do one access, and capture the rows that it wrote."""
        self._body = lambda words: {
            "run_id": stage.run_id,
            "plane_id": stage.plane_id,
            "action": "search",
            "payload": {"text": f"w{int(5000 * words.random() ** 3)} w{words.randrange(5000)}", "limit": 5},
        }
        answer = json.loads(
            stage.http().call("POST", "/api/v1/retrieval/access", self._body(random.Random(1)))
        )
        with psycopg.connect(stage.dsn) as connection:
            self._rows = [
                _captured(connection, "retrieval_evidence", "evidence_id = %s", answer["evidence_id"]),
                *_all_captured(
                    connection, "retrieval_evidence_documents", "evidence_id = %s", answer["evidence_id"]
                ),
                _captured(
                    connection,
                    "log_leaves",
                    "fact_id = (SELECT fact_id FROM retrieval_evidence WHERE evidence_id = %s)",
                    answer["evidence_id"],
                ),
            ]

    def run(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Search with words of all frequencies."""

        def make(number: int) -> Call:
            http, words = stage.http(), random.Random(number)

            def call() -> int:
                http.call("POST", "/api/v1/retrieval/access", self._body(words))
                return 1

            return call

        return load(make, clients=clients, seconds=seconds)

    def floor(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Write the captured rows again under new ids."""
        counter = (
            "UPDATE run_fact_counters SET fact_count = fact_count + 1 WHERE tenant_id = %s AND run_id = %s"
            " RETURNING fact_count"
        )

        def make(_number: int) -> Call:
            connection = psycopg.connect(stage.dsn)

            def call() -> int:
                evidence_id, fact_id = f"ev_{secrets.token_hex(16)}", f"fct_{secrets.token_hex(16)}"
                with connection.transaction():
                    number = connection.execute(counter, (stage.tenant_id, stage.run_id)).fetchone()
                    for table, row in self._rows:
                        changed = {"evidence_id": evidence_id, "fact_id": fact_id}
                        if table == "log_leaves":
                            changed |= {"fact_no": number[0] if number else 0}
                        _insert(connection, table, row, changed)
                return 1

            return call

        return load(make, clients=clients, seconds=seconds)


class StepBatches:
    """Batches of 100 steps, redacted, chained, durable; the floor is a plain multi-row insert of the rows."""

    name = "trace steps, batches of 100"
    unit = "step"
    target = ">= 10 000/s, >= 25% of floor"
    floor_is = "the same 100 rows into a copy of the table with its keys, one prepared multi-row insert each"
    more: Mapping[str, Any] = {}

    def prepare(self, stage: Stage) -> None:
        """Append one batch and capture its rows."""
        run_id = stage.start_run()
        stage.http().call("POST", f"/api/v1/runs/{run_id}/steps", _steps(0, self.more))
        self._capture(stage, run_id)

    def _capture(self, stage: Stage, run_id: str) -> None:
        """Keep the rows of a run, and make an empty table for them."""
        with psycopg.connect(stage.dsn) as connection:
            rows = _all_captured(connection, "aos_trace_steps", "trace_id = %s", f"trace_{run_id}")
            connection.execute("DROP TABLE IF EXISTS bench_steps")
            connection.execute("CREATE TABLE bench_steps (LIKE aos_trace_steps INCLUDING ALL)")
        self._rows = [row for _, row in rows]

    def run(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Append batch after batch, each client to a run of its own."""

        def make(_number: int) -> Call:
            http, run_id, starts = stage.http(), stage.start_run(), itertools.count(0, BATCH)

            def call() -> int:
                http.call("POST", f"/api/v1/runs/{run_id}/steps", _steps(next(starts), self.more))
                return BATCH

            return call

        return load(make, clients=clients, seconds=seconds, spent_by=stage.pids)

    def floor(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Insert the captured rows under new trace ids."""
        columns = list(self._rows[0])
        values = ", ".join(["(" + ", ".join(["%s"] * len(columns)) + ")"] * len(self._rows))
        statement = f"INSERT INTO bench_steps ({', '.join(columns)}) VALUES {values}"

        def make(_number: int) -> Call:
            connection = psycopg.connect(stage.dsn)

            def call() -> int:
                trace = f"trace_{secrets.token_hex(16)}"
                with connection.transaction():
                    rows = [{**row, "trace_id": trace} for row in self._rows]
                    connection.execute(
                        statement, [row[column] for row in rows for column in columns], prepare=True
                    )
                return len(self._rows)

            return call

        return load(make, clients=clients, seconds=seconds, spent_by=stage.pids)


class ReadById:
    """A run by its id, over HTTP; the floor is the row by its key."""

    name = "run by id"
    unit = "read"
    target = ">= 2000/s"
    floor_is = "SELECT of the row by its primary key, raw driver, prepared"

    def prepare(self, stage: Stage) -> None:
        """Nothing: the stage has a run."""

    def run(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Read the same run again and again."""

        def make(_number: int) -> Call:
            http = stage.http()

            def call() -> int:
                http.call("GET", f"/api/v1/runs/{stage.run_id}")
                return 1

            return call

        return load(make, clients=clients, seconds=seconds)

    def floor(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Read the row with the driver alone."""

        def make(_number: int) -> Call:
            connection = psycopg.connect(stage.dsn, autocommit=True)
            key = (stage.tenant_id, stage.run_id)

            def call() -> int:
                statement = "SELECT * FROM runs WHERE tenant_id = %s AND run_id = %s"
                connection.execute(statement, key, prepare=True).fetchone()
                return 1

            return call

        return load(make, clients=clients, seconds=seconds)


WORKS: Sequence[Any] = (Retrieval(), StepBatches(), ReadById())


def _steps(start: int, more: Mapping[str, Any]) -> bytes:
    steps = [
        {
            "step_index": start + n,
            "skill_id": "http_call",
            "skill_name": "http_call",
            "status": "success",
            "params": {"url": "https://example.test/orders", "n": start + n, "note": "an ordinary step"},
            "outcome_data": {"status": 200, "bytes": 5120},
            "duration_ms": 12.5,
            "cost_cents": 0.01,
            **more,
        }
        for n in range(BATCH)
    ]
    return json.dumps({"steps": steps}).encode()


def _captured(connection: Any, table: str, where: str, value: str) -> tuple[str, dict[str, Any]]:
    return _all_captured(connection, table, where, value)[0]


def _all_captured(connection: Any, table: str, where: str, value: str) -> list[tuple[str, dict[str, Any]]]:
    cursor = connection.execute(f"SELECT * FROM {table} WHERE {where}", (value,))
    names = [column.name for column in cursor.description]
    return [(table, dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


def _insert(connection: Any, table: str, row: dict[str, Any], changed: dict[str, Any]) -> None:
    values = {name: changed.get(name, value) for name, value in row.items()}
    marks = ", ".join(["%s"] * len(values))
    connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", list(values.values()))
