"""Workflow runs: creation, state table, leases, records, and the governed run of the same id."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.repository.engines.operation_runs import TRANSITIONS
from app.domains.repository.models.vocabulary import OperationRunStatus
from app.kernel.canonical_json import loads
from app.kernel.context import Precondition
from tests.factories.repository_runs import artifact, call, changes, create, move, refusal, rows_of
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run

STATUSES = [status.value for status in OperationRunStatus]
WAYS = {
    "pending": (),
    "running": ("running",),
    "waiting": ("running", "waiting"),
    "succeeded": ("running", "succeeded"),
    "failed": ("running", "failed"),
    "cancelled": ("cancelled",),
}
IF_MATCH_7 = {"precondition": Precondition(frozenset({7}))}


def run_in(tenant: Tenant, status: str, **members: Any) -> str:
    """Return a run of this status."""
    run_id = str(create(tenant, **members).run_id)
    for step in WAYS[status]:
        move(tenant, run_id, step)
    return run_id


def test_a_new_run_is_pending_and_reads_back_as_it_was_made(tenant: Tenant) -> None:
    made = tenant.call(
        "repository.runs.create",
        {
            "run_id": "run-1",
            "operation": "corpus.summarise",
            "parameters": {"a": 1.0, "b": [1e16, -0.0]},
            "trace_id": "trace-1",
        },
        actor_id="ada",
    )
    assert (made.status, made.version, made.attempt, made.requested_by) == ("pending", 1, 1, "ada")
    assert repr(made.parameters) == "{'a': 1.0, 'b': [1e+16, -0.0]}"
    assert (made.started_at, made.finished_at, made.governed) == (None, None, False)
    seen = tenant.call("repository.runs.get", {"run_id": "run-1"})
    assert dict(made).items() <= dict(seen).items()
    assert (seen.outputs, seen.outputs_total, seen.manifest_digest) == ([], 0, None)


def test_a_run_without_an_id_gets_one_and_the_trace_of_its_request(tenant: Tenant) -> None:
    traceparent = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    made = call(tenant, "runs.create", {"operation": "x"}, traceparent=traceparent)
    assert made.run_id.startswith("run_")
    assert made.trace_id == "ab" * 16


NO_RUNS = [
    ({"run_id": "a/b"}, "INVALID_ID"),
    ({"run_id": "taken"}, "DUPLICATE_ID"),
    ({"operation": ""}, "INVALID_INPUT"),
    ({"operation": " "}, "INVALID_INPUT"),
    ({"parameters": [1]}, "INVALID_METADATA"),
    ({"parameters": {"a": "\x00"}}, "INVALID_METADATA"),
    ({"bundle_id": "bnd_nobody"}, "REFERENCE_NOT_FOUND"),
    ({"bundle_id": "a\x01b"}, "REFERENCE_NOT_FOUND"),
    ({"parent_run_id": "nobody"}, "REFERENCE_NOT_FOUND"),
    ({"actor_id": "eve"}, "INVALID_INPUT"),
    ({"tenant_id": "t"}, "INVALID_INPUT"),
]


def test_what_makes_no_run_is_refused_and_leaves_nothing(tenant: Tenant) -> None:
    create(tenant, run_id="taken")
    for members, code in NO_RUNS:
        assert refusal(tenant, "runs.create", {"operation": "x", **members}) == code, members
        assert [record.entity_id for record in changes(tenant)] == ["taken"]


def test_a_run_id_is_the_tenants_own(tenant: Tenant, other_tenant: Tenant) -> None:
    create(tenant, run_id="run-1")
    assert create(other_tenant, run_id="run-1").attempt == 1
    for operation, payload in (
        ("runs.get", {}),
        ("runs.transition", {"status": "running"}),
        ("runs.claim", {"worker": "w", "lease_seconds": 1}),
        ("runs.release", {"worker": "w"}),
        ("runs.publish", {"status": "cancelled"}),
        ("steps.put", {"step_id": "s", "position": 0}),
        ("steps.list", {}),
        ("outputs.add", {"artifact_id": "a", "revision": 1, "role": "r"}),
        ("manifests.seal", {}),
        ("manifests.get", {}),
    ):
        for run_id in ("run-2", "a/b", "x\x00"):
            assert refusal(tenant, operation, {"run_id": run_id, **payload}) == "RUN_NOT_FOUND", operation


def test_a_retry_is_a_new_run_of_the_next_attempt(tenant: Tenant) -> None:
    create(tenant, run_id="first")
    second = create(tenant, run_id="second", parent_run_id="first")
    third = create(tenant, parent_run_id="second")
    assert (second.attempt, third.attempt, third.parent_run_id) == (2, 3, "second")


def test_lists_page_through_runs_by_status_and_operation(tenant: Tenant) -> None:
    made = [str(create(tenant, operation=f"op.{number % 2}").run_id) for number in range(5)]
    move(tenant, made[0], "running")
    assert [run.run_id for run in tenant.call("repository.runs.list", {}).items] == made
    assert [run.run_id for run in call(tenant, "runs.list", {"status": "running"}).items] == made[:1]
    assert [run.run_id for run in call(tenant, "runs.list", {"operation": "op.1"}).items] == made[1::2]
    seen, cursor = [], None
    while True:
        page = call(tenant, "runs.list", {"limit": 2} | ({"cursor": cursor} if cursor else {}))
        seen += [run.run_id for run in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == made
    first = call(tenant, "runs.list", {"limit": 2})
    wrong = {"limit": 2, "cursor": first.next_cursor, "status": "pending"}
    assert refusal(tenant, "runs.list", wrong) == "INVALID_CURSOR"


def test_the_state_table_of_runs_holds(tenant: Tenant) -> None:
    for current, wanted in itertools.product(STATUSES, STATUSES):
        run_id = run_in(tenant, current)
        before = call(tenant, "runs.get", {"run_id": run_id})
        result = tenant.dispatch("repository.runs.transition", {"run_id": run_id, "status": wanted})
        after = call(tenant, "runs.get", {"run_id": run_id})
        if current == wanted:
            assert (result.unwrap().changed, result.unwrap().change) == (False, None)
            assert after == before
        elif wanted in TRANSITIONS[OperationRunStatus(current)]:
            done = result.unwrap()
            assert (done.changed, done.run.version, after.status) == (True, before.version + 1, wanted)
            assert (after.finished_at is not None) == (wanted in ("succeeded", "failed", "cancelled"))
            assert (after.started_at is None) == (wanted == "cancelled" and current == "pending")
        else:
            assert result.error is not None
            assert result.error_code == "INVALID_TRANSITION"
            assert result.error.extra == {
                "from": current,
                "to": wanted,
                "allowed": list(TRANSITIONS[OperationRunStatus(current)]),
            }
            assert after == before


def test_the_state_table_is_the_one_that_is_documented() -> None:
    yes = {(a.value, b.value) for a, following in TRANSITIONS.items() for b in following}
    assert yes == {
        ("pending", "running"), ("pending", "cancelled"), ("running", "waiting"), ("running", "succeeded"),
        ("running", "failed"), ("running", "cancelled"), ("waiting", "running"), ("waiting", "failed"),
        ("waiting", "cancelled"),
    }  # fmt: skip


def test_a_transition_is_recorded_with_ledger_entry_and_fact(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    create(tenant, run_id="run-1")
    done = move(tenant, "run-1", "running", reason="go")
    records = changes(tenant)
    assert [(r.entity_type, r.action, r.old_version, r.new_version) for r in records] == [
        ("RUN", "CREATED", None, 1),
        ("RUN", "TRANSITIONED", 1, 2),
    ]
    assert done.change == records[-1]
    assert (records[-1].changed_fields, records[-1].reason) == (["status"], "go")
    assert records[-1].detail == {"from": "pending", "to": "running"}
    entry = tenant.call("logs.audit_list", {"entity_id": "run-1"}).items[0]
    assert (entry.event_type, entry.entity_type) == ("RepositoryRunChanged", "REPOSITORY")
    detail = tenant.call("logs.audit_get", {"entry_id": entry.entry_id})
    assert detail.before_state == {"version": 1}
    assert detail.after_state["change_hash"] == records[-1].hash
    leaves = rows_of(second_connection, "log_leaves", tenant, type="repository.changed")
    body = loads(max(leaves, key=lambda leaf: leaf["fact_id"])["statement"])
    assert body["body"]["change_head_hash"] == records[-1].hash
    assert (body["body"]["entity_type"], body["body"]["new_version"]) == ("RUN", 2)


def test_the_error_members_go_with_failed_alone(tenant: Tenant) -> None:
    run_id = run_in(tenant, "running")
    for members in ({"error_code": "X"}, {"error_message": "x"}):
        payload = {"run_id": run_id, "status": "succeeded", **members}
        assert refusal(tenant, "runs.transition", payload) == "INVALID_INPUT"
    failed = move(tenant, run_id, "failed", error_code="OUT_OF_PAPER", error_message="no paper").run
    assert (failed.error_code, failed.error_message) == ("OUT_OF_PAPER", "no paper")
    again = move(tenant, run_id, "failed", error_code="OTHER")
    assert (again.changed, again.run.error_code) == (False, "OUT_OF_PAPER")


def test_no_write_on_a_run_ignores_if_match(tenant: Tenant) -> None:
    run_id = run_in(tenant, "running")
    for operation, payload in (
        ("runs.transition", {"status": "waiting"}),
        ("runs.claim", {"worker": "w", "lease_seconds": 1}),
        ("runs.release", {"worker": "w"}),
        ("runs.publish", {"status": "failed"}),
        ("steps.put", {"step_id": "s", "position": 0}),
        ("outputs.add", {"artifact_id": "a", "revision": 1, "role": "r"}),
        ("manifests.seal", {}),
    ):
        result = tenant.dispatch(f"repository.{operation}", {"run_id": run_id, **payload}, **IF_MATCH_7)
        assert result.error is not None
        assert (result.error.code, result.error.extra) == ("VERSION_MISMATCH", {"current_version": 2})
    fits = {"precondition": Precondition(frozenset({2}))}
    assert call(tenant, "runs.claim", {"run_id": run_id, "worker": "w", "lease_seconds": 9}, **fits).changed
    waiting = {"run_id": run_id, "status": "waiting", "worker": "w"}
    assert call(tenant, "runs.transition", waiting, **fits).run.version == 3


def test_a_lease_is_held_renewed_released_and_runs_out(tenant: Tenant, clock: SteerableClock) -> None:
    clock.freeze()
    run_id = run_in(tenant, "running")
    held = claim(tenant, run_id, "w1", 60)
    assert (held.changed, held.lease_owner, held.version) == (True, "w1", 2)
    assert (held.lease_until - clock.now()).total_seconds() == 60
    result = tenant.dispatch("repository.runs.claim", {"run_id": run_id, "worker": "w2", "lease_seconds": 60})
    assert result.error is not None
    assert result.error.code == "LEASE_HELD"
    assert result.error.extra["lease_until"].endswith("Z")
    clock.advance(seconds=30)
    assert (claim(tenant, run_id, "w1", 60).lease_until - clock.now()).total_seconds() == 60
    assert refusal(tenant, "runs.release", {"run_id": run_id, "worker": "w2"}) == "LEASE_HELD"
    clock.advance(seconds=60)
    assert claim(tenant, run_id, "w2", 60).lease_owner == "w2"
    late = {"run_id": run_id, "worker": "w1", "lease_seconds": 1}
    assert refusal(tenant, "runs.claim", late) == "LEASE_HELD"
    released = tenant.call("repository.runs.release", {"run_id": run_id, "worker": "w2"})
    assert (released.changed, released.lease_owner, released.lease_until) == (True, None, None)
    assert call(tenant, "runs.release", {"run_id": run_id, "worker": "w2"}).changed is False
    assert call(tenant, "runs.get", {"run_id": run_id}).version == 2
    assert len(changes(tenant)) == 2


@pytest.mark.parametrize("seconds", [0, -1, 3601, 1.5, True, "9"])
def test_a_lease_lasts_between_a_second_and_an_hour(tenant: Tenant, seconds: Any) -> None:
    run_id = run_in(tenant, "pending")
    payload = {"run_id": run_id, "worker": "w", "lease_seconds": seconds}
    assert refusal(tenant, "runs.claim", payload) == "INVALID_INPUT"


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_an_ended_run_is_not_claimed_and_has_no_lease(tenant: Tenant, status: str) -> None:
    run_id = run_in(tenant, "running")
    claim(tenant, run_id, "w", 60)
    move(tenant, run_id, status, worker="w")
    seen = call(tenant, "runs.get", {"run_id": run_id})
    assert (seen.lease_owner, seen.lease_until) == (None, None)
    late = {"run_id": run_id, "worker": "w", "lease_seconds": 1}
    assert refusal(tenant, "runs.claim", late) == "RUN_FINISHED"


def test_a_worker_that_lost_its_lease_cannot_write(tenant: Tenant, clock: SteerableClock) -> None:
    clock.freeze()
    run_id = run_in(tenant, "pending")
    claim(tenant, run_id, "w1", 60)
    assert refusal(tenant, "runs.transition", {"run_id": run_id, "status": "running"}) == "LEASE_HELD"
    move(tenant, run_id, "running", worker="w1")
    clock.advance(seconds=61)
    claim(tenant, run_id, "w2", 60)
    step = {"run_id": run_id, "step_id": "s", "position": 0}
    for worker in ({}, {"worker": "w1"}):
        assert refusal(tenant, "steps.put", step | worker) == "LEASE_HELD"
        waiting = {"run_id": run_id, "status": "waiting", **worker}
        assert refusal(tenant, "runs.transition", waiting) == "LEASE_HELD"
        succeeded = {"run_id": run_id, "status": "succeeded", **worker}
        assert refusal(tenant, "runs.publish", succeeded) == "LEASE_HELD"
    assert call(tenant, "steps.put", step | {"worker": "w2"}).created
    assert move(tenant, run_id, "running").changed is False
    assert move(tenant, run_id, "cancelled").run.status == "cancelled"


def test_resumable_runs_are_those_that_nobody_holds(tenant: Tenant, clock: SteerableClock) -> None:
    clock.freeze()
    lost, held, free, other, waiting = (create(tenant, run_id=f"run-{n}").run_id for n in "edcba")
    for run_id in (lost, held, free, waiting):
        move(tenant, run_id, "running")
    move(tenant, waiting, "waiting")
    claim(tenant, lost, "w", 10)
    claim(tenant, held, "w", 60)
    assert [run.run_id for run in tenant.call("repository.runs.resumable", {}).items] == [waiting, free]
    clock.advance(seconds=10)
    assert [run.run_id for run in call(tenant, "runs.resumable").items] == [waiting, free, lost]
    seen, cursor = [], None
    for _ in range(3):
        page = call(tenant, "runs.resumable", {"limit": 1} | ({"cursor": cursor} if cursor else {}))
        seen += [run.run_id for run in page.items]
        cursor = page.next_cursor
    assert (seen, cursor) == ([waiting, free, lost], None)
    assert other not in seen


def claim(tenant: Tenant, run_id: str, worker: str, seconds: int) -> Any:
    """Claim a run."""
    return call(tenant, "runs.claim", {"run_id": run_id, "worker": worker, "lease_seconds": seconds})


def test_a_governed_run_and_a_workflow_run_of_one_id_are_one(tenant: Tenant) -> None:
    governed = start_run(tenant)
    made = create(tenant, run_id=governed)
    plain = create(tenant, run_id="plain")
    assert (made.governed, plain.governed) == (True, False)
    assert call(tenant, "runs.get", {"run_id": governed}).governed is True
    assert {run.run_id: run.governed for run in call(tenant, "runs.list").items} == {
        governed: True,
        "plain": False,
    }
    start_run(tenant, run_id="plain")
    assert move(tenant, "plain", "running").run.governed is True


@pytest.mark.parametrize("ending", ["complete", "halt", "cancel"])
def test_no_workflow_run_is_made_for_a_governed_run_that_has_ended(tenant: Tenant, ending: str) -> None:
    governed = start_run(tenant)
    members = {"status": "succeeded"} if ending == "complete" else {"reason": "enough"}
    tenant.call(f"runs.{ending}", {"run_id": governed, **members})
    assert refusal(tenant, "runs.create", {"operation": "x", "run_id": governed}) == "RUN_NOT_RUNNING"
    assert changes(tenant) == []


def test_the_end_of_a_governed_run_ends_its_workflow_run(tenant: Tenant) -> None:
    for status, ending in itertools.product(WAYS, ("succeeded", "failed", "halted", "cancelled")):
        governed = start_run(tenant)
        create(tenant, run_id=governed)
        for step in WAYS[status]:
            move(tenant, governed, step)
        if status in ("pending", "running", "waiting"):
            claim(tenant, governed, "w", 600)
        before = call(tenant, "runs.get", {"run_id": governed})
        records = len(changes(tenant))
        tenant.call("runs.complete", {"run_id": governed, "status": ending})
        after = call(tenant, "runs.get", {"run_id": governed})
        if status in ("succeeded", "failed", "cancelled"):
            assert after == before
            assert len(changes(tenant)) == records
            continue
        expected = ending if status == "running" and ending in ("succeeded", "failed") else "cancelled"
        assert (after.status, after.version) == (expected, before.version + 1)
        assert (after.finished_at is not None, after.lease_owner) == (True, None)
        (record,) = changes(tenant)[records:]
        assert (record.entity_id, record.action, record.run_id) == (governed, "TRANSITIONED", governed)
        proof = tenant.call("runs.proof", {"run_id": governed})
        assert proof.facts.status == "COMPLETE"
        assert proof.integrity.failure_code is None


def test_a_governed_run_past_its_deadline_ends_its_workflow_run_too(
    tenant: Tenant, clock: SteerableClock
) -> None:
    clock.freeze()
    governed = start_run(tenant, timeout_seconds=1)
    create(tenant, run_id=governed)
    move(tenant, governed, "running")
    clock.advance(seconds=2)
    context = tenant.context(door="worker", actor_type="SYSTEM", actor_id="worker")
    tenant.spine.dispatch("runs.expire", context, {}).unwrap()
    assert call(tenant, "runs.get", {"run_id": governed}).status == "failed"


def test_the_end_of_a_governed_run_that_fails_leaves_both_as_they_were(tenant: Tenant) -> None:
    governed = start_run(tenant)
    create(tenant, run_id=governed)
    payload = {"run_id": governed, "status": "succeeded", "expected_steps": 9}
    assert tenant.dispatch("runs.complete", payload).error_code == "STEP_COUNT_MISMATCH"
    assert call(tenant, "runs.get", {"run_id": governed}).status == "pending"


def test_every_write_of_a_run_may_name_the_governed_run_that_asks(tenant: Tenant) -> None:
    asking = start_run(tenant)
    create(tenant, run_id="run-1")
    made = artifact(tenant, "a", run_id=asking)
    call(tenant, "runs.transition", {"run_id": "run-1", "status": "running"}, run_id=asking)
    assert [record.run_id for record in changes(tenant)] == [None, asking, asking, asking]
    assert refusal(tenant, "runs.get", {"run_id": asking}) == "RUN_NOT_FOUND"
    assert made.version == 1
