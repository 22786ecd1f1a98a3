"""Spine: operations behind the delivery of events, and the forgetting of idempotency keys."""

from __future__ import annotations

from app.domains.logs.engines import idempotency, outbox
from app.domains.logs.models.delivery import (
    ClaimedEvents,
    ClaimEvents,
    ForgetKeys,
    ForgottenKeys,
    ListEvents,
    OutboxEventView,
    ReplayedEvent,
    ReplayEvent,
    SettledEvents,
    SettleEvents,
)
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import Operation
from app.kernel.canonical_json import dumps
from app.kernel.pages import Page, encode_cursor, read_cursor


def claim_events(ctx: OperationContext, command: ClaimEvents) -> ClaimedEvents:
    """Take the oldest due events of the tenant; each is this worker's for ten minutes."""
    return ClaimedEvents(
        events=outbox.claim_due(ctx.connection, tenant_id=ctx.tenant_id, now=ctx.now, limit=command.limit)
    )


def settle_events(ctx: OperationContext, command: SettleEvents) -> SettledEvents:
    """Note which claimed events have arrived, and when to try the others again."""
    outbox.settle(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        delivered=command.delivered,
        failed={item.event_id: (item.attempts, item.error) for item in command.failed},
        now=ctx.now,
    )
    return SettledEvents(delivered=len(command.delivered), failed=len(command.failed))


def list_events(ctx: OperationContext, query: ListEvents) -> Page[OutboxEventView]:
    """List outbox events, newest first."""
    binding = dumps([ctx.tenant_id, "outbox.list", query.delivered])
    (after,) = read_cursor(query.cursor, binding, str) or (None,)
    found = outbox.list_page(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        delivered=query.delivered,
        after=after,
        limit=query.limit + 1,
    )
    shown = found[: query.limit]
    cursor = encode_cursor(binding, [shown[-1].event_id]) if len(found) > query.limit else None
    return Page(items=shown, next_cursor=cursor)


def replay_event(ctx: OperationContext, command: ReplayEvent) -> ReplayedEvent:
    """Deliver an event again, whatever became of it; refuse EVENT_NOT_FOUND."""
    outbox.replay(ctx.connection, tenant_id=ctx.tenant_id, event_id=command.event_id, now=ctx.now)
    return ReplayedEvent(event_id=command.event_id)


def forget_keys(ctx: OperationContext, command: ForgetKeys) -> ForgottenKeys:
    """Forget the idempotency keys whose 24 hours are over."""
    forgotten = idempotency.forget_expired(
        ctx.connection, tenant_id=ctx.tenant_id, now=ctx.now, limit=command.limit
    )
    return ForgottenKeys(forgotten=forgotten, more=forgotten == command.limit)


_DELIVERY = "deliveries are no governed facts; each event repeats one"

OPERATIONS = (
    Operation(
        name="outbox.claim",
        owner="logs",
        mode="write",
        scope=None,
        door="worker",
        input=ClaimEvents,
        output=ClaimedEvents,
        handler=claim_events,
        no_audit=_DELIVERY,
    ),
    Operation(
        name="outbox.settle",
        owner="logs",
        mode="write",
        scope=None,
        door="worker",
        input=SettleEvents,
        output=SettledEvents,
        handler=settle_events,
        no_audit=_DELIVERY,
    ),
    Operation(
        name="outbox.list",
        owner="logs",
        mode="read",
        scope=None,
        door="worker",
        input=ListEvents,
        output=Page[OutboxEventView],
        handler=list_events,
    ),
    Operation(
        name="outbox.replay",
        owner="logs",
        mode="write",
        scope=None,
        door="worker",
        input=ReplayEvent,
        output=ReplayedEvent,
        handler=replay_event,
        no_audit=_DELIVERY,
    ),
    Operation(
        name="idempotency.forget",
        owner="logs",
        mode="write",
        scope=None,
        door="worker",
        input=ForgetKeys,
        output=ForgottenKeys,
        handler=forget_keys,
        no_audit="a key that is over leaves no trace, as it promised",
    ),
)
