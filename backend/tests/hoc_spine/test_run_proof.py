"""The proof of a run: VERIFIED as it was recorded, FAILED with the right place for any altered byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from app.domains.repository.models.runs import RunLeavings
from app.hoc_spine.coordinators.run_judgement import read_proof_facts
from app.hoc_spine.coordinators.run_proof import ProofInput, RunProof, prove_run
from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import SpineConnection
from tests.factories.databases import Databases, Dialect
from tests.factories.steering import SteerableClock, SteerableIds
from tests.factories.tampering import MOMENT, taken_back, unguard
from tests.factories.tenants import Tenant, make_tenant
from tests.factories.worlds import World, make_world, start_run, step, without_triggers

HEX = "0" * 64


def play(spine: Spine, tenant: Tenant) -> World:
    """Play a run of five steps with one allowed and one denied access to its end."""
    world = make_world(spine, tenant)
    world.access()
    world.append(*(step(index) for index in range(3)))
    world.access(purpose="marketing")
    world.append(*(step(index) for index in range(3, 5)))
    world.complete()
    return world


@dataclass
class Damaged:
    """One completed run for all damages of the module, each taken back, and the hand that does them."""

    world: World
    hand: sa.Connection
    leavings: RunLeavings

    def prove(self, *statements: str, steps_limit: int = 1000, **values: Any) -> RunProof:
        """Prove the run as it is after these statements, which no trigger stops, and take them back."""
        tenant_id, run_id = self.world.tenant.tenant_id, self.world.run_id
        with taken_back(self.hand) as connection:
            for statement in statements:
                given = {"t": tenant_id, "r": run_id, "h": HEX, **values}
                used = {name: value for name, value in given.items() if f":{name}" in statement}
                assert connection.execute(sa.text(statement), used).rowcount != 0, statement
            looking = SpineConnection(connection, connection.dialect.name)
            facts = read_proof_facts(looking, tenant_id=tenant_id, run_id=run_id, keys=None)
            assert facts is not None
            query = ProofInput(run_id=run_id, steps_limit=steps_limit)
            return prove_run(query, facts, repository=self.leavings, now=MOMENT)

    def found(self, *statements: str, **values: Any) -> tuple[str, str | None, int | None]:
        """Return status, code and step of the proof after these statements."""
        told = self.prove(*statements, **values).integrity
        return told.verification_status, told.failure_code, told.failed_step_index


@pytest.fixture(scope="module")
def ended(databases: Databases, dialect: Dialect) -> Iterator[Damaged]:
    """A completed run in a database without guards."""
    from app.bootstrap import build_spine
    from app.settings import Settings

    settings = Settings(database_url=databases.new(dialect), log_sequencer="off")
    spine = build_spine(settings, clock=SteerableClock(), ids=SteerableIds())
    engine = sa.create_engine(settings.database_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as hand:
        unguard(hand)
        world = play(spine, make_tenant(spine))
        yield Damaged(world, hand, world.proof().repository)
    engine.dispose()
    spine.close()


def test_a_completed_run_is_verified(ended: Damaged) -> None:
    proof = ended.world.proof()
    assert proof.integrity == ended.prove().integrity
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


def test_an_open_trace_is_not_sealed_yet(tenant: Tenant) -> None:
    world = World(tenant, "", "", start_run(tenant), {})
    world.append(step(0))
    found = world.proof().integrity
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


def test_an_altered_column_of_a_step_is_found_at_its_index(ended: Damaged) -> None:
    for column, value in STEP_COLUMNS.items():
        edit = f"UPDATE aos_trace_steps SET {column} = {value} WHERE tenant_id = :t AND step_index = 3"
        assert ended.found(edit) == ("FAILED", "FIELD_MISMATCH", 3), column
    reason = ended.prove(edit).integrity.failure_reason
    assert reason == f"FIELD_MISMATCH at step 3 of trace trace_{ended.world.run_id}"


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


def test_a_value_that_cannot_be_read_back_is_an_altered_column(ended: Damaged, dialect: str) -> None:
    for column, value in UNREADABLE[dialect].items():
        edit = f"UPDATE aos_trace_steps SET {column} = {value} WHERE tenant_id = :t AND step_index = 3"
        assert ended.found(edit) == ("FAILED", "FIELD_MISMATCH", 3), column
    assert ended.found() == ("VERIFIED", None, None)


def test_a_damaged_row_that_cannot_be_shown_is_left_out(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection, dialect: str, client: TestClient
) -> None:
    bad = "CAST(X'FF' AS TEXT)" if dialect == "sqlite" else "'damaged'"
    run_id = play(spine, tenant).run_id
    edit = f"UPDATE aos_trace_steps SET skill_name = {bad}, params = {bad}"
    without_triggers(second_connection, f"{edit} WHERE tenant_id = :t AND step_index = 3", t=tenant.tenant_id)
    answer = client.get(f"/api/v1/runs/{run_id}/proof?include_payloads=true", headers=tenant.headers())
    assert answer.status_code == 200
    proof = answer.json()
    assert proof["integrity"]["failed_step_index"] == 3
    assert len(proof["aos_trace_steps"]) == (4 if dialect == "sqlite" else 5)
    assert len(proof["raw_logs"]) == 5


def test_a_time_of_a_trace_that_cannot_be_read_back_is_found(ended: Damaged, dialect: str) -> None:
    value = "'yesterday'" if dialect == "sqlite" else "'infinity'"
    for column, code in {
        "started_at": "GENESIS_MISMATCH",
        "completed_at": "SEAL_MISMATCH",
        "sealed_at": "SEAL_MISMATCH",
    }.items():
        edit = f"UPDATE aos_traces SET {column} = {value} WHERE tenant_id = :t"
        assert ended.found(edit) == ("FAILED", code, None), column


def test_an_altered_value_no_longer_opens_its_commitment(ended: Damaged) -> None:
    for column in ("params", "outcome_data", "protected_salt"):
        value = HEX if column == "protected_salt" else '{"n":99}'
        edit = f"UPDATE aos_trace_steps SET {column} = :v WHERE tenant_id = :t AND step_index = 2"
        assert ended.found(edit, v=value) == ("FAILED", "VALUE_TAMPERED", 2), column


DAMAGES: list[tuple[str, str, int | None]] = [
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
]


def test_damage_is_found_with_its_code(ended: Damaged) -> None:
    for statement, code, index in DAMAGES:
        assert ended.found(statement) == ("FAILED", code, index), statement


def test_a_deleted_trace_is_missing(ended: Damaged) -> None:
    found = ended.found(
        "DELETE FROM aos_trace_steps WHERE tenant_id = :t", "DELETE FROM aos_traces WHERE tenant_id = :t"
    )
    assert found == ("FAILED", "TRACE_MISSING", None)


def test_the_proof_covers_steps_that_it_does_not_list(ended: Damaged) -> None:
    edit = "UPDATE aos_trace_steps SET skill_name = 'x' WHERE tenant_id = :t AND step_index = 4"
    proof = ended.prove(edit, steps_limit=2)
    assert (len(proof.aos_trace_steps), proof.steps_truncated) == (2, True)
    assert proof.integrity.failure_code == "FIELD_MISMATCH"


def test_payloads_are_shown_only_when_asked_for(ended: Damaged) -> None:
    assert ended.world.proof().raw_logs is None
    raw = ended.world.proof(include_payloads=True).raw_logs
    assert [log.params for log in raw] == [{"n": index} for index in range(5)]


def test_every_attempt_of_a_retried_run_is_proved(tenant: Tenant) -> None:
    world = World(tenant, "", "", start_run(tenant), {})
    world.append(step(0), step(1))
    tenant.call("runs.retry", {"run_id": world.run_id, "from_attempt": 1, "reason": "again"})
    world.append(step(0))
    world.complete()
    proof = world.proof()
    assert proof.integrity.verification_status == "VERIFIED"
    assert [(trace.attempt, trace.step_count) for trace in proof.aos_traces] == [(1, 2), (2, 1)]
    assert proof.integrity.root_hash == proof.aos_traces[1].root_hash


def test_a_late_fact_leaves_the_proof_verified(tenant: Tenant) -> None:
    ended = World(tenant, "", "", start_run(tenant), {})
    ended.append(step(0))
    ended.complete()
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
    tenant: Tenant, second_connection: sa.Connection, dialect: str, client: TestClient
) -> None:
    ended = World(tenant, "", "", start_run(tenant), {})
    ended.append(step(0))
    ended.complete()
    bad = "'yesterday'" if dialect == "sqlite" else "'infinity'"
    for statement, code in (
        (f"UPDATE runs SET started_at = {bad} WHERE tenant_id = :t AND run_id = :r", "ROW_MISMATCH"),
        ("DELETE FROM runs WHERE tenant_id = :t AND run_id = :r", "ROW_MISSING"),
    ):
        without_triggers(second_connection, statement, t=tenant.tenant_id, r=ended.run_id)
        answer = client.get(f"/api/v1/runs/{ended.run_id}/proof", headers=ended.tenant.headers())
        assert answer.status_code == 200
        found = answer.json()["integrity"]
        assert (found["verification_status"], found["failure_code"]) == ("FAILED", code)
    unknown = client.get("/api/v1/runs/run_unknown/proof", headers=ended.tenant.headers())
    assert (unknown.status_code, unknown.json()["code"]) == (404, "RUN_NOT_FOUND")
