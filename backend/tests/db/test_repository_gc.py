"""Collection of bytes that nothing live or cited needs."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.spine import Spine
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant
from tests.factories.worlds import make_world, without_triggers

GC = "repository.gc"


def note(tenant: Tenant, name: str, text: str) -> str:
    """Create a note and return its id."""
    payload = {"name": name, "artifact_type": "note", "content": text}
    return str(tenant.call("repository.artifacts.create", payload).id)


def delete(tenant: Tenant, *artifact_ids: str) -> None:
    """Delete artifacts."""
    for artifact_id in artifact_ids:
        tenant.call("repository.artifacts.delete", {"artifact_id": artifact_id})


def collect(tenant: Tenant, **members: Any) -> tuple[int, int, int]:
    """Collect, and return candidates, collected and bytes."""
    done = tenant.call(GC, {"dry_run": False, **members})
    return done.candidates, done.collected, done.bytes


def content(tenant: Tenant, artifact_id: str, revision: int = 1) -> Any:
    """Return the bytes of a revision, or the code of the refusal."""
    ref = {"artifact_id": artifact_id, "revision": revision}
    result = tenant.dispatch("repository.revisions.content", ref)
    return result.error.code if result.error else result.data.content


def test_only_bytes_of_artifacts_deleted_long_ago_go(tenant: Tenant, clock: SteerableClock) -> None:
    live, old = note(tenant, "live", "kept"), note(tenant, "old", "old words")
    both = note(tenant, "both", "kept")
    delete(tenant, old, both)
    clock.advance(days=29)
    fresh = note(tenant, "fresh", "fresh")
    delete(tenant, fresh)
    assert collect(tenant) == (0, 0, 0)
    clock.advance(days=2)
    dry = tenant.call(GC, {})
    assert (dry.candidates, dry.collected, dry.bytes, dry.dry_run) == (1, 0, len("old words"), True)
    assert content(tenant, old) == b"old words"
    seq = tenant.call("repository.changes.list").items[-1].seq
    assert collect(tenant) == (1, 1, len("old words"))
    assert [content(tenant, item) for item in (live, old, both, fresh)] == [
        b"kept", "CONTENT_COLLECTED", b"kept", b"fresh",
    ]  # fmt: skip
    (record,) = tenant.call("repository.changes.list", {"since_seq": seq}).items
    assert (record.entity_type, record.entity_id, record.action) == ("BLOB", "gc", "COLLECTED")
    assert len(record.detail["digests"]) == 1
    (entry,) = tenant.call("logs.audit_list", {"event_type": "RepositoryCollected"}).items
    assert entry.entity_id == "gc"
    assert collect(tenant) == (0, 0, 0)
    assert collect(tenant, grace_days=0) == (1, 1, len("fresh"))
    report = tenant.call("repository.verify", {})
    assert (report.clean, report.findings, report.collected) == (True, [], 2)


def test_collected_bytes_end_a_restore_and_come_back_when_stored_again(tenant: Tenant) -> None:
    art = note(tenant, "a", "words")
    delete(tenant, art)
    assert collect(tenant, grace_days=0) == (1, 1, 5)
    error = tenant.dispatch("repository.artifacts.restore", {"artifact_id": art}).error
    assert error is not None
    assert error.code == "RESTORE_IMPOSSIBLE"
    again = note(tenant, "b", "words")
    assert (content(tenant, again), content(tenant, art)) == (b"words", b"words")
    tenant.call("repository.artifacts.restore", {"artifact_id": art})
    assert tenant.call("repository.verify", {}).clean


def test_an_older_revision_of_a_live_artifact_is_needed(tenant: Tenant) -> None:
    art = note(tenant, "a", "one")
    tenant.call("repository.artifacts.update", {"artifact_id": art, "content": "two"})
    assert collect(tenant, grace_days=0) == (0, 0, 0)
    assert content(tenant, art) == b"one"


def test_bytes_of_another_tenant_are_not_candidates(tenant: Tenant, other_tenant: Tenant) -> None:
    delete(tenant, note(tenant, "a", "same"))
    live = note(other_tenant, "a", "same")
    assert collect(other_tenant, grace_days=0) == (0, 0, 0)
    assert collect(tenant, grace_days=0) == (1, 1, 4)
    assert content(other_tenant, live) == b"same"


AT = "'2026-01-01T00:00:00.000000Z'"
ZERO = "'sha256:" + "0" * 64 + "'"
CITING = {
    "run output": (
        (
            "INSERT INTO operation_runs (tenant_id, run_id, operation, status, version, parameters, attempt, "
            f"requested_by, created_at) VALUES (:t, 'run-1', 'op', 'running', 1, '{{}}', 1, 'u', {AT})"
        ),
        (
            "INSERT INTO run_outputs (tenant_id, run_id, artifact_id, revision, role, created_at, fact_id) "
            f"VALUES (:t, 'run-1', :a, 1, 'result', {AT}, 'f')"
        ),
    ),
    "bundle": (
        (
            "INSERT INTO input_bundles (tenant_id, id, bundle_digest, created_at, created_by, fact_id) "
            f"VALUES (:t, 'bnd-1', {ZERO}, {AT}, 'u', 'f')"
        ),
        (
            "INSERT INTO input_bundle_items (tenant_id, bundle_id, position, artifact_id, revision, "
            f"revision_digest, role) VALUES (:t, 'bnd-1', 0, :a, 1, {ZERO}, 'source')"
        ),
    ),
    "context package": (
        (
            "INSERT INTO context_packages (tenant_id, id, name, metadata, provenance, package_digest, "
            "created_seq, created_at, created_by, fact_id) VALUES "
            f"(:t, 'ctx-1', 'c', '{{}}', '{{}}', {ZERO}, 9, {AT}, 'u', 'f')"
        ),
        (
            "INSERT INTO context_items (tenant_id, package_id, position, kind, artifact_id, revision, "
            f"revision_digest, provenance) VALUES (:t, 'ctx-1', 0, 'artifact', :a, 1, {ZERO}, '{{}}')"
        ),
    ),
}


@pytest.mark.parametrize("citing", CITING)
def test_what_cites_a_revision_keeps_its_bytes(
    tenant: Tenant, second_connection: sa.Connection, citing: str
) -> None:
    art = note(tenant, "a", "cited")
    delete(tenant, art)
    for statement in CITING[citing]:
        used = {"a": art} if ":a" in statement else {}
        without_triggers(second_connection, statement, t=tenant.tenant_id, **used)
    assert collect(tenant, grace_days=0) == (0, 0, 0)
    assert content(tenant, art) == b"cited"


def test_what_stands_in_evidence_keeps_its_bytes(spine: Spine, tenant: Tenant) -> None:
    world = make_world(spine, tenant)
    assert world.access("refund").success
    delete(tenant, *world.artifacts.values())
    assert collect(tenant, grace_days=0)[:2] == (2, 2)
    assert content(tenant, world.artifacts["refunds.md"]).startswith(b"Refunds")
    assert content(tenant, world.artifacts["holidays.md"]) == "CONTENT_COLLECTED"


def test_batches_of_five_hundred_have_a_record_each(tenant: Tenant, second_connection: sa.Connection) -> None:
    items = [
        {"name": f"n{index}", "artifact_type": "note", "content": f"words {index}"} for index in range(501)
    ]
    tenant.call("repository.artifacts.create_bulk", {"items": items})
    # One by one through the product this takes long.
    gone = "UPDATE artifacts SET deleted_at = created_at, deleted_by = 'u' WHERE tenant_id = :t"
    without_triggers(second_connection, gone, t=tenant.tenant_id)
    assert collect(tenant, grace_days=0)[:2] == (501, 501)
    records = tenant.call("repository.changes.list", {"action": "COLLECTED"}).items
    assert [len(record.detail["digests"]) for record in records] == [500, 1]
    assert records[0].change_set_id == records[1].change_set_id


@pytest.mark.parametrize("days", [-1, 36501])
def test_a_grace_out_of_range_is_refused(tenant: Tenant, days: int) -> None:
    error = tenant.dispatch(GC, {"grace_days": days}).error
    assert error is not None
    assert error.code == "INVALID_INPUT"


def test_upkeep_needs_the_admin_scope(tenant: Tenant) -> None:
    for name in (GC, "repository.verify", "repository.search.rebuild"):
        error = tenant.dispatch(name, {}, scopes=("repository:write",)).error
        assert error is not None
        assert error.code == "INSUFFICIENT_SCOPE"
