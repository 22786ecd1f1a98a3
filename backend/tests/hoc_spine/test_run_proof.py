"""The proof of a run: VERIFIED as it was recorded, FAILED with the right place for any altered byte."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from app.hoc_spine.spine import Spine
from tests.factories.tenants import Tenant
from tests.factories.worlds import World, make_world, start_run, step, without_triggers

HEX = "0" * 64


@pytest.fixture
def ended(spine: Spine, tenant: Tenant) -> World:
    """A completed run of five steps with one allowed and one denied access."""
    world = make_world(spine, tenant)
    world.access()
    world.append(*(step(index) for index in range(3)))
    world.access(purpose="marketing")
    world.append(*(step(index) for index in range(3, 5)))
    world.complete()
    return world


def integrity(world: World) -> Any:
    """Return the integrity of the run's proof."""
    return world.proof().integrity


def damage(connection: sa.Connection, world: World, *statements: str, **parameters: Any) -> Any:
    """Damage the database behind the triggers and return the integrity that the proof then states."""
    without_triggers(connection, *statements, t=world.tenant.tenant_id, r=world.run_id, **parameters)
    return integrity(world)


def test_a_completed_run_is_verified(ended: World) -> None:
    proof = ended.proof()
    assert proof.integrity.verification_status == "VERIFIED"
    assert proof.integrity.chain_length == 5
    assert proof.integrity.root_hash == proof.aos_traces[0].root_hash
    assert (proof.facts.status, proof.facts.expected) == ("COMPLETE", proof.facts.found)
    # The goal of the run and five steps, at least.
    assert (proof.values.intact >= 6, proof.values.tampered, proof.values.erased) == (True, 0, 0)
    assert proof.log.status == "UNSIGNED"


def test_a_run_without_steps_has_nothing_to_verify(tenant: Tenant) -> None:
    run_id = start_run(tenant)
    found = tenant.call("runs.proof", {"run_id": run_id}).integrity
    assert (found.verification_status, found.failure_reason) == ("UNSUPPORTED", "No steps to verify")


def test_an_open_trace_is_not_sealed_yet(spine: Spine, tenant: Tenant) -> None:
    world = make_world(spine, tenant)
    world.append(step(0))
    found = integrity(world)
    assert (found.verification_status, found.failure_reason) == ("UNSUPPORTED", "Trace not sealed")


STEP_COLUMNS = {
    "skill_id": "'x'",
    "skill_name": "'x'",
    "status": "'failure'",
    "outcome_category": "'x'",
    "outcome_code": "'x'",
    "cost_micro": "7",
    "duration_us": "7",
    "retry_count": "7",
    "input_hash": f"'{HEX}'",
    "output_hash": f"'{HEX}'",
    "rng_state_before": "'x'",
    "replay_behavior": "'check'",
    "level": "'WARN'",
    "side_effect": "true",
    "reservation_id": "'x'",
    "usage": "'[]'",
    "external_id": "'x'",
    "redactions": "7",
    "redaction_version": "'x'",
    "occurred_at": "'2020-01-01T00:00:00.000000Z'",
    "recorded_at": "'2020-01-01T00:00:00.000000Z'",
    "protected_commit": "'c1:x'",
}


@pytest.mark.parametrize(("column", "value"), STEP_COLUMNS.items())
def test_an_altered_column_of_a_step_is_found_at_its_index(
    ended: World, second_connection: sa.Connection, column: str, value: str
) -> None:
    found = damage(
        second_connection,
        ended,
        f"UPDATE aos_trace_steps SET {column} = {value} WHERE tenant_id = :t AND step_index = 3",
    )
    assert (found.verification_status, found.failure_code, found.failed_step_index) == (
        "FAILED",
        "FIELD_MISMATCH",
        3,
    )
    assert found.failure_reason.startswith("FIELD_MISMATCH at step 3 of trace ")


# What each engine lets somebody with a shell put where a column's own type would never read it back.
UNREADABLE = {
    "sqlite": {
        "skill_name": "CAST(X'61FF62' AS TEXT)",
        "external_id": "CAST(X'FF' AS TEXT)",
        "cost_micro": "'many'",
        "redactions": "X'FF'",
        "side_effect": "'perhaps'",
        "usage": "CAST(X'FF' AS TEXT)",
        "occurred_at": "'2020-01-01T00:00:00.000000z'",
        "recorded_at": "CAST(X'FF' AS TEXT)",
    },
    "postgresql": {"occurred_at": "'infinity'", "recorded_at": "'0044-03-15 BC'"},
}


def test_a_value_that_cannot_be_read_back_is_an_altered_column(
    ended: World, second_connection: sa.Connection, dialect: str
) -> None:
    where = "WHERE tenant_id = :t AND step_index = 3"
    for column, value in UNREADABLE[dialect].items():
        kept = second_connection.execute(
            sa.text(f"SELECT {column} FROM aos_trace_steps {where}"), {"t": ended.tenant.tenant_id}
        ).scalar_one()
        found = damage(second_connection, ended, f"UPDATE aos_trace_steps SET {column} = {value} {where}")
        assert (found.failure_code, found.failed_step_index) == ("FIELD_MISMATCH", 3), column
        restored = damage(
            second_connection, ended, f"UPDATE aos_trace_steps SET {column} = :kept {where}", kept=kept
        )
        assert restored.verification_status == "VERIFIED", column


def test_a_damaged_row_that_cannot_be_shown_is_left_out(
    ended: World, second_connection: sa.Connection, dialect: str, client: TestClient
) -> None:
    bad = "CAST(X'FF' AS TEXT)" if dialect == "sqlite" else "'damaged'"
    damage(
        second_connection,
        ended,
        f"UPDATE aos_trace_steps SET skill_name = {bad}, params = {bad}"
        " WHERE tenant_id = :t AND step_index = 3",
    )
    answer = client.get(
        f"/api/v1/runs/{ended.run_id}/proof?include_payloads=true", headers=ended.tenant.headers()
    )
    assert answer.status_code == 200
    proof = answer.json()
    assert proof["integrity"]["failed_step_index"] == 3
    assert len(proof["aos_trace_steps"]) == (4 if dialect == "sqlite" else 5)
    assert len(proof["raw_logs"]) == 5


@pytest.mark.parametrize(
    ("column", "code"),
    [("started_at", "GENESIS_MISMATCH"), ("completed_at", "SEAL_MISMATCH"), ("sealed_at", "SEAL_MISMATCH")],
)
def test_a_time_of_a_trace_that_cannot_be_read_back_is_found(
    ended: World, second_connection: sa.Connection, dialect: str, column: str, code: str
) -> None:
    value = "'yesterday'" if dialect == "sqlite" else "'infinity'"
    found = damage(second_connection, ended, f"UPDATE aos_traces SET {column} = {value} WHERE tenant_id = :t")
    assert (found.verification_status, found.failure_code) == ("FAILED", code)


@pytest.mark.parametrize("column", ["params", "outcome_data", "protected_salt"])
def test_an_altered_value_no_longer_opens_its_commitment(
    ended: World, second_connection: sa.Connection, column: str
) -> None:
    value = HEX if column == "protected_salt" else '{"n":99}'
    found = damage(
        second_connection,
        ended,
        f"UPDATE aos_trace_steps SET {column} = :v WHERE tenant_id = :t AND step_index = 2",
        v=value,
    )
    assert (found.failure_code, found.failed_step_index) == ("VALUE_TAMPERED", 2)


@pytest.mark.parametrize(
    ("statement", "code", "index"),
    [
        ("DELETE FROM aos_trace_steps WHERE tenant_id = :t AND step_index = 4", "TRUNCATED", 4),
        ("DELETE FROM aos_trace_steps WHERE tenant_id = :t AND step_index >= 2", "TRUNCATED", 2),
        ("DELETE FROM aos_trace_steps WHERE tenant_id = :t", "TRUNCATED", 0),
        ("DELETE FROM aos_trace_steps WHERE tenant_id = :t AND step_index = 1", "GAP", 1),
        (
            "UPDATE aos_trace_steps SET prev_hash = :h WHERE tenant_id = :t AND step_index = 3",
            "LINK_MISMATCH",
            3,
        ),
        ("UPDATE aos_traces SET root_hash = :h WHERE tenant_id = :t", "SEAL_MISMATCH", None),
        ("UPDATE aos_traces SET step_count = 4 WHERE tenant_id = :t", "SEAL_MISMATCH", None),
        ("UPDATE aos_traces SET genesis_hash = :h WHERE tenant_id = :t", "GENESIS_MISMATCH", None),
        ("UPDATE aos_traces SET seed = 1 WHERE tenant_id = :t", "GENESIS_MISMATCH", None),
        (
            "UPDATE log_leaves SET statement = '(' || statement WHERE run_id = :r AND fact_no = 3",
            "LOG_MISMATCH",
            None,
        ),
        (
            "UPDATE log_leaves SET statement = '(' || statement WHERE run_id = :r AND type = 'run.completed'",
            "CLOSURE_MISMATCH",
            None,
        ),
        (
            "UPDATE log_leaves SET statement = replace(statement, 'support', 'supporT') WHERE run_id = :r",
            "LOG_MISMATCH",
            None,
        ),
        (
            "DELETE FROM log_leaves WHERE tenant_id = :t AND run_id = :r AND type = 'retrieval.evidence'",
            "FACT_GAP",
            None,
        ),
        (
            "UPDATE run_fact_counters SET fact_count = fact_count + 1 WHERE tenant_id = :t AND run_id = :r",
            "FACT_GAP",
            None,
        ),
        (
            "UPDATE run_fact_counters SET closed = false WHERE tenant_id = :t AND run_id = :r",
            "CLOSURE_MISMATCH",
            None,
        ),
    ],
)
def test_damage_is_found_with_its_code(
    ended: World, second_connection: sa.Connection, statement: str, code: str, index: int | None
) -> None:
    parameters = {"h": HEX} if ":h" in statement else {}
    found = damage(second_connection, ended, statement, **parameters)
    assert (found.verification_status, found.failure_code, found.failed_step_index) == ("FAILED", code, index)


def test_a_deleted_trace_is_missing(ended: World, second_connection: sa.Connection) -> None:
    found = damage(
        second_connection,
        ended,
        "DELETE FROM aos_trace_steps WHERE tenant_id = :t",
        "DELETE FROM aos_traces WHERE tenant_id = :t",
    )
    assert found.failure_code == "TRACE_MISSING"


def test_the_proof_covers_steps_that_it_does_not_list(ended: World, second_connection: sa.Connection) -> None:
    without_triggers(
        second_connection,
        "UPDATE aos_trace_steps SET skill_name = 'x' WHERE tenant_id = :t AND step_index = 4",
        t=ended.tenant.tenant_id,
    )
    proof = ended.proof(steps_limit=2)
    assert (len(proof.aos_trace_steps), proof.steps_truncated) == (2, True)
    assert proof.integrity.failure_code == "FIELD_MISMATCH"


def test_payloads_are_shown_only_when_asked_for(ended: World) -> None:
    assert ended.proof().raw_logs is None
    raw = ended.proof(include_payloads=True).raw_logs
    assert [log.params for log in raw] == [{"n": index} for index in range(5)]


def test_every_attempt_of_a_retried_run_is_proved(spine: Spine, tenant: Tenant) -> None:
    world = make_world(spine, tenant)
    world.append(step(0), step(1))
    tenant.call("runs.retry", {"run_id": world.run_id, "from_attempt": 1, "reason": "again"})
    world.append(step(0))
    world.complete()
    proof = world.proof()
    assert proof.integrity.verification_status == "VERIFIED"
    assert [(trace.attempt, trace.step_count) for trace in proof.aos_traces] == [(1, 2), (2, 1)]
    assert proof.integrity.root_hash == proof.aos_traces[1].root_hash


def test_a_late_fact_leaves_the_proof_verified(ended: World) -> None:
    payload = {
        "kind": "ACCESS",
        "name": "After the run",
        "effect": "DENY",
        "scope": "TENANT",
        "condition": "false",
    }
    ended.tenant.call("policies.rules.create", payload, run_id=ended.run_id)
    proof = ended.proof()
    assert (proof.integrity.verification_status, proof.facts.late) == ("VERIFIED", 1)


def test_a_damaged_or_missing_row_of_the_run_itself_is_an_answer_not_an_error(
    ended: World, second_connection: sa.Connection, dialect: str, client: TestClient
) -> None:
    bad = "'yesterday'" if dialect == "sqlite" else "'infinity'"
    for statement, code in (
        (f"UPDATE runs SET started_at = {bad} WHERE tenant_id = :t AND run_id = :r", "ROW_MISMATCH"),
        ("DELETE FROM runs WHERE tenant_id = :t AND run_id = :r", "ROW_MISSING"),
    ):
        damage(second_connection, ended, statement)
        answer = client.get(f"/api/v1/runs/{ended.run_id}/proof", headers=ended.tenant.headers())
        assert answer.status_code == 200
        found = answer.json()["integrity"]
        assert (found["verification_status"], found["failure_code"]) == ("FAILED", code)
    unknown = client.get("/api/v1/runs/run_unknown/proof", headers=ended.tenant.headers())
    assert (unknown.status_code, unknown.json()["code"]) == (404, "RUN_NOT_FOUND")
