"""Spine: write the bundle of each run that ends to HOC_BUNDLE_DIR, beside the work that ended it."""

from __future__ import annotations

import os
import queue
import secrets
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import Counter

from app.domains.logs.models.ledger import (
    Fact,
)
from app.hoc_spine.dispatch_audit import DispatchRecord
from app.kernel.errors import safe_trace
from app.kernel.files import LocalFile

MAX_WAITING: Final = 10_000
DRAIN_SECONDS: Final = 20.0
FAILED = Counter("hoc_bundle_exports_failed", "Bundles of ended runs that were not written")
_log = structlog.get_logger(__name__)
Ended = tuple[str, str]
MakeBundle = Callable[[str, str], LocalFile]
"""Makes the bundle of a tenant's run; raises what refuses it."""


class ExportBundleAdapter:
    """Learns from the facts of a unit which runs it ends, and exports them once it is committed.

    A thread of its own does the work: nobody who ends a run waits for a checkpoint.
    """

    name = "export_bundle"
    # Of a unit that was taken back it forgets what it had learnt.
    committed_only = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._make: MakeBundle | None = None
        self._unit = threading.local()
        self._waiting: queue.Queue[Ended | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def bind(self, make: MakeBundle) -> None:
        """Take what makes a bundle; it needs the spine, which needs this adapter first."""
        self._make = make

    def learn(self, tenant_id: str, facts: Sequence[Fact]) -> None:
        """Note which runs the facts of the open unit end; the unit runs in this thread."""
        ended = [(tenant_id, str(fact.run_id)) for fact in facts if fact.closes_run]
        if ended:
            self._unit.ended = [*getattr(self._unit, "ended", ()), *ended]

    def handle(self, record: DispatchRecord) -> None:
        """Queue what the unit has ended, now that it is known to be committed."""
        ended: Sequence[Ended] = getattr(self._unit, "ended", ())
        if not ended:
            return
        self._unit.ended = ()
        if record.outcome != "COMMITTED":
            return
        for one in ended:
            try:
                self._waiting.put_nowait(one)
            except queue.Full:
                FAILED.inc()
        self.start()

    def start(self) -> None:
        """Start the thread, once."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hoc-export-bundle", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            thread.join(DRAIN_SECONDS)

    def _run(self) -> None:
        while (one := self._waiting.get()) is not None:
            try:
                self._export(*one)
            except Exception as error:  # noqa: BLE001 - one run that has no bundle does not cost the others theirs
                FAILED.inc()
                _log.error("export_bundle.failed", tenant_id=one[0], run_id=one[1], trace=safe_trace(error))

    def _export(self, tenant_id: str, run_id: str) -> None:
        if self._make is None:
            raise RuntimeError("the adapter is not bound")
        made = self._make(tenant_id, run_id)
        folder = self._folder / tenant_id
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{secrets.token_hex(8)}"
        try:
            shutil.copyfile(made.path, temporary)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(folder / f"{run_id}.hocproof")
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
