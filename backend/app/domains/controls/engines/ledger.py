"""Controls L5: the ledger of use: reserve, keep, commit, give back; counters are the sums of entries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.db.connection import DriverConnection, Row
from app.db.unit import GovernedUnit
from app.domains.controls.drivers import ledger as driver
from app.domains.controls.drivers import reservations as reservation_driver
from app.domains.controls.engines.judging import Standing, complete_use, decide_finding
from app.domains.controls.models.limits import LimitRule
from app.domains.controls.models.usage import LimitFinding, Use
from app.domains.controls.models.vocabulary import EntryKind, ReservationStatus
from app.kernel.amounts import Metric
from app.kernel.canonical_json import loads

Key = tuple[str, str]


@dataclass(slots=True)
class Movement:
    """What one pass moves: by counter what is committed and what is given back, and the entries."""

    committed: dict[Key, int] = field(default_factory=lambda: defaultdict(int))
    taken: dict[Key, int] = field(default_factory=lambda: defaultdict(int))
    entries: list[dict[str, Any]] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each counter, in the order in which everybody takes them."""
        keys = sorted(self.committed.keys() | self.taken.keys())
        return [
            {
                "limit_id": key[0],
                "window_key": key[1],
                "committed": self.committed.get(key, 0),
                "taken": self.taken.get(key, 0),
            }
            for key in keys
        ]


def count_use(
    unit: GovernedUnit, standing: Standing, uses: Sequence[Use], *, run_id: str, attempt: int
) -> list[LimitFinding]:
    """Commit use to every limit that counts it and tell how the judging ones stand; nothing is refused.

    The first use that names an open reservation of the run redeems it: what it held is given back, and
    the use counts in the windows of the reservation. An unknown or closed one is ignored.
    """
    held = _redeemed(unit, uses, run_id=run_id)
    movement = plan_use(unit, standing, uses, held, run_id=run_id, attempt=attempt)
    values = _move(unit, movement)
    close(unit, [row["reservation_id"] for row in held.values()], ReservationStatus.COMMITTED)
    by_id = {rule.limit_id: rule for rule in standing.rules}
    return [
        decide_finding(
            standing,
            by_id[limit_id],
            value=values[limit_id, window],
            before=values[limit_id, window] - amount + movement.taken.get((limit_id, window), 0),
            window=window,
        )
        for (limit_id, window), amount in sorted(movement.committed.items())
        if limit_id in standing.judging
    ]


def _redeemed(unit: GovernedUnit, uses: Sequence[Use], *, run_id: str) -> dict[int, Row]:
    """Return the open reservations that uses redeem, by the place of the use, and hold them."""
    wanted = sorted({use.reservation_id for use in uses if use.reservation_id is not None})
    if not wanted:
        return {}
    rows = {
        row["reservation_id"]: row
        for row in reservation_driver.lock_open(
            unit.connection, tenant_id=unit.tenant_id, run_id=run_id, reservation_ids=wanted
        )
    }
    found = {}
    for place, use in enumerate(uses):
        row = rows.pop(use.reservation_id, None) if use.reservation_id is not None else None
        if row is not None:
            found[place] = row
    return found


def plan_use(
    unit: GovernedUnit,
    standing: Standing,
    uses: Sequence[Use],
    held: Mapping[int, Row],
    *,
    run_id: str,
    attempt: int,
) -> Movement:
    """Return the moves and entries of uses; `held` are the reservations they redeem, by place."""
    movement = Movement()
    current = {rule.limit_id: standing.window(rule) for rule in standing.rules}
    counted: dict[Metric, list[LimitRule]] = defaultdict(list)
    for rule in standing.rules:
        if rule.metric is not Metric.RUN_TIME_MS:
            counted[rule.metric].append(rule)
    for place, use in enumerate(uses):
        windows: Mapping[str, Any] = {}
        if place in held:
            windows = loads(held[place]["windows"])
            give_back(unit, movement, held[place], EntryKind.RELEASE)
        for metric, amount in complete_use(use.usage).items():
            for rule in counted.get(metric, ()) if amount else ():
                kept = windows.get(rule.limit_id)
                window = current[rule.limit_id] if kept is None else str(kept["window_key"])
                movement.committed[rule.limit_id, window] += amount
                movement.entries.append(
                    entry(
                        unit,
                        rule.limit_id,
                        rule.limit_version,
                        window,
                        kind=EntryKind.COMMIT,
                        amount=amount,
                        source_ref=use.source_ref,
                        reservation_id=None if kept is None else use.reservation_id,
                        run_id=run_id,
                        attempt=attempt,
                    )
                )
    return movement


def give_back(unit: GovernedUnit, movement: Movement, reservation: Row, kind: EntryKind) -> None:
    """Add to a movement what a reservation held."""
    for limit_id, kept in loads(reservation["windows"]).items():
        movement.taken[limit_id, kept["window_key"]] += kept["amount"]
        movement.entries.append(
            entry(
                unit,
                limit_id,
                kept["limit_version"],
                kept["window_key"],
                kind=kind,
                amount=kept["amount"],
                source_ref=f"check:{reservation['decision_id']}",
                reservation_id=reservation["reservation_id"],
                run_id=reservation["run_id"],
                attempt=reservation["attempt"],
            )
        )


def release(
    unit: GovernedUnit, held: Sequence[Row], *, status: ReservationStatus = ReservationStatus.RELEASED
) -> None:
    """Close open reservations that are held and give back what they held."""
    if not held:
        return
    kind = EntryKind.EXPIRE if status is ReservationStatus.EXPIRED else EntryKind.RELEASE
    movement = Movement()
    for row in held:
        give_back(unit, movement, row, kind)
    _move(unit, movement)
    close(unit, [row["reservation_id"] for row in held], status)


def release_attempt(unit: GovernedUnit, *, run_id: str, attempt: int) -> None:
    """Release whatever an attempt still holds."""
    held = reservation_driver.lock_attempt(
        unit.connection, tenant_id=unit.tenant_id, run_id=run_id, attempt=attempt
    )
    release(unit, held)


def close(unit: GovernedUnit, reservation_ids: Sequence[str], status: ReservationStatus) -> None:
    """Close reservations that are held."""
    if reservation_ids:
        reservation_driver.set_closed(
            unit.connection,
            tenant_id=unit.tenant_id,
            reservation_ids=reservation_ids,
            status=status.value,
            now=unit.now,
        )


def lock_due(connection: DriverConnection, *, tenant_id: str, now: datetime, limit: int) -> Sequence[Row]:
    """Return and hold open reservations that have run out."""
    return reservation_driver.lock_due(connection, tenant_id=tenant_id, now=now, limit=limit)


def list_tenants_due(connection: DriverConnection, *, now: datetime) -> Sequence[str]:
    """Return the tenants that have open reservations that have run out."""
    return reservation_driver.list_tenants_due(connection, now=now)


def _move(unit: GovernedUnit, movement: Movement) -> dict[Key, int]:
    """Write a movement in one pass and return committed + reserved of each counter that it moved."""
    if not movement.entries:
        return {}
    rows = driver.move(
        unit.connection,
        tenant_id=unit.tenant_id,
        moves=movement.rows(),
        entries=movement.entries,
        now=unit.now,
    )
    return {(row["limit_id"], row["window_key"]): row["committed"] + row["reserved"] for row in rows}


def entry(
    unit: GovernedUnit,
    limit_id: str,
    limit_version: int,
    window: str,
    *,
    kind: EntryKind,
    amount: int,
    source_ref: str,
    reservation_id: str | None,
    run_id: str,
    attempt: int,
) -> dict[str, Any]:
    return {
        "entry_id": unit.new_id("ent"),
        "limit_id": limit_id,
        "limit_version": limit_version,
        "window_key": window,
        "run_id": run_id,
        "attempt": attempt,
        "kind": kind.value,
        "amount": amount,
        "reservation_id": reservation_id,
        "source_ref": source_ref,
    }


def find_drift(connection: DriverConnection, *, tenant_id: str) -> list[dict[str, Any]]:
    """Return the counters that are not the sums of their entries, with both; empty when all are."""
    return [
        dict(row)
        for row in driver.sum_entries(connection, tenant_id=tenant_id)
        if (row["committed"], row["reserved"]) != (row["entered_committed"], row["entered_reserved"])
    ]
