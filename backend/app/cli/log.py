"""L2: `hoc log`."""

from typing import Annotated

import typer

from app.cli.database import read_settings
from app.cli.options import AsJson
from app.cli.output import fail, show
from app.cli.session import Session, operate
from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.sequencer import LogSequencer, sequence_until_stopped

group = typer.Typer(help="The Merkle logs of the tenants.", no_args_is_help=True)


@group.command("sequence")
def sequence_log(
    once: Annotated[bool, typer.Option("--once", help="Work off what waits, sign, and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Sequence the facts of all tenants and sign their logs, until it is stopped."""
    with Session() as session:
        done = LogSequencer(session.spine).drain() if once else sequence_until_stopped(session.spine)
    if done.held:
        fail("LEASE_HELD: another sequencer is at work")
    show({"sequenced": done.taken, "signed": done.signed, "halted": done.halted}, as_json=as_json)


@group.command("status")
def show_log_status(
    tenant_id: Annotated[str | None, typer.Option(help="A tenant; all when left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show how far a tenant's log is, or whether the logs of all keep up; exit 1 when they do not."""
    if tenant_id is not None:
        operate("log.status", {}, tenant_id=tenant_id, as_json=as_json)
        return
    with Session() as session:
        report = session.spine.services.caches["log_watch"].report()
    show(report, as_json=as_json)
    if report["status"] == "failed":
        raise typer.Exit(1)


@group.command("keygen")
def make_log_key(
    if_missing: Annotated[bool, typer.Option("--if-missing", help="One that is there is fine.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the signing key in HOC_LOG_KEY_FILE, mode 0600; refuse to replace one."""
    file = read_settings().log_key_path
    if file is None:
        fail("NO_KEY_FILE: set HOC_LOG_KEY_FILE to where the key belongs")
    try:
        if not write_new_key(file) and not if_missing:
            fail(f"KEY_EXISTS: {file} is there already")
    except OSError as error:
        fail(f"KEY_FILE_FAILED: {error.strerror}")
    show({"file": str(file)}, as_json=as_json)
