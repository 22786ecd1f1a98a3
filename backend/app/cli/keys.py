"""L2: `hoc keys`."""

from datetime import datetime
from typing import Annotated

import orjson
import typer

from app.cli.options import AsJson, ReasonOption, TenantId
from app.cli.session import Session, list_all, operate

group = typer.Typer(help="API keys of a tenant.", no_args_is_help=True)

KeyId = Annotated[str, typer.Option("--key-id", help="The key.")]


@group.command("create")
def create_key(
    tenant_id: TenantId,
    scope: Annotated[list[str] | None, typer.Option("--scope", help="A scope; may be repeated.")] = None,
    role: Annotated[str | None, typer.Option(help="VIEWER, MEMBER, ADMIN or OWNER.")] = None,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "made on the command line",
    actor_type: Annotated[str, typer.Option(help="HUMAN, SYSTEM or AGENT.")] = "HUMAN",
    actor_id: Annotated[str, typer.Option(help="Who acts with this key.")] = "operator",
    expires_at: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%dT%H:%M:%S%z"])] = None,
) -> None:
    """Make a key and print it once, as JSON."""
    payload = {
        "tenant_id": tenant_id,
        "name": name,
        "role": role.upper() if role else None,
        "scopes": scope or [],
        "actor_type": actor_type.upper(),
        "actor_id": actor_id,
        "expires_at": expires_at.isoformat() if expires_at else None,
    }
    with Session() as session:
        made = session.dispatch("ops.keys.create", payload)
    typer.echo(orjson.dumps({"key_id": made["key_id"], "api_key": made["api_key"]}).decode())


@group.command("list")
def list_keys(tenant_id: TenantId, as_json: AsJson = False) -> None:
    """List a tenant's keys, newest first."""
    list_all(
        "keys.list",
        {},
        ("key_id", "name", "status", "prefix", "actor_id"),
        tenant_id=tenant_id,
        as_json=as_json,
    )


@group.command("freeze")
def freeze_key(tenant_id: TenantId, key_id: KeyId, reason: ReasonOption, as_json: AsJson = False) -> None:
    """Freeze a key."""
    operate("keys.freeze", {"key_id": key_id, "reason": reason}, tenant_id=tenant_id, as_json=as_json)


@group.command("unfreeze")
def unfreeze_key(tenant_id: TenantId, key_id: KeyId, reason: ReasonOption, as_json: AsJson = False) -> None:
    """Make a frozen key work again."""
    operate("keys.unfreeze", {"key_id": key_id, "reason": reason}, tenant_id=tenant_id, as_json=as_json)


@group.command("revoke")
def revoke_key(tenant_id: TenantId, key_id: KeyId, reason: ReasonOption, as_json: AsJson = False) -> None:
    """Revoke a key for good."""
    payload = {"tenant_id": tenant_id, "key_id": key_id, "reason": reason}
    operate("ops.keys.revoke", payload, as_json=as_json)
