"""Spine: delivery of a tenant's due events, with no transaction open while one is under way."""

from __future__ import annotations

from typing import Protocol

from app.hoc_spine.spine import Spine
from app.kernel.context import RequestContext


class EventSink(Protocol):
    """Where events go."""

    def deliver(self, event_id: str, body: str) -> str | None:
        """Send one event and return why it has not arrived, None when it has."""
        ...


class OutboxDelivery:
    """Claims due events, sends them, notes what became of them; a crash between means one more delivery."""

    def __init__(self, spine: Spine, sink: EventSink) -> None:
        self._spine = spine
        self._sink = sink

    def deliver_due(self, context: RequestContext) -> int:
        """Deliver what is due in the context's tenant and return how many events have arrived."""
        arrived = 0
        while events := self._spine.dispatch("outbox.claim", context, {}).unwrap().events:
            delivered, failed = [], []
            for event in events:
                error = self._sink.deliver(event.event_id, event.body)
                if error is None:
                    delivered.append(event.event_id)
                else:
                    failed.append({"event_id": event.event_id, "attempts": event.attempts, "error": error})
            outcome = {"delivered": delivered, "failed": failed}
            self._spine.dispatch("outbox.settle", context, outcome).unwrap()
            arrived += len(delivered)
            if failed:
                # The other end has trouble: what is left waits for the next round.
                break
        return arrived
