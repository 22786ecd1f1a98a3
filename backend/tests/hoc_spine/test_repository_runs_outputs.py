"""Workflow runs: steps, outputs, produced revisions, manifests, and their facts."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import pytest
import sqlalchemy as sa

from app.domains.repository.engines.workflow_steps import TRANSITIONS
from app.domains.repository.models.vocabulary import StepStatus
from app.kernel.canonical_json import dumps, loads
from tests.factories.repository_runs import (
    artifact,
    call,
    changes,
    create,
    move,
    refusal,
    rows_of,
    running,
)
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run

STEP_STATUSES = [status.value for status in StepStatus]
STEP_WAYS = {
    "pending": (),
    "running": ("running",),
    "succeeded": ("running", "succeeded"),
    "failed": ("running", "failed"),
    "skipped": ("skipped",),
    "cancelled": ("cancelled",),
}


def put(tenant: Tenant, run_id: str, step_id: str, **members: Any) -> Any:
    """Put a step."""
    return tenant.call("repository.steps.put", {"run_id": run_id, "step_id": step_id, **members})


def link(tenant: Tenant, run_id: str, made: Any, role: str = "summary", **members: Any) -> Any:
    """Link the head of an artifact to a run."""
    ref = {"artifact_id": made.id, "revision": made.head_revision, "role": role}
    return tenant.call("repository.outputs.add", {"run_id": run_id, **ref, **members})


def seal(tenant: Tenant, run_id: str, **members: Any) -> Any:
    """Seal the manifest of a run."""
    return tenant.call("repository.manifests.seal", {"run_id": run_id, **members})


def facts(connection: sa.Connection, tenant: Tenant, kind: str) -> list[Any]:
    """Return the statements of a type."""
    return [loads(row["statement"]) for row in rows_of(connection, "log_leaves", tenant, type=kind)]


def test_the_steps_of_a_new_run_are_there_by_position(tenant: Tenant) -> None:
    steps = [
        {"step_id": "b", "position": 2, "depends_on": ["a"], "inputs": {"n": 1.0}},
        {"step_id": "a", "position": 1},
    ]
    run_id = create(tenant, steps=steps).run_id
    page = tenant.call("repository.steps.list", {"run_id": run_id, "limit": 1})
    rest = tenant.call("repository.steps.list", {"run_id": run_id, "cursor": page.next_cursor})
    seen = [*page.items, *rest.items]
    assert [(s.step_id, s.status, s.attempt, s.depends_on) for s in seen] == [
        ("a", "pending", 1, []),
        ("b", "pending", 1, ["a"]),
    ]
    assert (seen[1].inputs, seen[1].outputs, seen[1].diagnostics) == ({"n": 1.0}, {}, [])
    assert rest.next_cursor is None


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        ([("a", 1, []), ("a", 2, [])], ["a"]),
        ([("a", 1, []), ("b", 1, [])], ["a", "b"]),
        ([("a", 1, ["x"])], ["a"]),
        ([("a", 1, ["a"])], ["a"]),
        ([("a", 1, ["b"]), ("b", 2, ["c"]), ("c", 3, ["a"]), ("d", 4, ["a"]), ("e", 5, [])], ["a", "b", "c"]),
    ],
)
def test_steps_that_contradict_one_another_are_refused(
    tenant: Tenant, steps: list[tuple[str, int, list[str]]], named: list[str]
) -> None:
    specs = [{"step_id": name, "position": at, "depends_on": others} for name, at, others in steps]
    result = tenant.dispatch("repository.runs.create", {"operation": "x", "steps": specs})
    assert result.error is not None
    assert (result.error.code, result.error.extra["steps"]) == ("INVALID_STEP", named)
    assert changes(tenant) == []


def test_the_state_table_of_steps_holds(tenant: Tenant) -> None:
    for current, wanted in itertools.product(STEP_STATUSES, STEP_STATUSES):
        run_id = running(tenant)
        put(tenant, run_id, "s", position=0)
        for way in STEP_WAYS[current]:
            put(tenant, run_id, "s", status=way)
        version = call(tenant, "runs.get", {"run_id": run_id}).version
        result = tenant.dispatch("repository.steps.put", {"run_id": run_id, "step_id": "s", "status": wanted})
        if current == wanted:
            assert (result.unwrap().changed, result.unwrap().version) == (False, version)
        elif wanted in TRANSITIONS[StepStatus(current)]:
            step = result.unwrap().step
            assert (step.status, result.unwrap().version) == (wanted, version + 1)
            assert step.attempt == (2 if (current, wanted) == ("failed", "running") else 1)
            assert (step.finished_at is None) == (wanted == "running")
        else:
            assert result.error is not None
            assert (result.error.code, result.error.extra["to"]) == ("INVALID_TRANSITION", wanted)
            assert call(tenant, "runs.get", {"run_id": run_id}).version == version


def test_a_step_is_put_piece_by_piece_and_only_changes_count(tenant: Tenant, clock: SteerableClock) -> None:
    clock.freeze()
    run_id = running(tenant)
    made = put(tenant, run_id, "s", position=3, inputs={"a": 1}, status="running")
    assert (made.created, made.changed, made.version, made.step.status) == (True, True, 3, "running")
    assert made.step.started_at == clock.now()
    remark = {"level": "warning", "code": "SLOW", "message": "slow", "at": "2026-01-02T03:04:05+02:00"}
    clock.advance(seconds=1)
    done = put(tenant, run_id, "s", outputs={"n": 2}, diagnostics=[remark], status="succeeded")
    assert (done.step.inputs, done.step.outputs) == ({"a": 1}, {"n": 2})
    assert done.step.diagnostics == [
        {**remark, "at": "2026-01-02T01:04:05.000000Z", "step_id": None, "data": None}
    ]
    assert done.step.finished_at == clock.now()
    same = put(tenant, run_id, "s", outputs={"n": 2}, diagnostics=[remark], position=3, depends_on=[])
    assert (same.created, same.changed, same.version) == (False, False, 4)
    assert len(changes(tenant)) == 2


NO_PUTS = [
    ({"step_id": "new"}, "INVALID_INPUT"),
    ({"step_id": "new", "position": -1}, "INVALID_INPUT"),
    ({"step_id": "new", "position": 2**31}, "INVALID_INPUT"),
    ({"step_id": "a/b", "position": 5}, "INVALID_ID"),
    ({"step_id": "new", "position": 1}, "INVALID_STEP"),
    ({"step_id": "new", "position": 5, "depends_on": ["nobody"]}, "INVALID_STEP"),
    ({"step_id": "new", "position": 5, "depends_on": ["new"]}, "INVALID_STEP"),
    ({"step_id": "new", "position": 5, "status": "succeeded"}, "INVALID_TRANSITION"),
    ({"step_id": "b", "position": 5}, "IMMUTABLE_FIELD"),
    ({"step_id": "b", "depends_on": []}, "IMMUTABLE_FIELD"),
    ({"step_id": "b", "position": None}, "INVALID_INPUT"),
    ({"step_id": "b", "inputs": None}, "INVALID_METADATA"),
    ({"step_id": "b", "outputs": [1]}, "INVALID_METADATA"),
    ({"step_id": "b", "diagnostics": [{"level": "info"}]}, "INVALID_INPUT"),
    ({"step_id": "done", "outputs": {"x": 1}}, "INVALID_TRANSITION"),
]


def test_a_put_that_does_not_fit_is_refused(tenant: Tenant) -> None:
    steps = [
        {"step_id": "a", "position": 0},
        {"step_id": "b", "position": 1, "depends_on": ["a"]},
        {"step_id": "done", "position": 2},
    ]
    run_id = create(tenant, steps=steps).run_id
    put(tenant, run_id, "done", status="skipped")
    for members, code in NO_PUTS:
        assert refusal(tenant, "steps.put", {"run_id": run_id, **members}) == code, members
        assert call(tenant, "runs.get", {"run_id": run_id}).version == 2


def test_an_ended_run_takes_no_step(tenant: Tenant) -> None:
    run_id = running(tenant)
    put(tenant, run_id, "s", position=0)
    move(tenant, run_id, "succeeded")
    for step in ("s", "new"):
        payload = {"run_id": run_id, "step_id": step, "position": 0}
        assert refusal(tenant, "steps.put", payload) == "RUN_FINISHED"


def test_an_output_is_linked_once_and_says_what_became_of_it(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    run_id, made = running(tenant), artifact(tenant)
    added = link(tenant, run_id, made)
    assert (added.changed, added.version, added.output.target_state) == (True, 3, "live")
    assert added.output.revision_digest == made.revision_digest
    again = link(tenant, run_id, made)
    assert (again.changed, again.version, again.output) == (False, 3, added.output)
    record = changes(tenant)[-1]
    assert (record.entity_id, record.action, record.new_version) == (run_id, "OUTPUT_LINKED", 3)
    assert record.detail["revision_digest"] == made.revision_digest
    (fact,) = facts(second_connection, tenant, "run.output")
    assert (fact["run"], fact["body"]["role"], fact["key"]) == (None, "summary", [run_id, made.id, 1])
    revision = call(tenant, "revisions.get", {"artifact_id": made.id, "revision": 1})
    assert (revision.produced_by, revision.produced_by_run) == (run_id, None)
    call(tenant, "artifacts.delete", {"artifact_id": made.id})
    seen = call(tenant, "runs.get", {"run_id": run_id})
    assert [(o.target_state, o.revision_digest) for o in seen.outputs] == [("deleted", made.revision_digest)]
    assert link(tenant, run_id, made).changed is False


def test_a_revision_has_one_producer_in_one_role(tenant: Tenant) -> None:
    run_id, other, made = running(tenant), running(tenant), artifact(tenant)
    link(tenant, run_id, made)
    ref = {"artifact_id": made.id, "revision": 1}
    for payload in ({"run_id": other, "role": "summary"}, {"run_id": run_id, "role": "other"}):
        result = tenant.dispatch("repository.outputs.add", {**ref, **payload})
        assert result.error is not None
        assert (result.error.code, result.error.extra["run_id"]) == ("ALREADY_PRODUCED", run_id)


NO_OUTPUTS = [
    ({"artifact_id": "nobody"}, "REFERENCE_NOT_FOUND"),
    ({"revision": 2}, "REFERENCE_NOT_FOUND"),
    ({"revision": 0}, "REFERENCE_NOT_FOUND"),
    ({"revision": 2**40}, "REFERENCE_NOT_FOUND"),
    ({"revision": None}, "INVALID_INPUT"),
    ({"role": "Not A Role"}, "INVALID_INPUT"),
]


def test_an_output_that_is_not_there_is_refused(tenant: Tenant) -> None:
    run_id, made = running(tenant), artifact(tenant)
    for members, code in NO_OUTPUTS:
        payload = {"run_id": run_id, "artifact_id": made.id, "revision": 1, "role": "r", **members}
        assert refusal(tenant, "outputs.add", payload) == code, members


def test_outputs_of_another_tenant_are_not_there(tenant: Tenant, other_tenant: Tenant) -> None:
    theirs = artifact(other_tenant)
    payload = {"run_id": running(tenant), "artifact_id": theirs.id, "revision": 1, "role": "r"}
    assert refusal(tenant, "outputs.add", payload) == "REFERENCE_NOT_FOUND"


@pytest.mark.parametrize("status", ["pending", "succeeded", "failed", "cancelled"])
def test_only_a_running_or_waiting_run_brings_about_outputs(tenant: Tenant, status: str) -> None:
    run_id = str(create(tenant).run_id)
    made = artifact(tenant)
    if status != "pending":
        move(tenant, run_id, "running")
        move(tenant, run_id, status)
    payload = {"run_id": run_id, "artifact_id": made.id, "revision": 1, "role": "r"}
    assert refusal(tenant, "outputs.add", payload) == "RUN_NOT_RUNNING"
    item = {"name": "x", "artifact_type": "note", "produced_by_run": run_id}
    assert refusal(tenant, "artifacts.create", item) == "RUN_NOT_RUNNING"
    assert refusal(tenant, "artifacts.create_bulk", {"items": [item]}) == "RUN_NOT_RUNNING"
    change = {"artifact_id": made.id, "metadata": {"a": 1}, "produced_by_run": run_id}
    assert refusal(tenant, "artifacts.update", change) == "RUN_NOT_RUNNING"
    publication = {"run_id": run_id, "artifacts": [{"name": "x", "artifact_type": "note"}]}
    assert refusal(tenant, "runs.publish", publication) == "RUN_NOT_RUNNING"


def test_produced_by_run_links_the_new_revision_in_the_same_transaction(tenant: Tenant) -> None:
    run_id = running(tenant)
    made = artifact(tenant, "a", produced_by_run=run_id)
    changed = call(
        tenant,
        "artifacts.update",
        {"artifact_id": made.id, "content": "new", "produced_by_run": run_id},
    )
    same = {"artifact_id": made.id, "content": "new", "produced_by_run": run_id}
    assert call(tenant, "artifacts.update", same).changed is False
    items = [
        {"name": name, "artifact_type": "note", "content": "x", "produced_by_run": run_id} for name in "bc"
    ]
    call(tenant, "artifacts.create_bulk", {"items": items})
    unchanged = call(tenant, "artifacts.create_bulk", {"items": items, "on_existing": "update"})
    assert (unchanged.change_set_id, {item.result for item in unchanged.items}) == (None, {"unchanged"})
    seen = call(tenant, "runs.get", {"run_id": run_id})
    assert (seen.version, seen.outputs_total) == (6, 4)
    assert [(o.revision, o.role) for o in seen.outputs] == [
        (1, "output"),
        (2, "output"),
        *[(1, "output")] * 2,
    ]
    assert (changed.change.action, changed.change.entity_id) == ("UPDATED", made.id)
    assert changed.artifact.produced_by_run == run_id
    links = [record for record in changes(tenant) if record.action == "OUTPUT_LINKED"]
    assert [(record.old_version, record.new_version) for record in links] == [(2, 3), (3, 4), (4, 5), (5, 6)]
    assert len({record.change_set_id for record in changes(tenant)}) == 5


@pytest.mark.parametrize("run_id", ["nobody", "a/b", "", "x\x01"])
def test_a_producing_run_that_is_not_there_is_refused(tenant: Tenant, run_id: str) -> None:
    made = artifact(tenant)
    item = {"name": "x", "artifact_type": "note", "produced_by_run": run_id}
    assert refusal(tenant, "artifacts.create", item) == "REFERENCE_NOT_FOUND"
    assert refusal(tenant, "artifacts.create_bulk", {"items": [item]}) == "REFERENCE_NOT_FOUND"
    change = {"artifact_id": made.id, "metadata": {"a": 1}, "produced_by_run": run_id}
    assert refusal(tenant, "artifacts.update", change) == "REFERENCE_NOT_FOUND"


def test_facts_of_a_governed_run_are_its_own_and_a_late_manifest_is_late(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    governed = start_run(tenant)
    create(tenant, run_id=governed)
    move(tenant, governed, "running")
    made = artifact(tenant)
    link(tenant, governed, made)
    tenant.call("runs.complete", {"run_id": governed, "status": "succeeded"})
    sealed = seal(tenant, governed)
    (output,) = facts(second_connection, tenant, "run.output")
    (manifest,) = facts(second_connection, tenant, "run.manifest")
    assert (output["run"], output["late"]) == (governed, False)
    assert (manifest["run"], manifest["late"]) == (governed, True)
    assert manifest["body"] == {
        "run_id": governed,
        "manifest_digest": sealed.manifest_digest,
        "sealed_at": manifest["body"]["sealed_at"],
        "sealed_by": "user-1",
    }
    ref = {"run_id": governed, "artifact_id": artifact(tenant, "late").id, "revision": 1, "role": "r"}
    assert refusal(tenant, "outputs.add", ref) == "RUN_NOT_RUNNING"
    proof = tenant.call("runs.proof", {"run_id": governed})
    assert (proof.facts.status, proof.integrity.failure_code) == ("COMPLETE", None)


def test_the_evidence_of_a_run_lists_what_it_produced_and_consumed(tenant: Tenant) -> None:
    governed, source = start_run(tenant), artifact(tenant, "source")
    bundle = call(tenant, "bundles.create", {"items": [{"artifact_id": source.id, "role": "source"}]})
    create(tenant, run_id=governed, bundle_id=bundle.id)
    move(tenant, governed, "running")
    made = [artifact(tenant, name, produced_by_run=governed) for name in "ab"]
    call(tenant, "artifacts.delete", {"artifact_id": source.id})
    found = tenant.call("runs.evidence", {"run_id": governed})
    assert (found.sources["artifacts"].status, found.sources["artifacts"].total) == ("ok", 3)
    assert [
        (item["direction"], item["artifact_id"], item["revision_digest"], item["role"], item["target_state"])
        for item in found.artifacts
    ] == [
        ("produced", made[1].id, made[1].revision_digest, "output", "live"),
        ("produced", made[0].id, made[0].revision_digest, "output", "live"),
        ("consumed", source.id, source.revision_digest, "source", "deleted"),
    ]


def test_the_proof_of_a_run_lists_its_manifest_and_outputs_or_says_that_there_are_none(
    tenant: Tenant,
) -> None:
    governed = start_run(tenant)
    bare = tenant.call("runs.proof", {"run_id": governed}).repository
    assert (bare.manifest_digest, bare.outputs, bare.outputs_total) == (None, [], 0)
    create(tenant, run_id=governed)
    move(tenant, governed, "running")
    made = artifact(tenant, produced_by_run=governed)
    move(tenant, governed, "succeeded")
    sealed = seal(tenant, governed)
    left = tenant.call("runs.proof", {"run_id": governed}).repository
    assert (left.manifest_digest, left.outputs_total) == (sealed.manifest_digest, 1)
    assert [output.revision_digest for output in left.outputs] == [made.revision_digest]


def test_an_output_asked_for_by_an_ended_run_is_its_late_fact(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    asking, run_id, made = start_run(tenant), running(tenant), artifact(tenant)
    tenant.call("runs.complete", {"run_id": asking, "status": "succeeded"})
    ref = {"run_id": run_id, "artifact_id": made.id, "revision": 1, "role": "r"}
    tenant.call("repository.outputs.add", ref, run_id=asking)
    (fact,) = facts(second_connection, tenant, "run.output")
    assert (fact["run"], fact["late"]) == (asking, True)


def test_a_manifest_says_all_that_a_run_was(tenant: Tenant, clock: SteerableClock) -> None:
    clock.freeze()
    made = artifact(tenant)
    bundle = call(tenant, "bundles.create", {"items": [{"artifact_id": made.id, "role": "source"}]})
    parent = create(tenant)
    run_id = running(
        tenant, parent_run_id=parent.run_id, bundle_id=bundle.id, parameters={"x": 1.0}, trace_id="t-1"
    )
    put(tenant, run_id, "s", position=0, status="running", outputs={"n": 1})
    out = artifact(tenant, "out", produced_by_run=run_id)
    move(tenant, run_id, "failed", error_code="E", error_message="m")
    remarks = [
        {"level": "error", "code": "B", "message": "b", "at": "2026-01-02T00:00:00Z", "data": [1, 1.0]},
        {"level": "debug", "code": "A", "message": "a", "at": "2026-01-01T00:00:00Z", "step_id": "s"},
    ]
    sealed = seal(tenant, run_id, diagnostics=remarks, environment={"python": "3.11"})
    seen = tenant.call("repository.manifests.get", {"run_id": run_id})
    assert dict(seen).items() <= dict(sealed).items()
    now = clock.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    pinned = {"artifact_id": made.id, "revision": 1, "revision_digest": made.revision_digest}
    assert seen.body == {
        "run_id": run_id,
        "operation": "corpus.summarise",
        "attempt": 2,
        "parent_run_id": parent.run_id,
        "status": "failed",
        "error_code": "E",
        "error_message": "m",
        "requested_by": "user-1",
        "trace_id": "t-1",
        "created_at": now,
        "started_at": now,
        "finished_at": now,
        "parameters": {"x": 1.0},
        "bundle": {
            "id": bundle.id,
            "bundle_digest": bundle.bundle_digest,
            "items": [{**pinned, "role": "source"}],
        },
        "outputs": [
            {
                "artifact_id": out.id,
                "revision": 1,
                "revision_digest": out.revision_digest,
                "role": "output",
            }
        ],
        "steps": [
            {
                "step_id": "s",
                "position": 0,
                "status": "running",
                "attempt": 1,
                "depends_on": [],
                "started_at": now,
                "finished_at": None,
                "inputs_digest": sha256("{}"),
                "outputs_digest": sha256('{"n":1}'),
                "diagnostics_digest": sha256("[]"),
            }
        ],
        "diagnostics": [
            {**remarks[0], "at": "2026-01-02T00:00:00.000000Z", "step_id": None},
            {**remarks[1], "at": "2026-01-01T00:00:00.000000Z", "data": None},
        ],
        "environment": {"python": "3.11"},
    }
    assert seen.manifest_digest == sha256("hoc-manifest-1\n" + dumps(seen.body))
    assert call(tenant, "runs.get", {"run_id": run_id}).manifest_digest == seen.manifest_digest


def sha256(text: str) -> str:
    """Return a digest in the repository's form."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def test_a_manifest_is_sealed_once(tenant: Tenant) -> None:
    run_id = running(tenant)
    assert refusal(tenant, "manifests.seal", {"run_id": run_id}) == "RUN_NOT_FINISHED"
    assert refusal(tenant, "manifests.get", {"run_id": run_id}) == "MANIFEST_NOT_FOUND"
    move(tenant, run_id, "cancelled")
    first = seal(tenant, run_id, environment={"a": 1})
    assert (first.changed, first.version) == (True, 4)
    again = seal(tenant, run_id, environment={"a": 1})
    assert (again.changed, again.version, again.manifest_digest) == (False, 4, first.manifest_digest)
    for environment in ({"a": 1.0}, {}):
        payload = {"run_id": run_id, "environment": environment}
        assert refusal(tenant, "manifests.seal", payload) == "SEALED"
    record = changes(tenant)[-1]
    assert (record.action, record.detail) == ("SEALED", {"manifest_digest": first.manifest_digest})


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"environment": [1]}, "INVALID_METADATA"),
        ({"environment": {"a": "\x00"}}, "INVALID_METADATA"),
        ({"diagnostics": [{"at": "2026-01-01T00:00:00"}]}, "INVALID_INPUT"),
        ({"diagnostics": [{"level": "fatal"}]}, "INVALID_INPUT"),
        ({"diagnostics": [{"data": {"a": "\x00"}}]}, "INVALID_METADATA"),
        ({"diagnostics": [{"data": "x" * 200_000}] * 6}, "TOO_LARGE"),
        ({"outputs": []}, "INVALID_INPUT"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tenant: Tenant, members: dict[str, Any], code: str) -> None:
    run_id = running(tenant)
    move(tenant, run_id, "succeeded")
    remark = {"level": "info", "code": "C", "message": "m", "at": "2026-01-01T00:00:00Z"}
    if "diagnostics" in members:
        members = {"diagnostics": [remark | item for item in members["diagnostics"]]}
    assert refusal(tenant, "manifests.seal", {"run_id": run_id, **members}) == code


@pytest.mark.parametrize("table", ["run_outputs", "run_manifests", "input_bundles", "input_bundle_items"])
def test_the_database_refuses_to_change_what_is_sealed(
    tenant: Tenant, second_connection: sa.Connection, table: str
) -> None:
    made = artifact(tenant)
    bundle = call(tenant, "bundles.create", {"items": [{"artifact_id": made.id, "role": "source"}]})
    run_id = running(tenant, bundle_id=bundle.id)
    link(tenant, run_id, made)
    move(tenant, run_id, "succeeded")
    seal(tenant, run_id)
    column = {"run_outputs": "role", "run_manifests": "body", "input_bundles": "created_by"}.get(
        table, "role"
    )
    for statement in (f"UPDATE {table} SET {column} = 'x'", f"DELETE FROM {table}"):
        text = sa.text(f"{statement} WHERE tenant_id = :t")
        with pytest.raises(sa.exc.DBAPIError):
            second_connection.execute(text, {"t": tenant.tenant_id})
        second_connection.rollback()
