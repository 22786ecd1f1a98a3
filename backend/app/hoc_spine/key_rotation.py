"""Spine: another key takes over the signing of all logs, recorded in each of them before it does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from app.domains.logs.errors import key_known, key_not_covered, no_signing_key
from app.hoc_spine.coordinators.log_files import LogFiles, read_key_file
from app.hoc_spine.log_verifier import LogVerifier
from app.hoc_spine.sequencer import LogSequencer
from app.hoc_spine.spine import Spine
from app.kernel.context import Actor, RequestContext

_PAUSE_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Rotation:
    """How many logs record a rotation, and which of them are halted: those will sign it when resumed."""

    logs: int
    halted: tuple[str, ...]


class KeyRotation:
    """Records the new key in every log, has the old one sign over that, and puts the new one in its place.

    The key file changes last and at once, so a rotation that was cut off is done again with the same key, and
    nothing is recorded twice.
    """

    def __init__(self, spine: Spine, *, actor: Actor, wait_seconds: float) -> None:
        self._spine = spine
        self._actor = actor
        self._files: LogFiles = spine.services.caches["log_files"]
        self._wait_seconds = wait_seconds

    def rotate(self, file: Path, *, reason: str, compromised: bool) -> Rotation:
        """Rotate to a file's key; unless compromised, the old one signs on for HOC_KEY_OVERLAP_DAYS.

        Refuse KEY_UNREADABLE, NO_SIGNING_KEY, KEY_KNOWN, and KEY_NOT_COVERED when some log has no checkpoint
        over its record yet.
        """
        new, ring = read_key_file(file), self._files.keys()
        if ring is None:
            raise no_signing_key()
        if new.public in ring.publics:
            raise key_known()
        payload = {"public_key": new.public.hex(), "reason": reason, "compromised": compromised}
        recorded = {
            tenant_id: fact_id
            for tenant_id in LogVerifier(self._spine).list_tenants()
            if (fact_id := self._dispatch("log.rotate_key", tenant_id, payload).fact_id) is not None
        }
        halted = self._wait(recorded)
        services = self._spine.services
        overlap = None if compromised else timedelta(days=services.settings.key_overlap_days)
        until = None if overlap is None else services.clock.now() + overlap
        self._files.replace_keys(ring.rotated(new, until=until))
        return Rotation(len(recorded), halted)

    def _wait(self, recorded: dict[str, str]) -> tuple[str, ...]:
        """Wait until a checkpoint covers each record; return the tenants whose logs are halted."""
        uncovered, halted = dict(recorded), []
        deadline = time.monotonic() + self._wait_seconds
        while True:
            # Whoever holds the lease, a server perhaps, does it in this command's stead.
            LogSequencer(self._spine).drain()
            for tenant_id, fact_id in list(uncovered.items()):
                if self._dispatch("log.fact", tenant_id, {"fact_id": fact_id}).status == "INCLUDED":
                    del uncovered[tenant_id]
                elif self._dispatch("log.status", tenant_id, {}).state != "ACTIVE":
                    del uncovered[tenant_id]
                    halted.append(tenant_id)
            if not uncovered:
                return tuple(halted)
            if time.monotonic() >= deadline:
                raise key_not_covered(sorted(uncovered))
            time.sleep(_PAUSE_SECONDS)

    def _dispatch(self, operation: str, tenant_id: str, payload: dict[str, Any]) -> Any:
        context = RequestContext(
            tenant_id=tenant_id,
            actor=self._actor,
            request_id=self._spine.services.ids.new("req"),
            door="worker",
        )
        return self._spine.dispatch(operation, context, payload).unwrap()
