"""Spine: one stretch of a tenant's log verified against everything that stands behind it; reads only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from app.db.connection import DriverConnection
from app.db.governed import GOVERNED
from app.domains.logs.engines import checkpoints, heads, purge, row_check, row_reading, slices, verifications
from app.domains.logs.engines.keys import KeyRing
from app.domains.logs.engines.recorded import Recorded
from app.domains.logs.engines.row_check import RowFailure
from app.domains.logs.engines.verifications import Report
from app.domains.logs.models.tree import (
    HaltReason,
    VerificationFailure,
)
from app.hoc_spine.coordinators.recounts import Stretch, recount
from app.hoc_spine.coordinators.run_judgement import (
    find_broken_changes,
    judge_run,
    read_proof_facts,
    read_subjects,
)

__all__ = ["Outside", "Report", "Standing"]
SLICE = 2000
# What proves the tree itself wrong: the log must not grow on it.
HALTING = {
    "LOG_MISMATCH": HaltReason.LOG_MISMATCH,
    "INCONSISTENT": HaltReason.INCONSISTENT,
    "ROOT_MISMATCH": HaltReason.ROOT_MISMATCH,
}
UNLOGGED = "UNLOGGED_ROW"
_ENDING = ("run.completed", "trace.sealed")


@dataclass(frozen=True, slots=True)
class Outside:
    """What the verifier has of a log from elsewhere: keys, and the checkpoint kept aside."""

    keys: KeyRing
    kept: str | None
    digest_key: Callable[..., bytes]


@dataclass(frozen=True, slots=True)
class Standing:
    """Head and newest checkpoint of a log as one transaction saw them, and what is wrong with them."""

    epoch: int
    min_index: int
    size: int
    code: str | None
    # How far the tree has grown beyond the checkpoint.
    head_size: int = 0


def read_standing(connection: DriverConnection, outside: Outside, *, tenant_id: str) -> Standing | None:
    """Judge head and newest checkpoint; None when nothing was ever signed.

    BAD_SIGNATURE, ROLLED_BACK, ROOT_MISMATCH, INCONSISTENT: as before a signing, and against the size that
    was once verified. A head of rows that hold no sizes and hashes any more is INCONSISTENT.
    """
    try:
        return _standing(connection, outside, tenant_id)
    except (AttributeError, TypeError, ValueError):
        return Standing(1, 0, 0, "INCONSISTENT")


def _standing(connection: DriverConnection, outside: Outside, tenant_id: str) -> Standing | None:
    head = row_reading.tolerant(heads.read_head, connection, tenant_id=tenant_id)
    if head is None:
        # Whoever kept a checkpoint knows that there was a log.
        return None if outside.kept is None else Standing(1, 0, 0, "ROLLED_BACK")
    signed = row_reading.tolerant(
        checkpoints.read_newest, connection, tenant_id=tenant_id, epoch=head["epoch"]
    )
    if signed is None:
        lost = outside.kept is not None or head["signed_size"] > 0
        return Standing(head["epoch"], head["min_index"], 0, "ROLLED_BACK") if lost else None
    earlier = [str(signed["note"])]
    if outside.kept is not None and outside.kept != signed["note"]:
        earlier.append(outside.kept)
    reason = checkpoints.judge(connection, head, earlier, tenant_id=tenant_id, keys=outside.keys)
    code = None if reason is None else reason.value
    if code is None and not checkpoints.says(signed["note"], signed["size"], signed["root"]):
        code = "ROOT_MISMATCH"
    known = verifications.verified_size(connection, tenant_id=tenant_id, epoch=head["epoch"])
    if code is None and (head["signed_size"] > signed["size"] or known > signed["size"]):
        code = "ROLLED_BACK"
    return Standing(head["epoch"], head["min_index"], signed["size"], code, head["size"])


def verify_head(standing: Standing, *, first: int) -> Report:
    """Return the report of a log whose head alone was looked at, at index `first`."""
    report = Report(first, first, standing.size)
    if standing.code is not None:
        table = "log_tiles" if standing.code == "INCONSISTENT" else "log_checkpoints"
        report.failures.append(VerificationFailure(code=standing.code, table=table, index=standing.size))
    return report


def verify_slice(
    connection: DriverConnection,
    standing: Standing,
    outside: Outside,
    *,
    tenant_id: str,
    first: int,
    last: int,
) -> Report:
    """Verify the entries [first, last): leaf = tile, row = fact, values, ended runs, repository chain.

    What is still there of a purged run is about to go, or something that stays refers to it: its rows are
    not looked at.
    """
    report = verify_head(standing, first=first)
    report.last = last
    if standing.head_size < last:
        return report
    part = slices.read_slice(
        connection, tenant_id=tenant_id, epoch=standing.epoch, first=first, last=last, size=standing.head_size
    )
    report.count("entries", len(part.entries))
    report.failures += slices.check_slice(part, tenant_id=tenant_id, min_index=standing.min_index)
    facts = purge.besides_purged(connection, part.facts, tenant_id=tenant_id)
    subjects = read_subjects(connection, facts, tenant_id=tenant_id, across=True)
    rows = row_check.check_rows(subjects)
    report.count("rows", rows.checked)
    report.count("values", sum(rows.states.values()))
    report.failures += [row_failure(failure) for failure in (*rows.values, *rows.rows)]
    report.failures += list(_runs(connection, facts, report, outside, tenant_id))
    broken = find_broken_changes(connection, facts, tenant_id=tenant_id)
    stretch = Stretch(connection, tenant_id, facts, subjects, outside.digest_key)
    report.failures += [row_failure(failure) for failure in (*broken, *recount(stretch))]
    for name, number in stretch.tally.items():
        report.count(name, number)
    return report


def row_failure(failure: RowFailure) -> VerificationFailure:
    """Return what a result says of a row."""
    return VerificationFailure(
        code=failure.code,
        table=failure.table,
        key=failure.key,
        column=failure.column,
        fact_id=failure.fact_id,
    )


def _runs(
    connection: DriverConnection,
    facts: Sequence[Recorded],
    report: Report,
    outside: Outside,
    tenant_id: str,
) -> Iterator[VerificationFailure]:
    """Prove every run that ended an attempt, or itself, in the stretch."""
    ended = dict.fromkeys(
        str(fact.said["run"])
        for fact in facts
        if fact.said is not None and fact.said["type"] in _ENDING and fact.said["run"] is not None
    )
    report.count("runs", len(ended))
    denied = bool(report.failures)
    for run_id in ended:
        read = read_proof_facts(connection, tenant_id=tenant_id, run_id=run_id, keys=outside.keys)
        code = "ROW_MISSING" if read is None else judge_run(read).failure_code
        # A checkpoint that is wrong denies every run; it was told already.
        if code is not None and not (code == slices.LOG_MISMATCH and denied):
            yield VerificationFailure(code=code, table="runs", run_id=run_id)


def find_unlogged(
    connection: DriverConnection, *, tenant_id: str, after: str, upto: str | None
) -> list[VerificationFailure]:
    """Return governed rows that no fact is about: by fact in (after, upto], at the end by key as well."""
    found = []
    for name, entry in sorted(GOVERNED.items()):
        if entry.mode in ("APPEND", "HEAD"):
            keys = row_reading.list_unlogged(connection, name, tenant_id=tenant_id, after=after, upto=upto)
        elif upto is None and (entry.mode == "AUDITED" or (entry.mode == "EVENTED" and not entry.bodies)):
            keys = row_reading.list_unrecorded(connection, name, tenant_id=tenant_id)
        else:
            continue
        found += [VerificationFailure(code=UNLOGGED, table=name, key=key) for key in keys]
    return found


def check_pruned(
    connection: DriverConnection, standing: Standing, *, tenant_id: str
) -> list[VerificationFailure]:
    """Return what is gone below the index up to which entries may be, and which archives lack a run."""
    found = purge.count_pruned(
        connection, tenant_id=tenant_id, epoch=standing.epoch, min_index=standing.min_index
    )
    failures = [
        VerificationFailure(code="ROW_MISMATCH", table="purged_runs", key=archive_id)
        for archive_id in found.miscounted
    ]
    if not found.is_complete:
        gap = VerificationFailure(code=slices.LOG_MISMATCH, table="log_entries", index=standing.min_index)
        failures.append(gap)
    return failures


def check_checkpoints(
    connection: DriverConnection, outside: Outside, history: Sequence[str], *, tenant_id: str
) -> list[VerificationFailure]:
    """Return what is wrong with the checkpoints that were ever signed, in the database and in the history."""
    head = row_reading.tolerant(heads.read_head, connection, tenant_id=tenant_id)
    if head is None:
        return []
    signed = checkpoints.list_all(connection, tenant_id=tenant_id, epoch=head["epoch"])
    notes = dict.fromkeys([*(str(row["note"]) for row in signed), *history])
    reason = checkpoints.judge(connection, head, list(notes), tenant_id=tenant_id, keys=outside.keys)
    if reason is None:
        return []
    return [VerificationFailure(code=reason.value, table="log_checkpoints")]


def newest_fact(connection: DriverConnection, standing: Standing, *, tenant_id: str, last: int) -> str | None:
    """Return the fact at the end of a stretch; None when its entry is gone."""
    part = slices.read_slice(
        connection,
        tenant_id=tenant_id,
        epoch=standing.epoch,
        first=last - 1,
        last=last,
        size=standing.size,
    )
    return part.facts[0].fact_id if part.facts else None
