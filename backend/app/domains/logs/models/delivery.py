"""Logs: inputs and views of the delivery of events, and of the forgetting of keys."""

from dataclasses import dataclass

from pydantic import Field

from app.kernel.inputs import Identifier, Input, ListInput, Output, OutputTime, Text


@dataclass(frozen=True, slots=True)
class ClaimedEvent:
    """An outbox event taken for one attempt: its CloudEvents text, and the number of the attempt."""

    event_id: str
    body: str
    attempts: int


class ClaimEvents(Input):
    """Take the oldest due events of the tenant for one attempt at each."""

    limit: int = Field(100, ge=1, le=500)


class ClaimedEvents(Output):
    """Events that this worker has to deliver."""

    events: list[ClaimedEvent]


class FailedDelivery(Input):
    """An event that has not arrived, after how many attempts, and why."""

    event_id: Identifier
    attempts: int
    error: Text


class SettleEvents(Input):
    """Note what became of claimed events."""

    delivered: list[Identifier] = Field(default_factory=list)
    failed: list[FailedDelivery] = Field(default_factory=list)


class SettledEvents(Output):
    """How many events have arrived, how many have not."""

    delivered: int
    failed: int


class ListEvents(ListInput):
    """List the outbox events of the tenant, newest first."""

    delivered: bool | None = None


class OutboxEventView(Output):
    """An event to deliver; one that was given up waits for its replay."""

    event_id: str
    type: str
    attempts: int
    given_up: bool
    next_at: OutputTime
    delivered_at: OutputTime | None
    last_error: str | None
    created_at: OutputTime


class ReplayEvent(Input):
    """Deliver an event again."""

    event_id: Identifier


class ReplayedEvent(Output):
    """The event that is due again."""

    event_id: str


class ForgetKeys(Input):
    """Forget the idempotency keys whose day is over."""

    limit: int = Field(500, ge=1, le=5000)


class ForgottenKeys(Output):
    """How many keys were forgotten; `more` when there may be others."""

    forgotten: int
    more: bool
