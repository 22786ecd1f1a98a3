"""L2: `hoc hold`."""

from typing import Annotated

import typer

from app.cli.options import AsJson, TenantId
from app.cli.session import list_all, operate

group = typer.Typer(
    help="Legal holds: what they cover is not erased, redacted or purged.", no_args_is_help=True
)

Why = Annotated[str, typer.Option("--reason", help="Why; that of a hold stays readable for ever.")]
HoldId = Annotated[str, typer.Argument(help="The hold.")]
COLUMNS = ("hold_id", "scope", "scope_id", "status", "placed_by", "placed_at", "reason")


@group.command("place")
def place_hold(
    tenant_id: TenantId,
    scope: Annotated[str, typer.Option(help="RUN, SUBJECT, PLANE or TENANT.")],
    reason: Why,
    scope_id: Annotated[str | None, typer.Option(help="The run, subject or plane.")] = None,
    as_json: AsJson = False,
) -> None:
    """Place a hold."""
    payload = {"scope": scope.upper(), "scope_id": scope_id, "reason": reason}
    operate("evidence.holds.place", payload, tenant_id=tenant_id, as_json=as_json)


@group.command("list")
def list_holds(
    tenant_id: TenantId,
    status: Annotated[str | None, typer.Option(help="ACTIVE or RELEASED.")] = None,
    as_json: AsJson = False,
) -> None:
    """List holds, newest first."""
    payload = {"status": status.upper() if status else None}
    list_all("evidence.holds.list", payload, COLUMNS, tenant_id=tenant_id, as_json=as_json)


@group.command("release")
def release_hold(hold_id: HoldId, tenant_id: TenantId, reason: Why, as_json: AsJson = False) -> None:
    """Release a hold for good."""
    payload = {"hold_id": hold_id, "reason": reason}
    operate("evidence.holds.release", payload, tenant_id=tenant_id, as_json=as_json)
