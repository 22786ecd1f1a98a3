"""Purge: what an archive holds goes and nothing else does; what is left proves as before."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.db.metadata import metadata
from app.domains.logs.models.retention import Plan
from app.hoc_spine.log_verifier import LogVerifier
from app.kernel.errors import HocError
from tests.factories.bundles import load_verifier
from tests.factories.databases import Databases, Dialect
from tests.factories.limits import counters
from tests.factories.retention import (
    GOING,
    STAYING,
    AgedWorld,
    aged_world,
    make_history,
    naming,
)
from tests.factories.worlds import World, without_triggers

verifier = load_verifier()
# What was used of the limit: reserved, given back at the end, and recorded.
CARRIED = {"RESERVE": 1_000_000, "RELEASE": 1_000_000, "COMMIT": 3_000_000}
WRITING = ("INSERT", "UPDATE", "DELETE", "WITH", "COMMIT")
STARTED = {"agent_id": "a", "goal": "g", "actor_type": "SYSTEM", "origin_system_id": "tests"}
# What stays of a run that went: that it did, what was erased of it, and by whom that was asked for.
REMEMBERED = {
    "r-erased": {"purged_runs", "erasures", "log_leaves", "idempotency_keys"},
}


@dataclass(slots=True)
class Past:
    """A history before any of it went."""

    log: AgedWorld
    world: World
    folder: Path
    plan: Plan
    bundle: bytes
    counted: dict[str, tuple[int, int]]


def bundle_of(log: AgedWorld, run_id: str) -> bytes:
    made = log.tenant.call("runs.bundle", {"run_id": run_id, "include_payloads": True})
    return bytes(made.content.path.read_bytes())


@pytest.fixture(scope="module")
def past(databases: Databases, dialect: Dialect, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    folder = tmp_path_factory.mktemp("aged")
    with aged_world(databases.new(dialect), folder) as log:
        world = make_history(log)
        bundle = bundle_of(log, "r-told")
        with log.connect() as connection:
            counted = counters(connection, log.tenant)
        yield Past(log, world, folder, log.plan(), bundle, counted)


def refusal(call: Any, *arguments: Any, **given: Any) -> HocError:
    with pytest.raises(HocError) as caught:
        call(*arguments, **given)
    return caught.value


def everything(log: AgedWorld) -> dict[str, int]:
    with log.connect() as connection:
        return {
            name: connection.execute(sa.text(f"SELECT count(*) FROM {name}")).scalar_one()
            for name in metadata.tables
        }


def test_the_plan_says_what_goes_and_why_the_rest_stays_and_writes_nothing(past: Past) -> None:
    before = everything(past.log)
    shown = past.log.operate("ops.retention.plan", {})
    printed = past.log.hoc("retention", "plan", "--tenant-id", past.log.tenant_id, "--json")
    assert json.loads(printed).keys() == type(shown).model_fields.keys()
    assert everything(past.log) == before
    assert set(past.plan.run_ids) == set(GOING)
    assert (shown.cut, shown.runs, shown.facts) == (512, len(GOING), len(past.plan.facts))
    assert set(STAYING.values()) | {"RECORD", "HEAD"} == set(shown.pinned)
    assert sum(shown.pinned.values()) + shown.facts == shown.cut
    assert (shown.retention_days, shown.value_retention_days, shown.values) == (183, 2557, 0)


def test_a_purge_without_the_archive_of_what_goes_now_is_refused(past: Past) -> None:
    log = past.log
    assert refusal(log.operate, "ops.retention.purge", {}).code == "ARCHIVE_REQUIRED"
    assert refusal(log.operate, "ops.retention.end_purge", {"purge_id": "prg_1"}).code == "PURGE_NOT_FOUND"
    assert "ARCHIVE_REQUIRED" in log.hoc("retention", "purge", "--tenant-id", log.tenant_id, code=1)
    archive_id = log.archive(past.folder)
    file = past.folder / f"{archive_id}.hoclog"
    kept = file.read_bytes()
    file.write_bytes(b"another")
    assert "another one" in refusal(log.purge).detail
    file.rename(moved := past.folder / "moved.hoclog")
    assert "gone" in refusal(log.purge).detail
    moved.write_bytes(kept)
    held = {"scope": "PLANE", "scope_id": past.world.plane_id, "reason": "a court asks"}
    hold = log.tenant.call("evidence.holds.place", held)
    assert "r-told" not in log.plan().run_ids
    assert "would go now" in refusal(log.purge, path=str(moved)).detail
    log.tenant.call("evidence.holds.release", {"hold_id": hold.hold_id, "reason": "it is over"})
    assert log.plan().root == past.plan.root
    moved.rename(file)
    with log.connect() as connection:
        assert log.rows(connection, "SELECT 1 FROM log_purge_permits WHERE tenant_id = :t") == []
        with pytest.raises(sa.exc.IntegrityError, match="never deleted"):
            connection.execute(sa.text("DELETE FROM runs WHERE tenant_id = :t"), {"t": log.tenant_id})


class Death(BaseException):
    """What ends a process in the middle."""


def purge_dying(log: AgedWorld, *, after: int) -> list[str] | None:
    """Purge, and die after so many writing statements; return these, None when the purge was done before."""
    engine = log.spine.transactions.engine
    seen: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if len(seen) == after:
            raise Death
        if statement.startswith(WRITING):
            seen.append(statement)

    sa.event.listen(engine, "before_cursor_execute", count)
    try:
        log.purge()
    except Death:
        return seen
    except HocError as error:
        if error.code != "ARCHIVE_REQUIRED":
            raise
        # It died when it was done.
    finally:
        sa.event.remove(engine, "before_cursor_execute", count)
    return None


def half_way(log: AgedWorld) -> None:
    """In the middle of it nothing is found missing, nothing comes to a run that goes, and its id is taken."""
    with log.connect() as connection:
        opened = "SELECT 1 FROM log_purge_permits WHERE tenant_id = :t AND closed_at IS NULL"
        assert log.rows(connection, opened)
    assert log.verify() == []
    call = log.tenant.call
    # A proof is of all that there was, or is refused.
    found = log.tenant.dispatch("runs.proof", {"run_id": "r-told"})
    assert found.error_code == "RUN_PURGED" or found.data.integrity.verification_status == "VERIFIED"
    late = {"title": "Late", "source_run_id": "r-used"}
    assert refusal(call, "incidents.create", late).code in ("RUN_PURGED", "REFERENCE_NOT_FOUND")
    held = {"scope": "RUN", "scope_id": "r-used", "reason": "too late"}
    assert refusal(call, "evidence.holds.place", held).code == "REFERENCE_NOT_FOUND"
    child = {"parent_run_id": "r-used", **STARTED}
    assert refusal(call, "runs.start", child).code == "REFERENCE_NOT_FOUND"
    assert refusal(log.operate, "ops.log.open_epoch", {"reason": "r"}).code == "INVALID_LOG_STATE"


@pytest.fixture(scope="module")
def purged(past: Past, dialect: Dialect) -> Past:
    """The history after a purge that died many times: on SQLite between any two statements of its slices."""
    log = past.log
    # Another process may have run the test that archives.
    if not log.tenant.call("log.archives.list").items:
        log.archive(past.folder)
    step, middle = (1, 25) if dialect == "sqlite" else (3, 9)
    deaths, after, tried = 0, 1, set()
    while (seen := purge_dying(log, after=after)) is not None:
        deaths += 1
        # Until the permit is there nothing is, and a plan is made each time.
        after += step if "COMMIT" in seen else 7
        if seen[-1] == "COMMIT" and tuple(seen) not in tried:
            # The next process finds this done, and its own way to here may be a shorter one.
            tried.add(tuple(seen))
            after = max((place for place, text in enumerate(seen[:-1]) if text == "COMMIT"), default=0) + 2
        if deaths == middle:
            half_way(log)
    assert deaths > middle
    log.sequence()
    return past


def test_no_row_of_a_purged_run_is_left_in_any_table(purged: Past) -> None:
    log = purged.log
    with log.connect() as connection:
        for run_id in GOING:
            left = naming(connection, log.tenant_id, run_id)
            assert left - {"idempotency_keys"} <= REMEMBERED.get(run_id, {"purged_runs"}), run_id
        for run_id in STAYING:
            assert "runs" in naming(connection, log.tenant_id, run_id), run_id
        entries = log.rows(connection, "SELECT idx FROM log_entries WHERE tenant_id = :t AND idx < 512")
        gone = {index for index, _ in purged.plan.facts}
        assert {row["idx"] for row in entries} == set(range(512)) - gone


def test_what_is_left_verifies_and_recounts(purged: Past) -> None:
    log = purged.log
    assert log.verify() == []
    rounds = [LogVerifier(log.spine).run_round() for _ in range(2)]
    assert [found.failures for found in rounds] == [0, 0]
    with log.connect() as connection:
        assert counters(connection, log.tenant) == purged.counted
        carried = log.rows(
            connection, "SELECT kind, amount FROM limit_entries WHERE tenant_id = :t AND run_id IS NULL"
        )
    assert {row["kind"]: row["amount"] for row in carried} == CARRIED
    for run_id in STAYING:
        proof = log.tenant.call("runs.proof", {"run_id": run_id})
        assert proof.integrity.verification_status != "FAILED", (run_id, proof.integrity.failure_reason)


def test_the_doors_say_what_went(purged: Past) -> None:
    log, call = purged.log, purged.log.tenant.call
    with log.connect() as connection:
        (archive,) = log.rows(connection, "SELECT archive_id, sha256 FROM log_archives WHERE tenant_id = :t")
    for name, payload in (
        ("runs.proof", {"run_id": "r-plain"}),
        ("runs.proof", {"run_id": "r-erased"}),
        ("runs.bundle", {"run_id": "r-plain"}),
        ("runs.start", {"run_id": "r-plain", **STARTED}),
    ):
        error = refusal(call, name, payload)
        assert (error.code, dict(error.extra)) == ("RUN_PURGED", archive), name
    assert refusal(call, "runs.proof", {"run_id": "r-never"}).code == "RUN_NOT_FOUND"
    child = {"run_id": "r-orphan", "parent_run_id": "r-plain", **STARTED}
    assert refusal(call, "runs.start", child).code == "REFERENCE_NOT_FOUND"
    held = {"scope": "RUN", "scope_id": "r-plain", "reason": "too late"}
    assert refusal(call, "evidence.holds.place", held).code == "REFERENCE_NOT_FOUND"
    index, fact_id = purged.plan.facts[0]
    assert refusal(call, "log.fact", {"fact_id": fact_id}).code == "ENTRY_PRUNED"
    assert refusal(call, "log.inclusion", {"fact_id": fact_id}).code == "ENTRY_PRUNED"
    assert refusal(call, "log.tile", {"level": "entries", "tile": "000"}).code == "ENTRY_PRUNED"
    assert refusal(call, "log.fact", {"fact_id": "fct_" + "f" * 32}).code == "FACT_NOT_FOUND"
    assert log.status().min_index == 512
    proof = call("log.inclusion", {"index": index})
    assert proof.index == index
    assert call("log.consistency", {"from": 256, "to": log.status().signed_size}).hashes


def test_a_bundle_from_before_verifies_and_a_new_one_of_what_stays_does(purged: Past) -> None:
    log = purged.log
    keys = (verifier.parse_vkey(log.key.vkey(log.origin)),)
    for data in (purged.bundle, bundle_of(log, "r-parent")):
        report = verifier.verify_bundle(io.BytesIO(data), verifier.Options(keys=keys))
        assert report.verdict == "VERIFIED", report.failures


def test_nothing_is_deleted_without_an_open_permit(purged: Past) -> None:
    log = purged.log
    with log.connect() as connection:
        for table in ("log_leaves", "log_entries", "audit_ledger", "limit_entries", "runs"):
            with pytest.raises(sa.exc.IntegrityError, match="never deleted"):
                connection.execute(sa.text(f"DELETE FROM {table} WHERE tenant_id = :t"), {"t": log.tenant_id})
        with pytest.raises(sa.exc.IntegrityError):
            connection.execute(sa.text("UPDATE log_purge_permits SET closed_at = NULL"))


def test_what_is_done_to_a_pinned_entry_is_found(purged: Past) -> None:
    log = purged.log
    with log.connect() as connection:
        pinned = "tenant_id = :t AND run_id = 'r-parent' AND fact_no = 1"
        text = "UPDATE log_leaves SET statement = replace(statement, {}, {}) WHERE " + pinned
        without_triggers(connection, text.format("'tests'", "'other'"), t=log.tenant_id)
        assert "LOG_MISMATCH" in {failure.code for failure in log.verify()}
        without_triggers(connection, text.format("'other'", "'tests'"), t=log.tenant_id)
        resume(log)
        (row,) = log.rows(
            connection,
            "SELECT e.* FROM log_entries e JOIN log_leaves l ON l.tenant_id = e.tenant_id"
            " AND l.fact_id = e.fact_id WHERE l.tenant_id = :t AND l.run_id = 'r-parent' AND l.fact_no = 1",
        )
        one = "tenant_id = :tenant_id AND idx = :idx"
        without_triggers(connection, f"DELETE FROM log_entries WHERE {one}", **row)
        assert [(failure.code, failure.table) for failure in log.verify()][-1] == (
            "LOG_MISMATCH",
            "log_entries",
        )
        put = "INSERT INTO log_entries VALUES (:tenant_id, :epoch, :idx, :fact_id, :integrated_at)"
        without_triggers(connection, put, **row)
        resume(log)
        hidden = (
            "INSERT INTO purged_runs SELECT tenant_id, 'r-parent', archive_id, purged_at FROM purged_runs"
            " WHERE tenant_id = :t LIMIT 1"
        )
        without_triggers(connection, hidden, t=log.tenant_id)
        assert "purged_runs" in {failure.table for failure in log.verify()}
        without_triggers(
            connection,
            "DELETE FROM purged_runs WHERE tenant_id = :t AND run_id = 'r-parent'",
            t=log.tenant_id,
        )
    assert log.verify() == []


def resume(log: AgedWorld) -> None:
    """Let the log go on that a verification has halted."""
    state = "UPDATE log_heads SET state = 'ACTIVE', halted_reason = NULL WHERE tenant_id = :t"
    with log.connect() as connection:
        without_triggers(connection, state, t=log.tenant_id)


def test_a_later_purge_takes_what_is_kept_no_more(purged: Past) -> None:
    log = purged.log
    for hold in log.tenant.call("evidence.holds.list", {"status": "ACTIVE"}).items:
        log.tenant.call("evidence.holds.release", {"hold_id": hold.hold_id, "reason": "it is over"})
    log.sequence()
    plan = log.plan()
    # What kept these below the same cut keeps them no more.
    assert (plan.cut, set(plan.run_ids)) == (512, {"r-held", "r-subject"})
    log.archive(purged.folder)
    opened = log.operate("ops.retention.purge", {})
    assert (opened.facts, opened.resumed) == (len(plan.facts), False)
    # A row that came meanwhile refers to one that was to go: that one stays, and what it needs.
    refers = "UPDATE runs SET parent_run_id = {} WHERE tenant_id = :t AND run_id = 'r-incident'"
    with log.connect() as connection:
        without_triggers(connection, refers.format("'r-held'"), t=log.tenant_id)
    done = json.loads(log.hoc("retention", "purge", "--tenant-id", log.tenant_id, "--json"))
    assert (done["purge_id"], done["resumed"]) == (opened.purge_id, True)
    assert done["left"] == 1
    with log.connect() as connection:
        without_triggers(connection, refers.format("NULL"), t=log.tenant_id)
        there = log.rows(connection, "SELECT run_id FROM runs WHERE tenant_id = :t")
        assert {row["run_id"] for row in there} & set(plan.run_ids) == {"r-held"}
    log.sequence()
    assert log.verify() == []
    assert refusal(log.tenant.call, "runs.proof", {"run_id": "r-held"}).code == "RUN_PURGED"


def test_an_epoch_begun_after_a_purge_holds_what_was_left(purged: Past) -> None:
    log = purged.log
    log.hoc("log", "new-epoch", "--tenant-id", log.tenant_id, "--reason", "a drill")
    log.sequence()
    assert log.verify() == []
    keys = tuple(verifier.parse_vkey(log.key.vkey(f"hoc.test/{log.tenant_id}/{epoch}")) for epoch in (1, 2))
    for data in (purged.bundle, bundle_of(log, "r-incident")):
        report = verifier.verify_bundle(io.BytesIO(data), verifier.Options(keys=keys))
        assert report.verdict == "VERIFIED", report.failures
