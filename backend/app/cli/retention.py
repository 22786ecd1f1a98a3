"""L2: `hoc retention plan` and `purge`."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import AsJson, TenantId
from app.cli.output import fail, show
from app.cli.session import OPERATOR, Session, operate
from app.hoc_spine.log_purge import LogPurge
from app.kernel.errors import HocError

group = typer.Typer(help="How long evidence is kept, its archives, its deletion.", no_args_is_help=True)


@group.command("plan")
def plan_retention(tenant_id: TenantId, as_json: AsJson = False) -> None:
    """Show what a purge would take now, what stays although it is over age, and why; writes nothing."""
    operate("ops.retention.plan", {}, tenant_id=tenant_id, as_json=as_json)


@group.command("purge")
def purge_evidence(
    tenant_id: TenantId,
    archive: Annotated[str | None, typer.Option(help="The archive; the newest not purged by yet.")] = None,
    archive_file: Annotated[Path | None, typer.Option(help="Where its file is now, if it was moved.")] = None,
    as_json: AsJson = False,
) -> None:
    """Delete what an archive holds, if that is what goes now; a purge that was cut off goes on."""
    path = None if archive_file is None else str(archive_file)
    with Session() as session:
        purge = LogPurge(session.spine, tenant_id=tenant_id, actor=OPERATOR)
        try:
            done = purge.run(archive_id=archive, path=path)
        except HocError as error:
            fail(f"{error.code}: {error.detail}")
    said = done.opened.model_dump(mode="json")
    show({**said, "slices": done.slices, "left": done.left}, as_json=as_json)
