"""Spine: waking the plane workers of this process when a commit has queued a job."""

from __future__ import annotations

from typing import Final

from app.hoc_spine.operation_context import OperationContext

# The name of the event among the services; a process without workers has none, or nobody who waits for it.
WAKE: Final = "plane_wake"


def wake_workers(ctx: OperationContext) -> None:
    """Wake this process's workers once the transaction is committed; others find the job by polling."""
    event = ctx.services.caches.get(WAKE)
    if event is not None:
        ctx.after_commit(event.set)
