"""Logs L5: heads of the tenants' logs: the first epoch, the origin, halting, and how it stands with all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.db.connection import DriverConnection, Row
from app.domains.logs.drivers import heads as driver
from app.domains.logs.engines import leaf_lookup
from app.domains.logs.models.tree import (
    HaltReason,
    LogState,
)
from app.kernel.merkle import EMPTY_ROOT

FIRST_EPOCH = 1
SYSTEM = "_system"
ANCHOR_INTERVAL = timedelta(hours=1)
ANCHOR_MARGIN = timedelta(minutes=5)
ANCHORS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class LogOverview:
    """How it stands with all logs together."""

    pending: int
    oldest_at: datetime | None
    halted: int
    unsigned_at: datetime | None


def open_log(
    connection: DriverConnection, *, tenant_id: str, prefix: str | None, new_deployment: str, now: datetime
) -> None:
    """Make the head of the first epoch, unless it is there; its origin is fixed from now on.

    Without a prefix of the operator's, the installation has one of its own: the one under which its first
    log, that of the system, was opened.
    """
    system = driver.get_head(connection, tenant_id=SYSTEM)
    if system is None:
        _insert(connection, tenant_id=SYSTEM, prefix=prefix or f"hoc.local/{new_deployment}", now=now)
        system = driver.get_head(connection, tenant_id=SYSTEM)
    if tenant_id == SYSTEM or system is None:
        return
    own = str(system["origin"]).rsplit("/", 2)[0]
    _insert(connection, tenant_id=tenant_id, prefix=prefix or own, now=now)


def _insert(
    connection: DriverConnection, *, tenant_id: str, prefix: str, now: datetime, epoch: int = FIRST_EPOCH
) -> None:
    driver.insert_head(
        connection,
        tenant_id=tenant_id,
        epoch=epoch,
        origin=f"{prefix}/{tenant_id}/{epoch}",
        root=EMPTY_ROOT.hex(),
        state=LogState.ACTIVE.value,
        now=now,
    )


def get_head(connection: DriverConnection, *, tenant_id: str) -> Row | None:
    """Return the head of the tenant's newest epoch; None before its log is opened."""
    return driver.get_head(connection, tenant_id=tenant_id)


def read_head(connection: DriverConnection, *, tenant_id: str, raw: bool = False) -> Row | None:
    """Return the newest head for a check; `raw` as it is stored."""
    return driver.get_head(connection, tenant_id=tenant_id, raw=raw)


def lock_head(connection: DriverConnection, *, tenant_id: str) -> Row | None:
    """Return the newest head, locked and ACTIVE; None when there is none, or somebody else works on it."""
    head = driver.get_head(connection, tenant_id=tenant_id)
    if head is None:
        return None
    locked = driver.lock_head(connection, tenant_id=tenant_id, epoch=head["epoch"])
    return locked if locked is not None and locked["state"] == LogState.ACTIVE else None


def halt(
    connection: DriverConnection, *, tenant_id: str, epoch: int, reason: HaltReason, now: datetime
) -> None:
    """Stop an ACTIVE log: it queues on, grows no more and signs nothing."""
    driver.set_state(
        connection,
        tenant_id=tenant_id,
        epoch=epoch,
        expected=LogState.ACTIVE.value,
        state=LogState.HALTED.value,
        reason=reason.value,
        now=now,
    )


def resume(connection: DriverConnection, *, tenant_id: str, epoch: int, now: datetime) -> bool:
    """Let a HALTED log grow again; return False when it is not halted."""
    return driver.set_state(
        connection,
        tenant_id=tenant_id,
        epoch=epoch,
        expected=LogState.HALTED.value,
        state=LogState.ACTIVE.value,
        reason=None,
        now=now,
    )


def open_epoch(connection: DriverConnection, head: Row, *, tenant_id: str, now: datetime) -> str | None:
    """Close an ACTIVE or HALTED log and make the head of its next epoch; return the new origin.

    None: somebody else has moved it to another state, or CLOSED it, which is final.
    """
    closed = head["state"] != LogState.CLOSED and driver.set_state(
        connection,
        tenant_id=tenant_id,
        epoch=head["epoch"],
        expected=head["state"],
        state=LogState.CLOSED.value,
        reason=head["halted_reason"],
        now=now,
    )
    if not closed:
        return None
    epoch = int(head["epoch"]) + 1
    prefix = str(head["origin"]).rsplit("/", 2)[0]
    _insert(connection, tenant_id=tenant_id, prefix=prefix, epoch=epoch, now=now)
    return f"{prefix}/{tenant_id}/{epoch}"


def count_waiting(connection: DriverConnection, *, tenant_id: str) -> int:
    """Return how many facts of the tenant wait for the sequencer."""
    return driver.count_waiting(connection, tenant_id=tenant_id)


def list_waiting_tenants(connection: DriverConnection, *, after: str, limit: int) -> Sequence[str]:
    """Return tenants whose facts wait, by id."""
    return driver.list_tenants_waiting(connection, after=after, limit=limit)


def list_unsigned_tenants(
    connection: DriverConnection, *, signed_before: datetime, limit: int
) -> Sequence[str]:
    """Return tenants of ACTIVE logs that have grown beyond a checkpoint that is older than this."""
    return driver.list_tenants_unsigned(
        connection, state=LogState.ACTIVE.value, signed_before=signed_before, limit=limit
    )


def list_unanchored(connection: DriverConnection, *, now: datetime) -> Iterator[Row]:
    """Yield origin, size and root of the tenants' logs that changed since the system's log last told theirs.

    None is due before an hour has passed since then.
    """
    last = leaf_lookup.last_anchored_at(connection, tenant_id=SYSTEM)
    if last is not None and now - last < ANCHOR_INTERVAL:
        return
    # A head may have been written before that moment and committed after it: what is near it is told twice.
    since = None if last is None else last - ANCHOR_MARGIN
    after = ""
    while True:
        rows = driver.list_signed_since(
            connection, since=since, besides=SYSTEM, after=after, limit=ANCHORS_AT_ONCE
        )
        yield from rows
        if len(rows) < ANCHORS_AT_ONCE:
            return
        after = rows[-1]["tenant_id"]


def get_overview(connection: DriverConnection, *, limit: int) -> LogOverview:
    """Return how it stands with all logs; no more than `limit` waiting facts are counted."""
    row = driver.get_overview(connection, limit=limit, state=LogState.HALTED.value)
    return LogOverview(row["pending"], row["oldest_at"], row["halted"], row["unsigned_at"])
