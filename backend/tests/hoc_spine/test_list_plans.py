"""Spine: a page of any list is read from an index in the order of its rows, whatever the tenant has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from app.hoc_spine.spine import Spine
from app.kernel.canonical_json import dumps
from app.kernel.pages import encode_cursor
from tests.factories.tenants import Tenant

MOMENT = "2026-01-01T00:00:00.000000Z"
# Lists newest first: the table, and each filter with its column, which an index has between tenant and order.
LISTS: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {
    "runs.list": (
        "runs",
        {
            "status": ("failed", "status"),
            "agent_id": ("a", "agent_id"),
            "project_id": ("p", "project_id"),
            "risk_level": ("VIOLATED", "risk_level"),
            "actor_type": ("HUMAN", "actor_type"),
            "parent_run_id": ("r", "parent_run_id"),
        },
    ),
    "decisions.list": (
        "decision_records",
        {
            "run_id": ("r", "run_id"),
            "decision_type": ("POLICY", "decision_type"),
            "outcome": ("BLOCKED", "decision_outcome"),
            "causal_role": ("IN_RUN", "causal_role"),
            "request_id": ("q", "request_id"),
        },
    ),
    "logs.audit_list": (
        "audit_ledger",
        {
            "event_type": ("RunHalted", "event_type"),
            "actor_type": ("AGENT", "actor_type"),
            "actor_id": ("a", "actor_id"),
            "run_id": ("r", "run_id"),
        },
    ),
    "retrieval.evidence.list": (
        "retrieval_evidence",
        {
            "run_id": ("r", "run_id"),
            "plane_id": ("p", "plane_id"),
            "outcome": ("FAILED", "outcome"),
            "reason_code": ("POLICY_REVOKED", "reason_code"),
            "query_hash": ("0" * 64, "query_hash"),
        },
    ),
    "incidents.list": (
        "incidents",
        {
            "lifecycle_state": ("RESOLVED", "lifecycle_state"),
            "severity": ("CRITICAL", "severity"),
            "category": ("POLICY_VIOLATION", "category"),
            "source_run_id": ("r", "source_run_id"),
            "signature": ("0" * 32, "recurrence_signature"),
        },
    ),
    "lessons.list": (
        "lessons_learned",
        {
            "lesson_type": ("FAILURE", "lesson_type"),
            "status": ("DISMISSED", "status"),
            "severity": ("CRITICAL", "severity"),
            "source_run_id": ("r", "source_run_id"),
        },
    ),
    "controls.breaches.list": (
        "limit_breaches",
        {"run_id": ("r", "run_id"), "limit_id": ("l", "limit_id")},
    ),
    "controls.overrides.list": (
        "limit_overrides",
        {"status": ("EXPIRED", "status"), "limit_id": ("l", "limit_id")},
    ),
    "policies.preventions.list": (
        "prevention_records",
        {"run_id": ("r", "run_id"), "rule_id": ("x", "rule_id")},
    ),
    "policies.evaluations.list": ("policy_evaluations", {}),
    "evidence.erasures.list": ("erasures", {"run_id": ("r", "run_id")}),
    "log.verifications.list": ("log_verifications", {}),
}

OTHER_ORDERS = {
    "retrieval.observations.list": "retrieval_observations",
    "activity.discovery.get_signals": "discovery_ledger",
    "knowledge.jobs.list": "knowledge_plane_jobs",
    "keys.list": "api_keys",
    "log.checkpoints.list": "log_checkpoints",
}
SORTED = "Sort|TEMP B-TREE|SCAN|Seq Scan"


def test_a_page_is_read_from_where_its_cursor_points(spine: Spine, tenant: Tenant) -> None:
    asked = [
        (operation, table, name, value, column)
        for operation, (table, filters) in LISTS.items()
        for name, (value, column) in {"limit": (50, "tenant_id"), **filters}.items()
    ]
    for operation, table, name, value, column in asked:
        with _explained(spine, table) as plans:
            cursor = _cursor(spine, tenant, operation, {name: value})
            tenant.call(operation, {name: value, "cursor": cursor})
        assert plans, (operation, name)
        told = f"{operation} by {name}: {plans[0]}"
        assert not re.search(SORTED, plans[0]), told
        if spine.transactions.dialect_name == "sqlite":
            assert re.search(rf"\b{column}=\? AND \(\w+,\w+\)<\(\?,\?\)", plans[0]), told
        else:
            # Of two indexes in the right order, an empty table gives no reason to prefer one.
            assert re.search(r"Index Cond: .*ROW\(\w+, \w+\) < ROW\(", plans[0]), told


def test_a_first_page_in_another_order_is_not_sorted(spine: Spine, tenant: Tenant) -> None:
    for operation, table in OTHER_ORDERS.items():
        with _explained(spine, table) as plans:
            tenant.call(operation)
        assert plans, operation
        assert not re.search(SORTED, plans[0]), plans[0]


def _cursor(spine: Spine, tenant: Tenant, operation: str, asked: dict[str, Any]) -> str:
    query = spine.registry.get(operation).input.model_validate(asked)
    filters = query.model_dump(mode="json", exclude={"limit", "cursor"})
    key = [MOMENT, "x"]
    return encode_cursor(dumps([tenant.tenant_id, operation, filters]), key)


@contextmanager
def _explained(spine: Spine, table: str) -> Iterator[list[str]]:
    """Collect the plans of the statements on a table; each list is all but empty, so size is no excuse."""
    plans: list[str] = []

    def explain(connection: sa.Connection, cursor: Any, statement: str, given: Any, *_: Any) -> None:
        if f"FROM {table}" not in statement:
            return
        if connection.dialect.name == "postgresql":
            for kind in ("seqscan", "bitmapscan", "sort", "incremental_sort"):
                cursor.execute(f"SET LOCAL enable_{kind} = off")
            lines = [row[0] for row in cursor.execute(f"EXPLAIN {statement}", given)]
        else:
            lines = [row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", given)]
        plans.append("\n".join(lines))

    engine = spine.transactions.engine
    sa.event.listen(engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        sa.event.remove(engine, "before_cursor_execute", explain)
