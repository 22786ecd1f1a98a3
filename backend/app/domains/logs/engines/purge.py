"""Logs L5: deleting what an archive holds, slice by slice, and what a purge leaves behind."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from app.db import row_deletion, run_rows
from app.db.connection import DriverConnection, Row
from app.db.governed import GOVERNED
from app.domains.logs.drivers import purge as driver
from app.domains.logs.engines import archive
from app.domains.logs.engines.recorded import Recorded
from app.domains.logs.errors import archive_required, no_open_purge, run_purged
from app.domains.logs.models.retention import FEWEST_DAYS, Plan
from app.kernel.canonical_json import dumps, loads

# Of one transaction. A fact is up to three rows: its own, its leaf, its entry.
MAX_ROWS = 5000
FACTS_AT_ONCE = 1600
# Facts whose rows have parts, of which there may be some dozens each.
WHOLES_AT_ONCE = 100
RUNS_AT_ONCE = 200
_ENTRIES_AT_ONCE = 10_000
_CHUNK = 1 << 20
LIMIT_ENTRIES = "limit_entries"


@dataclass(frozen=True, slots=True)
class Going:
    """A fact that goes, and the row that it is about."""

    index: int
    fact_id: str
    key: str


@dataclass(frozen=True, slots=True)
class Purge:
    """What is left to be deleted of one purge; the runs newest first, the facts by table."""

    tenant_id: str
    purge_id: str
    epochs: Sequence[int]
    run_ids: Sequence[str]
    facts: dict[str, list[Going]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slice:
    """What one transaction deletes: facts of a table with their rows, or rows of runs that have no facts."""

    table: str
    facts: Sequence[Going] = ()
    run_ids: Sequence[str] = ()

    def halves(self) -> list[Slice]:
        """Return two slices instead of one of several facts."""
        middle = len(self.facts) // 2
        return [Slice(self.table, part) for part in (self.facts[:middle], self.facts[middle:]) if part]


def find_archive(connection: DriverConnection, *, tenant_id: str, archive_id: str | None) -> Row:
    """Return the archive to purge by, the newest that was not; refuse ARCHIVE_REQUIRED."""
    if archive_id is None:
        row = driver.newest_unpurged(connection, tenant_id=tenant_id)
    else:
        row = driver.get_archive(connection, tenant_id=tenant_id, archive_id=archive_id)
    if row is None:
        raise archive_required("there is none that was not purged by")
    return row


def digest_of_file(path: Path) -> str | None:
    """Return the SHA-256 of a file; None when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while part := stream.read(_CHUNK):
                digest.update(part)
    except OSError:
        return None
    return digest.hexdigest()


def find_open(connection: DriverConnection, *, tenant_id: str) -> Row | None:
    """Return the permit of a purge that was begun and is not done."""
    return driver.get_open_permit(connection, tenant_id=tenant_id)


def check(archive_row: Row, plan: Plan) -> None:
    """Refuse ARCHIVE_REQUIRED when the archive does not hold what goes now."""
    counts = loads(archive_row["counts"])
    if (archive_row["epoch"], archive_row["to_idx"]) != (plan.epoch, plan.cut):
        raise archive_required("what it holds is not all over age, or the log has another epoch")
    if counts["root"] != plan.root:
        raise archive_required("it does not hold what would go now; archive again")


def open_permit(
    connection: DriverConnection,
    archive_row: Row,
    plan: Plan,
    *,
    tenant_id: str,
    purge_id: str,
    now: datetime,
) -> Row:
    """Let rows of the tenant be deleted, and say of which runs and below which index, before any is."""
    row = {
        "purge_id": purge_id,
        "archive_id": archive_row["archive_id"],
        "ranges": dumps([list(place) for place in archive.ranges_of(index for index, _ in plan.facts)]),
        "opened_at": now,
        "closed_at": None,
    }
    driver.insert_permit(connection, row, tenant_id=tenant_id)
    if plan.run_ids:
        driver.insert_purged_runs(
            connection, plan.run_ids, tenant_id=tenant_id, archive_id=row["archive_id"], now=now
        )
    driver.set_min_index(connection, tenant_id=tenant_id, epoch=plan.epoch, index=plan.cut, now=now)
    return row


def close_permit(connection: DriverConnection, *, tenant_id: str, purge_id: str, now: datetime) -> None:
    """Let nothing be deleted any more; refuse PURGE_NOT_FOUND."""
    if not driver.set_closed(connection, tenant_id=tenant_id, purge_id=purge_id, now=now):
        raise no_open_purge()


def read_purge(connection: DriverConnection, *, tenant_id: str) -> Purge:
    """Return what is left to be deleted of the purge that is open; refuse PURGE_NOT_FOUND."""
    permit = driver.get_open_permit(connection, tenant_id=tenant_id)
    if permit is None:
        raise no_open_purge()
    row = find_archive(connection, tenant_id=tenant_id, archive_id=permit["archive_id"])
    runs = driver.list_purged_runs(connection, tenant_id=tenant_id, archive_id=row["archive_id"])
    epochs = driver.list_epochs(connection, tenant_id=tenant_id)
    purge = Purge(tenant_id, permit["purge_id"], epochs, runs)
    for low, high in loads(permit["ranges"]):
        for first in range(low, high, _ENTRIES_AT_ONCE):
            last = min(first + _ENTRIES_AT_ONCE, high)
            for entry in driver.list_entries(
                connection, tenant_id=tenant_id, epoch=row["epoch"], first=first, last=last
            ):
                going = Going(entry["idx"], entry["fact_id"], entry["ref_key"])
                purge.facts.setdefault(entry["ref_table"], []).append(going)
    return purge


def slices(purge: Purge) -> Iterator[Slice]:
    """Yield what to delete, in this order: what refers before what it refers to."""
    tables = run_rows.purged_tables()
    for table in sorted(purge.facts.keys() - set(tables)):
        # Facts of heads that stay: what was said of them before.
        yield from _of_facts(table, purge.facts[table])
    for table in tables:
        if run_rows.has_facts(table):
            yield from _of_facts(table, _ordered(purge.facts.get(table, ())))
        elif table != run_rows.COUNTERS and (run_rows.run_column(table) is not None or table in GOVERNED):
            for start in range(0, len(purge.run_ids), RUNS_AT_ONCE):
                yield Slice(table, run_ids=purge.run_ids[start : start + RUNS_AT_ONCE])


def touched_tables() -> tuple[str, ...]:
    """Return the tables that rows go from."""
    return (*run_rows.purged_tables(), "log_entries", "log_leaves", "outbox")


def _of_facts(table: str, facts: Sequence[Going]) -> Iterator[Slice]:
    most = WHOLES_AT_ONCE if run_rows.parts_of(table) else FACTS_AT_ONCE
    for start in range(0, len(facts), most):
        yield Slice(table, facts[start : start + most])


def _ordered(facts: Sequence[Going]) -> list[Going]:
    """Return the facts by row, the newest row first, since rows refer to older ones of their table."""
    begun: dict[str, int] = {}
    for going in facts:
        begun.setdefault(going.key, going.index)
    return sorted(facts, key=lambda going: (-begun[going.key], going.index))


def delete_slice(connection: DriverConnection, purge: Purge, part: Slice) -> int:
    """Delete a slice; return how many rows went at once where more of it may be left, else 0."""
    given: dict[str, Any] = {"tenant_id": purge.tenant_id}
    if not part.facts:
        deleted = row_deletion.delete_parts(connection, part.table, part.run_ids, **given, limit=MAX_ROWS)
        return deleted if deleted == MAX_ROWS else 0
    fact_ids = [going.fact_id for going in part.facts]
    mode = GOVERNED[part.table].mode
    if mode == "APPEND":
        row_deletion.delete_by_facts(connection, part.table, fact_ids, **given)
    driver.delete_leaves(connection, fact_ids, **given, epochs=purge.epochs)
    if mode in ("EVENTED", "AUDITED"):
        keys = sorted({str(loads(going.key)[0]) for going in part.facts})
        row_deletion.delete_heads(connection, part.table, keys, **given)
    return 0


def delete_events(connection: DriverConnection, *, tenant_id: str, over_age: datetime) -> int:
    """Delete events that are over age; return how many went where more may be left, else 0."""
    deleted = driver.delete_events(connection, tenant_id=tenant_id, over_age=over_age, limit=MAX_ROWS)
    return deleted if deleted == MAX_ROWS else 0


def refuse_purged(connection: DriverConnection, *, tenant_id: str, run_id: str) -> None:
    """Refuse RUN_PURGED for a run that was archived and deleted."""
    row = driver.get_purged_run(connection, tenant_id=tenant_id, run_id=run_id)
    if row is not None:
        raise run_purged(run_id, archive_id=row["archive_id"], sha256=row["sha256"])


def purged_among(connection: DriverConnection, run_ids: Sequence[str], *, tenant_id: str) -> set[str]:
    """Return which of these runs were archived and deleted."""
    return driver.list_purged_among(connection, run_ids, tenant_id=tenant_id) if run_ids else set()


def besides_purged(
    connection: DriverConnection, facts: Sequence[Recorded], *, tenant_id: str
) -> Sequence[Recorded]:
    """Return the facts but those of purged runs, as far as they do not stay for themselves."""
    mine = [fact for fact in facts if fact.said is not None and fact.said["table"] not in run_rows.KEPT]
    runs = {str(fact.said["run"]) for fact in mine if fact.said is not None and fact.said["run"] is not None}
    purged = purged_among(connection, sorted(runs), tenant_id=tenant_id)
    if not purged:
        return facts
    gone = {fact.fact_id for fact in mine if fact.said is not None and fact.said["run"] in purged}
    return [fact for fact in facts if fact.fact_id not in gone]


def may_be_pruned(connection: DriverConnection, *, tenant_id: str, fact_id: str) -> bool:
    """Tell whether a fact that is not there is as old as what was purged: its id has the time in it."""
    opened_at = driver.newest_opened_at(connection, tenant_id=tenant_id)
    if opened_at is None:
        return False
    try:
        milliseconds = int(fact_id.partition("_")[2][:12], 16)
    except ValueError:
        return False
    return milliseconds <= (opened_at - timedelta(days=FEWEST_DAYS)).timestamp() * 1000


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was purged of a log's epoch, against what is there below the index up to which it was."""

    is_complete: bool
    # Archives of which another number of runs went than they hold.
    miscounted: Sequence[str]


def _counts(row: Row) -> Mapping[str, int]:
    """Return what an archive holds; of a row that does not say it any more, nothing."""
    try:
        said = loads(row["counts"])
        return {name: int(said[name]) for name in ("statements", "runs")}
    except (KeyError, TypeError, ValueError):
        return {"statements": 0, "runs": -1}


def count_pruned(connection: DriverConnection, *, tenant_id: str, epoch: int, min_index: int) -> Pruned:
    """Count entries and what archives say against the index below which entries may be gone."""
    done = driver.list_done(connection, tenant_id=tenant_id)
    counts = {row["archive_id"]: _counts(row) for row in done}
    there = driver.count_below(connection, tenant_id=tenant_id, epoch=epoch, index=min_index)
    gone = sum(counts[row["archive_id"]]["statements"] for row in done if row["epoch"] == epoch)
    miscounted = [row["archive_id"] for row in done if counts[row["archive_id"]]["runs"] != row["runs"]]
    return Pruned(there + gone >= min_index, miscounted)
