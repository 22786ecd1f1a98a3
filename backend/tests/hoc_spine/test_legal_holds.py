"""Legal holds: what they cover stays, whoever wants it gone and however close the race."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.operation_registry import OperationResult
from app.hoc_spine.spine import Spine
from tests.factories.planes import move, work_jobs
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant, make_tenant
from tests.factories.worlds import make_plane, make_rule, make_world, start_run, step

TEXT = "The text of the run"


def hold(tenant: Tenant, scope: str, scope_id: str | None = None) -> str:
    payload = {"scope": scope, "scope_id": scope_id, "reason": "matter 7"}
    return str(tenant.call("evidence.holds.place", payload).hold_id)


def release(tenant: Tenant, hold_id: str) -> OperationResult:
    return tenant.dispatch("evidence.holds.release", {"hold_id": hold_id, "reason": "settled"})


def erase(tenant: Tenant, scope: str, scope_id: str) -> OperationResult:
    return tenant.dispatch("evidence.erase", {"scope": scope, "scope_id": scope_id, "reason": "asked"})


def fact_of(connection: sa.Connection, tenant: Tenant, table: str, **where: str) -> str:
    """Return the fact of a row of an append-only table that holds values."""
    named = " AND ".join(f"{name} = :{name}" for name in where)
    query = sa.text(
        f"SELECT fact_id FROM {table} WHERE tenant_id = :t AND {named} AND protected_salt IS NOT NULL"
    )
    return str(connection.execute(query, {"t": tenant.tenant_id, **where}).scalar_one())


def test_a_hold_is_placed_once_released_once_and_stands_in_the_ledger(
    tenant: Tenant, other_tenant: Tenant, second_connection: sa.Connection
) -> None:
    run = start_run(tenant, subject_ref="customer-42")
    for payload, code in (
        ({"scope": "RUN", "scope_id": "run_unknown"}, "REFERENCE_NOT_FOUND"),
        ({"scope": "PLANE", "scope_id": "kp_unknown"}, "REFERENCE_NOT_FOUND"),
        ({"scope": "SUBJECT", "scope_id": "nobody"}, "REFERENCE_NOT_FOUND"),
        ({"scope": "TENANT", "scope_id": other_tenant.tenant_id}, "REFERENCE_NOT_FOUND"),
        ({"scope": "RUN"}, "INVALID_INPUT"),
        ({"scope": "WORLD", "scope_id": "x"}, "INVALID_INPUT"),
        ({"scope": "TENANT", "reason": "  "}, "INVALID_INPUT"),
        ({"scope": "TENANT", "reason": "x" * 501}, "INVALID_INPUT"),
    ):
        refused = tenant.dispatch("evidence.holds.place", {"reason": "matter 7", **payload})
        assert (payload, refused.error_code) == (payload, code)
    held = tenant.call(
        "evidence.holds.place",
        {"scope": "RUN", "scope_id": run, "reason": "matter 7, ask bob@example.com"},
        idempotency_key="hold-1",
    )
    assert (held.status, held.version, held.placed_by) == ("ACTIVE", 1, "user-1")
    assert "bob@example.com" not in held.reason
    hold(tenant, "TENANT")
    listed = tenant.call("evidence.holds.list", {"status": "ACTIVE"}).items
    assert [item.scope for item in listed] == ["TENANT", "RUN"]
    assert other_tenant.call("evidence.holds.list").items == []
    assert release(other_tenant, held.hold_id).error_code == "HOLD_NOT_FOUND"
    done = release(tenant, held.hold_id).unwrap()
    assert (done.status, done.version, done.released_by) == ("RELEASED", 2, "user-1")
    assert release(tenant, held.hold_id).error_code == "HOLD_RELEASED"
    query = sa.text("SELECT released_by, version FROM legal_holds WHERE hold_id = :h")
    assert second_connection.execute(query, {"h": held.hold_id}).one() == ("user-1", 2)
    with pytest.raises(sa.exc.IntegrityError, match="a released hold never changes"):
        second_connection.execute(
            sa.text("UPDATE legal_holds SET released_by = NULL, released_at = NULL WHERE hold_id = :h"),
            {"h": held.hold_id},
        )
    events = tenant.call("logs.audit_list", {"entity_type": "LEGAL_HOLD"}).items
    assert [entry.event_type for entry in events] == [
        "LegalHoldReleased",
        "LegalHoldPlaced",
        "LegalHoldPlaced",
    ]
    assert tenant.call("logs.audit_integrity").status == "VERIFIED"


def test_erasure_refuses_whatever_a_hold_covers(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    world = make_world(spine, tenant, log_queries=True)
    run = world.run_id = start_run(tenant, subject_ref="customer-42")
    other = start_run(tenant, subject_ref="customer-42")
    free = start_run(tenant)
    world.access("refund").unwrap()
    world.append(step(0))
    suspension = {"plane_id": world.plane_id, "suspended": True, "reason": "leak"}
    tenant.call("knowledge.planes.set_suspension", suspension)
    access = fact_of(second_connection, tenant, "retrieval_evidence", run_id=run)
    moved = fact_of(second_connection, tenant, "plane_lifecycle_events", plane_id=world.plane_id)
    targets = {
        "RUN": ("RUN", run),
        "SUBJECT": ("SUBJECT", "customer-42"),
        "FACT": ("FACT", access),
        "other run": ("RUN", other),
        "free run": ("RUN", free),
        "plane fact": ("FACT", moved),
    }
    covered = {
        ("RUN", run): {"RUN", "SUBJECT", "FACT"},
        ("SUBJECT", "customer-42"): {"RUN", "SUBJECT", "FACT", "other run"},
        ("PLANE", world.plane_id): {"RUN", "SUBJECT", "FACT", "plane fact"},
        ("TENANT", None): set(targets),
    }
    before = tenant.call("runs.proof", {"run_id": run}).values
    for (scope, scope_id), wanted in covered.items():
        hold_id = hold(tenant, scope, scope_id)
        for name in wanted:
            refused = erase(tenant, *targets[name])
            assert (scope, name, refused.error_code) == (scope, name, "LEGAL_HOLD")
            assert refused.error is not None
            assert refused.error.extra == {"hold_ids": [hold_id], "count": 1}
        release(tenant, hold_id).unwrap()
    # Nothing went, and what a hold does not cover goes while it stands.
    assert tenant.call("runs.proof", {"run_id": run}).values == before
    hold_id = hold(tenant, "RUN", run)
    assert erase(tenant, *targets["free run"]).unwrap().erased == 1
    assert erase(tenant, *targets["other run"]).unwrap().erased == 1
    assert erase(tenant, *targets["SUBJECT"]).error_code == "LEGAL_HOLD"
    release(tenant, hold_id).unwrap()
    assert erase(tenant, *targets["SUBJECT"]).unwrap().remaining == 0
    assert erase(tenant, "RUN", "run_unknown").error_code == "REFERENCE_NOT_FOUND"
    assert erase(tenant, "FACT", "fct_unknown").error_code == "REFERENCE_NOT_FOUND"
    assert erase(tenant, "SUBJECT", "nobody").error_code == "REFERENCE_NOT_FOUND"
    assert erase(tenant, *targets["FACT"]).error_code == "NOTHING_TO_ERASE"


def produce(tenant: Tenant, run: str, collection: str | None = None) -> str:
    """Store a text that a run produced, and return the artifact."""
    known = tenant.dispatch("repository.runs.create", {"run_id": run, "operation": "write"})
    if known.success:
        tenant.call("repository.runs.transition", {"run_id": run, "status": "running"})
    payload = {"name": f"by {run}", "artifact_type": "note", "content": TEXT, "produced_by_run": run}
    more = {} if collection is None else {"collection_id": collection}
    return str(tenant.call("repository.artifacts.create", payload | more).id)


def test_redaction_purge_and_collection_of_bytes_spare_what_is_held(
    make_spine: Callable[..., Spine], tmp_path: Path, clock: SteerableClock
) -> None:
    tenant = make_tenant(make_spine(archive_dir=tmp_path))
    rule = make_rule(tenant)
    plane_id, artifacts = make_plane(tenant.spine, tenant, rule_ids=(rule,), retention_days=0)
    collection = tenant.call(
        "repository.artifacts.get", {"artifact_id": artifacts["refunds.md"]}
    ).collection_id
    run = start_run(tenant, subject_ref="customer-42")
    mine = produce(tenant, run, collection)
    loose = {"name": "loose", "artifact_type": "note", "content": "loose", "collection_id": collection}
    gone = tenant.call("repository.artifacts.create", loose).id
    tenant.call("repository.artifacts.delete", {"artifact_id": gone})
    redact = {"artifact_id": mine, "revisions": "all", "reason": "asked", "legal_basis": "GDPR 17"}
    shared = redact | {"shared": "redact"}
    purge = {"collection_id": collection, "reason": "end", "legal_basis": "end"}
    collect = {"dry_run": False, "grace_days": 0}
    move(tenant, plane_id, "deregister_knowledge_plane")
    tenant.call("knowledge.planes.unbind_policy", {"plane_id": plane_id, "policy_id": rule})
    move(tenant, plane_id, "deactivate_knowledge_plane", force=True, reason="now")
    move(tenant, plane_id, "archive_knowledge_plane")
    work_jobs(tenant.spine, tenant)
    tenant.call("knowledge.planes.approve_purge", {"plane_id": plane_id, "reason": "seen"}, actor_id="bob")
    leave = {"plane_id": plane_id, "action": "purge_knowledge_plane", "reason": "the end"}
    for scope, scope_id in (
        ("RUN", run),
        ("SUBJECT", "customer-42"),
        ("PLANE", plane_id),
        ("TENANT", None),
    ):
        hold_id = hold(tenant, scope, scope_id)
        for name, payload in (
            ("repository.artifacts.redact", shared),
            ("repository.collections.purge", purge),
        ):
            assert (scope, tenant.dispatch(name, payload).error_code) == (scope, "LEGAL_HOLD")
        refused = tenant.dispatch("knowledge.planes.transition", leave)
        assert (scope, refused.error_code) == (scope, "POLICY_GATE_BLOCKED")
        assert refused.error is not None
        assert refused.error.extra["required_action"] == "release_hold"
        (action,) = [
            item
            for item in tenant.call("knowledge.planes.next_actions", {"plane_id": plane_id}).actions
            if item.action == "purge_knowledge_plane"
        ]
        assert (action.gate.decision, action.gate.required_action) == ("BLOCKED", "release_hold")
        if scope in ("PLANE", "TENANT"):
            assert tenant.call("repository.gc", collect).collected == 0
            assert tenant.call("repository.gc", {"grace_days": 0}).candidates == 0
        release(tenant, hold_id).unwrap()
    assert tenant.call("repository.gc", collect).collected == 1
    assert tenant.call("repository.artifacts.redact", shared).changed
    assert tenant.call("knowledge.planes.transition", leave).to_state == "PURGED"


@contextmanager
def watched(tenant: Tenant, on_statement: Callable[[str], None]) -> Iterator[None]:
    """Tell every statement of the spine, in the thread that is about to execute it."""

    def tell(_c: Any, _cursor: Any, statement: str, _p: Any, _x: Any, _m: bool) -> None:
        on_statement(statement)

    engine = tenant.spine.transactions.engine
    sa.event.listen(engine, "before_cursor_execute", tell)
    try:
        yield
    finally:
        sa.event.remove(engine, "before_cursor_execute", tell)


def race(
    tenant: Tenant,
    first: Callable[[], OperationResult],
    at: str,
    second: Callable[[], OperationResult],
) -> tuple[OperationResult, OperationResult]:
    """Stop the first caller before a statement of its transaction until the second has to wait for it."""
    stopped, goes_on = threading.Event(), threading.Event()
    names: dict[int, str] = {}

    def look(statement: str) -> None:
        who = names.get(threading.get_ident())
        if who == "first" and statement.startswith(at) and not stopped.is_set():
            stopped.set()
            assert goes_on.wait(20)
        elif who == "second" and statement.startswith("UPDATE tenant_state"):
            goes_on.set()

    def as_(who: str, call: Callable[[], OperationResult]) -> OperationResult:
        names[threading.get_ident()] = who
        return call()

    with watched(tenant, look), ThreadPoolExecutor(2) as threads:
        one = threads.submit(as_, "first", first)
        assert stopped.wait(20)
        two = threads.submit(as_, "second", second)
        if tenant.spine.transactions.dialect_name == "sqlite":
            # One writer at a time: the second waits at its beginning.
            goes_on.set()
        return one.result(30), two.result(30)


def placing(tenant: Tenant, run: str) -> Callable[[], OperationResult]:
    payload = {"scope": "RUN", "scope_id": run, "reason": "matter 7"}
    return lambda: tenant.dispatch("evidence.holds.place", payload)


def test_of_a_hold_and_what_it_forbids_the_second_sees_the_first(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    def destroyers(run: str) -> dict[str, tuple[Callable[[], OperationResult], str, sa.TextClause]]:
        artifact = produce(tenant, run)
        payload = {"artifact_id": artifact, "revisions": "all", "reason": "x", "legal_basis": "x"}
        name = "repository.artifacts.redact"
        return {
            "erase": (
                lambda: erase(tenant, "RUN", run),
                "INSERT INTO erasures",
                sa.text("SELECT count(*) FROM runs WHERE run_id = :run AND goal IS NOT NULL"),
            ),
            "redact": (
                lambda: tenant.dispatch(name, payload | {"shared": "redact"}),
                "UPDATE artifact_revisions",
                sa.text(
                    "SELECT count(*) FROM artifact_revisions WHERE produced_by_run = :run"
                    " AND redaction IS NULL"
                ),
            ),
        }

    for way in ("erase", "redact"):
        run = start_run(tenant)
        destroy, _, kept = destroyers(run)[way]
        placed, refused = race(tenant, placing(tenant, run), "INSERT INTO log_leaves", destroy)
        assert (placed.success, refused.error_code) == (True, "LEGAL_HOLD")
        assert second_connection.execute(kept, {"run": run}).scalar_one() == 1
        release(tenant, placed.unwrap().hold_id).unwrap()

        run = start_run(tenant)
        destroy, at, kept = destroyers(run)[way]
        done, late = race(tenant, destroy, at, placing(tenant, run))
        assert (done.success, late.success) == (True, True)
        assert second_connection.execute(kept, {"run": run}).scalar_one() == 0
        release(tenant, late.unwrap().hold_id).unwrap()
