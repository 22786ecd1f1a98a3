"""Database: what the tables of runs, traces and steps refuse, whoever asks."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from tests.factories.tenants import Tenant

START: dict[str, Any] = {
    "run_id": "r-1",
    "agent_id": "agent-1",
    "goal": "Summarise",
    "actor_type": "HUMAN",
    "actor_id": "user-7",
    "origin_system_id": "crm",
}
STEP = {"step_index": 0, "skill_id": "s", "skill_name": "search", "status": "success"}


class Rows:
    """Raw statements on one tenant's rows, as somebody with the owner's rights would write them."""

    def __init__(self, connection: sa.Connection, tenant: Tenant) -> None:
        self.connection = connection
        self.tenant_id = tenant.tenant_id
        if connection.dialect.name == "sqlite":
            connection.execute(sa.text("PRAGMA foreign_keys = ON"))

    def one(self, table: str, where: str = "1 = 1") -> dict[str, Any]:
        query = sa.text(f"SELECT * FROM {table} WHERE tenant_id = :t AND {where}")
        return dict(self.connection.execute(query, {"t": self.tenant_id}).mappings().one())

    def update(self, table: str, where: str = "1 = 1", **values: Any) -> int:
        changes = ", ".join(f'"{name}" = :{name}' for name in values)
        query = sa.text(f"UPDATE {table} SET {changes} WHERE tenant_id = :t AND {where}")
        return self.connection.execute(query, {"t": self.tenant_id, **values}).rowcount

    def copy(self, table: str, original: dict[str, Any], /, **values: Any) -> None:
        row = original | values
        names = ", ".join(f'"{name}"' for name in row)
        marks = ", ".join(f":{name}" for name in row)
        self.connection.execute(sa.text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), row)

    def delete(self, table: str) -> None:
        self.connection.execute(sa.text(f"DELETE FROM {table} WHERE tenant_id = :t"), {"t": self.tenant_id})


@pytest.fixture
def rows(tenant: Tenant, second_connection: sa.Connection) -> Rows:
    tenant.call("runs.start", START)
    tenant.call("traces.steps.append", {"run_id": "r-1", "steps": [STEP, STEP | {"step_index": 1}]})
    return Rows(second_connection, tenant)


@pytest.mark.parametrize(
    "change",
    [
        {"agent_id": "other"},
        {"actor_type": "SYSTEM", "actor_id": None},
        {"actor_id": "x"},
        {"origin_system_id": "x"},
    ],
)
def test_attribution_never_changes(rows: Rows, change: dict[str, Any]) -> None:
    with pytest.raises(sa.exc.IntegrityError, match="R6 agent_id, R7 actor_type and actor_id, R8 origin"):
        rows.update("runs", **change)


@pytest.mark.parametrize(
    "name",
    [
        "run_no",
        "project_id",
        "parent_run_id",
        "goal",
        "labels",
        "provider_type",
        "model",
        "max_attempts",
        "policy_snapshot_id",
        "authorization",
        "start_digest",
        "created_by_key",
        "request_id",
        "traceparent",
        "subject_ref",
    ],
)
def test_what_a_run_began_with_never_changes(rows: Rows, name: str) -> None:
    value = 17 if name in ("run_no", "max_attempts") else "changed"
    with pytest.raises(sa.exc.IntegrityError, match="never change"):
        rows.update("runs", **{name: value})


@pytest.mark.parametrize(
    "change",
    [
        {"agent_id": " "},
        {"agent_id": "legacy-unknown"},
        {"origin_system_id": ""},
        {"origin_system_id": "legacy-migration"},
        {"actor_type": "AGENT"},
        {"actor_type": "SYSTEM"},
        {"actor_id": None},
        {"is_synthetic": True},
        {"status": "succeeded"},
        {"termination_reason": "completed"},
        {"attempt": 4},
        {"policy_snapshot_id": "snap_none"},
        {"parent_run_id": "none"},
        {"run_no": 1},
        {"source": "FAX"},
        {"risk_level": "LOW"},
    ],
)
def test_a_run_that_breaks_a_rule_cannot_be_inserted(rows: Rows, change: dict[str, Any]) -> None:
    valid = rows.one("runs") | {"run_id": "r-2", "run_no": 2}
    with pytest.raises(sa.exc.IntegrityError):
        rows.copy("runs", valid, **change)
    rows.copy("runs", valid)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "failed"},
        {"attempt": 2},
        {"termination_reason": "timeout"},
        {"stopped_at_step": 1},
        {"violation_rule_id": "rule_1"},
        {"error_code": "X"},
        {"error_message": "x"},
        {"complete_digest": "x"},
        {"protected_salt": "x"},
        {"protected_commit": "x"},
        {"risk_level": "NEAR_THRESHOLD"},
        {"policy_violation": False},
        {"policy_draft_count": 0},
        {"incident_count": 1},
    ],
)
def test_an_ended_run_changes_only_upwards_in_its_projections(
    rows: Rows, tenant: Tenant, change: dict[str, Any]
) -> None:
    tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    up = {"risk_level": "AT_RISK", "policy_violation": True, "policy_draft_count": 1, "incident_count": 2}
    assert rows.update("runs", **up) == 1
    with pytest.raises(sa.exc.IntegrityError, match="RUN_TERMINAL"):
        rows.update("runs", **change)
    assert rows.update("runs", **up, updated_at=rows.one("runs")["updated_at"]) == 1
    assert rows.update("runs", risk_level="VIOLATED") == 1


def test_an_attempt_only_rises(rows: Rows, tenant: Tenant) -> None:
    tenant.call("runs.retry", {"run_id": "r-1", "from_attempt": 1, "reason": "again"})
    with pytest.raises(sa.exc.IntegrityError, match="attempt only rises"):
        rows.update("runs", attempt=1)


@pytest.mark.parametrize(
    "table", ["runs", "run_fact_counters", "aos_traces", "aos_trace_steps", "policy_evaluations"]
)
def test_nothing_is_deleted(rows: Rows, tenant: Tenant, dialect: str, table: str) -> None:
    tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    with pytest.raises(sa.exc.IntegrityError, match="never deleted"):
        rows.delete(table)
    if dialect == "postgresql":
        with pytest.raises(sa.exc.DBAPIError, match="never deleted"):
            rows.connection.execute(sa.text(f"TRUNCATE {table} CASCADE"))


@pytest.mark.parametrize("table", ["aos_trace_steps", "policy_evaluations"])
def test_append_only_rows_never_change(rows: Rows, tenant: Tenant, table: str) -> None:
    tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    for name, value in rows.one(
        table, "1 = 1" if table == "policy_evaluations" else "step_index = 0"
    ).items():
        if name != "tenant_id":
            with pytest.raises(sa.exc.IntegrityError, match="append-only"):
                rows.update(table, **{name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genesis_hash": "x"}, "never change"),
        ({"attempt": 2}, "never change"),
        ({"seed": 1}, "never change"),
        ({"step_count": 1}, "only rise"),
        ({"cost_micro": -1}, "only rise"),
        ({"outcome": "success"}, "ck_aos_traces_sealed"),
        ({"root_hash": "x"}, "ck_aos_traces_sealed"),
        ({"sealed_at": "2026-01-01T00:00:00.000000Z"}, "ck_aos_traces_sealed"),
    ],
)
def test_an_open_trace_only_moves_forward(rows: Rows, change: dict[str, Any], message: str) -> None:
    with pytest.raises(sa.exc.IntegrityError, match=message):
        rows.update("aos_traces", **change)
    assert rows.update("aos_traces", cost_micro=5, input_tokens=3) == 1
    with pytest.raises(sa.exc.IntegrityError, match="only rise"):
        rows.update("aos_traces", input_tokens=None)


def test_a_seal_takes_the_head_and_is_set_once(rows: Rows) -> None:
    moment = "2026-01-01T00:00:00.000000Z"
    seal = {"status": "SEALED", "outcome": "success", "completed_at": moment, "sealed_at": moment}
    head = rows.one("aos_traces")["head_hash"]
    for wrong in (
        {"root_hash": "x"},
        {"root_hash": "x", "head_hash": "x"},
        {"root_hash": head, "step_count": 3},
    ):
        with pytest.raises(sa.exc.IntegrityError, match="root_hash equals head_hash"):
            rows.update("aos_traces", **seal, **wrong)
    assert rows.update("aos_traces", **seal, root_hash=head) == 1
    for change in ({"status": "OPEN"}, {"outcome": "failure"}, {"cost_micro": 9}, {"version": 9}):
        with pytest.raises(sa.exc.IntegrityError, match="TRACE_SEALED"):
            rows.update("aos_traces", **change)


def test_a_trace_begins_open_and_empty(rows: Rows) -> None:
    valid = rows.one("aos_traces")
    valid |= {"trace_id": "trace_r-1.2", "attempt": 2, "step_count": 0, "head_hash": valid["genesis_hash"]}
    for change in ({"step_count": 1}, {"head_hash": "x"}):
        with pytest.raises(sa.exc.IntegrityError, match="begins OPEN"):
            rows.copy("aos_traces", valid, **change)
    rows.copy("aos_traces", valid)


@pytest.mark.parametrize(
    "change",
    [
        {"step_index": 3},
        {"step_index": 1},
        {"prev_hash": "x"},
        {"prev_hash": "genesis"},
        {"prev_hash": "first"},
    ],
)
def test_a_step_enters_only_at_the_end_of_the_chain(rows: Rows, change: dict[str, Any]) -> None:
    last = rows.one("aos_trace_steps", "step_index = 1")
    named = {"genesis": rows.one("aos_traces")["genesis_hash"], "first": last["prev_hash"]}
    change = {name: named.get(value, value) for name, value in change.items()}
    valid = last | {"step_index": 2, "prev_hash": last["step_hash"], "step_hash": "next"}
    with pytest.raises(sa.exc.IntegrityError):
        rows.copy("aos_trace_steps", valid, **change)
    rows.copy("aos_trace_steps", valid)


def test_a_broken_chain_is_refused_by_name(rows: Rows) -> None:
    last = rows.one("aos_trace_steps", "step_index = 1")
    with pytest.raises(sa.exc.IntegrityError, match="CHAIN_BROKEN"):
        rows.copy("aos_trace_steps", last, step_index=2, prev_hash="x", step_hash="next")
    with pytest.raises(sa.exc.IntegrityError, match="CHAIN_BROKEN"):
        rows.copy("aos_trace_steps", last, step_index=3, prev_hash=last["step_hash"], step_hash="next")


def test_a_second_step_without_a_moved_head_is_refused(rows: Rows, dialect: str) -> None:
    """A step beyond the head that the trace row knows would be covered by no fact."""
    last = rows.one("aos_trace_steps", "step_index = 1")
    rows.copy("aos_trace_steps", last, step_index=2, prev_hash=last["step_hash"], step_hash="a")
    third = {"step_index": 3, "prev_hash": "a", "step_hash": "b"}
    if dialect == "postgresql":
        with pytest.raises(sa.exc.IntegrityError, match="CHAIN_BROKEN"):
            rows.copy("aos_trace_steps", last, **third)


def test_no_step_enters_a_sealed_trace(rows: Rows, tenant: Tenant) -> None:
    tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    last = rows.one("aos_trace_steps", "step_index = 1")
    with pytest.raises(sa.exc.IntegrityError, match="TRACE_SEALED"):
        rows.copy("aos_trace_steps", last, step_index=2, prev_hash=last["step_hash"], step_hash="next")


def test_an_evaluation_without_its_leaf_is_not_committed(rows: Rows) -> None:
    run = rows.one("runs")
    row = {
        "tenant_id": rows.tenant_id,
        "evaluation_id": "e",
        "run_id": "r-1",
        "attempt": 1,
        "run_status": "failed",
        "outcome": "NOT_APPLICABLE",
        "policies_checked": 0,
        "confidence": 0,
        "outcome_kind": "NONE",
        "counts": "{}",
        "snapshot_id": run["policy_snapshot_id"],
        "created_at": run["created_at"],
        "fact_id": "fct_none",
    }
    with pytest.raises(sa.exc.IntegrityError, match=r"(?i)foreign key"):
        rows.copy("policy_evaluations", row)


def test_an_attempt_has_one_evaluation(rows: Rows, tenant: Tenant) -> None:
    tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    row = rows.one("policy_evaluations")
    with pytest.raises(sa.exc.IntegrityError, match=r"(?i)unique"):
        rows.copy("policy_evaluations", row, evaluation_id="other", fact_id="other")
