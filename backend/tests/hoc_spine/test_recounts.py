"""Recounts: self-verification recounts what is derived, and finds whatever an editor makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from app.db.catalogue import metadata
from app.db.governed import GOVERNED, Governed
from app.domains.logs.engines import slices
from app.domains.logs.engines.row_check import RowFailure
from app.hoc_spine.coordinators.recounts import RECOUNTS, WHOLE_RECOUNTS, Stretch, recount, recount_whole
from app.hoc_spine.coordinators.run_judgement import read_subjects
from app.hoc_spine.log_verifier import LogVerifier
from app.hoc_spine.spine import Spine
from app.hoc_spine.transactions import SpineConnection
from tests.factories.databases import Databases, Dialect
from tests.factories.limits import limit, record, start
from tests.factories.steering import SteerableClock, SteerableIds
from tests.factories.tampering import Lab, changed, taken_back, unguard
from tests.factories.tenants import Tenant
from tests.factories.worlds import step

Edit = TypeVar("Edit")
TOKENS = {"TOKENS_INPUT": 12, "TOKENS_OUTPUT": 5}
# What an editor does to rows that are derived as a whole, and the table and column that tell of it.
EDITS = {
    "UPDATE aos_traces SET cost_micro = cost_micro + 1 WHERE tenant_id = :t AND status = 'OPEN'": (
        "aos_traces",
        "cost_micro",
    ),
    "UPDATE aos_traces SET input_tokens = NULL WHERE tenant_id = :t AND status = 'OPEN'": (
        "aos_traces",
        "input_tokens",
    ),
    "UPDATE aos_traces SET output_tokens = 5000000 WHERE tenant_id = :t AND status = 'OPEN'": (
        "aos_traces",
        "output_tokens",
    ),
    "UPDATE runs SET risk_level = 'NORMAL' WHERE tenant_id = :t AND run_id = 'r-violated'": (
        "runs",
        "risk_level",
    ),
    "UPDATE runs SET risk_level = 'NORMAL' WHERE tenant_id = :t AND run_id = 'r-breach'": (
        "runs",
        "risk_level",
    ),
    "UPDATE runs SET risk_level = 'NORMAL' WHERE tenant_id = :t AND run_id = 'r-stopped'": (
        "runs",
        "risk_level",
    ),
    "UPDATE runs SET risk_level = 'AT_RISK' WHERE tenant_id = :t AND risk_level = 'NORMAL'": (
        "runs",
        "risk_level",
    ),
    "UPDATE retrieval_evidence_documents SET digest = 'x' WHERE tenant_id = :t AND position = 0": (
        "retrieval_evidence_documents",
        "position",
    ),
    "DELETE FROM retrieval_evidence_documents WHERE tenant_id = :t": (
        "retrieval_evidence_documents",
        "position",
    ),
    "UPDATE limit_counters SET committed = committed + 1 WHERE tenant_id = :t": (
        "limit_counters",
        "committed",
    ),
    "UPDATE limit_counters SET reserved = reserved + 1 WHERE tenant_id = :t": ("limit_counters", "reserved"),
    "DELETE FROM limit_counters WHERE tenant_id = :t": ("limit_counters", "committed"),
    "UPDATE limit_entries SET amount = amount + 1 WHERE tenant_id = :t AND source_ref LIKE 'step:%'": (
        "limit_entries",
        "amount",
    ),
    "UPDATE limit_entries SET amount = amount + 1 WHERE tenant_id = :t AND source_ref LIKE 'usage:%'": (
        "limit_entries",
        "amount",
    ),
    "UPDATE limit_entries SET amount = amount + 1 WHERE tenant_id = :t AND source_ref LIKE 'check:%'": (
        "limit_entries",
        "amount",
    ),
    "UPDATE limit_entries SET window_key = 'x' WHERE tenant_id = :t AND kind = 'RESERVE'": (
        "limit_entries",
        "window_key",
    ),
    "UPDATE limit_entries SET run_id = 'r-open' WHERE tenant_id = :t AND run_id = 'r-breach'": (
        "limit_entries",
        "run_id",
    ),
    "UPDATE limit_entries SET attempt = 7 WHERE tenant_id = :t": ("limit_entries", "attempt"),
    "UPDATE limit_entries SET source_ref = 'check:x' WHERE tenant_id = :t AND entry_id ="
    " (SELECT min(entry_id) FROM limit_entries WHERE tenant_id = :t AND kind = 'COMMIT')": (
        "limit_entries",
        "source_ref",
    ),
    "UPDATE limit_entries SET limit_id = 'l-cost' WHERE tenant_id = :t AND limit_id = 'l-requests'": (
        "limit_entries",
        "limit_id",
    ),
    "DELETE FROM limit_entries WHERE tenant_id = :t": ("limit_entries", "source_ref"),
    "DELETE FROM usage_reservations WHERE tenant_id = :t": ("limit_entries", "source_ref"),
    "UPDATE usage_reservations SET status = 'OPEN', closed_at = NULL WHERE tenant_id = :t": (
        "limit_entries",
        "source_ref",
    ),
    "UPDATE usage_reservations SET amounts = '{}' WHERE tenant_id = :t": ("usage_reservations", "amounts"),
    "UPDATE usage_reservations SET attempt = 7 WHERE tenant_id = :t": ("usage_reservations", "attempt"),
    "UPDATE usage_reservations SET decision_id = 'x' WHERE tenant_id = :t": (
        "usage_reservations",
        "decision_id",
    ),
}


def check(tenant: Tenant, run_id: str, name: str = "send", **members: Any) -> Any:
    payload = {"run_id": run_id, "action": {"kind": "TOOL", "name": name}, **members}
    return tenant.dispatch("runs.check", payload).data


def play(tenant: Tenant, clock: SteerableClock) -> None:
    """Play runs that leave every kind of row from which something is derived, and that it is derived into."""
    call = tenant.call
    limit(tenant, limit_id="l-cost", consequence="INCIDENT")
    limit(tenant, limit_id="l-requests", metric="REQUESTS", max_value=1000, name="Requests")
    limit(tenant, limit_id="l-steps", metric="STEPS", max_value=1000, name="Steps")
    guard = {
        "name": "No rm",
        "kind": "GUARD",
        "moments": ["STEP"],
        "enforcement_mode": "BLOCK",
        "activate": True,
    }
    call("policies.rules.create", guard | {"condition": 'action.name == "rm"', "scope": "TENANT"})

    start(tenant, "r-open")
    check(tenant, "r-open", "rm")
    call("traces.steps.append", {"run_id": "r-open", "steps": [step(0, usage=TOKENS), step(1, cost_cents=3)]})
    record(tenant, "u-1", "r-open", usage={"COST_USD": "0.5", "TOKENS_INPUT": 7})
    check(tenant, "r-open", estimate={"STEPS": 1}, ttl_seconds=30)
    clock.advance(seconds=60)
    call("usage.expire_reservations", {}, door="worker")
    check(tenant, "r-open", estimate={"STEPS": 2})

    start(tenant, "r-breach")
    held = check(tenant, "r-breach", estimate={"COST_USD": 5})
    usage = {"COST_USD": 4, **TOKENS}
    steps = [
        step(0, usage=usage, reservation_id=held.reservation.reservation_id),
        step(1, occurred_at="2026-01-01T00:00:00Z"),
    ]
    call("traces.steps.append", {"run_id": "r-breach", "steps": steps})
    assert check(tenant, "r-breach", estimate={"COST_USD": 2}).reservation
    assert record(tenant, "u-1", "r-breach", usage={"COST_USD": 120}).breaches
    ended = call("runs.complete", {"run_id": "r-breach", "status": "failed", "error_code": "STEP_FAILURE"})
    for lesson in ended.lessons:
        call("lessons.convert", {"lesson_id": lesson["lesson_id"]})

    start(tenant, "r-violated")
    blocked = check(tenant, "r-violated", "rm")
    assert blocked.verdict == "BLOCK"
    call("traces.steps.append", {"run_id": "r-violated", "steps": [step(0, decision_id=blocked.decision_id)]})
    call("runs.retry", {"run_id": "r-violated", "from_attempt": 1, "reason": "again"})
    call("traces.steps.append", {"run_id": "r-violated", "steps": [step(0, outcome_data=None, usage=TOKENS)]})
    call("runs.complete", {"run_id": "r-violated", "status": "succeeded"})

    start(tenant, "r-stopped")
    check(tenant, "r-stopped", "rm")
    call("runs.halt", {"run_id": "r-stopped", "reason": "enough"})
    call("incidents.create", {"title": "Late", "source_run_id": "r-stopped", "category": "MANUAL"})


@pytest.fixture(scope="module")
def lab(
    databases: Databases, dialect: Dialect, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Lab, sa.Connection]]:
    """A signed log with a rich history, and a hand that no trigger stops."""
    from app.bootstrap import build_spine
    from app.settings import Settings

    built: list[Spine] = []
    clock = SteerableClock()

    def make(**settings: Any) -> Spine:
        built.append(build_spine(Settings(**settings), clock=clock, ids=SteerableIds()))
        return built[-1]

    made = Lab(make, databases.new(dialect), tmp_path_factory.mktemp("lab"), log_sequencer="off")
    play(made.log.tenant, clock)
    made.log.sequence()
    with made.log.connect() as connection:
        unguard(connection)
        yield made, connection
    for spine in built:
        spine.close()


def recounted(lab: Lab, connection: sa.Connection) -> tuple[list[RowFailure], Stretch]:
    """Recount the whole log as the database now stands, on this very connection."""
    spine = lab.log.spine
    looking = SpineConnection(connection, spine.transactions.dialect_name)
    given: dict[str, Any] = {"tenant_id": lab.tenant_id}
    size = lab.log.status().size
    part = slices.read_slice(looking, **given, epoch=1, first=0, last=size, size=size)
    rows = read_subjects(looking, part.facts, **given, across=True)
    stretch = Stretch(looking, lab.tenant_id, part.facts, rows, spine.services.digest_key)
    return [*recount(stretch), *recount_whole(looking, **given)], stretch


def derived_columns() -> list[tuple[str, str]]:
    return [
        (table, name)
        for table, entry in sorted(GOVERNED.items())
        for name, reason in entry.unhashed.items()
        if reason.startswith("DERIVED")
    ]


def rounds(edits: Iterable[Edit], table_of: Callable[[Edit], str]) -> Iterator[list[Edit]]:
    """Yield the edits so that each round has at most one of every table: each must be found by itself."""
    by_table: dict[str, list[Edit]] = {}
    for edit in edits:
        by_table.setdefault(table_of(edit), []).append(edit)
    for together in zip_longest(*by_table.values()):
        yield [edit for edit in together if edit is not None]


def test_a_rich_history_recounts_to_what_it_says(lab: tuple[Lab, sa.Connection]) -> None:
    made, hand = lab
    found, stretch = recounted(made, hand)
    assert found == []
    assert stretch.tally["recounted"] > 25
    report = LogVerifier(made.log.spine).verify_all(made.tenant_id)
    assert (report.status, report.failures) == ("VERIFIED", [])
    assert report.counts["recounted"] == stretch.tally["recounted"]
    # Every kind of row is there, so that no recount passes for want of rows.
    for table in ("limit_entries", "limit_counters", "usage_reservations", "retrieval_evidence_documents"):
        count = sa.select(sa.func.count()).select_from(metadata.tables[table])
        assert hand.execute(count).scalar_one() > 0, table
    statuses = sa.text("SELECT DISTINCT status FROM usage_reservations")
    assert set(hand.execute(statuses).scalars()) == {"OPEN", "COMMITTED", "RELEASED", "EXPIRED"}


def test_each_derived_column_that_is_edited_is_found(lab: tuple[Lab, sa.Connection]) -> None:
    made, hand = lab
    assert len(derived_columns()) >= 12
    for together in rounds(derived_columns(), lambda edit: edit[0]):
        with taken_back(hand):
            for table, name in together:
                edit_column(made, hand, GOVERNED[table], name)
            found, _ = recounted(made, hand)
            assert {failure.code for failure in found} == {"RECOUNT_MISMATCH"}
            assert {(failure.table, failure.column) for failure in found} == set(together)


def edit_column(lab: Lab, hand: sa.Connection, entry: Governed, name: str) -> None:
    column, key = entry.table.c[name], [entry.table.c[part] for part in entry.key]
    query = sa.select(*key, column).where(entry.table.c.tenant_id == lab.tenant_id).order_by(*key)
    row = hand.execute(query).first()
    assert row is not None, name
    same = [part == value for part, value in zip(key, row, strict=False)]
    hand.execute(entry.table.update().where(*same).values({name: changed(entry, column, row[-1])}))


def test_each_derived_row_that_is_edited_is_found(lab: tuple[Lab, sa.Connection]) -> None:
    made, hand = lab
    for together in rounds(EDITS.items(), lambda edit: edit[1][0]):
        with taken_back(hand):
            for edit, _ in together:
                assert hand.execute(sa.text(edit), {"t": made.tenant_id}).rowcount > 0, edit
            found, _ = recounted(made, hand)
            assert {failure.code for failure in found} == {"RECOUNT_MISMATCH"}
            told = {(failure.table, failure.column) for failure in found}
            assert {wanted for _, wanted in together} <= told, together


def test_what_is_erased_is_counted_and_not_judged(lab: tuple[Lab, sa.Connection]) -> None:
    made, hand = lab
    _, before = recounted(made, hand)
    with taken_back(hand):
        for table, members in {
            "aos_trace_steps": "params = NULL, outcome_data = NULL",
            "decision_records": "decision_inputs = NULL, decision_reason = NULL, details = NULL",
        }.items():
            hand.execute(sa.text(f"UPDATE {table} SET {members}, protected_salt = NULL"))
        found, stretch = recounted(made, hand)
        assert found == []
    assert before.tally["recounts_erased"] == 0
    assert stretch.tally["recounts_erased"] > 8
    assert sum(stretch.tally.values()) == sum(before.tally.values())


def test_a_value_that_cannot_be_read_fails_its_recount_alone(lab: tuple[Lab, sa.Connection]) -> None:
    made, hand = lab
    with taken_back(hand):
        hand.execute(sa.text("UPDATE retrieval_evidence SET documents = 'none'"))
        found, _ = recounted(made, hand)
        assert [(failure.code, failure.table, failure.key) for failure in found] == [
            ("RECOUNT_MISMATCH", "log", "evidence_documents")
        ]


def test_every_registered_recount_is_named_after_what_it_does() -> None:
    assert {name: check.__name__ for name, check in (RECOUNTS | WHOLE_RECOUNTS).items()} == {
        **{name: name for name in (*RECOUNTS, *WHOLE_RECOUNTS)},
        "repository_check": "recount_repository",
    }


def test_a_wrong_recount_is_recorded_and_told(lab: tuple[Lab, sa.Connection]) -> None:
    made, hand = lab
    edit = "UPDATE runs SET incident_count = incident_count + :n WHERE tenant_id = :t AND run_id = 'r-breach'"
    hand.execute(sa.text(edit), {"t": made.tenant_id, "n": 1})
    try:
        checker = LogVerifier(made.log.spine)
        assert checker.run_round().failures > 0
        checker.release()
        found = made.log.tenant.call("log.integrity")
        assert {(one.code, one.table, one.key, one.column) for one in found.failures} == {
            ("RECOUNT_MISMATCH", "runs", '["r-breach"]', "incident_count")
        }
        opened = made.log.tenant.call("incidents.list", {"category": "INTEGRITY"}).items
        assert [(one.error_code, one.trigger_ref, one.severity) for one in opened] == [
            ("RECOUNT_MISMATCH", "runs", "CRITICAL")
        ]
    finally:
        hand.execute(sa.text(edit), {"t": made.tenant_id, "n": -1})
