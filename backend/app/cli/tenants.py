"""L2: `hoc tenants`."""

from typing import Annotated

import typer

from app.cli.options import AsJson, ReasonOption, TenantId
from app.cli.session import list_all, operate

group = typer.Typer(help="Tenants.", no_args_is_help=True)


@group.command("create")
def create_tenant(
    tenant_id: TenantId,
    name: Annotated[str | None, typer.Option(help="Display name; the id when left out.")] = None,
    plan: Annotated[str, typer.Option(help="FREE, PRO or ENTERPRISE.")] = "FREE",
    as_json: AsJson = False,
) -> None:
    """Create a tenant."""
    payload = {"tenant_id": tenant_id, "name": name or tenant_id, "plan": plan.upper()}
    operate("ops.tenants.create", payload, as_json=as_json)


@group.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """List all tenants."""
    list_all("ops.tenants.list", {}, ("tenant_id", "name", "plan", "status"), as_json=as_json)


@group.command("suspend")
def suspend_tenant(tenant_id: TenantId, reason: ReasonOption, as_json: AsJson = False) -> None:
    """Suspend a tenant: its keys stop working at once."""
    operate("ops.tenants.suspend", {"tenant_id": tenant_id, "reason": reason}, as_json=as_json)


@group.command("activate")
def activate_tenant(tenant_id: TenantId, reason: ReasonOption, as_json: AsJson = False) -> None:
    """Activate a suspended tenant."""
    operate("ops.tenants.activate", {"tenant_id": tenant_id, "reason": reason}, as_json=as_json)
