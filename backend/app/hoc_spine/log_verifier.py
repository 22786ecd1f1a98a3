"""Spine: self-verification: every log against its rows, again and again; what is found is told."""

from __future__ import annotations

import math
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog
from prometheus_client import Counter, Gauge

from app.db.connection import DriverConnection
from app.domains.logs.models.tree import (
    VerificationFailure,
    VerificationKind,
)
from app.hoc_spine.coordinators import log_results, log_verification
from app.hoc_spine.coordinators.log_files import LogFiles
from app.hoc_spine.coordinators.log_memory import Memory
from app.hoc_spine.coordinators.log_results import Log
from app.hoc_spine.coordinators.log_verification import SLICE, Outside, Report, Standing
from app.hoc_spine.coordinators.recounts import recount_whole
from app.hoc_spine.spine import Spine
from app.kernel.canonical_json import dumps
from app.kernel.context import Actor, RequestContext
from app.kernel.errors import HocError, safe_trace

ACTOR: Final = Actor("SYSTEM", "log-verifier")
# The operation of the incidents that takes up what was found; until there is one, the record alone tells.
INCIDENT: Final = "incidents.open_integrity"
SYSTEM_TENANT: Final = "_system"
ROLE: Final = "hoc_maintenance"
LEASE_MARGIN_SECONDS: Final = 60
# Some recounts read all rows of a tenant, however few facts have made them.
WHOLE_EVERY: Final = timedelta(days=1)
# What looking at a log costs at least, in entries, so that many small logs do not all have a turn at once.
SMALLEST_TURN: Final = 100
DAY_SECONDS: Final = 86_400
FAILURES = Counter(
    "hoc_verification_failures_total", "Failures that verifications of the logs found.", ("code",)
)
AGE = Gauge(
    "hoc_last_verified_checkpoint_age_seconds",
    "Time since the newest checkpoint of the log that is worst off was found as recorded.",
    multiprocess_mode="mostrecent",
)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class VerifyRound:
    """What one round did; `held` says that another process verifies."""

    logs: int = 0
    entries: int = 0
    failures: int = 0
    held: bool = False


class LogVerifier:
    """Verifies slice by slice, each in one read transaction; safe to run anywhere, any number of times."""

    def __init__(self, spine: Spine) -> None:
        settings = spine.services.settings
        self._spine = spine
        self._files: LogFiles = spine.services.caches["log_files"]
        self._holder = f"log-verifier-{os.getpid()}-{secrets.token_hex(4)}"
        self._interval = settings.verify_interval_seconds
        self._sweep_seconds = settings.verify_sweep_days * DAY_SECONDS
        self._has_incidents = any(operation.name == INCIDENT for operation in spine.registry)
        self._known: dict[str, Memory] = {}
        self._turn = ""
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End after the slice at hand."""
        self._stopped.set()

    def run_round(self) -> VerifyRound:
        """Verify what is new of every log, and go on with the sweep; nothing while another process does."""
        with self._spine.transactions.write(SYSTEM_TENANT, role=ROLE) as connection:
            seconds = self._interval + LEASE_MARGIN_SECONDS
            if not log_results.take_lease(connection, holder=self._holder, seconds=seconds):
                return VerifyRound(held=True)
        logs = [log for log in self._logs() if self._files.keys() is not None]
        reports = [report for log in logs for report in self._guarded(log, self._incremental)]
        reports += self._sweep(logs)
        self._tell_age()
        return VerifyRound(
            logs=len(logs),
            entries=sum(report.counts.get("entries", 0) for report in reports),
            failures=sum(len(report.failures) for report in reports),
        )

    def release(self) -> None:
        """Let another process verify at once."""
        with self._spine.transactions.write(SYSTEM_TENANT, role=ROLE) as connection:
            log_results.release_lease(connection, holder=self._holder)

    def list_tenants(self) -> list[str]:
        """Return the tenants that have a log, or had one."""
        return [log.tenant_id for log in self._logs()]

    def verify_all(
        self,
        tenant_id: str,
        *,
        verification_id: str | None = None,
        progress: Callable[[int, int], None] = lambda _done, _size: None,
    ) -> Report:
        """Verify a whole log and look for rows without a fact; record one result and return it."""
        log = next((log for log in self._logs() if log.tenant_id == tenant_id), Log(tenant_id, 1, 0))
        started = self._now()
        report = Report(0, 0, 0, is_supported=False)
        outside = self._outside(log)
        if outside is not None:
            report = self._whole(log, outside, progress)
        self._conclude(
            log,
            report,
            VerificationKind.ON_DEMAND,
            started,
            verification_id=verification_id or self._spine.services.ids.new("ver"),
        )
        return report

    def _whole(self, log: Log, outside: Outside, progress: Callable[[int, int], None]) -> Report:
        standing = self._standing(log, outside)
        if standing is None:
            return Report(0, 0, 0, is_supported=False)
        report = log_verification.verify_head(standing, first=0)
        for first in range(0, standing.head_size, SLICE):
            last = min(first + SLICE, standing.head_size)
            # The head was judged already; what is wrong with it is said once.
            report.join(self._slice(log, outside, first, last, blame_head=False))
            progress(last, standing.head_size)
            if self._stopped.is_set():
                report.is_supported = False
                return report
        report.last = report.size = standing.size
        report.failures += self._signed(log, outside)
        report.failures += self._pruned(log, standing)
        report.failures += self._unlogged(log, "", None)
        report.failures += self._recounted(log)
        return report

    # What is new.

    def _incremental(self, log: Log) -> Iterator[Report]:
        outside = self._outside(log)
        if outside is None:
            return
        started = self._now()
        standing = self._standing(log, outside)
        if standing is None:
            return
        known = self._remembered(log)
        head = log_verification.verify_head(standing, first=min(known.verified, standing.size))
        if head.failures or known.verified >= standing.size:
            self._conclude(log, head, VerificationKind.INCREMENTAL, started)
            yield head
            return
        while known.verified < standing.size and not self._stopped.is_set():
            # Slices end where those of the sweep end, so that one can lift what the other found.
            last = min((known.verified // SLICE + 1) * SLICE, standing.size)
            started = self._now()
            report = self._slice(log, outside, known.verified, last)
            self._conclude(log, report, VerificationKind.INCREMENTAL, started)
            known.verified = last
            yield report

    # What is old.

    def _sweep(self, logs: list[Log]) -> list[Report]:
        signed = [log for log in logs if log.signed_size]
        total = sum(log.signed_size for log in signed)
        budget = max(SLICE, math.ceil(total * self._interval / self._sweep_seconds))
        order = [log for log in signed if log.tenant_id >= self._turn]
        order += [log for log in signed if log.tenant_id < self._turn]
        reports: list[Report] = []
        for log in order:
            while budget > 0 and not self._stopped.is_set():
                self._turn = log.tenant_id
                found = list(self._guarded(log, self._sweep_slice))
                reports += found
                budget -= max(SMALLEST_TURN, sum(part.counts.get("entries", 0) for part in found))
                if not found or self._remembered(log).place == 0:
                    # Its cycle is complete: the next log has its turn, in the next round at the latest.
                    self._turn = log.tenant_id + "\x00"
                    break
        return reports

    def _sweep_slice(self, log: Log) -> Iterator[Report]:
        outside = self._outside(log)
        standing = None if outside is None else self._standing(log, outside)
        if outside is None or standing is None:
            return
        known = self._remembered(log)
        started = self._now()
        first = known.place if known.place < standing.size else 0
        last = min((first // SLICE + 1) * SLICE, standing.size)
        report = self._slice(log, outside, first, last)
        ends = last >= standing.size
        upto = None if ends else self._newest_fact(log, standing, last)
        if ends or (upto is not None and upto > known.after_fact):
            report.failures += self._unlogged(log, known.after_fact, upto)
            known.after_fact = upto or ""
        if ends and (known.recounted_at is None or started - known.recounted_at >= WHOLE_EVERY):
            report.failures += self._recounted(log)
            known.recounted_at = started
        known.place = 0 if ends else last
        self._conclude(log, report, VerificationKind.SWEEP, started)
        yield report

    # One transaction each.

    def _looking(self, log: Log) -> AbstractContextManager[DriverConnection]:
        # What the operator did to a tenant stands in another tenant's ledger.
        return self._spine.transactions.read(log.tenant_id, snapshot=True, role=ROLE)

    def _standing(self, log: Log, outside: Outside) -> Standing | None:
        with self._looking(log) as connection:
            return log_verification.read_standing(connection, outside, tenant_id=log.tenant_id)

    def _slice(self, log: Log, outside: Outside, first: int, last: int, *, blame_head: bool = True) -> Report:
        with self._looking(log) as connection:
            standing = log_verification.read_standing(connection, outside, tenant_id=log.tenant_id)
            if standing is None:
                return Report(first, last, 0, is_supported=False)
            report = log_verification.verify_slice(
                connection, standing, outside, tenant_id=log.tenant_id, first=first, last=last
            )
        if not blame_head and standing.code is not None:
            report.failures = [failure for failure in report.failures if failure.code != standing.code]
        return report

    def _signed(self, log: Log, outside: Outside) -> list[VerificationFailure]:
        history = self._files.history(log.tenant_id, log.epoch)
        with self._looking(log) as connection:
            return log_verification.check_checkpoints(connection, outside, history, tenant_id=log.tenant_id)

    def _pruned(self, log: Log, standing: Standing) -> list[VerificationFailure]:
        with self._looking(log) as connection:
            return log_verification.check_pruned(connection, standing, tenant_id=log.tenant_id)

    def _newest_fact(self, log: Log, standing: Standing, last: int) -> str | None:
        with self._looking(log) as connection:
            return log_verification.newest_fact(connection, standing, tenant_id=log.tenant_id, last=last)

    def _unlogged(self, log: Log, after: str, upto: str | None) -> list[VerificationFailure]:
        with self._looking(log) as connection:
            return log_verification.find_unlogged(connection, tenant_id=log.tenant_id, after=after, upto=upto)

    def _recounted(self, log: Log) -> list[VerificationFailure]:
        with self._looking(log) as connection:
            found = recount_whole(connection, tenant_id=log.tenant_id)
        return [log_verification.row_failure(failure) for failure in found]

    # Around the transactions.

    def _logs(self) -> Iterator[Log]:
        """Yield the log of every tenant, also one that only the checkpoint directory still knows."""
        seen: set[str] = set()
        after: str | None = ""
        while after is not None:
            with self._spine.transactions.read(SYSTEM_TENANT, role=ROLE) as connection:
                found, after = log_results.list_logs(connection, after=after)
            seen.update(log.tenant_id for log in found)
            yield from found
        for tenant_id, epoch in self._files.list_kept():
            if tenant_id not in seen:
                yield Log(tenant_id, epoch, 0)

    def _outside(self, log: Log) -> Outside | None:
        keys = self._files.keys()
        # Read before the transaction: a checkpoint is kept aside before the database has it.
        if keys is None:
            return None
        kept = self._files.latest(log.tenant_id, log.epoch)
        return Outside(keys, kept, self._spine.services.digest_key)

    def _remembered(self, log: Log) -> Memory:
        known = self._known.get(log.tenant_id)
        if known is None or known.epoch != log.epoch:
            with self._spine.transactions.read(log.tenant_id) as connection:
                past = log_results.read_past(connection, tenant_id=log.tenant_id, epoch=log.epoch)
            known = Memory.of(past, now=self._now())
            self._known[log.tenant_id] = known
        return known

    def _guarded(self, log: Log, work: Callable[[Log], Iterator[Report]]) -> list[Report]:
        """Do one log's work; what goes wrong there does not stop the others."""
        reports: list[Report] = []
        started = self._now()
        try:
            reports.extend(work(log))
        except HocError as error:
            _log.warning("log_verifier.refused", tenant_id=log.tenant_id, code=error.code)
        except Exception as error:  # noqa: BLE001 - rows that no check foresaw must be told, not skipped
            _log.error("log_verifier.failed", tenant_id=log.tenant_id, trace=safe_trace(error))
            place = self._remembered(log).verified
            report = Report(place, place, log.signed_size)
            report.failures.append(VerificationFailure(code="VERIFIER_ERROR"))
            self._conclude(log, report, VerificationKind.INCREMENTAL, started)
            reports.append(report)
        return reports

    def _conclude(
        self,
        log: Log,
        report: Report,
        kind: VerificationKind,
        started: datetime,
        *,
        verification_id: str | None = None,
    ) -> None:
        """Record a result that says something new, and on a failure tell everybody who has to know."""
        known, now = self._remembered(log), self._now()
        codes = tuple(report.codes)
        if kind is VerificationKind.INCREMENTAL and not codes:
            known.verified_at = now
        if verification_id is None and not known.is_news(report, kind, now=now):
            return
        named = verification_id or self._spine.services.ids.new("ver")
        with self._spine.transactions.write(log.tenant_id) as connection:
            log_results.record(
                connection,
                report,
                tenant_id=log.tenant_id,
                epoch=log.epoch,
                verification_id=named,
                kind=kind,
                started_at=started,
                finished_at=now,
            )
        known.note(report, kind, now=now)
        for code in codes:
            FAILURES.labels(code).inc()
        if codes:
            self._halt(log, codes)
            self._open_incidents(log, report, named)
            _log.critical("log_verifier.found", tenant_id=log.tenant_id, codes=codes, verification_id=named)

    def _halt(self, log: Log, codes: tuple[str, ...]) -> None:
        reason = next(
            (log_verification.HALTING[code] for code in codes if code in log_verification.HALTING), None
        )
        if reason is not None:
            with self._spine.transactions.write(log.tenant_id, role=ROLE) as connection:
                log_results.halt(
                    connection, tenant_id=log.tenant_id, epoch=log.epoch, reason=reason, now=self._now()
                )

    def _open_incidents(self, log: Log, report: Report, verification_id: str) -> None:
        """Open one incident for each code and table, if this product has incidents."""
        if not self._has_incidents:
            return
        for failure in {(one.code, one.table): one for one in report.failures}.values():
            context = RequestContext(
                tenant_id=log.tenant_id,
                actor=ACTOR,
                request_id=self._spine.services.ids.new("req"),
                door="worker",
            )
            said = {name: value for name, value in failure.model_dump().items() if value is not None}
            payload = {
                "code": failure.code,
                "table": failure.table or "log",
                "detail": f"Verification {verification_id}: {dumps(said)}",
            }
            opened = self._spine.dispatch(INCIDENT, context, payload)
            if opened.error is not None:
                _log.error("log_verifier.incident_refused", tenant_id=log.tenant_id, code=opened.error_code)

    def _tell_age(self) -> None:
        now = self._now()
        ages = [(now - known.verified_at).total_seconds() for known in self._known.values()]
        AGE.set(max(ages, default=0.0))

    def _now(self) -> datetime:
        return self._spine.services.clock.now()
