"""Self-verification: what is edited behind a running server is found, recorded, told, and halts the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY
from typer.testing import CliRunner

from app.cli.program import cli
from app.db.catalogue import metadata
from app.hoc_spine.coordinators.verify_requests import VerifyRequest, VerifyRequests
from app.hoc_spine.log_verifier import LogVerifier
from app.hoc_spine.spine import Spine
from app.hoc_spine.verifier_loop import LogVerifierLoop, run_requests
from tests.factories.databases import Databases, Dialect
from tests.factories.logs import LogWorld
from tests.factories.steering import SteerableClock, SteerableIds
from tests.factories.tampering import Lab, unguard
from tests.factories.tenants import operator_context
from tests.factories.worlds import start_run

HEX = "0" * 64


@dataclass
class Damaged:
    """One lab for all damages of the module, each of them repaired, and the hand that does them."""

    lab: Lab
    hand: sa.Connection
    clock: SteerableClock

    @property
    def log(self) -> LogWorld:
        return self.lab.log

    def round(self) -> Any:
        """Do a round as a process that has just begun: everything is swept."""
        checker = LogVerifier(self.log.spine)
        done = checker.run_round()
        checker.release()
        return done

    def integrity(self) -> Any:
        return self.log.tenant.call("log.integrity")

    @contextmanager
    def damaged(
        self, tables: tuple[str, ...], *statements: str, rewind: bool = False, **values: Any
    ) -> Iterator[None]:
        """Execute statements behind the triggers, and put the rows of these tables back afterwards.

        Rows that came meanwhile stay, but not with `rewind`.
        """
        named = [metadata.tables[name] for name in tables]
        kept = {table.name: self._rows(table) for table in named}
        try:
            for statement in statements:
                given = {"t": self.log.tenant_id, **values}
                used = {name: value for name, value in given.items() if f":{name}" in statement}
                assert self.hand.execute(sa.text(statement), used).rowcount != 0, statement
            yield
        finally:
            for table in named:
                mine = table.c.tenant_id == self.log.tenant_id
                if rewind:
                    self.hand.execute(table.delete().where(mine))
                for row in kept[table.name]:
                    same = [column == row[column.name] for column in table.primary_key]
                    self.hand.execute(table.delete().where(*same))
                    if table.name == "log_leaves":
                        # The leaf is queued again when it is put back, as if it were new.
                        self._execute("DELETE FROM log_pending WHERE fact_id = :f", f=row["fact_id"])
                    self.hand.execute(table.insert(), row)
                if table.name == "log_leaves":
                    integrated = "SELECT fact_id FROM log_entries WHERE tenant_id = :t"
                    self._execute(
                        f"DELETE FROM log_pending WHERE tenant_id = :t AND fact_id IN ({integrated})",
                        t=self.log.tenant_id,
                    )

    def _execute(self, statement: str, **values: Any) -> None:
        self.hand.execute(sa.text(statement), values)

    def _rows(self, table: sa.Table) -> list[dict[str, Any]]:
        query = sa.select(table).where(table.c.tenant_id == self.log.tenant_id)
        return [dict(row) for row in self.hand.execute(query).mappings()]


@pytest.fixture(scope="module")
def standing(
    databases: Databases, dialect: Dialect, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Damaged]:
    """A signed log with a governed run."""
    from app.bootstrap import build_spine
    from app.settings import Settings

    built: list[Spine] = []
    clock = SteerableClock()

    def make(**settings: Any) -> Spine:
        built.append(build_spine(Settings(**settings), clock=clock, ids=SteerableIds()))
        return built[-1]

    lab = Lab(make, databases.new(dialect), tmp_path_factory.mktemp("lab"), log_sequencer="off")
    lab.log.sequence()
    with lab.log.connect() as connection:
        unguard(connection)
        yield Damaged(lab, connection, clock)
    for spine in built:
        spine.close()


def test_a_round_verifies_what_is_new_and_writes_down_only_news(standing: Damaged) -> None:
    log = standing.log
    found = standing.integrity()
    assert (found.status, found.last_verified_at, found.last_verified_size) == ("UNSUPPORTED", None, 0)
    checker, size = LogVerifier(log.spine), log.status().signed_size
    done = checker.run_round()
    assert (done.failures, done.held) == (0, False)
    assert done.entries >= 2 * size
    found = standing.integrity()
    assert (found.status, found.last_verified_size, found.failures) == ("VERIFIED", size, [])
    known = log.tenant.call("log.verifications.list").items
    assert {one.kind for one in known} == {"INCREMENTAL", "SWEEP"}
    checker.run_round()
    assert len(log.tenant.call("log.verifications.list").items) == len(known)
    start_run(log.tenant)
    log.sequence()
    checker.run_round()
    newest = log.tenant.call("log.verifications.list", {"limit": 1}).items[0]
    assert (newest.kind, newest.from_idx, newest.to_idx) == ("INCREMENTAL", size, log.status().signed_size)
    assert newest.counts["entries"] == newest.to_idx - newest.from_idx
    standing.clock.advance(minutes=16)
    checker.run_round()
    checker.release()
    assert len(log.tenant.call("log.verifications.list").items) > len(known) + 1


EVIDENCE = "SELECT min(evidence_id) FROM retrieval_evidence WHERE tenant_id = :t"
FIRST_LEAF = "(SELECT fact_id FROM log_entries WHERE tenant_id = :t AND idx = 3)"
# What a superuser does to rows, and what tells of it: the code and the table.
ROW_EDITS = {
    f"UPDATE retrieval_evidence SET purpose = 'other' WHERE evidence_id = ({EVIDENCE})": (
        "ROW_MISMATCH",
        "retrieval_evidence",
    ),
    "DELETE FROM policy_evaluations WHERE tenant_id = :t AND attempt = 1": (
        "ROW_MISSING",
        "policy_evaluations",
    ),
    "UPDATE runs SET goal = 'another goal' WHERE tenant_id = :t": ("VALUE_TAMPERED", "runs"),
    "UPDATE audit_ledger SET actor_id = 'nobody' WHERE tenant_id = :t AND entity_type = 'TENANT'": (
        "ROW_MISMATCH",
        "audit_ledger",
    ),
    "UPDATE policy_rules SET name = 'x' WHERE tenant_id = :t": ("ROW_MISMATCH", "policy_rules"),
    "UPDATE tenants SET name = 'x' WHERE tenant_id = :t": ("ROW_MISMATCH", "tenants"),
    "UPDATE knowledge_plane_registry SET sensitivity_level = 'public' WHERE tenant_id = :t": (
        "ROW_MISMATCH",
        "knowledge_plane_registry",
    ),
    "UPDATE repository_changes SET actor_id = 'nobody' WHERE tenant_id = :t AND seq = 1": (
        "ROW_MISMATCH",
        "repository_changes",
    ),
    "UPDATE artifact_revisions SET created_by = 'nobody' WHERE tenant_id = :t": (
        "ROW_MISMATCH",
        "repository",
    ),
    "UPDATE plane_lifecycle_events SET fact_id = (SELECT fact_id FROM log_leaves WHERE tenant_id = :t"
    " AND type = 'trace.sealed' LIMIT 1) WHERE tenant_id = :t AND seq = 1": (
        "UNLOGGED_ROW",
        "plane_lifecycle_events",
    ),
}


def test_edited_rows_are_found_and_lifted_when_they_are_repaired(standing: Damaged) -> None:
    tables = {statement.split()[1 if statement.startswith("UPDATE") else 2] for statement in ROW_EDITS}
    before = REGISTRY.get_sample_value("hoc_verification_failures_total", {"code": "ROW_MISMATCH"}) or 0
    with standing.damaged(tuple(sorted(tables)), *ROW_EDITS):
        assert standing.round().failures > 0
        found = standing.integrity()
        told = {(failure.code, failure.table) for failure in found.failures}
        assert (found.status, set(ROW_EDITS.values()) - told) == ("FAILED", set())
        # The tree is as it was signed: the log goes on.
        assert standing.log.status().state == "ACTIVE"
    after = REGISTRY.get_sample_value("hoc_verification_failures_total", {"code": "ROW_MISMATCH"})
    assert after is not None
    assert after > before
    standing.clock.advance(seconds=1)
    assert (standing.round().failures, standing.integrity().failures) == (0, [])
    assert standing.integrity().status == "VERIFIED"


# The table to put back, what the superuser does to the log itself, the code, and whether the log must stop.
LOG_EDITS = [
    (
        "log_leaves",
        f"UPDATE log_leaves SET statement = statement || ' ' WHERE fact_id = {FIRST_LEAF}",
        "LOG_MISMATCH",
        True,
    ),
    ("log_leaves", f"DELETE FROM log_leaves WHERE fact_id = {FIRST_LEAF}", "LOG_MISMATCH", True),
    ("log_leaves", f"UPDATE log_leaves SET attempt = 7 WHERE fact_id = {FIRST_LEAF}", "FOREIGN_FACT", False),
    (
        "log_tiles",
        "UPDATE log_tiles SET hashes = :flipped WHERE tenant_id = :t AND level = 0",
        "INCONSISTENT",
        True,
    ),
    ("log_entries", "DELETE FROM log_entries WHERE tenant_id = :t AND idx = 5", "LOG_MISMATCH", True),
    ("log_checkpoints", "UPDATE log_checkpoints SET root = :hex WHERE tenant_id = :t", "ROOT_MISMATCH", True),
    (
        "log_checkpoints",
        "UPDATE log_checkpoints SET note = replace(note, '/1', '/2') WHERE tenant_id = :t",
        "BAD_SIGNATURE",
        False,
    ),
    ("log_checkpoints", "DELETE FROM log_checkpoints WHERE tenant_id = :t", "ROLLED_BACK", False),
]


def test_an_edited_log_is_found_and_stopped_where_its_tree_is_wrong(standing: Damaged) -> None:
    log = standing.log
    tiles = standing.hand.execute(
        sa.text("SELECT hashes FROM log_tiles WHERE tenant_id = :t AND level = 0"), {"t": log.tenant_id}
    ).scalar_one()
    flipped = bytes(tiles[:40]) + bytes([tiles[40] ^ 1]) + bytes(tiles[41:])
    for table, edit, code, halts in LOG_EDITS:
        standing.clock.advance(seconds=1)
        with standing.damaged((table, "log_heads"), edit, flipped=flipped, hex=HEX):
            assert standing.round().failures > 0, edit
            codes = {failure.code for failure in standing.integrity().failures}
            assert code in codes, (edit, codes)
            assert log.status().state == ("HALTED" if halts else "ACTIVE"), edit
    standing.clock.advance(seconds=1)
    assert (standing.round().failures, standing.integrity().failures) == (0, [])


def test_what_came_after_a_failure_does_not_hide_that_it_was_repaired(standing: Damaged) -> None:
    log, checker = standing.log, LogVerifier(standing.log.spine)
    edit = "UPDATE policy_evaluations SET confidence = 1 WHERE tenant_id = :t"
    assert checker.run_round().failures == 0
    with standing.damaged(("policy_evaluations",), edit):
        assert checker.run_round().failures > 0
        # The incident's own facts are verified in the same slice, before the sweep finds the row repaired.
        log.sequence()
    standing.clock.advance(seconds=1)
    assert checker.run_round().failures == 0
    checker.release()
    assert (standing.integrity().status, standing.integrity().failures) == ("VERIFIED", [])


def test_a_failure_opens_one_incident_however_often_it_is_found(standing: Damaged) -> None:
    log = standing.log
    edit = "UPDATE policy_evaluations SET confidence = 1 WHERE tenant_id = :t"
    with standing.damaged(("policy_evaluations",), edit):
        standing.round()
        standing.round()
    opened = [
        one
        for one in log.tenant.call("incidents.list").items
        if one.error_code == "ROW_MISMATCH" and one.trigger_ref == "policy_evaluations"
    ]
    assert [(one.severity, one.source_type, one.category) for one in opened] == [
        ("CRITICAL", "VERIFIER", "INTEGRITY")
    ]
    log.sequence()
    assert standing.round().failures == 0


def test_a_round_meets_rows_that_no_column_type_can_read(standing: Damaged, dialect: str) -> None:
    edits = {
        "sqlite": [
            (("runs",), "UPDATE runs SET started_at = 'yesterday' WHERE tenant_id = :t"),
            (
                ("log_leaves",),
                f"UPDATE log_leaves SET statement = CAST(X'FF' AS TEXT) WHERE fact_id = {FIRST_LEAF}",
            ),
            (("log_heads",), "UPDATE log_heads SET updated_at = 'never' WHERE tenant_id = :t"),
            (("log_entries",), "UPDATE log_entries SET integrated_at = 'x' WHERE tenant_id = :t AND idx = 2"),
        ],
        "postgresql": [(("runs",), "UPDATE runs SET started_at = 'infinity' WHERE tenant_id = :t")],
    }
    for tables, edit in edits[dialect]:
        with standing.damaged((*tables, "log_heads"), edit):
            report = LogVerifier(standing.log.spine).verify_all(standing.log.tenant_id)
            # Nothing speaks for when a head or an entry was written.
            harmless = tables[0] in ("log_heads", "log_entries")
            assert (report.status == "VERIFIED") == harmless, edit


def test_a_log_is_resumed_only_after_all_of_it_was_verified(standing: Damaged) -> None:
    log, spine = standing.log, standing.log.spine

    def resume(verification_id: str) -> Any:
        payload = {"tenant_id": log.tenant_id, "verification_id": verification_id, "reason": "repaired"}
        return spine.dispatch("ops.log.resume", operator_context(), payload)

    def verify() -> str:
        standing.clock.advance(seconds=1)
        LogVerifier(spine).verify_all(log.tenant_id, verification_id=(name := spine.services.ids.new("ver")))
        return name

    assert resume(verify()).error_code == "INVALID_LOG_STATE"
    edit = f"UPDATE log_leaves SET statement = statement || ' ' WHERE fact_id = {FIRST_LEAF}"
    with standing.damaged(("log_leaves",), edit):
        failed = verify()
        assert log.status().state == "HALTED"
        assert resume(failed).error_code == "LOG_NOT_SOUND"
    assert resume("ver_unknown").error_code == "LOG_NOT_SOUND"
    assert resume(verify()).unwrap().state == "ACTIVE"
    assert log.status().halted_reason is None
    entry = spine.dispatch("ops.tenants.list", operator_context(), {"limit": 1})
    assert entry.success
    with spine.transactions.read("_system", role="hoc_maintenance") as connection:
        ledger = metadata.tables["audit_ledger"]
        query = sa.select(ledger.c.entity_id).where(
            ledger.c.tenant_id == "_system", ledger.c.event_type == "LogResumed"
        )
        assert connection.scalars(query).all() == [log.tenant_id]


def test_the_tenant_asks_for_a_verification_and_reads_its_result(standing: Damaged) -> None:
    log = standing.log
    requests: VerifyRequests = log.spine.services.caches["verify_requests"]
    made = log.tenant.call("log.verify")
    assert log.tenant.dispatch("log.verify").error_code == "VERIFY_RUNNING"
    assert run_requests(LogVerifier(log.spine), requests) == 1
    found = {one.verification_id: one for one in log.tenant.call("log.verifications.list").items}
    assert (found[made.verification_id].kind, found[made.verification_id].status) == ("ON_DEMAND", "VERIFIED")
    assert found[made.verification_id].to_idx == log.status().signed_size
    assert log.tenant.dispatch("log.verify").success
    assert run_requests(LogVerifier(log.spine), requests) == 1


def test_results_are_paged_newest_first(standing: Damaged) -> None:
    log = standing.log
    for _ in range(3):
        LogVerifier(log.spine).verify_all(log.tenant_id)
    whole = [one.verification_id for one in log.tenant.call("log.verifications.list", {"limit": 500}).items]
    paged: list[str] = []
    cursor = None
    while True:
        page = log.tenant.call("log.verifications.list", {"limit": 2, "cursor": cursor})
        paged += [one.verification_id for one in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert paged == whole
    assert len(whole) >= 3


def test_one_process_verifies_while_it_holds_the_lease(standing: Damaged) -> None:
    first, second = LogVerifier(standing.log.spine), LogVerifier(standing.log.another_spine())
    assert not first.run_round().held
    assert second.run_round().held
    first.release()
    assert not second.run_round().held
    second.release()


def test_the_loop_does_what_is_asked_for_and_stops(standing: Damaged) -> None:
    spine = standing.log.another_spine(verify_interval_seconds=3600)
    loop = next(one for one in spine.background if isinstance(one, LogVerifierLoop))
    requests: VerifyRequests = spine.services.caches["verify_requests"]
    loop.start()
    request = VerifyRequest(standing.log.tenant_id, spine.services.ids.new("ver"))
    assert requests.accept(request)
    try:
        done = sa.text("SELECT 1 FROM log_verifications WHERE verification_id = :v")
        for _ in range(200):
            if standing.hand.execute(done, {"v": request.verification_id}).first():
                break
            loop._thread.join(0.05)
        else:
            pytest.fail("the verification that was asked for never came")
    finally:
        loop.stop()
    assert not loop._thread.is_alive()


def test_the_age_of_the_newest_verified_checkpoint_is_told(standing: Damaged) -> None:
    checker = LogVerifier(standing.log.spine)
    checker.run_round()
    name = "hoc_last_verified_checkpoint_age_seconds"
    fresh = REGISTRY.get_sample_value(name)
    assert fresh is not None
    assert fresh < timedelta(minutes=1).total_seconds()
    with standing.damaged(
        ("log_checkpoints", "log_heads"),
        "UPDATE log_checkpoints SET root = :hex WHERE tenant_id = :t",
        hex=HEX,
    ):
        standing.clock.advance(minutes=10)
        checker.run_round()
        aged = REGISTRY.get_sample_value(name)
    assert aged is not None
    assert aged >= 600
    standing.clock.advance(seconds=1)
    checker.run_round()
    checker.release()


def hoc(log: LogWorld, *arguments: str, code: int = 0) -> Any:
    """Run `hoc log` on the lab's database and return what it printed as JSON."""
    environment = {
        "HOC_DATABASE_URL": log.url,
        "HOC_LOG_KEY_FILE": str(log.key_file),
        "HOC_CHECKPOINT_DIR": str(log.checkpoints),
    }
    ended = CliRunner().invoke(cli, ["log", *arguments, "--json"], env=environment)
    assert ended.exit_code == code, (arguments, ended.output, ended.exception)
    return json.loads(ended.stdout) if ended.stdout else None


def test_the_commands_verify_check_and_resume(standing: Damaged) -> None:
    log = standing.log
    mine = ("--tenant-id", log.tenant_id)
    assert hoc(log, "verify")["failures"] == 0
    assert {one["status"] for one in hoc(log, "fsck")} == {"VERIFIED"}
    edit = f"UPDATE log_leaves SET statement = statement || ' ' WHERE fact_id = {FIRST_LEAF}"
    with standing.damaged(("log_leaves",), edit):
        assert hoc(log, "verify", code=1)["failures"] > 0
        (found,) = hoc(log, "fsck", *mine, code=1)
        assert {failure["code"] for failure in found["failures"]} == {"LOG_MISMATCH"}
        hoc(log, "resume", *mine, "--reason", "too early", code=1)
        assert log.status().state == "HALTED"
    assert hoc(log, "resume", *mine, "--reason", "put back")["state"] == "ACTIVE"


def test_a_rewound_log_is_found_by_the_checkpoint_directory(standing: Damaged) -> None:
    log = standing.log
    tables = ("log_heads", "log_tiles", "log_entries", "log_checkpoints", "log_verifications", "log_pending")
    with standing.damaged(tables, rewind=True):
        start_run(log.tenant)
        log.sequence()
        assert standing.round().failures == 0
    # Now the log is as it was before the last run, as after the restore of an old backup.
    assert standing.round().failures > 0
    assert "ROLLED_BACK" in {failure.code for failure in standing.integrity().failures}


def test_a_tenant_that_was_deleted_is_still_known_to_the_checkpoint_directory(standing: Damaged) -> None:
    with standing.damaged(("log_heads",), "DELETE FROM log_heads WHERE tenant_id = :t"):
        assert standing.round().failures > 0
        assert "ROLLED_BACK" in {failure.code for failure in standing.integrity().failures}
