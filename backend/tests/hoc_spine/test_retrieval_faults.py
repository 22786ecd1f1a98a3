"""Faults around an access: one evidence row for each attempt, and no data without it."""

from __future__ import annotations

import base64
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.bootstrap import build_spine
from app.connectors.sql import SqlConnector
from app.domains.retrieval.engines import evidence as evidence_engine
from app.hoc_spine.coordinators import retrieval_access
from app.hoc_spine.operation_registry import OperationResult
from app.hoc_spine.spine import Spine
from app.kernel.errors import ErrorKind
from app.settings import Settings
from tests.factories.foreign import WebService, answer_of, fill_sqlite
from tests.factories.planes import move, work_jobs
from tests.factories.processes import Answering, fork
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant, make_tenant
from tests.factories.worlds import World, make_rule, make_world, start_run

SQL_TEMPLATES: list[dict[str, Any]] = [
    {
        "id": "by-note",
        "sql": "SELECT order_id, note FROM orders WHERE note = :note",
        "params": [{"name": "note", "type": "str"}],
        "key_columns": ["order_id"],
        "sample_params": {"note": "created_at"},
    },
    {"id": "broken", "sql": "SELECT abs(-9223372036854775808) AS k FROM orders", "key_columns": ["k"]},
    {"id": "null", "sql": "SELECT NULL AS k", "key_columns": ["k"]},
    {
        "id": "slow",
        "sql": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) AS k FROM c",
        "key_columns": ["k"],
        "timeout_seconds": 1,
    },
]


@pytest.fixture
def service() -> Iterator[WebService]:
    made = WebService()
    made.answers["/health"] = answer_of(200, b"{}")
    made.answers["/items"] = answer_of(200, b'[{"id": 1, "mail": "a@example.com"}]')
    yield made
    made.close()


@pytest.fixture
def federated(
    make_spine: Callable[..., Spine], service: WebService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Tenant:
    """A tenant on a spine that may reach a SQLite folder and one local service."""
    fill_sqlite(tmp_path / "orders.db")
    monkeypatch.setenv("ORDERS_DSN", "sqlite:///orders.db")
    return make_tenant(
        make_spine(
            connector_hosts=(f"127.0.0.1:{service.port}",),
            connector_sqlite_dir=tmp_path,
            credential_env_allow=("*/ORDERS_DSN",),
        )
    )


def make_foreign(tenant: Tenant, connector_type: str, config: dict[str, Any]) -> str:
    """Take a foreign plane from DRAFT to ACTIVE by its jobs, and return its id."""
    payload: dict[str, Any] = {"plane_type": "docs", "plane_name": connector_type, "connector_id": "c"}
    payload |= {"connector_type": connector_type, "config": config}
    plane_id = str(tenant.call("knowledge.planes.register", payload).plane_id)
    for action in ("verify_knowledge_plane", "ingest_knowledge_plane"):
        move(tenant, plane_id, action)
        work_jobs(tenant.spine, tenant)
    move(tenant, plane_id, "classify_knowledge_plane")
    move(tenant, plane_id, "request_activation")
    rule = make_rule(tenant, name=connector_type, condition="true")
    tenant.call("knowledge.planes.bind_policy", {"plane_id": plane_id, "policy_id": rule})
    move(tenant, plane_id, "activate_knowledge_plane")
    return plane_id


def ask(tenant: Tenant, run_id: str, plane_id: str, **payload: Any) -> OperationResult:
    asked = {"run_id": run_id, "plane_id": plane_id, "action": payload.pop("action", "query")}
    return tenant.dispatch("retrieval.access", asked | {"payload": payload})


def rows_of(connection: sa.Connection, tenant: Tenant) -> list[dict[str, Any]]:
    found = connection.execute(
        sa.text("SELECT * FROM retrieval_evidence WHERE tenant_id = :t ORDER BY evidence_id"),
        {"t": tenant.tenant_id},
    )
    return [dict(row) for row in found.mappings()]


class OneRow:
    """Sees that each attempt left exactly one row, and that it says what the caller was told."""

    def __init__(self, connection: sa.Connection, tenant: Tenant) -> None:
        self._connection = connection
        self._tenant = tenant
        self._known = 0

    def __call__(self, result: OperationResult, outcome: str, code: str) -> dict[str, Any]:
        rows = rows_of(self._connection, self._tenant)
        assert len(rows) == self._known + 1
        self._known = len(rows)
        row = rows[-1]
        assert (row["outcome"], row["reason_code"]) == (outcome, code)
        if outcome == "ALLOWED":
            assert result.unwrap().evidence_id == row["evidence_id"]
        else:
            assert (result.error_code, result.data) == (code, None)
            assert result.error is not None
            assert result.error.extra["evidence_id"] == row["evidence_id"]
            assert (row["documents"], row["doc_count"], row["bytes_returned"]) == ("[]", 0, 0)
        return row


def test_every_end_of_an_access_to_a_database_is_one_row(
    federated: Tenant, second_connection: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"driver": "sqlite", "credential_ref": "env://ORDERS_DSN", "templates": SQL_TEMPLATES}
    plane_id = make_foreign(federated, "sql", config)
    plane = federated.call("knowledge.planes.get", {"plane_id": plane_id})
    assert (plane.sensitivity_level, plane.classification["documents"]) == ("internal", 1)
    run_id = start_run(federated)
    one_row = OneRow(second_connection, federated)
    good = ask(federated, run_id, plane_id, template_id="by-note", params={"note": "credit union"})
    row = one_row(good, "ALLOWED", "OK")
    assert good.unwrap().data["documents"][0]["row"] == {"order_id": 2, "note": "credit union"}
    assert row["doc_count"] == 1
    assert federated.call("retrieval.affected_runs", {"doc_ref": "by-note:[2]"}).runs[0].run_id == run_id
    refused: list[tuple[str, str, dict[str, Any]]] = [
        ("DENIED", "TEMPLATE_NOT_ALLOWED", {"template_id": "other"}),
        ("DENIED", "INVALID_PAYLOAD", {"template_id": "by-note", "params": {"note": 1}}),
        ("DENIED", "INVALID_PAYLOAD", {"template_id": "by-note", "raw_connection": "x"}),
        ("DENIED", "ACTION_NOT_SUPPORTED", {"action": "search", "text": "x"}),
        ("FAILED", "CONNECTOR_ERROR", {"template_id": "broken"}),
        ("FAILED", "RESPONSE_INVALID", {"template_id": "null"}),
        ("FAILED", "CONNECTOR_TIMEOUT", {"template_id": "slow"}),
    ]
    for outcome, code, payload in refused:
        result = ask(federated, run_id, plane_id, **payload)
        one_row(result, outcome, code)
        assert "orders" not in str(result.error).lower()
    # A new template waits for a refresh, which prepares it and scans the source again.
    more = SQL_TEMPLATES[0] | {"id": "more", "sample_params": {"note": "credit union"}}
    federated.call(
        "knowledge.planes.update_config",
        {"plane_id": plane_id, "config": config | {"templates": [*SQL_TEMPLATES[:2], more]}},
    )
    waiting = ask(federated, run_id, plane_id, template_id="more", params={"note": "Alternate"})
    one_row(waiting, "DENIED", "TEMPLATE_NOT_ALLOWED")
    work_jobs(federated.spine, federated)
    refreshed = ask(federated, run_id, plane_id, template_id="more", params={"note": "Alternate"})
    one_row(refreshed, "ALLOWED", "OK")
    plane = federated.call("knowledge.planes.get", {"plane_id": plane_id})
    assert plane.classification["documents"] == 2
    monkeypatch.delenv("ORDERS_DSN")
    one_row(ask(federated, run_id, plane_id, template_id="broken"), "FAILED", "CREDENTIAL_UNAVAILABLE")


def test_every_end_of_an_access_to_a_service_is_one_row(
    federated: Tenant, service: WebService, second_connection: sa.Connection
) -> None:
    endpoint = {"id": "all", "path": "/items", "key_fields": ["id"], "sample_params": {}}
    config = {
        "base_url": f"http://127.0.0.1:{service.port}",
        "health_path": "/health",
        "endpoints": [endpoint],
        "max_response_bytes": 2000,
    }
    plane_id = make_foreign(federated, "http", config)
    assert federated.call("knowledge.planes.get", {"plane_id": plane_id}).pii_count == 1
    run_id = start_run(federated)
    one_row = OneRow(second_connection, federated)
    one_row(ask(federated, run_id, plane_id, endpoint_id="all"), "ALLOWED", "OK")
    answers = {
        "RESPONSE_TOO_LARGE": answer_of(200, b"[" + b" " * 3000 + b"]"),
        "RESPONSE_INVALID": answer_of(200, b"[]", kind="text/html"),
        "CONNECTOR_ERROR": answer_of(302, b"[]", "Location: http://169.254.169.254/"),
    }
    for code, answer in answers.items():
        service.answers["/items"] = answer
        one_row(ask(federated, run_id, plane_id, endpoint_id="all"), "FAILED", code)
    elsewhere = config | {"base_url": "http://127.0.0.2:1"}
    move(federated, plane_id, "deregister_knowledge_plane")
    refused = ask(federated, run_id, plane_id, endpoint_id="all")
    one_row(refused, "DENIED", "PLANE_NOT_ACTIVE")
    payload: dict[str, Any] = {"plane_type": "docs", "plane_name": "elsewhere", "connector_id": "c"}
    payload |= {"connector_type": "http", "config": elsewhere}
    other = str(federated.call("knowledge.planes.register", payload).plane_id)
    job_id = move(federated, other, "verify_knowledge_plane").job_id
    work_jobs(federated.spine, federated)
    job = federated.call("knowledge.jobs.get", {"job_id": job_id})
    assert (job.status, job.error_code, job.retryable) == ("FAILED", "VERIFICATION_FAILED", False)
    assert "HOST_NOT_ALLOWED" in job.error_message


@pytest.fixture
def world(spine: Spine, tenant: Tenant) -> World:
    return make_world(spine, tenant)


def settings_of(world: World, **members: Any) -> Settings:
    return world.tenant.spine.services.settings.model_copy(update=members)


def test_a_crash_between_reading_and_the_commit_is_one_failure_on_record(
    world: World,
    second_connection: sa.Connection,
    monkeypatch: pytest.MonkeyPatch,
    clock: SteerableClock,
) -> None:
    inserted = evidence_engine.insert

    def die(*arguments: Any, **named: Any) -> None:
        inserted(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(evidence_engine, "insert", die)
    child = fork()
    if not child:
        try:
            own = build_spine(settings_of(world), verify_schema=False)
            World(Tenant(own, world.tenant.tenant_id), world.plane_id, "", world.run_id, {}).access()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert (rows_of(second_connection, world.tenant), journal(second_connection, world.tenant)) == ([], 1)
    monkeypatch.setattr(evidence_engine, "insert", inserted)
    clock.advance(minutes=5)
    assert recover_at_once(world.tenant) == 1
    (row,) = rows_of(second_connection, world.tenant)
    assert (row["outcome"], row["reason_code"], row["documents"]) == ("FAILED", "INTERNAL_ERROR", "[]")
    assert world.access().success
    assert len(rows_of(second_connection, world.tenant)) == 2


def test_a_bug_on_the_way_is_the_failure_that_the_evidence_tells_of(
    world: World, second_connection: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_row = OneRow(second_connection, world.tenant)
    for place, name in ((retrieval_access, "decide_access"), (evidence_engine, "insert")):
        works, broken = getattr(place, name), iter([True])

        def once(*arguments: Any, works: Any = works, broken: Any = broken, **named: Any) -> Any:
            if next(broken, False):
                raise ValueError("a bug")
            return works(*arguments, **named)

        with monkeypatch.context() as patched:
            patched.setattr(place, name, once)
            result = world.access()
        one_row(result, "FAILED", "INTERNAL_ERROR")
        assert result.error is not None
        assert (result.error.kind, result.committed) == (ErrorKind.UPSTREAM_FAILED, True)


def test_a_bug_that_stays_gives_nothing_away_and_is_recorded_once_it_is_mended(
    world: World, second_connection: sa.Connection, monkeypatch: pytest.MonkeyPatch, clock: SteerableClock
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(evidence_engine, "insert", broken)
        result = world.access()
    assert (result.data, result.committed, result.error_code) == (None, False, "EVIDENCE_NOT_RECORDED")
    assert rows_of(second_connection, world.tenant) == []
    clock.advance(minutes=5)
    assert recover_at_once(world.tenant) == 1
    (row,) = rows_of(second_connection, world.tenant)
    assert (row["outcome"], row["reason_code"]) == ("FAILED", "INTERNAL_ERROR")


@pytest.fixture
def orders(federated: Tenant) -> Callable[[Tenant], OperationResult]:
    """One access to a source outside, in a run of its own."""
    config = {"driver": "sqlite", "credential_ref": "env://ORDERS_DSN", "templates": SQL_TEMPLATES[:1]}
    plane_id = make_foreign(federated, "sql", config)
    start_run(federated, run_id="r-1")
    params = {"note": "credit union"}
    return lambda tenant: ask(tenant, "r-1", plane_id, template_id="by-note", params=params)


def test_an_access_that_is_killed_has_exactly_one_row_that_says_it_failed(
    federated: Tenant,
    orders: Callable[[Tenant], OperationResult],
    second_connection: sa.Connection,
    clock: SteerableClock,
) -> None:
    spine = federated.spine
    for place, name in ((SqlConnector, "execute"), (evidence_engine, "insert"), (evidence_engine, "build")):
        child = fork()
        if not child:
            try:
                own = Tenant(build_spine(spine.services.settings, verify_schema=False), federated.tenant_id)
                setattr(place, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
                orders(own)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
    # The last one died before its source was asked: that was no attempt that anybody outside saw.
    assert (rows_of(second_connection, federated), journal(second_connection, federated)) == ([], 2)
    assert recover_at_once(federated) == 0
    federated.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    clock.advance(minutes=5)
    assert recover_at_once(federated) == 2
    rows = rows_of(second_connection, federated)
    assert [(row["outcome"], row["reason_code"], row["documents"]) for row in rows] == [
        ("FAILED", "INTERNAL_ERROR", "[]")
    ] * 2
    assert {row["actor_id"] for row in rows} == {"user-1"}
    assert journal(second_connection, federated) == 0
    late = sa.text("SELECT late FROM log_leaves WHERE tenant_id = :t AND type = 'retrieval.evidence'")
    found = second_connection.execute(late, {"t": federated.tenant_id}).scalars()
    assert [bool(value) for value in found] == [True, True]
    proof = federated.call("runs.proof", {"run_id": "r-1"})
    assert proof.integrity.verification_status != "FAILED"
    assert proof.facts.status == "COMPLETE"
    assert recover_at_once(federated) == 0


def recover_at_once(tenant: Tenant) -> int:
    """Let four workers recover at the same moment; return how many accesses they say they recovered."""
    barrier = threading.Barrier(4)

    def work(_: int) -> int:
        barrier.wait()
        return int(tenant.call("retrieval.recover", door="worker").recovered)

    with ThreadPoolExecutor(4) as pool:
        return sum(pool.map(work, range(4)))


def journal(connection: sa.Connection, tenant: Tenant) -> int:
    """How many accesses are open."""
    count = sa.text("SELECT count(*) FROM retrieval_attempts WHERE tenant_id = :t")
    return int(connection.execute(count, {"t": tenant.tenant_id}).scalar_one())


def test_an_access_that_was_given_up_answers_as_its_evidence_says(
    federated: Tenant,
    orders: Callable[[Tenant], OperationResult],
    second_connection: sa.Connection,
    clock: SteerableClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one_row = OneRow(second_connection, federated)
    one_row(orders(federated), "ALLOWED", "OK")
    assert journal(second_connection, federated) == 0
    execute = SqlConnector.execute

    def slow(*arguments: Any, **named: Any) -> Any:
        found = execute(*arguments, **named)
        clock.advance(minutes=5)
        assert federated.call("retrieval.recover", door="worker").recovered == 1
        return found

    monkeypatch.setattr(SqlConnector, "execute", slow)
    one_row(orders(federated), "FAILED", "INTERNAL_ERROR")


def test_another_process_obeys_at_once(world: World) -> None:
    tenant = world.tenant
    settings = settings_of(world)

    def make() -> Callable[[str], str]:
        own = build_spine(settings, verify_schema=False)
        there = World(Tenant(own, tenant.tenant_id), world.plane_id, "", world.run_id, {})
        return lambda _question: str(there.access().error_code)

    suspension = {"plane_id": world.plane_id, "reason": "drill"}
    with Answering(make) as process:
        assert process.ask("go") == "None"
        tenant.call("knowledge.planes.set_suspension", {**suspension, "suspended": True})
        assert process.ask("go") == "PLANE_SUSPENDED"
        tenant.call("knowledge.planes.set_suspension", {**suspension, "suspended": False})
        assert process.ask("go") == "None"
        tenant.call("tenants.freeze", {"reason": "drill"})
        assert process.ask("go") == "KILL_SWITCH"
        tenant.call("tenants.unfreeze", {"reason": "drill"})
        assert process.ask("go") == "None"
        retire = {"rule_id": world.rule_id, "reason": "wrong", "revoke": True}
        tenant.call("policies.rules.retire", retire)
        assert process.ask("go") == "POLICY_REVOKED"
        assert world.access().error_code == "POLICY_REVOKED"


def test_a_sealed_credential_opens_the_plane_of_its_tenant_alone(
    make_spine: Callable[..., Spine], tmp_path: Path
) -> None:
    fill_sqlite(tmp_path / "orders.db")
    keyed = {"connector_sqlite_dir": tmp_path, "credential_key": base64.b64encode(b"k" * 32).decode()}
    spine = make_spine(**keyed)
    tenant, other = make_tenant(spine), make_tenant(spine)
    sealed = tenant.call("knowledge.credentials.seal", {"secret": "sqlite:///orders.db"}).credential_ref
    config = {"driver": "sqlite", "credential_ref": sealed, "templates": SQL_TEMPLATES[:1]}
    plane_id = make_foreign(tenant, "sql", config)
    assert tenant.call("knowledge.planes.get", {"plane_id": plane_id}).config["credential_ref"] == (
        "encrypted://***"
    )
    # The same reference in another tenant's plane, and on a server without the key, opens nothing.
    payload: dict[str, Any] = {"plane_type": "docs", "plane_name": "sql", "connector_id": "c"}
    payload |= {"connector_type": "sql", "config": config}
    stolen = str(other.call("knowledge.planes.register", payload).plane_id)
    job_id = move(other, stolen, "verify_knowledge_plane").job_id
    work_jobs(spine, other)
    assert "CREDENTIAL_UNAVAILABLE" in other.call("knowledge.jobs.get", {"job_id": job_id}).error_message
    keyless = Tenant(make_spine(connector_sqlite_dir=tmp_path), tenant.tenant_id)
    run_id = start_run(keyless)
    asked = ask(keyless, run_id, plane_id, template_id="by-note", params={"note": "x"})
    assert asked.error_code == "CREDENTIAL_UNAVAILABLE"
    refused = keyless.dispatch("knowledge.credentials.seal", {"secret": "x"})
    assert refused.error_code == "CREDENTIAL_KEY_MISSING"
