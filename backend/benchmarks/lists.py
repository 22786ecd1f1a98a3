"""Benchmarks: pages of lists of 1 M rows in one tenant, their plans, and their statements by the driver."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import urlencode

import psycopg
import sqlalchemy as sa

from benchmarks.load import Call, Http, load
from benchmarks.report import Round
from benchmarks.stage import Stage, make_tenant

ROWS = 1_000_000
# One row of so many has the rare values.
RARE = 100_000
# A page of 50 that reads more rows than this reads what it does not show.
MOST = 1000
TENANT = "lists"
_TIME = "timestamptz '2025-01-01 00:00Z' + n * interval '2 seconds'"
_A_RUN = f"run_{7:032x}"


@cache
def _headers(port: int) -> dict[str, str]:
    return make_tenant(port, TENANT)


def _id(prefix: str, number: str = "n") -> str:
    return f"'{prefix}_' || lpad(to_hex({number}), 32, '0')"


def _rare(name: str, rare: str, usual: str | None = None) -> dict[str, str]:
    """Return a column of a rare value and a usual one, which is that of the copied row unless it is given."""
    return {name: f"CASE WHEN n % {RARE} = 7 THEN {rare} ELSE {usual or f't.{name}'} END"}


@dataclass(frozen=True)
class Rows:
    """The rows of a list: copies of one row, and what changes from each to the next."""

    table: str
    order: tuple[str, ...]
    changed: Mapping[str, str]

    def fill(self, stage: Stage) -> None:
        """Copy a row of the stage's tenant, without triggers and foreign keys, unless that is done."""
        with psycopg.connect(stage.dsn, autocommit=True) as owner:
            if owner.execute(f"SELECT 1 FROM {self.table} WHERE tenant_id = '{TENANT}' LIMIT 1").fetchone():
                return
            columns = [c.name for c in owner.execute(f"SELECT * FROM {self.table} LIMIT 0").description or ()]
            new = {"tenant_id": f"'{TENANT}'", "fact_id": _id("fct")} | self.changed
            values = ", ".join(new.get(name, f't."{name}"') for name in columns)
            names = ", ".join(f'"{name}"' for name in columns)
            owner.execute("SET session_replication_role = replica")
            owner.execute(
                f"INSERT INTO {self.table} ({names}) SELECT {values}"
                f" FROM (SELECT * FROM {self.table} WHERE tenant_id = '{stage.tenant_id}'"
                f" ORDER BY created_at DESC LIMIT 1) t, generate_series(1, {ROWS}) n"
            )
            # As autovacuum does by and by.
            owner.execute(f"VACUUM ANALYZE {self.table}")

    def middle(self, stage: Stage) -> list[Any]:
        """Return the key of the row in the middle, as a cursor has it."""
        with psycopg.connect(stage.dsn) as connection:
            row = connection.execute(
                f"SELECT {', '.join(self.order)} FROM {self.table}, (SELECT {ROWS // 2} AS n) middle"
                f" WHERE tenant_id = '{TENANT}' AND {self.order[-1]} = {self.changed[self.order[-1]]}"
            ).fetchone()
        return [_as_text(part) for part in row or ()]


class Pages:
    """Pages of one list in turn: the first, one in the middle, and the first of each filter."""

    unit = "page"
    target = "p95 < 20 ms, same plan at 10 M"
    rounds = 2

    def __init__(self, operation: str, path: str, rows: Rows, filters: Sequence[Mapping[str, str]]) -> None:
        self.name = f"list of {ROWS // 1_000_000} M {path.rpartition('/')[2]}"
        self._operation, self._path, self._rows, self._filters = operation, path, rows, filters
        self.floor_is = "the same statements by the driver alone"

    def prepare(self, stage: Stage) -> None:
        """Fill, find the pages, and look at the plan of each."""
        _write_one_of_each(stage)
        self._rows.fill(stage)
        http = Http(stage.port, _headers(stage.port))
        first = [{}, *self._filters]
        # The usual filter that comes first in the list of filters has a page in the middle, too.
        deep = [{**asked, "cursor": self._cursor(http, stage, asked)} for asked in ({}, self._filters[0])]
        self._asked = [*first, *deep]
        self._statements: list[tuple[str, Any]] = []
        with _spine(stage) as spine:
            told = [f"{_told(asked)}: {self._plans(spine, asked)}" for asked in self._asked]
        self.floor_is = "\n  ".join(["the same statements by the driver alone; what they read:", *told])

    def _cursor(self, http: Http, stage: Stage, asked: Mapping[str, str]) -> str:
        """Return a cursor into the middle; walking there would take ten thousand pages."""
        page = json.loads(http.call("GET", f"{self._path}?{urlencode({**asked, 'limit': 1})}"))
        cursor = page["next_cursor"]
        binding = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))[0]
        moved = json.dumps([binding, *self._rows.middle(stage)], separators=(",", ":"))
        return base64.urlsafe_b64encode(moved.encode()).decode().rstrip("=")

    def run(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Ask for the pages."""
        paths = [f"{self._path}?{urlencode(asked)}" for asked in self._asked]

        def make(number: int) -> Call:
            http = Http(stage.port, _headers(stage.port))
            turn = itertools.cycle(paths[number:] + paths[:number])

            def call() -> int:
                http.call("GET", next(turn))
                return 1

            return call

        return load(make, clients=clients, seconds=seconds, spent_by=stage.pids)

    def floor(self, stage: Stage, *, clients: int, seconds: float) -> Round:
        """Run the statements of the pages; a page of two statements counts as two."""

        def make(number: int) -> Call:
            connection = psycopg.connect(stage.dsn, autocommit=True)
            turn = itertools.cycle(self._statements[number:] + self._statements[:number])

            def call() -> int:
                connection.execute(*next(turn), prepare=True).fetchall()
                return 1

            return call

        return load(make, clients=clients, seconds=seconds, spent_by=stage.pids)

    def _plans(self, spine: Any, asked: Mapping[str, str]) -> str:
        """Return what the statements of a page do, by the server's own code under its own role."""
        from app.kernel.context import Actor, RequestContext

        plans = []

        def explain(_: Any, cursor: Any, statement: str, given: Any, *_more: Any) -> None:
            if f"FROM {self._rows.table}" in statement:
                cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", given)
                plans.append(_plan(cursor.fetchone()[0][0]["Plan"]))
                self._statements.append((statement, given))

        engine = spine.transactions.engine
        context = RequestContext(TENANT, Actor("HUMAN", "bench"), "req_bench", frozenset(("*",)))
        sa.event.listen(engine, "before_cursor_execute", explain)
        result = spine.dispatch(self._operation, context, dict(asked))
        sa.event.remove(engine, "before_cursor_execute", explain)
        if not result.success or not plans:
            raise RuntimeError(f"{self._operation} {asked}: {result.error}")
        return "; ".join(plans)


@contextmanager
def _spine(stage: Stage) -> Iterator[Any]:
    from app.bootstrap import build_spine
    from app.settings import Settings

    spine = build_spine(Settings(database_url=stage.database_url, log_sequencer="off", pool_size=1))
    try:
        yield spine
    finally:
        spine.close()


def _plan(root: Mapping[str, Any]) -> str:
    """Return indexes, rows read, pages of the database touched; and loudly what grows with the table."""
    nodes = list(_nodes(root))
    read = sum(_passed(node) for node in nodes if "Scan" in node["Node Type"])
    how = [node.get("Index Name") for node in nodes if node.get("Index Name")]
    how += [f"SCAN of {node['Relation Name']}" for node in nodes if node["Node Type"] == "Seq Scan"]
    how += [
        f"{node['Node Type'].upper()} of {_passed(node['Plans'][0])}"
        for node in nodes
        if "Sort" in node["Node Type"]
    ]
    blocks = root["Shared Hit Blocks"] + root["Shared Read Blocks"]
    alarm = "GROWS WITH THE TABLE: " if read > MOST else ""
    return f"{alarm}{', '.join(dict.fromkeys(how))}, {read} rows, {blocks} blocks"


def _passed(node: Mapping[str, Any]) -> int:
    """Return how many rows a node looked at, those that it did not return included."""
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return int((node["Actual Rows"] + removed) * node["Actual Loops"])


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _told(asked: Mapping[str, str]) -> str:
    words = [f"{name}={value}" for name, value in asked.items() if name != "cursor"]
    return " ".join([*words, "in the middle"] if "cursor" in asked else words or ["first page"])


def _as_text(part: Any) -> Any:
    from app.kernel.clock import format_time

    return format_time(part) if isinstance(part, datetime) else part


def _write_one_of_each(stage: Stage) -> None:
    """Start a run, check, search, end the run, so that each list has a row to be copied."""
    http, run_id = stage.http(), stage.start_run()
    action = {"kind": "TOOL", "name": "send_draft", "target": "customer", "params": {"n": 1}}
    http.call("POST", f"/api/v1/runs/{run_id}/checks", {"action": action})
    access = {"run_id": run_id, "plane_id": stage.plane_id, "action": "search", "payload": {"text": "w1"}}
    http.call("POST", "/api/v1/retrieval/access", access)
    http.call("POST", f"/api/v1/runs/{run_id}/complete", {"status": "succeeded"})


RUNS = Rows(
    "runs",
    ("started_at", "run_id"),
    {
        "run_id": _id("run"),
        "run_no": "n",
        "agent_id": "'agent-' || n % 100",
        **_rare("status", "'failed'"),
        **dict.fromkeys(("started_at", "completed_at", "last_seen_at", "created_at"), _TIME),
        "deadline_at": f"{_TIME} + interval '1 hour'",
    },
)
DECISIONS = Rows(
    "decision_records",
    ("decided_at", "decision_id"),
    {
        "decision_id": _id("dec"),
        "run_id": _id("run", "n % 1000"),
        **_rare("decision_outcome", "'BLOCKED'"),
        "idempotency_key": "NULL::text",
        **dict.fromkeys(("decided_at", "created_at"), _TIME),
    },
)
AUDIT = Rows(
    "audit_ledger",
    ("created_at", "entry_id"),
    {
        "entry_id": _id("aud"),
        "run_id": _id("run", "n % 1000"),
        "entity_type": "'POLICY_RULE'",
        **_rare("event_type", "'PolicyRuleRetired'", "'PolicyRuleModified'"),
        **_rare("actor_type", "'AGENT'", "'HUMAN'"),
        **_rare("actor_id", "'rare'", "'person-' || n % 100"),
        "created_at": _TIME,
    },
)
EVIDENCE = Rows(
    "retrieval_evidence",
    ("requested_at", "evidence_id"),
    {
        "evidence_id": _id("ev"),
        "run_id": _id("run", "n % 1000"),
        **_rare("outcome", "'DENIED'"),
        **_rare("reason_code", "'POLICY_REVOKED'"),
        **_rare("documents", "'[]'"),
        **_rare("doc_count", "0"),
        **_rare("token_count", "0"),
        **_rare("bytes_returned", "0"),
        **dict.fromkeys(("requested_at", "completed_at", "created_at"), _TIME),
    },
)
OF_A_RUN = {"run_id": _A_RUN}
WORKS: Sequence[Any] = (
    Pages(
        "runs.list",
        "/api/v1/runs",
        RUNS,
        ({"status": "succeeded"}, {"status": "failed"}, {"agent_id": "agent-7"}),
    ),
    Pages(
        "decisions.list",
        "/api/v1/decisions",
        DECISIONS,
        ({"causal_role": "IN_RUN"}, {"outcome": "BLOCKED"}, OF_A_RUN),
    ),
    Pages(
        "logs.audit_list",
        "/api/v1/logs/audit",
        AUDIT,
        (
            {"entity_type": "POLICY_RULE"},
            {"event_type": "PolicyRuleRetired"},
            {"actor_type": "AGENT"},
            {"actor_id": "rare"},
            OF_A_RUN,
            {"created_before": "2025-01-03T00:00:00Z"},
        ),
    ),
    Pages(
        "retrieval.evidence.list",
        "/api/v1/retrieval/evidence",
        EVIDENCE,
        (
            {"outcome": "ALLOWED"},
            {"outcome": "DENIED"},
            {"reason_code": "POLICY_REVOKED"},
            OF_A_RUN,
            {"from": "2025-01-02T00:00:00Z", "to": "2025-01-02T00:10:00Z"},
        ),
    ),
)
