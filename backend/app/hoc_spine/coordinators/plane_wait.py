"""Spine: wait in process until a plane reaches a state; for programs that embed the spine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState,
)
from app.hoc_spine.spine import Spine
from app.kernel.context import RequestContext

State = KnowledgePlaneLifecycleState


@dataclass(frozen=True, slots=True)
class WaitResult:
    """How the waiting ended: reached, or PLANE_NOT_FOUND, PLANE_FAILED, TERMINAL_STATE, TIMEOUT."""

    reached: bool
    state: State | None
    error_code: str | None = None


def wait_until(
    spine: Spine,
    context: RequestContext,
    plane_id: str,
    state: State,
    *,
    timeout_seconds: float = 300,
    poll_seconds: float = 1,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> WaitResult:
    """Look at a plane until it is in the state, can no longer get there, or the time is up; never raises.

    Any other refusal of reading the plane ends the waiting with that refusal's code.
    """
    deadline = monotonic() + timeout_seconds
    while True:
        result = spine.dispatch("knowledge.planes.get", context, {"plane_id": plane_id})
        if result.error is not None:
            return WaitResult(False, None, result.error.code)
        seen = State(result.unwrap().lifecycle_state_value)
        if seen is state:
            return WaitResult(True, seen)
        if seen.is_terminal:
            return WaitResult(False, seen, "PLANE_FAILED" if seen.is_failed else "TERMINAL_STATE")
        left = deadline - monotonic()
        if left <= 0:
            return WaitResult(False, seen, "TIMEOUT")
        sleep(min(poll_seconds, left))
