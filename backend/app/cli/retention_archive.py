"""L2: `hoc retention set`, `show` and `archive`."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import AsJson, TenantId
from app.cli.output import fail, show
from app.cli.session import Session, operate
from app.hoc_spine.coordinators.retention_archive import publish
from app.hoc_spine.sequencer import SYSTEM_TENANT
from app.kernel.errors import HocError


def set_retention(
    tenant_id: TenantId,
    days: Annotated[int | None, typer.Option(help="Keep evidence for so many days.")] = None,
    value_days: Annotated[int | None, typer.Option(help="Keep the values in it for so many days.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; it goes into the audit ledger.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say for how long a tenant keeps its evidence, and the values in it; 183 days at least."""
    payload = {"days": days, "value_days": value_days, "reason": reason}
    operate("ops.retention.set", payload, tenant_id=tenant_id, as_json=as_json)


def show_retention(tenant_id: TenantId, as_json: AsJson = False) -> None:
    """Show for how long a tenant keeps its evidence, and the values in it."""
    operate("ops.retention.show", {}, tenant_id=tenant_id, as_json=as_json)


def archive(
    tenant_id: TenantId,
    folder: Annotated[Path, typer.Option("--to", help="The folder that takes the archive.")],
    with_values: Annotated[bool, typer.Option(help="With the values behind the commitments.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write what a purge would take into a file, verify that as it lies on the disk, and record it."""
    with Session() as session:
        # An erasure of a moment ago is to be under the checkpoint that the archive has.
        session.spine.services.caches["log_round"]()
        wish = {"folder": str(folder), "with_values": with_values}
        written = session.call("ops.retention.write_archive", wish, tenant_id=tenant_id)
        try:
            publish(written)
        except HocError as error:
            fail(f"{error.code}: {error.detail}")
        done = session.attempt("ops.retention.record_archive", written.archive, tenant_id=tenant_id)
        if done.error is not None and done.error_code != "BUSY":
            with suppress(OSError):
                Path(written.archive.path).unlink()
        recorded = session.unwrap(done)
        if tenant_id != SYSTEM_TENANT:
            session.call("log.note_archive", written.archive, tenant_id=SYSTEM_TENANT)
    show(recorded.model_dump(mode="json"), as_json=as_json)
