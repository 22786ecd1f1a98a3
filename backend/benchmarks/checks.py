"""Benchmarks: the governed check before a side effect, and the floor of the rows that it writes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any

import psycopg

from benchmarks.load import Call, load
from benchmarks.report import Round
from benchmarks.stage import Stage

RULES = (
    ("BLOCK", 'action.name == "delete_records"'),
    ("BLOCK", 'action.kind == "WRITE" && !(action.target in ["staging", "sandbox"])'),
    ("WARN", 'action.side_effect && action.params.exists(key, key == "force")'),
    ("AUDIT", "usage.COST_USD > 500.0"),
    ("BLOCK", 'run.labels.exists(key, key == "frozen")'),
)
FIRST_CHECKS = 200
LIMIT = {"category": "BUDGET", "metric": "COST_USD", "scope": "TENANT", "reset_period": "NONE"}
ACTION = {"kind": "TOOL", "name": "send_draft", "target": "customer", "params": {"to": "a person", "n": 1}}


class GovernedCheck:
    """A check of five rules and one limit that is allowed; the floor writes its rows in one transaction."""

    name = "governed check"
    unit = "check"
    target = ">= 1000/s, p99 < 20 ms"
    floor_is = "run locked, limit read; the same decision, leaf and fact number, one transaction, prepared"
    estimate: dict[str, float] | None = None

    def prepare(self, stage: Stage) -> None:
        """Make rules and a limit, do one check, and capture the rows that it wrote."""
        http = stage.http()
        for number, (mode, condition) in enumerate(RULES):
            rule = {"kind": "GUARD", "enforcement_mode": mode, "condition": condition, "activate": True}
            rule |= {"rule_id": f"bench-{number}", "name": f"bench {number}", "moments": ["STEP"]}
            http.call("POST", "/api/v1/policies/rules", rule, expect=(201, 409))
        limit = {**LIMIT, "limit_id": "bench-limit", "name": "bench", "max_value": 9_000_000_000}
        http.call("POST", "/api/v1/limits", limit, expect=(201, 409))
        run_id = stage.start_run()
        for _ in range(FIRST_CHECKS):
            answer = json.loads(http.call("POST", f"/api/v1/runs/{run_id}/checks", self._asked()))
        if answer["verdict"] != "ALLOW":
            raise RuntimeError(f"the check of the benchmark is not allowed: {answer}")
        key = {"tenant_id": stage.tenant_id, "decision_id": answer["decision_id"]}
        # As autovacuum does within a minute of the first rows: a plan made for empty tables reads whole ones.
        with psycopg.connect(stage.dsn, autocommit=True) as owner:
            owner.execute("ANALYZE")
        with psycopg.connect(stage.dsn) as connection:
            (decision,) = captured_rows(connection, "decision_records", key)
            leaf_key = {"tenant_id": stage.tenant_id, "fact_id": decision["fact_id"]}
            self._captured = [
                ("decision_records", decision),
                *(("log_leaves", row) for row in captured_rows(connection, "log_leaves", leaf_key)),
                *(
                    ("usage_reservations", row)
                    for row in captured_rows(connection, "usage_reservations", key)
                ),
                *(
                    ("limit_entries", row)
                    for row in captured_rows(
                        connection, "limit_entries", {"source_ref": f"check:{answer['decision_id']}"}
                    )
                ),
            ]

    def _asked(self) -> bytes:
        more = {} if self.estimate is None else {"estimate": self.estimate}
        return json.dumps({"action": ACTION, **more}).encode()

    def run(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Check again and again, each client in a run of its own."""
        asked = self._asked()

        def make(_number: int) -> Call:
            http, run_id = stage.http(), stage.start_run()

            def call() -> int:
                http.call("POST", f"/api/v1/runs/{run_id}/checks", asked)
                return 1

            return call

        return load(make, clients=clients, seconds=seconds)

    def floor(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Write the captured rows again under new ids, each client for a run of its own."""

        def make(_number: int) -> Call:
            return _Floor(stage, self._captured, stage.start_run()).write

        return load(make, clients=clients, seconds=seconds)


class ReservingCheck(GovernedCheck):
    """The same check with an estimate, which is held on the limit until it is used."""

    name = "governed check that reserves"
    floor_is = "the same with the limit's counter raised, the reservation and its entry"
    estimate = {"COST_USD": 0.01}


class _Floor:
    """One client of the floor: a connection and the statements that it prepares."""

    def __init__(self, stage: Stage, captured: Sequence[tuple[str, dict[str, Any]]], run_id: str) -> None:
        self._connection = psycopg.connect(stage.dsn)
        self._captured = captured
        self._run = (stage.tenant_id, run_id)
        self._reserves = any(table == "limit_entries" for table, _ in captured)

    def write(self) -> int:
        """Write one check's rows in one transaction."""
        new = {name: f"{name}_{secrets.token_hex(16)}" for name in ("decision_id", "fact_id", "entry_id")}
        new |= {"reservation_id": f"rsv_{secrets.token_hex(16)}", "idempotency_key": new["decision_id"]}
        new |= {"source_ref": f"check:{new['decision_id']}", "run_id": self._run[1]}
        with self._connection.transaction():
            self._execute(
                "SELECT status FROM runs WHERE tenant_id = %s AND run_id = %s FOR NO KEY UPDATE", self._run
            )
            limit = "tenant_id = %s AND limit_id = 'bench-limit' AND window_key = 'ALL'"
            if self._reserves:
                self._execute(
                    f"UPDATE limit_counters SET reserved = reserved + 1 WHERE {limit}", self._run[:1]
                )
            else:
                self._execute(f"SELECT committed FROM limit_counters WHERE {limit}", self._run[:1])
            counter = "UPDATE run_fact_counters SET fact_count = fact_count + 1"
            row = self._execute(
                f"{counter} WHERE tenant_id = %s AND run_id = %s RETURNING fact_count", self._run
            ).fetchone()
            new["fact_no"] = row[0]
            for table, captured in self._captured:
                values = {name: new.get(name, value) for name, value in captured.items()}
                marks = ", ".join(["%s"] * len(values))
                self._execute(
                    f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values())
                )
        return 1

    def _execute(self, statement: str, given: tuple[Any, ...]) -> Any:
        return self._connection.execute(statement, given, prepare=True)


def captured_rows(connection: Any, table: str, key: dict[str, Any]) -> list[dict[str, Any]]:
    """Return whole rows of a table by column."""
    where = " AND ".join(f"{name} = %s" for name in key)
    cursor = connection.execute(f"SELECT * FROM {table} WHERE {where}", tuple(key.values()))
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


WORKS: Sequence[Any] = (GovernedCheck(), ReservingCheck())
