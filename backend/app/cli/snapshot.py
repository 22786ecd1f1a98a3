"""L2: `hoc snapshot`."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import AsJson, TenantId
from app.cli.output import fail, show
from app.cli.session import Session
from app.hoc_spine.payload import LaxPayload
from app.kernel.files import LocalFile
from app.library_face.delivery import save_snapshot

group = typer.Typer(help="Snapshots of a tenant's knowledge repository.", no_args_is_help=True)

SnapshotPath = Annotated[Path, typer.Argument(help="A snapshot, zip or folder.", exists=True, readable=True)]


@group.command("export")
def export_snapshot(
    path: Annotated[Path, typer.Argument(help="Where to: a file that ends in .zip, or a new folder.")],
    tenant_id: TenantId,
    collection: Annotated[list[str] | None, typer.Option(help="Only these collections; repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a snapshot of a tenant's repository, or of some of its collections."""
    with Session() as session:
        made = session.call("repository.snapshots.export", {"collections": collection}, tenant_id=tenant_id)
        try:
            save_snapshot(made, path, now=session.spine.services.clock.now())
        except OSError as error:
            fail(f"STORAGE_FAILED: {error.strerror or error}")
        show(made.model_dump(mode="json"), as_json=as_json)


@group.command("import")
def import_snapshot(
    path: SnapshotPath,
    tenant_id: TenantId,
    policy: Annotated[str, typer.Option(help="fail, skip_identical or fast_forward.")] = "fail",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would become of it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a snapshot into a tenant's repository, all or nothing."""
    given = LaxPayload(content=LocalFile(path), policy=policy, dry_run=dry_run)
    with Session() as session:
        report = session.dispatch("repository.snapshots.import", given, tenant_id=tenant_id)
    show(report, as_json=as_json)
    if report["errors"] or report["conflicts_total"]:
        raise typer.Exit(1)


@group.command("verify")
def verify_snapshot(path: SnapshotPath, tenant_id: TenantId, as_json: AsJson = False) -> None:
    """Read a snapshot from end to end and say whether it is whole."""
    with Session() as session:
        given = LaxPayload(content=LocalFile(path))
        report = session.dispatch("repository.snapshots.verify", given, tenant_id=tenant_id)
    show(report, as_json=as_json)
    if not report["valid"]:
        raise typer.Exit(1)
