"""Controls L5: what a check takes of the limits before the use, and how limits stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.db.connection import DriverConnection, Row
from app.db.unit import GovernedUnit
from app.domains.controls.drivers import ledger as driver
from app.domains.controls.drivers import reservations as reservation_driver
from app.domains.controls.engines.judging import Standing, decide_finding
from app.domains.controls.engines.ledger import Key, entry
from app.domains.controls.models.usage import LimitFinding, LimitJudgement, Reserving
from app.domains.controls.models.vocabulary import EntryKind, ReservationStatus
from app.kernel.amounts import Metric
from app.kernel.canonical_json import dumps


def reserve(
    connection: DriverConnection,
    standing: Standing,
    planned: Sequence[Reserving],
    *,
    tenant_id: str,
    run_time: int = 0,
) -> tuple[list[LimitFinding], bool]:
    """Take every planned amount and tell how the judging limits stand, and whether one refused.

    One conditional statement for each limit that something is asked of, one look at all the others; the
    `run_time` that is asked for counts from now. After a refusal the caller takes everything back: what was
    taken before it still stands here.
    """
    asked = [item for item in planned if item.amount]
    others = [item for item in planned if not item.amount and item.rule.limit_id in standing.judging]
    findings = _look(connection, standing, others, tenant_id=tenant_id)
    findings += clock_findings(standing, run_time)
    if any(finding.refused for finding in findings):
        return [*findings, *_look(connection, standing, asked, tenant_id=tenant_id)], True
    held: dict[str, int] = {}
    for item in asked:
        cap = standing.cap(item.rule)
        fits = cap is None or item.amount <= cap
        row = _take(connection, standing, item, cap, tenant_id=tenant_id) if fits else None
        if row is None:
            seen = _look(connection, standing, asked, tenant_id=tenant_id, held=held, refusing=item)
            return [*findings, *seen], True
        held[item.rule.limit_id] = item.amount
        if item.rule.limit_id in standing.judging:
            value = row["committed"] + row["reserved"]
            findings.append(decide_finding(standing, item.rule, value=value, before=value - item.amount))
    return findings, False


def _take(
    connection: DriverConnection, standing: Standing, item: Reserving, cap: int | None, *, tenant_id: str
) -> Row | None:
    return driver.take(
        connection,
        tenant_id=tenant_id,
        limit_id=item.rule.limit_id,
        window_key=item.window_key,
        spend=item.spend,
        hold=item.hold,
        most=cap,
        now=standing.now,
    )


def _look(
    connection: DriverConnection,
    standing: Standing,
    planned: Sequence[Reserving],
    *,
    tenant_id: str,
    held: Mapping[str, int] | None = None,
    refusing: Reserving | None = None,
) -> list[LimitFinding]:
    """Return how judging limits would stand with what is asked; `held` was taken already in this pass."""
    judged = [item for item in planned if item.rule.limit_id in standing.judging]
    if not judged:
        return []
    values = read_values(
        connection, [(item.rule.limit_id, item.window_key) for item in judged], tenant_id=tenant_id
    )
    findings = []
    for item in judged:
        current = values.get((item.rule.limit_id, item.window_key), 0)
        value = current + item.amount - (held or {}).get(item.rule.limit_id, 0)
        cap = standing.cap(item.rule)
        refused = item is refusing or (cap is not None and value > cap)
        findings.append(decide_finding(standing, item.rule, value=value, refused=refused))
    return findings


def read_values(connection: DriverConnection, keys: Sequence[Key], *, tenant_id: str) -> dict[Key, int]:
    """Return committed + reserved of these counters; a counter without use is left out."""
    rows = driver.list_counters(
        connection,
        tenant_id=tenant_id,
        limit_ids=sorted({limit_id for limit_id, _ in keys}),
        window_keys=sorted({window for _, window in keys}),
    )
    return {(row["limit_id"], row["window_key"]): row["committed"] + row["reserved"] for row in rows}


def read_counter(
    connection: DriverConnection, *, tenant_id: str, limit_id: str, window: str
) -> tuple[int, int]:
    """Return what is committed and what is reserved in one window."""
    rows = driver.list_counters(connection, tenant_id=tenant_id, limit_ids=[limit_id], window_keys=[window])
    return (rows[0]["committed"], rows[0]["reserved"]) if rows else (0, 0)


def clock_findings(standing: Standing, asked: int = 0) -> list[LimitFinding]:
    """Return how the limits of the run's time stand, which no counter holds."""
    findings = []
    for rule in standing.rules:
        if rule.metric is Metric.RUN_TIME_MS and rule.limit_id in standing.judging:
            cap, value = standing.cap(rule), standing.elapsed + asked
            refused = cap is not None and value > cap
            findings.append(decide_finding(standing, rule, value=value, refused=refused))
    return findings


def look_at_all(connection: DriverConnection, standing: Standing, *, tenant_id: str) -> list[LimitFinding]:
    """Return how every judging limit of a run stands now; nothing is taken."""
    planned = [
        Reserving(rule, standing.window(rule))
        for rule in standing.rules
        if rule.metric is not Metric.RUN_TIME_MS
    ]
    found = _look(connection, standing, planned, tenant_id=tenant_id) + clock_findings(standing)
    return sorted(found, key=lambda finding: finding.limit_id)


def keep(unit: GovernedUnit, judgement: LimitJudgement, *, run_id: str, attempt: int) -> None:
    """Write the entries of what a check took, and its reservation; its decision is recorded already."""
    source_ref = f"check:{judgement.decision_id}"
    entries = []
    windows = {}
    for item in judgement.taken:
        for kind, amount in ((EntryKind.RESERVE, item.hold), (EntryKind.COMMIT, item.spend)):
            if amount:
                entries.append(
                    entry(
                        unit,
                        item.rule.limit_id,
                        item.rule.limit_version,
                        item.window_key,
                        kind=kind,
                        amount=amount,
                        source_ref=source_ref,
                        reservation_id=judgement.reservation_id if kind is EntryKind.RESERVE else None,
                        run_id=run_id,
                        attempt=attempt,
                    )
                )
        if item.hold:
            windows[item.rule.limit_id] = {
                "window_key": item.window_key,
                "limit_version": item.rule.limit_version,
                "amount": item.hold,
            }
    if judgement.reserved:
        row = {
            "reservation_id": judgement.reservation_id,
            "decision_id": judgement.decision_id,
            "run_id": run_id,
            "attempt": attempt,
            "amounts": dumps({metric.value: amount for metric, amount in judgement.amounts.items()}),
            "windows": dumps(windows),
            "expires_at": judgement.expires_at,
            "status": ReservationStatus.OPEN.value,
            "closed_at": None,
            "created_at": unit.now,
            "updated_at": unit.now,
            "version": 1,
        }
        reservation_driver.insert_reservation(unit.connection, tenant_id=unit.tenant_id, row=row)
    if entries:
        driver.insert_entries(unit.connection, entries, tenant_id=unit.tenant_id, now=unit.now)
