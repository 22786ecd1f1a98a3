"""Spine: what the verifier of the logs writes and reads beside its checks, each inside a unit handed in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.db.connection import DriverConnection
from app.domains.logs.engines import heads, verifications
from app.domains.logs.engines.verifications import Report
from app.domains.logs.models.tree import (
    HaltReason,
    VerificationFailure,
    VerificationKind,
)
from app.domains.repository.engines.findings import Code
from app.domains.tenants.engines import leases
from app.hoc_spine.coordinators.repository_check import check_repository as check_whole_repository

LEASE = "log.verifier"
_LOGS_AT_ONCE = 500
_MISSING = {
    Code.BLOB_MISSING.value,
    Code.REVISION_GAP.value,
    Code.CHANGE_GAP.value,
    Code.MISSING_REVISION.value,
}


@dataclass(frozen=True, slots=True)
class Log:
    """The newest epoch of a tenant's log."""

    tenant_id: str
    epoch: int
    signed_size: int


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier verifications of a log have left: how far they came, and which stretches failed."""

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


def read_past(connection: DriverConnection, *, tenant_id: str) -> Past:
    """Read what earlier verifications of a log have left."""
    failed: dict[tuple[int, int], tuple[str, ...]] = {}
    for row in verifications.open_failures(connection, tenant_id=tenant_id):
        codes = dict.fromkeys(failure.code for failure in verifications.failures_of([row]))
        failed.setdefault((row["from_idx"], row["to_idx"]), tuple(codes))
    return Past(
        verified=verifications.verified_size(connection, tenant_id=tenant_id),
        verified_at=verifications.last_verified_at(connection, tenant_id=tenant_id),
        place=verifications.sweep_place(connection, tenant_id=tenant_id),
        failed=failed,
    )


def record(
    connection: DriverConnection,
    report: Report,
    *,
    tenant_id: str,
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


def check_repository(connection: DriverConnection, *, tenant_id: str) -> list[VerificationFailure]:
    """Return what the repository's own check finds of its rows, without reading their content."""
    report = check_whole_repository(connection, tenant_id=tenant_id, scope=None, read_content=False)
    return [
        VerificationFailure(
            code="ROW_MISSING" if finding.code in _MISSING else "ROW_MISMATCH",
            table="repository",
            key=finding.entity,
            column=finding.code,
        )
        for finding in report.findings
        if finding.code != Code.UNCITED_BLOB.value
    ]
