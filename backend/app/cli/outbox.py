"""L2: `hoc outbox`."""

from typing import Annotated

import typer

from app.cli.options import AsJson, TenantId
from app.cli.session import list_all, operate

group = typer.Typer(help="Events on their way to HOC_OUTBOX_URL.", no_args_is_help=True)


@group.command("list")
def list_events(
    tenant_id: TenantId,
    delivered: Annotated[
        bool | None,
        typer.Option("--delivered/--undelivered", help="Only those that have arrived, or have not."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List a tenant's events, newest first."""
    list_all(
        "outbox.list",
        {"delivered": delivered},
        ("event_id", "type", "attempts", "delivered_at", "last_error"),
        tenant_id=tenant_id,
        as_json=as_json,
    )


@group.command("replay")
def replay_event(
    tenant_id: TenantId,
    event_id: Annotated[str, typer.Argument(help="The event.")],
    as_json: AsJson = False,
) -> None:
    """Deliver an event again, whatever became of it."""
    operate("outbox.replay", {"event_id": event_id}, tenant_id=tenant_id, as_json=as_json)
