"""Spine: the thread of a server process that verifies the logs, by the clock and on request."""

from __future__ import annotations

import threading
from typing import Final

import structlog

from app.hoc_spine.coordinators.verify_requests import VerifyRequest, VerifyRequests
from app.hoc_spine.log_verifier import LogVerifier
from app.hoc_spine.spine import Spine
from app.kernel.errors import HocError, safe_trace

STOP_SECONDS: Final = 10.0
_log = structlog.get_logger(__name__)


class LogVerifierLoop:
    """The thread of a server process that does a round each HOC_VERIFY_INTERVAL_SECONDS, requests at once."""

    def __init__(self, spine: Spine) -> None:
        self._verifier = LogVerifier(spine)
        self._requests: VerifyRequests = spine.services.caches["verify_requests"]
        self._interval = spine.services.settings.verify_interval_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hoc-log-verifier", daemon=True)

    def start(self) -> None:
        """Start the thread; its first round comes after one interval."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the slice at hand."""
        self._stopping.set()
        self._verifier.stop()
        self._requests.asked.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            asked = self._requests.asked.wait(self._interval)
            if self._stopping.is_set():
                break
            try:
                if asked:
                    run_requests(self._verifier, self._requests)
                else:
                    self._verifier.run_round()
            except Exception as error:  # noqa: BLE001 - the loop outlives whatever a round meets
                _log.error("log_verifier.round_failed", trace=safe_trace(error))
        try:
            self._verifier.release()
        except Exception as error:  # noqa: BLE001 - the lease runs out by itself
            _log.warning("log_verifier.lease_not_released", error=type(error).__name__)


def run_requests(verifier: LogVerifier, requests: VerifyRequests) -> int:
    """Do the verifications that were asked for; return how many there were."""
    done = 0
    while (request := requests.take()) is not None:
        try:
            _run_request(verifier, request)
        finally:
            requests.end(request)
        done += 1
    return done


def _run_request(verifier: LogVerifier, request: VerifyRequest) -> None:
    try:
        verifier.verify_all(request.tenant_id, verification_id=request.verification_id)
    except HocError as error:
        _log.warning("log_verifier.request_refused", tenant_id=request.tenant_id, code=error.code)
