"""Spine: the steps of the sequencer, each inside a unit that is handed in."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.db.connection import DriverConnection
from app.domains.logs.engines import checkpoints, heads, sequence
from app.domains.logs.engines.keys import KeyRing
from app.domains.logs.models.tree import (
    Batch,
    HaltReason,
)
from app.domains.tenants.engines import leases
from app.hoc_spine.coordinators.log_files import LogFiles
from app.kernel.clock import format_time

LEASE = "log.sequencer"
LEASE_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Signing:
    """What became of a head: the size signed, or why the log was halted; neither when it was not due."""

    size: int | None = None
    halted: HaltReason | None = None


def take_lease(connection: DriverConnection, *, holder: str) -> bool:
    """Take or renew the sequencer's lease."""
    return leases.take(connection, name=LEASE, holder=holder, seconds=LEASE_SECONDS)


def release_lease(connection: DriverConnection, *, holder: str) -> None:
    """Let another sequencer begin at once."""
    leases.release(connection, name=LEASE, holder=holder)


def list_waiting(connection: DriverConnection, *, after: str, limit: int) -> Sequence[str]:
    """Return tenants whose facts wait."""
    return heads.list_waiting_tenants(connection, after=after, limit=limit)


def list_unsigned(connection: DriverConnection, *, signed_before: datetime, limit: int) -> Sequence[str]:
    """Return tenants whose logs are due for a checkpoint."""
    return heads.list_unsigned_tenants(connection, signed_before=signed_before, limit=limit)


def open_log(connection: DriverConnection, *, tenant_id: str, prefix: str | None, now: datetime) -> None:
    """Make the first head of a tenant's log, unless it is there."""
    heads.open_log(
        connection, tenant_id=tenant_id, prefix=prefix, new_deployment=secrets.token_hex(8), now=now
    )


def integrate(
    connection: DriverConnection, *, tenant_id: str, prefix: str | None, limit: int, now: datetime
) -> Batch:
    """Integrate one batch of a tenant, whose log is opened here if it was never used."""
    if heads.get_head(connection, tenant_id=tenant_id) is None:
        open_log(connection, tenant_id=tenant_id, prefix=prefix, now=now)
    return sequence.integrate(connection, tenant_id=tenant_id, limit=limit, now=now)


def sign(
    connection: DriverConnection, *, tenant_id: str, files: LogFiles, keys: KeyRing, now: datetime
) -> Signing:
    """Sign a tenant's head under its lock: judge, sign, keep in the directory, record.

    The tree is committed already. A crash after the directory leaves it ahead of the database, which the next
    time only confirms: the same head gives the same note.
    """
    head = heads.lock_head(connection, tenant_id=tenant_id)
    if head is None or head["size"] <= head["signed_size"]:
        return Signing()
    epoch = head["epoch"]
    recorded = checkpoints.get_newest(connection, tenant_id=tenant_id, epoch=epoch)
    kept = files.latest(tenant_id, epoch)
    earlier = [] if recorded is None else [str(recorded["note"])]
    if kept is not None and kept not in earlier:
        earlier.append(kept)
    reason = checkpoints.judge(connection, head, earlier, tenant_id=tenant_id, keys=keys)
    if reason is not None:
        heads.halt(connection, tenant_id=tenant_id, epoch=epoch, reason=reason, now=now)
        return Signing(halted=reason)
    signed = checkpoints.sign(head, signers=keys.signers(now))
    files.keep(tenant_id, epoch, signed.note, signed_at=format_time(now))
    checkpoints.record(connection, signed, tenant_id=tenant_id, epoch=epoch, now=now)
    return Signing(size=head["size"])
