"""Logs L5: number the facts of a transaction and write their statements as leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection
from app.db.governed import statement_text
from app.domains.logs.drivers import leaves as driver
from app.domains.logs.engines import purge
from app.domains.logs.errors import run_closed, statement_too_large
from app.domains.logs.models.ledger import (
    Fact,
)
from app.kernel.canonical_json import dumps
from app.kernel.clock import format_time
from app.kernel.hashing import leaf_hash

MAX_STATEMENT_BYTES = 65_535
# Statements of a member set carry this version until the set changes.
STATEMENT_VERSION = 1
_NUMBER = '"no":'
_NO_NUMBER = f"{_NUMBER}null"
_LONGEST_NUMBER = 19


def flush(connection: DriverConnection, facts: Sequence[Fact], *, tenant_id: str, now: datetime) -> None:
    """Number and insert all facts.

    Refuse with RUN_CLOSED a live fact of a run that has ended, with RUN_PURGED one of a run that is deleted.
    """
    if not facts or _append_open(connection, facts, tenant_id=tenant_id, now=now):
        return
    numbers: dict[str, tuple[int | None, bool]] = {}
    ordered = sorted(facts, key=lambda fact: fact.closes_run)
    # Counters are locked in one order by everybody, so that two transactions never wait for each other.
    for name in sorted({fact.run_id for fact in ordered if fact.run_id is not None}):
        mine = [fact for fact in ordered if fact.run_id == name]
        numbers[name] = _take_numbers(connection, mine, tenant_id=tenant_id, run_id=name)
    rows = []
    for fact in ordered:
        number: int | None = None
        run_id: str | None = None
        late = False
        if fact.run_id is not None:
            start, late = numbers[fact.run_id]
            if start is not None:
                number, run_id = start, fact.run_id
                numbers[fact.run_id] = (start + 1, late)
        extra = dict(fact.extra)
        if fact.closes_run:
            extra["closure"] = _closure(connection, ordered, fact, number, tenant_id=tenant_id)
        rows.append(_leaf(fact, extra, tenant_id=tenant_id, run_id=run_id, number=number, late=late, now=now))
    driver.insert_leaves(connection, rows, tenant_id=tenant_id)


def _append_open(
    connection: DriverConnection, facts: Sequence[Fact], *, tenant_id: str, now: datetime
) -> bool:
    """Write facts of one open run in one statement, where that can be; False when nothing was done."""
    run_id = facts[0].run_id
    alike = run_id is not None and all(
        fact.run_id == run_id and not fact.starts_run and not fact.closes_run for fact in facts
    )
    if connection.dialect_name != "postgresql" or run_id is None or not alike:
        return False
    rows = []
    for place, fact in enumerate(facts, 1):
        text = _statement(
            fact, fact.extra, tenant_id=tenant_id, run_id=run_id, number=None, late=False, now=now
        )
        if len(text.encode()) + _LONGEST_NUMBER > MAX_STATEMENT_BYTES:
            return False
        # What follows the number holds names alone, so the last one of these is the member itself.
        head, _, tail = text.rpartition(_NO_NUMBER)
        rows.append(
            {
                "fact_id": fact.fact_id,
                "type": fact.type,
                "v": STATEMENT_VERSION,
                "ref_table": fact.table,
                "ref_key": dumps(fact.key),
                "ref_version": fact.version,
                "attempt": fact.attempt,
                "place": place,
                "head": head + _NUMBER,
                "tail": tail,
            }
        )
    return driver.append_counted(connection, rows, tenant_id=tenant_id, run_id=run_id, now=now)


def _take_numbers(
    connection: DriverConnection, facts: Sequence[Fact], *, tenant_id: str, run_id: str
) -> tuple[int | None, bool]:
    count = len(facts)
    if any(fact.starts_run for fact in facts):
        driver.insert_counter(connection, tenant_id=tenant_id, run_id=run_id, fact_count=count)
        return 1, False
    close = any(fact.closes_run for fact in facts)
    last = driver.count_facts(connection, tenant_id=tenant_id, run_id=run_id, count=count, close=close)
    if last is not None:
        return last - count + 1, False
    if close or any(fact.live_only for fact in facts):
        raise run_closed(run_id)
    last = driver.count_late_facts(connection, tenant_id=tenant_id, run_id=run_id, count=count)
    if last is None:
        return None, False
    purge.refuse_purged(connection, tenant_id=tenant_id, run_id=run_id)
    return last - count + 1, True


def _closure(
    connection: DriverConnection, facts: Sequence[Fact], closing: Fact, number: int | None, *, tenant_id: str
) -> dict[str, Any]:
    counts: Counter[str] = Counter(fact.type for fact in facts if fact.run_id == closing.run_id)
    counts.update(driver.count_types(connection, tenant_id=tenant_id, run_id=str(closing.run_id)))
    return {"fact_count": number, "type_counts": dict(counts), **closing.extra.get("closure", {})}


def _leaf(
    fact: Fact,
    extra: dict[str, Any],
    *,
    tenant_id: str,
    run_id: str | None,
    number: int | None,
    late: bool,
    now: datetime,
) -> dict[str, Any]:
    statement = _statement(fact, extra, tenant_id=tenant_id, run_id=run_id, number=number, late=late, now=now)
    return {
        "fact_id": fact.fact_id,
        "type": fact.type,
        "v": STATEMENT_VERSION,
        "ref_table": fact.table,
        "ref_key": None if fact.key is None else dumps(fact.key),
        "ref_version": fact.version,
        "run_id": run_id,
        "attempt": fact.attempt,
        "fact_no": number,
        "late": late,
        "statement": statement,
        "leaf_hash": leaf_hash(statement),
        "created_at": now,
    }


def _statement(
    fact: Fact,
    extra: Mapping[str, Any],
    *,
    tenant_id: str,
    run_id: str | None,
    number: int | None,
    late: bool,
    now: datetime,
) -> str:
    statement = statement_text(
        {
            "type": fact.type,
            "v": STATEMENT_VERSION,
            "tenant": tenant_id,
            "fact": fact.fact_id,
            "run": run_id,
            "attempt": fact.attempt,
            "no": number,
            "late": late,
            "at": format_time(now),
            "table": fact.table,
            "key": fact.key,
            "version": fact.version,
        },
        {**fact.body, **extra},
    )
    size = len(statement.encode())
    if size > MAX_STATEMENT_BYTES:
        raise statement_too_large(fact.type, size)
    return statement
