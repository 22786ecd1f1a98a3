"""Spine: what the verifier of the logs writes and reads beside its checks, each inside a unit handed in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.db.connection import DriverConnection
from app.domains.logs.engines import heads, verifications
from app.domains.logs.engines.verifications import Report
from app.domains.logs.models.tree import (
    HaltReason,
    VerificationKind,
)
from app.domains.tenants.engines import leases

LEASE = "log.verifier"
_LOGS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Log:
    """The newest epoch of a tenant's log."""

    tenant_id: str
    epoch: int
    signed_size: int


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier verifications of a log have left: how far they came, and which stretches failed."""

    epoch: int
    verified: int
    verified_at: datetime | None
    place: int
    failed: dict[tuple[int, int], tuple[str, ...]]


def take_lease(connection: DriverConnection, *, holder: str, seconds: int) -> bool:
    """Take or renew the verifier's lease."""
    return leases.take(connection, name=LEASE, holder=holder, seconds=seconds)


def release_lease(connection: DriverConnection, *, holder: str) -> None:
    """Let another verifier begin at once."""
    leases.release(connection, name=LEASE, holder=holder)


def list_logs(connection: DriverConnection, *, after: str) -> tuple[list[Log], str | None]:
    """Return logs by tenant, and after which tenant to go on; None at the end."""
    rows = verifications.list_logs(connection, after=after, limit=_LOGS_AT_ONCE)
    found = [Log(row["tenant_id"], row["epoch"], row["signed_size"]) for row in rows]
    return found, found[-1].tenant_id if len(found) == _LOGS_AT_ONCE else None


def read_past(connection: DriverConnection, *, tenant_id: str, epoch: int) -> Past:
    """Read what earlier verifications of a log have left."""
    failed: dict[tuple[int, int], tuple[str, ...]] = {}
    for row in verifications.open_failures(connection, tenant_id=tenant_id, epoch=epoch):
        codes = dict.fromkeys(failure.code for failure in verifications.failures_of([row]))
        failed.setdefault((row["from_idx"], row["to_idx"]), tuple(codes))
    return Past(
        epoch=epoch,
        verified=verifications.verified_size(connection, tenant_id=tenant_id, epoch=epoch),
        verified_at=verifications.last_verified_at(connection, tenant_id=tenant_id, epoch=epoch),
        place=verifications.sweep_place(connection, tenant_id=tenant_id, epoch=epoch),
        failed=failed,
    )


def record(
    connection: DriverConnection,
    report: Report,
    *,
    tenant_id: str,
    epoch: int,
    verification_id: str,
    kind: VerificationKind,
    started_at: datetime,
    finished_at: datetime,
) -> None:
    """Write a result down."""
    verifications.record(
        connection,
        report,
        tenant_id=tenant_id,
        epoch=epoch,
        verification_id=verification_id,
        kind=kind,
        started_at=started_at,
        finished_at=finished_at,
    )


def halt(
    connection: DriverConnection, *, tenant_id: str, epoch: int, reason: HaltReason, now: datetime
) -> None:
    """Stop a log whose tree was proved wrong."""
    heads.halt(connection, tenant_id=tenant_id, epoch=epoch, reason=reason, now=now)
