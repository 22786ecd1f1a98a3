"""Logs L5: results of verifications: recorded, listed, and summed up to how it stands with a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from app.db.connection import DriverConnection, Row
from app.domains.logs.drivers import verifications as driver
from app.domains.logs.models.tree import (
    VerificationFailure,
    VerificationKind,
    VerificationStatus,
    VerificationView,
)
from app.kernel.canonical_json import dumps, loads

SHOWN = 100
_PROGRESS = (VerificationKind.INCREMENTAL.value, VerificationKind.ON_DEMAND.value)


@dataclass(slots=True)
class Report:
    """What a verification has found so far."""

    first: int
    last: int
    size: int
    failures: list[VerificationFailure] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    is_supported: bool = True

    @property
    def status(self) -> VerificationStatus:
        """FAILED beats UNSUPPORTED beats VERIFIED."""
        if self.failures:
            return VerificationStatus.FAILED
        return VerificationStatus.VERIFIED if self.is_supported else VerificationStatus.UNSUPPORTED

    @property
    def codes(self) -> list[str]:
        """The codes of the failures, each once."""
        return list(dict.fromkeys(failure.code for failure in self.failures))

    def count(self, name: str, number: int) -> None:
        """Add to a count."""
        self.counts[name] = self.counts.get(name, 0) + number

    def join(self, other: Report) -> None:
        """Take over what was found of a later stretch."""
        self.last, self.size = other.last, other.size
        self.failures += other.failures
        self.is_supported = self.is_supported and other.is_supported
        for name, number in other.counts.items():
            self.count(name, number)


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
    """Record what a verification found, at most 100 of its failures."""
    row = {
        "verification_id": verification_id,
        "epoch": epoch,
        "kind": kind.value,
        "from_idx": report.first,
        "to_idx": report.last,
        "size": report.size,
        "status": report.status.value,
        "counts": dumps({**report.counts, "failures": len(report.failures)}),
        "failures": dumps([failure.model_dump() for failure in report.failures[:SHOWN]]),
        "started_at": started_at,
        "finished_at": finished_at,
    }
    driver.insert_result(connection, row, tenant_id=tenant_id)


def verified_size(connection: DriverConnection, *, tenant_id: str, epoch: int) -> int:
    """Return up to which size the log was once found as recorded."""
    return driver.get_verified_size(
        connection,
        tenant_id=tenant_id,
        epoch=epoch,
        kinds=_PROGRESS,
        status=VerificationStatus.VERIFIED.value,
    )


def last_verified_at(connection: DriverConnection, *, tenant_id: str, epoch: int) -> datetime | None:
    """Return when anything of the log was last found as recorded."""
    kinds = [kind.value for kind in VerificationKind]
    newest = driver.get_newest(
        connection, tenant_id=tenant_id, epoch=epoch, kinds=kinds, status=VerificationStatus.VERIFIED.value
    )
    return None if newest is None else newest["finished_at"]


def sweep_place(connection: DriverConnection, *, tenant_id: str, epoch: int) -> int:
    """Return where the sweep of a log was when it was last written down."""
    newest = driver.get_newest(
        connection,
        tenant_id=tenant_id,
        epoch=epoch,
        kinds=[VerificationKind.SWEEP.value],
        status=VerificationStatus.VERIFIED.value,
    )
    return 0 if newest is None else int(newest["to_idx"] or 0)


def open_failures(connection: DriverConnection, *, tenant_id: str, epoch: int) -> Sequence[Row]:
    """Return failed results that no later verification of the same stretch has lifted, newest first."""
    return driver.list_open_failures(
        connection,
        tenant_id=tenant_id,
        epoch=epoch,
        failed=VerificationStatus.FAILED.value,
        verified=VerificationStatus.VERIFIED.value,
        limit=SHOWN,
    )


def failures_of(rows: Sequence[Row]) -> list[VerificationFailure]:
    """Return the failures that results name, each once."""
    found = [
        VerificationFailure.model_validate(failure) for row in rows for failure in loads(row["failures"])
    ]
    return list({failure.model_dump_json(): failure for failure in found}.values())[:SHOWN]


def is_sound(
    connection: DriverConnection, *, tenant_id: str, epoch: int, verification_id: str, size: int
) -> bool:
    """Tell whether this verification found the whole log of at least this signed size as recorded."""
    found = driver.get_result(connection, tenant_id=tenant_id, verification_id=verification_id)
    if found is None or (found["kind"], found["epoch"]) != (VerificationKind.ON_DEMAND, epoch):
        return False
    return found["status"] == VerificationStatus.VERIFIED and bool(found["size"] >= size)


def list_page(
    connection: DriverConnection, *, tenant_id: str, before: tuple[datetime, str] | None, limit: int
) -> Sequence[Row]:
    """Return results, newest first."""
    return driver.list_results(connection, tenant_id=tenant_id, before=before, limit=limit)


def view(row: Row) -> VerificationView:
    """Return the view of a result's row."""
    members: Mapping[str, object] = {name: row[name] for name in VerificationView.model_fields}
    return VerificationView.model_validate(
        {**members, "counts": loads(row["counts"]), "failures": loads(row["failures"])}
    )


def list_logs(connection: DriverConnection, *, after: str, limit: int) -> Sequence[Row]:
    """Return tenant_id and size of every log, by tenant."""
    return driver.list_logs(connection, after=after, limit=limit)
