"""Spine: the sequencer: puts waiting facts of every tenant into their logs and signs the heads."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, TypeVar

import structlog

from app.db.connection import DriverConnection
from app.domains.logs.models.tree import (
    Batch,
    HaltReason,
)
from app.hoc_spine.coordinators import log_sequencing
from app.hoc_spine.coordinators.log_files import LogFiles
from app.hoc_spine.spine import Spine
from app.kernel.errors import HocError, safe_trace

RENEW_SECONDS: Final = 2.0
STOP_SECONDS: Final = 10.0
SQLITE_BATCH: Final = 1000
TENANTS_AT_ONCE: Final = 500
SYSTEM_TENANT: Final = "_system"
ROLE: Final = "hoc_maintenance"
T = TypeVar("T")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did; `more` says that work remains, `held` that the lease was somebody else's."""

    taken: int = 0
    signed: int = 0
    halted: int = 0
    more: bool = False
    held: bool = False

    def plus(self, other: Round) -> Round:
        """Return what two rounds did together."""
        return Round(self.taken + other.taken, self.signed + other.signed, self.halted + other.halted)


class LogSequencer:
    """One transaction per tenant and batch; any number of sequencers is safe, the lease lets one work."""

    def __init__(self, spine: Spine) -> None:
        settings = spine.services.settings
        self._spine = spine
        self._files: LogFiles = spine.services.caches["log_files"]
        self._holder = f"log-sequencer-{os.getpid()}-{secrets.token_hex(4)}"
        on_sqlite = spine.transactions.dialect_name == "sqlite"
        self._batch = min(settings.log_batch, SQLITE_BATCH) if on_sqlite else settings.log_batch
        self._prefix = settings.log_origin
        self._interval = timedelta(milliseconds=settings.checkpoint_interval_ms)
        self._renewed_at: float | None = None
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End after the transaction at hand."""
        self._stopped.set()

    def run_round(self, *, sign_all: bool = False) -> Round:
        """Take one batch of each tenant and sign what is due, or with `sign_all` whatever has grown.

        Nothing is done while another sequencer holds the lease.
        """
        if not self._holds_lease():
            return Round(held=True)
        keys = self._files.keys(make=True)
        taken = signed = halted = 0
        more = False
        for tenant_id in self._waiting():
            batch = self._guarded(tenant_id, self._integrate)
            if batch is not None:
                taken += batch.taken
                more = more or batch.opened or batch.taken >= self._batch
                halted += self._report(tenant_id, batch.halted)
        for tenant_id in self._unsigned(sign_all=sign_all) if keys is not None else ():
            signing = self._guarded(tenant_id, self._sign)
            if signing is not None:
                signed += signing.size is not None
                halted += self._report(tenant_id, signing.halted)
        return Round(taken, signed, halted, more)

    def drain(self) -> Round:
        """Do rounds until nothing waits, sign every head, and give the lease back."""
        done = Round()
        while not self._stopped.is_set():
            latest = self.run_round(sign_all=True)
            done = done.plus(latest)
            if not latest.more:
                self.release()
                return replace(done, held=latest.held)
        return done

    def release(self) -> None:
        """Give the lease back."""
        if self._renewed_at is not None:
            self._renewed_at = None
            with self._spine.transactions.write(SYSTEM_TENANT, role=ROLE) as connection:
                log_sequencing.release_lease(connection, holder=self._holder)

    def _holds_lease(self) -> bool:
        now = time.monotonic()
        if self._renewed_at is None or now - self._renewed_at >= RENEW_SECONDS:
            with self._spine.transactions.write(SYSTEM_TENANT, role=ROLE) as connection:
                held = log_sequencing.take_lease(connection, holder=self._holder)
            self._renewed_at = now if held else None
        return self._renewed_at is not None

    def _waiting(self) -> Iterator[str]:
        after = ""
        while not self._stopped.is_set():
            with self._spine.transactions.read(SYSTEM_TENANT, role=ROLE) as connection:
                found = log_sequencing.list_waiting(connection, after=after, limit=TENANTS_AT_ONCE)
            for tenant_id in found:
                if self._stopped.is_set() or not self._holds_lease():
                    return
                yield tenant_id
            if len(found) < TENANTS_AT_ONCE:
                return
            after = found[-1]

    def _unsigned(self, *, sign_all: bool) -> Iterator[str]:
        now = self._spine.services.clock.now()
        signed_before = now if sign_all else now - self._interval
        with self._spine.transactions.read(SYSTEM_TENANT, role=ROLE) as connection:
            found = log_sequencing.list_unsigned(
                connection, signed_before=signed_before, limit=TENANTS_AT_ONCE
            )
        for tenant_id in found:
            if self._stopped.is_set() or not self._holds_lease():
                return
            yield tenant_id

    def _integrate(self, connection: DriverConnection, tenant_id: str) -> Batch:
        return log_sequencing.integrate(
            connection,
            tenant_id=tenant_id,
            prefix=self._prefix,
            limit=self._batch,
            now=self._spine.services.clock.now(),
        )

    def _sign(self, connection: DriverConnection, tenant_id: str) -> log_sequencing.Signing:
        keys = self._files.keys()
        if keys is None:
            return log_sequencing.Signing()
        return log_sequencing.sign(
            connection,
            tenant_id=tenant_id,
            files=self._files,
            keys=keys,
            now=self._spine.services.clock.now(),
        )

    def _guarded(self, tenant_id: str, work: Callable[[DriverConnection, str], T]) -> T | None:
        """Do one tenant's work in its own unit; what goes wrong there does not stop the others."""
        try:
            with self._spine.transactions.write(tenant_id, role=ROLE) as connection:
                return work(connection, tenant_id)
        except HocError as error:
            _log.warning("log_sequencer.refused", tenant_id=tenant_id, code=error.code)
        except Exception as error:  # noqa: BLE001 - the tenant's transaction is rolled back; the next round repeats it
            _log.error("log_sequencer.failed", tenant_id=tenant_id, trace=safe_trace(error))
        return None

    def _report(self, tenant_id: str, reason: HaltReason | None) -> int:
        if reason is None:
            return 0
        _log.critical("log_sequencer.halted", tenant_id=tenant_id, reason=reason.value)
        return 1


class LogSequencerLoop:
    """The thread that does a round every HOC_LOG_INTERVAL_MS, at once while work remains."""

    def __init__(self, spine: Spine) -> None:
        self._spine = spine
        self._interval = spine.services.settings.log_interval_ms / 1000
        self._stopping = threading.Event()
        self._sequencer = LogSequencer(spine)
        self.done = Round()
        self._thread = threading.Thread(target=self.run, name="hoc-log-sequencer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the transaction at hand."""
        self._stopping.set()
        self._sequencer.stop()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(STOP_SECONDS)

    def run(self) -> None:
        """Work until `stop` is called."""
        more = False
        while not self._stopping.is_set():
            if not more and self._stopping.wait(self._interval):
                break
            try:
                done = self._sequencer.run_round()
                self.done = self.done.plus(done)
                more = done.more
            except HocError as error:
                more = False
                _log.warning("log_sequencer.round_refused", code=error.code)
            except Exception:  # noqa: BLE001 - the loop outlives whatever a round meets
                more = False
                _log.exception("log_sequencer.round_failed")
        try:
            self._sequencer.release()
        except Exception as error:  # noqa: BLE001 - the lease runs out by itself
            _log.warning("log_sequencer.lease_not_released", error=type(error).__name__)


def sequence_until_stopped(spine: Spine) -> Round:
    """Sequence in the calling thread, the main one, until SIGINT or SIGTERM; return what was done."""
    loop = LogSequencerLoop(spine)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.stop())
    loop.run()
    return loop.done
