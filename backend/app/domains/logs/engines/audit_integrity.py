"""Logs L5: is the audit ledger as its facts say, read and recomputed at each call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.db.connection import DriverConnection, Row
from app.db.governed import GOVERNED
from app.domains.logs.drivers import governed_rows, ledger_windows
from app.domains.logs.drivers import leaves as leaves_driver
from app.domains.logs.engines import inclusion
from app.domains.logs.engines.inclusion import LogFacts
from app.domains.logs.engines.keys import KeyRing
from app.domains.logs.engines.recorded import Recorded, check_envelope, read, stands
from app.domains.logs.engines.row_check import check_rows
from app.domains.logs.engines.row_reading import RowFacts, Subject, commitments_erased, tolerant
from app.domains.logs.models.tree import (
    VerificationStatus,
)
from app.kernel.canonical_json import dumps, loads

TABLE = "audit_ledger"
MAX_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """The newest entries of a span of time with their facts, and facts whose entries are gone."""

    rows: Mapping[str, Row]
    facts: Sequence[Recorded]
    unlogged: Sequence[str]
    erased: frozenset[str]
    log: LogFacts


@dataclass(frozen=True, slots=True)
class LedgerVerdict:
    """What the recomputation found; `entry_id` and `reason` name the first failure."""

    status: VerificationStatus
    checked: int
    unsequenced: int
    entry_id: str | None
    reason: str | None
    checkpoint: Row | None


def read_ledger(
    connection: DriverConnection,
    *,
    tenant_id: str,
    since: datetime | None,
    until: datetime | None,
    keys: KeyRing | None,
) -> LedgerFacts:
    """Return the newest entries of [since, until), at most 10 000, with all that the log says of them."""
    places = ledger_windows.list_places(
        connection, tenant_id=tenant_id, since=since, until=until, limit=MAX_ENTRIES
    )
    fact_ids = {place["fact_id"]: place["entry_id"] for place in places}
    named = _facts_of_span(connection, places, tenant_id=tenant_id, since=since, until=until)
    wanted = [*fact_ids, *(fact_id for fact_id in named if fact_id not in fact_ids)]
    leaves = tolerant(leaves_driver.list_known, connection, wanted, tenant_id=tenant_id)
    found = tolerant(governed_rows.list_by_facts, connection, TABLE, wanted, tenant_id=tenant_id)
    rows = {str(row["fact_id"]): row for row in found}
    facts = sorted(read(leaves), key=lambda fact: str(fact.leaf["ref_key"]))
    erasures = [row["erased_fact_id"] for row in rows.values() if isinstance(row["erased_fact_id"], str)]
    erased = tolerant(leaves_driver.list_known, connection, erasures, tenant_id=tenant_id) if erasures else ()
    known = {fact.fact_id for fact in facts}
    return LedgerFacts(
        rows=rows,
        facts=facts,
        unlogged=sorted(entry_id for fact_id, entry_id in fact_ids.items() if fact_id not in known),
        erased=commitments_erased([fact for fact in read(erased) if fact.said is not None]),
        log=inclusion.read_log(connection, leaves, tenant_id=tenant_id, keys=keys),
    )


def _facts_of_span(
    connection: DriverConnection,
    places: Sequence[Row],
    *,
    tenant_id: str,
    since: datetime | None,
    until: datetime | None,
) -> Sequence[str]:
    """Return the facts about entries of the span; the ledger's own entries beside it bound the search."""
    if len(places) == MAX_ENTRIES:
        since = places[-1]["created_at"]
    beyond = below = None
    if since is not None:
        before = ledger_windows.list_places(connection, tenant_id=tenant_id, since=None, until=since, limit=1)
        beyond = _ref_key(before[0]) if before else None
    if until is not None:
        after = ledger_windows.get_first_since(connection, tenant_id=tenant_id, since=until)
        below = _ref_key(after) if after else None
    return ledger_windows.list_fact_ids(
        connection,
        tenant_id=tenant_id,
        beyond=beyond,
        below=below,
        since=since,
        until=until,
        limit=MAX_ENTRIES,
    )


def _ref_key(place: Row) -> str:
    return dumps([place["entry_id"]])


def judge_ledger(facts: LedgerFacts, *, tenant_id: str) -> LedgerVerdict:
    """Hold every entry against its fact, every fact against its hash, and all against the signed root."""
    failures = dict(reversed(list(_failures(facts, tenant_id))))
    leaves = [fact.leaf for fact in facts.facts]
    included = inclusion.verify_inclusion(leaves, facts.log)
    entry_id: str | None = min(failures, default=None)
    reason = included.code if entry_id is None else failures[entry_id]
    checked = len(facts.facts) + len(facts.unlogged)
    status = VerificationStatus.VERIFIED if checked else VerificationStatus.UNSUPPORTED
    if reason is not None:
        status = VerificationStatus.FAILED
    return LedgerVerdict(
        status=status,
        checked=checked,
        unsequenced=sum(leaf["fact_id"] not in facts.log.indices for leaf in leaves),
        entry_id=entry_id,
        reason=reason,
        checkpoint=facts.log.checkpoint,
    )


def _failures(facts: LedgerFacts, tenant_id: str) -> Iterator[tuple[str, str]]:
    """Yield entry id and reason of all that is wrong; for one entry the gravest first."""
    for entry_id in facts.unlogged:
        yield entry_id, "UNLOGGED_ROW"
    entry = GOVERNED[TABLE]
    subjects = []
    for fact in facts.facts:
        entry_id = _entry_of(fact)
        if not stands(fact.leaf):
            yield entry_id, "LOG_MISMATCH"
        elif (code := check_envelope(fact, tenant_id=tenant_id, run_id=None)) is not None:
            yield entry_id, code
        if fact.said is not None:
            subjects.append(Subject(entry, fact.said["key"], facts.rows.get(fact.fact_id), fact))
    found = check_rows(RowFacts(subjects, facts.erased))
    for failure in (*found.rows, *found.values):
        yield str(loads(failure.key)[0]), failure.code


def _entry_of(fact: Recorded) -> str:
    try:
        return str(loads(fact.leaf["ref_key"])[0])
    except (ValueError, TypeError, LookupError):
        return ""
