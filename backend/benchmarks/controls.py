"""Benchmarks: recorded use against limits, alone and in steps, and the floors of the rows that it writes."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Sequence
from typing import Any

import psycopg

from benchmarks.checks import LIMIT, captured_rows
from benchmarks.load import Call, load
from benchmarks.report import Round
from benchmarks.stage import Stage
from benchmarks.works import StepBatches

USAGE = {"COST_USD": 0.01, "TOKENS_INPUT": 120, "TOKENS_OUTPUT": 30}


def _make_limit(stage: Stage) -> None:
    limit = {**LIMIT, "limit_id": "bench-limit", "name": "bench", "max_value": 9_000_000_000}
    stage.http().call("POST", "/api/v1/limits", limit, expect=(201, 409))


class RecordedUse:
    """Use of money and tokens that two limits count; the floor writes its rows in one transaction."""

    name = "recorded use"
    unit = "use"
    target = ""
    floor_is = "run locked, two counters raised; the same record, entries, leaf and fact number, prepared"

    def prepare(self, stage: Stage) -> None:
        """Make a limit, record one use, and capture the rows that it wrote."""
        _make_limit(stage)
        run_id = stage.start_run()
        used = {"usage_id": "u-0", "usage": USAGE}
        stage.http().call("POST", f"/api/v1/runs/{run_id}/usage", json.dumps(used).encode())
        with psycopg.connect(stage.dsn) as connection:
            (record,) = captured_rows(connection, "usage_records", {"run_id": run_id})
            self._captured = [
                ("usage_records", record),
                *(
                    ("limit_entries", row)
                    for row in captured_rows(connection, "limit_entries", {"run_id": run_id})
                ),
                *(
                    ("log_leaves", row)
                    for row in captured_rows(connection, "log_leaves", {"fact_id": record["fact_id"]})
                ),
            ]

    def run(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Record use after use, each client in a run of its own."""

        def make(_number: int) -> Call:
            http, run_id, numbers = stage.http(), stage.start_run(), itertools.count()

            def call() -> int:
                used = {"usage_id": f"u-{next(numbers)}", "usage": USAGE}
                http.call("POST", f"/api/v1/runs/{run_id}/usage", json.dumps(used).encode())
                return 1

            return call

        return load(make, clients=clients, seconds=seconds)

    def floor(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Write the captured rows again under new ids, each client for a run of its own."""

        def make(_number: int) -> Call:
            connection, run_id = psycopg.connect(stage.dsn), stage.start_run()
            run = (stage.tenant_id, run_id)

            def execute(statement: str, given: Sequence[Any]) -> Any:
                return connection.execute(statement, given, prepare=True)

            def call() -> int:
                new = {"run_id": run_id, "fact_id": f"fct_{secrets.token_hex(16)}"}
                new |= {"usage_id": secrets.token_hex(8), "source_ref": secrets.token_hex(16)}
                with connection.transaction():
                    execute(
                        "SELECT status FROM runs WHERE tenant_id = %s AND run_id = %s FOR NO KEY UPDATE", run
                    )
                    for table, row in self._captured:
                        if table == "limit_entries":
                            execute(
                                "UPDATE limit_counters SET committed = committed + %s"
                                " WHERE tenant_id = %s AND limit_id = %s AND window_key = %s",
                                (row["amount"], stage.tenant_id, row["limit_id"], row["window_key"]),
                            )
                    counted = execute(
                        "UPDATE run_fact_counters SET fact_count = fact_count + 1"
                        " WHERE tenant_id = %s AND run_id = %s RETURNING fact_count",
                        run,
                    ).fetchone()
                    for table, row in self._captured:
                        changed = {**new, "entry_id": f"ent_{secrets.token_hex(16)}", "fact_no": counted[0]}
                        values = {name: changed.get(name, value) for name, value in row.items()}
                        marks = ", ".join(["%s"] * len(values))
                        execute(
                            f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})",
                            tuple(values.values()),
                        )
                return 1

            return call

        return load(make, clients=clients, seconds=seconds)


class UsedSteps(StepBatches):
    """The batches of steps, each step with use that two limits count; the floor has no limits."""

    name = "trace steps with use, batches of 100"
    more = {"usage": USAGE}

    def prepare(self, stage: Stage) -> None:
        """Make a limit, then as the batches without use."""
        _make_limit(stage)
        super().prepare(stage)


WORKS: Sequence[Any] = (RecordedUse(), UsedSteps())
