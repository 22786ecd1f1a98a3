"""Facts: every governed row has its statement and leaf, numbered without a gap, in the same commit."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from app.db.catalogue import metadata
from app.db.governed import GOVERNED
from app.domains.logs.engines.facts import MAX_STATEMENT_BYTES
from app.domains.logs.models.ledger import (
    LIVE_ONLY,
)
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationResult
from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import statement_counter
from app.kernel.canonical_json import dumps, loads
from app.kernel.clock import format_time
from app.kernel.hashing import leaf_hash, protected_commit, sha256_hex
from tests.factories.operations import Echo, Probe, probe, probe_spine
from tests.factories.tenants import Tenant
from tests.factories.worlds import make_world, start_run, step

MEMBERS = [
    "at",
    "attempt",
    "body",
    "fact",
    "key",
    "late",
    "no",
    "run",
    "table",
    "tenant",
    "type",
    "v",
    "version",
]


def leaves(
    connection: sa.Connection, tenant: Tenant, where: str = "TRUE", **values: Any
) -> list[dict[str, Any]]:
    query = sa.text(
        f"SELECT * FROM log_leaves WHERE tenant_id = :t AND {where} ORDER BY late, fact_no, fact_id"
    )
    return [dict(row) for row in connection.execute(query, {"t": tenant.tenant_id, **values}).mappings()]


def audits(ctx: Any, count: int, **members: Any) -> None:
    for number in range(count):
        ctx.audit("TenantUpdated", "TENANT", ctx.tenant_id, after={"n": number}, **members)


def dispatch(spine: Spine, tenant: Tenant, handler: Callable[..., Any], **context: Any) -> OperationResult:
    return probe_spine(spine, probe(handler)).dispatch("probe.do", tenant.context(**context), {})


def test_the_facts_of_a_run_are_numbered_without_a_gap(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    start_run(tenant, run_id="r-1")

    def handler(ctx: Any, _payload: Probe) -> Echo:
        audits(ctx, 3)
        return Echo()

    for _ in range(2):
        assert dispatch(spine, tenant, handler, run_id="r-1").success
    found = leaves(second_connection, tenant, "run_id = 'r-1'")
    assert [leaf["fact_no"] for leaf in found] == [1, 2, 3, 4, 5, 6, 7]
    assert [leaf["type"] for leaf in found] == ["run.started"] + ["audit"] * 6
    counter = sa.text("SELECT fact_count, late_count, closed FROM run_fact_counters WHERE tenant_id = :t")
    assert tuple(second_connection.execute(counter, {"t": tenant.tenant_id}).one()) == (7, 0, False)


def test_a_unit_that_rolls_back_takes_no_number(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    start_run(tenant, run_id="r-1")

    def too_large(ctx: Any, _payload: Probe) -> Echo:
        audits(ctx, 2)
        ctx.audit("TenantUpdated", "TENANT", ctx.tenant_id, after={"big": "x" * 70_000})
        return Echo()

    def fine(ctx: Any, _payload: Probe) -> Echo:
        audits(ctx, 1)
        return Echo()

    assert dispatch(spine, tenant, too_large, run_id="r-1").error_code == "STATEMENT_TOO_LARGE"
    assert dispatch(spine, tenant, fine, run_id="r-1").success
    assert [leaf["fact_no"] for leaf in leaves(second_connection, tenant, "run_id = 'r-1'")] == [1, 2]


def test_facts_of_several_runs_have_numbers_of_their_own(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    for run in ("r-1", "r-2"):
        start_run(tenant, run_id=run)

    def handler(ctx: Any, _payload: Probe) -> Echo:
        for run in ("r-2", "r-1", "r-2"):
            audits(ctx, 1, run_id=run)
        audits(ctx, 1)
        return Echo()

    assert dispatch(spine, tenant, handler).success
    numbers = {
        run: [leaf["fact_no"] for leaf in leaves(second_connection, tenant, "run_id = :run", run=run)]
        for run in ("r-1", "r-2")
    }
    assert numbers == {"r-1": [1, 2], "r-2": [1, 2, 3]}
    (without,) = leaves(second_connection, tenant, "run_id IS NULL AND type = 'audit'")
    assert (without["fact_no"], without["late"]) == (None, False)


def test_facts_after_the_end_are_late_with_numbers_of_their_own(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    start_run(tenant, run_id="r-1")
    tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})

    def handler(ctx: Any, _payload: Probe) -> Echo:
        audits(ctx, 2)
        return Echo()

    assert dispatch(spine, tenant, handler, run_id="r-1").success
    on_time = leaves(second_connection, tenant, "run_id = 'r-1' AND NOT late")
    late = leaves(second_connection, tenant, "run_id = 'r-1' AND late")
    assert [leaf["fact_no"] for leaf in on_time] == list(range(1, len(on_time) + 1))
    assert (on_time[-1]["type"], [leaf["fact_no"] for leaf in late]) == ("run.completed", [1, 2])
    assert [json.loads(leaf["statement"])["late"] for leaf in late] == [True, True]
    closure = json.loads(on_time[-1]["statement"])["body"]["closure"]
    assert closure["fact_count"] == len(on_time)
    assert sum(closure["type_counts"].values()) == len(on_time)


def test_what_ends_a_run_is_its_last_fact_whatever_was_queued_after_it(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    start_run(tenant, run_id="r-1")

    def handler(ctx: Any, _payload: Probe) -> Echo:
        audits(ctx, 1, run_id="r-1")
        ctx.facts.add("run.completed", {}, run_id="r-1", body={}, key=["r-1"], closes_run=True)
        audits(ctx, 2, run_id="r-1")
        return Echo()

    assert dispatch(spine, tenant, handler).success
    found = leaves(second_connection, tenant, "run_id = 'r-1'")
    assert [leaf["type"] for leaf in found] == ["run.started", "audit", "audit", "audit", "run.completed"]
    closure = json.loads(found[-1]["statement"])["body"]["closure"]
    assert closure == {
        "fact_count": 5,
        "type_counts": {"run.started": 1, "audit": 3, "run.completed": 1},
    }
    counter = sa.text("SELECT fact_count, closed FROM run_fact_counters WHERE tenant_id = :t")
    assert tuple(second_connection.execute(counter, {"t": tenant.tenant_id}).one()) == (5, True)


@pytest.mark.parametrize("kind", sorted(LIVE_ONLY | {"closing"}))
def test_live_facts_of_an_ended_run_refuse_the_whole_unit(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection, kind: str
) -> None:
    start_run(tenant, run_id="r-1")
    tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    before = len(leaves(second_connection, tenant))

    def handler(ctx: Any, _payload: Probe) -> Echo:
        audits(ctx, 1)
        if kind == "closing":
            ctx.facts.add("run.completed", {}, run_id="r-1", body={}, key=["r-1"], closes_run=True)
        else:
            ctx.facts.add("run.attempt", {}, run_id="r-1", body={}, key=["r-1"], live_only=True)
        return Echo()

    result = dispatch(spine, tenant, handler)
    assert (result.error_code, result.committed) == ("RUN_CLOSED", False)
    assert len(leaves(second_connection, tenant)) == before


def test_the_types_that_need_a_running_run_are_live_by_themselves(spine: Spine, tenant: Tenant) -> None:
    seen: dict[str, bool] = {}

    def handler(ctx: Any, _payload: Probe) -> Echo:
        for kind in ("run.attempt", "trace.extended", "trace.sealed", "evaluation", "run.started"):
            ctx.facts.add(kind, {}, body={}, key=["x"])
        seen.update({fact.type: fact.live_only for fact in ctx.facts.queued})
        ctx.facts.queued.clear()
        return Echo()

    assert dispatch(spine, tenant, handler).success
    assert seen.pop("run.started") is False
    assert all(seen.values())


def test_a_statement_has_every_member_and_its_leaf_hash(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    tenant.call("tenants.freeze", {"reason": "test"})
    (leaf,) = leaves(second_connection, tenant, "type = 'audit'")
    statement = loads(leaf["statement"])
    assert sorted(statement) == MEMBERS
    assert dumps(statement) == leaf["statement"]
    assert leaf["leaf_hash"] == leaf_hash(leaf["statement"])
    assert (statement["tenant"], statement["fact"], statement["v"]) == (tenant.tenant_id, leaf["fact_id"], 1)
    assert (statement["type"], statement["table"], statement["late"]) == ("audit", "audit_ledger", False)
    assert (statement["run"], statement["no"], statement["version"]) == (None, None, None)
    assert json.loads(leaf["ref_key"]) == statement["key"]


def test_a_statement_says_what_the_row_says_with_its_protected_members_committed(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    tenant.call("tenants.freeze", {"reason": "a reason"})
    query = sa.text("SELECT * FROM audit_ledger WHERE tenant_id = :t")
    row = second_connection.execute(query, {"t": tenant.tenant_id}).mappings().one()
    (leaf,) = leaves(second_connection, tenant, "fact_id = :fact", fact=row["fact_id"])
    body = json.loads(leaf["statement"])["body"]
    assert body["protected_commit"] == row["protected_commit"]
    assert row["protected_commit"] == protected_commit(row["protected_salt"], {"action_reason": "a reason"})
    assert not {"action_reason", "protected_salt", "fact_id", "tenant_id", "created_at"} & set(body)
    assert "a reason" not in leaf["statement"]


def hashed(column: sa.Column[Any], name: str, value: Any) -> Any:
    """Return the form in which a stored value stands in a statement, worked out independently."""
    entry = GOVERNED[column.table.name]
    if value is None:
        return None
    if name in entry.digests:
        raw = value.encode() if isinstance(value, str) else bytes(value)
        return {"sha256": sha256_hex(raw), "len": len(raw)}
    if name in entry.json:
        return json.loads(value)
    if isinstance(value, datetime):
        return format_time(value)
    return bool(value) if isinstance(column.type, sa.Boolean) else value


def test_every_appended_row_of_a_governed_run_equals_its_statement(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    world = make_world(spine, tenant)
    world.access("refund").unwrap()
    world.append(step(0), step(1))
    world.complete()
    tenant.call("tenants.freeze", {"reason": "test"})
    checked: set[str] = set()
    for leaf in leaves(second_connection, tenant):
        statement = json.loads(leaf["statement"])
        entry = GOVERNED[statement["table"]]
        if entry.mode not in ("APPEND", "HEAD"):
            continue
        table = metadata.tables[statement["table"]]
        query = sa.select(table).where(
            table.c.tenant_id == tenant.tenant_id, table.c.fact_id == leaf["fact_id"]
        )
        row = second_connection.execute(query).mappings().one_or_none()
        if row is None:
            assert entry.mode == "HEAD", f"{statement['type']} has no row"
            continue
        wanted = {name: hashed(table.c[name], name, row[name]) for name in entry.hashed}
        body = {name: value for name, value in statement["body"].items() if name in wanted}
        assert body == wanted, statement["type"]
        assert statement["key"] == [row[name] for name in entry.key]
        checked.add(statement["type"])
    assert checked >= {"audit", "policy.snapshot", "evaluation", "retrieval.evidence", "knowledge.transition"}


def test_every_governed_row_of_a_run_has_its_leaf(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    world = make_world(spine, tenant)
    world.access("refund").unwrap()
    world.complete()
    facts = {leaf["fact_id"] for leaf in leaves(second_connection, tenant)}
    rows = 0
    for table in metadata.sorted_tables:
        if "fact_id" not in table.c or table.name in ("log_leaves", "log_pending"):
            continue
        query = sa.select(table.c.fact_id).where(table.c.tenant_id == tenant.tenant_id)
        mine = set(second_connection.execute(query).scalars())
        assert mine <= facts, table.name
        rows += len(mine)
    assert rows > 10


def test_every_leaf_waits_to_be_sequenced(tenant: Tenant, second_connection: sa.Connection) -> None:
    start_run(tenant, run_id="r-1")
    tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    query = sa.text("SELECT fact_id FROM log_pending WHERE tenant_id = :t")
    waiting = set(second_connection.execute(query, {"t": tenant.tenant_id}).scalars())
    assert waiting == {leaf["fact_id"] for leaf in leaves(second_connection, tenant)}


def _entry(tenant: Tenant, spine: Spine, **changes: Any) -> dict[str, Any]:
    kept: list[dict[str, Any]] = []

    def handler(ctx: Any, _payload: Probe) -> Echo:
        ctx.audit("TenantUpdated", "TENANT", ctx.tenant_id, after={"n": 1})
        kept.append({**ctx.entries[0], **changes})
        return Echo()

    assert dispatch(spine, tenant, handler).success
    return kept[0]


def test_a_governed_row_without_its_leaf_is_refused_at_commit(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    row = _entry(tenant, spine, entry_id="aud_orphan", fact_id="fct_orphan")
    ledger = metadata.tables["audit_ledger"]

    def handler(ctx: Any, _payload: Probe) -> Echo:
        ctx.connection.execute(ledger.insert().values(**row, tenant_id=ctx.tenant_id))
        return Echo()

    result = dispatch(spine, tenant, handler)
    assert (result.error_code, result.committed) == ("HANDLER_EXCEPTION:IntegrityError", False)
    query = sa.text("SELECT count(*) FROM audit_ledger WHERE entry_id = 'aud_orphan'")
    assert second_connection.execute(query).scalar_one() == 0


def test_two_rows_never_share_a_leaf(spine: Spine, tenant: Tenant) -> None:
    row = _entry(tenant, spine, entry_id="aud_twin")
    ledger = metadata.tables["audit_ledger"]

    def handler(ctx: Any, _payload: Probe) -> Echo:
        ctx.connection.execute(ledger.insert().values(**row, tenant_id=ctx.tenant_id))
        return Echo()

    assert dispatch(spine, tenant, handler).error_code == "HANDLER_EXCEPTION:IntegrityError"


def test_a_row_never_borrows_another_tenants_leaf(spine: Spine, tenant: Tenant, other_tenant: Tenant) -> None:
    row = _entry(tenant, spine, entry_id="aud_thief")
    ledger = metadata.tables["audit_ledger"]

    def handler(ctx: Any, _payload: Probe) -> Echo:
        ctx.connection.execute(ledger.insert().values(**row, tenant_id=ctx.tenant_id))
        return Echo()

    assert dispatch(spine, other_tenant, handler).error_code == "HANDLER_EXCEPTION:IntegrityError"


def _with_statement_of(size: int) -> Callable[..., Any]:
    def handler(ctx: Any, _payload: Probe) -> Echo:
        ctx.facts.add("audit", {}, body={"x": ""}, key=["k"])
        fact = ctx.facts.queued[0]
        overhead = len(
            dumps(
                {
                    **dict.fromkeys(MEMBERS),
                    "at": format_time(ctx.now),
                    "body": {"x": ""},
                    "fact": fact.fact_id,
                    "key": ["k"],
                    "late": False,
                    "table": "audit_ledger",
                    "tenant": ctx.tenant_id,
                    "type": "audit",
                    "v": 1,
                }
            )
        )
        fact.body = {"x": "x" * (size - overhead)}
        return Echo()

    return handler


def test_the_largest_statement_is_65535_bytes(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    assert dispatch(spine, tenant, _with_statement_of(MAX_STATEMENT_BYTES)).success
    (leaf,) = leaves(second_connection, tenant)
    assert len(leaf["statement"].encode()) == MAX_STATEMENT_BYTES == 65_535
    refused = dispatch(spine, tenant, _with_statement_of(MAX_STATEMENT_BYTES + 1))
    assert refused.error is not None
    assert (refused.error_code, refused.error.kind.value) == ("STATEMENT_TOO_LARGE", "too_large")


def test_a_unit_without_facts_writes_no_leaf(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    assert dispatch(spine, tenant, lambda _ctx, _payload: Echo()).success
    assert leaves(second_connection, tenant) == []


def test_the_facts_are_the_last_statements_before_the_commit(
    make_spine: Callable[..., Spine], tenant: Tenant
) -> None:
    start_run(tenant, run_id="r-1")
    spine = make_spine()
    heard: list[str] = []
    statement_counter(spine.transactions.engine, heard.append)

    def handler(ctx: Any, _payload: Probe) -> Echo:
        audits(ctx, 2)
        ctx.outbox("PlaneTransitioned", {})
        return Echo()

    by = tenant.context(run_id="r-1", idempotency_key="k")
    extended = probe_spine(spine, probe(handler, creates=True))
    assert extended.dispatch("probe.do", by, {}).success
    writing = ("INSERT", "UPDATE", "WITH", "COMMIT")
    written = [" ".join(text.split()[:3]) for text in heard if text.split()[0] in writing]
    one_by_one = ["UPDATE run_fact_counters SET", "INSERT INTO log_leaves"]
    assert written == [
        "INSERT INTO idempotency_keys",
        "INSERT INTO audit_ledger",
        "INSERT INTO outbox",
        "UPDATE idempotency_keys SET",
        # PostgreSQL counts and writes in one statement.
        *(one_by_one if spine.transactions.dialect_name == "sqlite" else ["WITH counted AS"]),
        "COMMIT",
    ]


def test_a_joining_type_is_one_fact_of_a_unit(
    spine: Spine, tenant: Tenant, second_connection: sa.Connection
) -> None:
    def join(earlier: Any, later: Any) -> dict[str, Any]:
        return {"from": earlier["from"], "to": later["to"]}

    def handler(ctx: Any, _payload: Probe) -> Echo:
        for number in (1, 2, 3):
            body = {"from": number, "to": number}
            ctx.facts.add("repository.changed", {}, body=body, key=[number], join=join)
        return Echo()

    assert dispatch(spine, tenant, handler).success
    (leaf,) = leaves(second_connection, tenant)
    assert json.loads(leaf["statement"])["body"] == {"from": 1, "to": 3}
    assert json.loads(leaf["ref_key"]) == [3]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)


@given(st.dictionaries(texts, texts | st.none(), min_size=1, max_size=4))
def test_protected_members_open_their_commitment(members: dict[str, str | None]) -> None:
    kept = OperationContext.protect(None, members)  # type: ignore[arg-type]
    assert {name: kept[name] for name in members} == members
    if all(value is None for value in members.values()):
        assert (kept["protected_salt"], kept["protected_commit"]) == (None, None)
    else:
        assert len(bytes.fromhex(kept["protected_salt"])) == 32
        assert kept["protected_commit"] == protected_commit(kept["protected_salt"], members)
