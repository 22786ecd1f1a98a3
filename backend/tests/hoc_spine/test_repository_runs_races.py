"""Workflow runs: workers that race for a start, a lease, a step, an output, a manifest, an end; one wins."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.operation_registry import OperationResult
from tests.factories.repository_runs import artifact, call, changes, create, move, rows_of, running
from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run

WORKERS = 6
ROUNDS = range(3)


def race(acts: Sequence[Callable[[], OperationResult]]) -> list[OperationResult]:
    """Let all act at once and return their results, in order."""
    barrier = threading.Barrier(len(acts), timeout=20)

    def begin(act: Callable[[], OperationResult]) -> OperationResult:
        barrier.wait()
        return act()

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(begin, acts))


def outcomes(results: Sequence[OperationResult]) -> Counter[Any]:
    """Return how often each refusal, and each value of `changed`, came out."""
    return Counter(
        result.error_code or (result.data.changed if hasattr(result.data, "changed") else True)
        for result in results
    )


def acts_of(
    tenant: Tenant, operation: str, payloads: Sequence[dict[str, Any]]
) -> list[Callable[[], OperationResult]]:
    """Return one act for each payload."""
    return [lambda p=payload: tenant.dispatch(f"repository.{operation}", p) for payload in payloads]


@pytest.mark.parametrize("number", ROUNDS)
def test_of_many_workers_that_start_a_run_one_gets_it(tenant: Tenant, number: int) -> None:
    run_id = str(create(tenant, run_id=f"run-{number}").run_id)
    payload = {"run_id": run_id, "status": "running"}
    results = race(acts_of(tenant, "runs.transition", [payload] * WORKERS))
    assert outcomes(results) == {True: 1, False: WORKERS - 1}
    assert call(tenant, "runs.get", {"run_id": run_id}).version == 2
    assert [record.action for record in changes(tenant)] == ["CREATED", "TRANSITIONED"]


@pytest.mark.parametrize("number", ROUNDS)
def test_of_many_workers_that_claim_a_run_one_holds_it(tenant: Tenant, number: int) -> None:
    run_id = str(create(tenant, run_id=f"run-{number}").run_id)
    payloads = [{"run_id": run_id, "worker": f"w{n}", "lease_seconds": 60} for n in range(WORKERS)]
    results = race(acts_of(tenant, "runs.claim", payloads))
    assert outcomes(results) == {True: 1, "LEASE_HELD": WORKERS - 1}
    (winner,) = (result.data.lease_owner for result in results if result.success)
    assert call(tenant, "runs.get", {"run_id": run_id}).lease_owner == winner


@pytest.mark.parametrize("number", ROUNDS)
def test_of_many_bodies_one_is_sealed(tenant: Tenant, second_connection: sa.Connection, number: int) -> None:
    run_id = running(tenant, run_id=f"run-{number}")
    move(tenant, run_id, "succeeded")
    payloads = [{"run_id": run_id, "environment": {"n": n // 2}} for n in range(WORKERS)]
    results = race(acts_of(tenant, "manifests.seal", payloads))
    assert outcomes(results) == {True: 1, False: 1, "SEALED": WORKERS - 2}
    assert len(rows_of(second_connection, "run_manifests", tenant)) == 1


@pytest.mark.parametrize("number", ROUNDS)
def test_a_revision_raced_for_has_one_producer(tenant: Tenant, number: int) -> None:
    made = artifact(tenant)
    runs = [running(tenant, run_id=f"run-{number}-{n}") for n in range(WORKERS)]
    ref = {"artifact_id": made.id, "revision": 1, "role": "r"}
    results = race(acts_of(tenant, "outputs.add", [{"run_id": run_id, **ref} for run_id in runs]))
    assert outcomes(results) == {True: 1, "ALREADY_PRODUCED": WORKERS - 1}
    totals = [call(tenant, "runs.get", {"run_id": run_id}).outputs_total for run_id in runs]
    assert sorted(totals) == [0] * (WORKERS - 1) + [1]


@pytest.mark.parametrize("number", ROUNDS)
def test_many_workers_make_and_start_a_step_once(tenant: Tenant, number: int) -> None:
    run_id = running(tenant, run_id=f"run-{number}")
    payload = {"run_id": run_id, "step_id": "s", "position": 0, "status": "running"}
    results = race(acts_of(tenant, "steps.put", [payload] * WORKERS))
    assert outcomes(results) == {True: 1, False: WORKERS - 1}
    done = {"run_id": run_id, "step_id": "s"}
    ends = [{**done, "status": status} for status in ("succeeded", "failed", "cancelled") * 2]
    results = race(acts_of(tenant, "steps.put", ends))
    (step,) = call(tenant, "steps.list", {"run_id": run_id}).items
    assert outcomes(results)[True] == 1
    assert outcomes(results)[False] == 1
    assert outcomes(results)["INVALID_TRANSITION"] == WORKERS - 2
    assert {r.data.step.status for r in results if r.success} == {step.status}
    assert call(tenant, "runs.get", {"run_id": run_id}).version == 4


@pytest.mark.parametrize("number", ROUNDS)
def test_steps_outputs_and_transitions_at_once_lose_no_version(tenant: Tenant, number: int) -> None:
    run_id = running(tenant, run_id=f"run-{number}")
    made = [artifact(tenant, f"a{n}") for n in range(3)]
    acts = acts_of(
        tenant, "steps.put", [{"run_id": run_id, "step_id": f"s{n}", "position": n} for n in range(3)]
    )
    refs = [{"run_id": run_id, "artifact_id": m.id, "revision": 1, "role": "r"} for m in made]
    acts += acts_of(tenant, "outputs.add", refs)
    acts += acts_of(tenant, "runs.transition", [{"run_id": run_id, "status": "waiting"}])
    results = race(acts)
    assert outcomes(results) == {True: 7}
    assert call(tenant, "runs.get", {"run_id": run_id}).version == 9
    versions = [record.new_version for record in changes(tenant) if record.entity_id == run_id]
    assert versions == sorted(set(versions))


@pytest.mark.parametrize("number", ROUNDS)
def test_equal_items_raced_for_make_one_bundle(tenant: Tenant, number: int) -> None:
    made = artifact(tenant, f"a{number}")
    payload = {"items": [{"artifact_id": made.id, "role": "source"}]}
    results = race(acts_of(tenant, "bundles.create", [payload] * WORKERS))
    assert Counter(result.unwrap().created for result in results) == {True: 1, False: WORKERS - 1}
    assert len({result.unwrap().id for result in results}) == 1


@pytest.mark.parametrize("number", range(8))
def test_a_workflow_run_made_while_its_governed_run_ends_is_refused_or_ended(
    tenant: Tenant, number: int
) -> None:
    governed = start_run(tenant, run_id=f"run-{number}")
    made, ended = race(
        [
            lambda: tenant.dispatch("repository.runs.create", {"operation": "x", "run_id": governed}),
            lambda: tenant.dispatch("runs.complete", {"run_id": governed, "status": "succeeded"}),
        ]
    )
    ended.unwrap()
    if made.error_code is None:
        assert call(tenant, "runs.get", {"run_id": governed}).status == "cancelled"
    else:
        assert made.error_code == "RUN_NOT_RUNNING"
        assert changes(tenant) == []


@pytest.mark.parametrize("number", range(6))
def test_an_output_raced_with_the_end_of_its_governed_run_is_a_fact_of_it_or_refused(
    tenant: Tenant, second_connection: sa.Connection, number: int
) -> None:
    governed = start_run(tenant, run_id=f"run-{number}")
    create(tenant, run_id=governed)
    move(tenant, governed, "running")
    made = artifact(tenant)
    ref = {"run_id": governed, "artifact_id": made.id, "revision": 1, "role": "r"}
    added, ended = race(
        [
            lambda: tenant.dispatch("repository.outputs.add", ref),
            lambda: tenant.dispatch("runs.complete", {"run_id": governed, "status": "succeeded"}),
        ]
    )
    ended.unwrap()
    leaves = rows_of(second_connection, "log_leaves", tenant, type="run.output")
    if added.error_code is None:
        assert [(leaf["run_id"], bool(leaf["late"])) for leaf in leaves] == [(governed, False)]
    else:
        assert (added.error_code, leaves) == ("RUN_NOT_RUNNING", [])
    assert tenant.call("runs.proof", {"run_id": governed}).facts.status == "COMPLETE"
