"""L2: `hoc repository`."""

from typing import Annotated

import typer

from app.cli.options import AsJson, TenantId
from app.cli.output import show
from app.cli.session import Session, operate

group = typer.Typer(help="The knowledge repository of a tenant.", no_args_is_help=True)


@group.command("fsck")
def check_repository(
    tenant_id: TenantId,
    scope: Annotated[str, typer.Option(help="An artifact id, or all.")] = "all",
    read_content: Annotated[bool, typer.Option(help="Hash the stored bytes again.")] = True,
    as_json: AsJson = False,
) -> None:
    """Check a tenant's repository; exit 1 when anything but a warning was found."""
    payload = {"scope": scope, "read_content": read_content}
    with Session() as session:
        report = session.dispatch("repository.verify", payload, tenant_id=tenant_id)
    if as_json:
        show(report, as_json=True)
    else:
        for finding in report["findings"]:
            typer.echo(f"{finding['code']}  {finding['entity']}  {finding['detail']}")
        counts = ", ".join(f"{number} {name}" for name, number in report["checked"].items())
        typer.echo(f"{'clean' if report['clean'] else 'DAMAGED'}: {report['total']} findings in {counts}")
    if not report["clean"]:
        raise typer.Exit(1)


@group.command("gc")
def collect_garbage(
    tenant_id: TenantId,
    grace_days: Annotated[int | None, typer.Option(help="Days after deletion; else the setting.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without it, only count.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give up bytes that nothing live or cited needs; without --apply only tell what would go."""
    payload = {"dry_run": not apply, "grace_days": grace_days}
    operate("repository.gc", payload, tenant_id=tenant_id, as_json=as_json)
