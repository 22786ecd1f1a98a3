"""L2: `hoc log`."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.database import read_settings
from app.cli.options import AsJson, ReasonOption, TenantId
from app.cli.output import fail, show
from app.cli.session import OPERATOR, Session, operate
from app.hoc_spine.coordinators.log_files import LogFiles, write_new_key
from app.hoc_spine.key_rotation import KeyRotation
from app.hoc_spine.sequencer import SYSTEM_TENANT, LogSequencer, sequence_until_stopped
from app.kernel.errors import HocError

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


@group.command("new-epoch")
def open_log_epoch(tenant_id: TenantId, reason: ReasonOption, as_json: AsJson = False) -> None:
    """Close a tenant's log and begin its next epoch, after a restore that lost signed entries."""
    with Session() as session:
        files: LogFiles = session.spine.services.caches["log_files"]
        status = session.call("log.status", {}, tenant_id=tenant_id)
        # The directory has each checkpoint before the database, and no restore sets it back.
        payload = {"reason": reason, "old_checkpoint": files.latest(tenant_id, status.epoch)}
        opened = session.dispatch("ops.log.open_epoch", payload, tenant_id=tenant_id)
        if tenant_id != SYSTEM_TENANT:
            said = {name: opened[name] for name in ("old_origin", "old_checkpoint")}
            note = {**said, "new_origin": opened["origin"], "reason": reason}
            session.call("log.note_epoch", note, tenant_id=SYSTEM_TENANT)
    show(opened, as_json=as_json)


@group.command("rotate-key")
def rotate_log_key(
    new: Annotated[Path, typer.Argument(help="The new key, a PEM file such as `hoc log keygen` makes.")],
    reason: ReasonOption,
    compromised: Annotated[
        bool, typer.Option("--compromised", help="The old key must not sign once more beside the new one.")
    ] = False,
    wait_seconds: Annotated[float, typer.Option(min=0, help="How long to wait for signatures.")] = 60,
    as_json: AsJson = False,
) -> None:
    """Let another key sign all logs: record it in each of them, sign that, and put it in HOC_LOG_KEY_FILE."""
    with Session() as session:
        rotation = KeyRotation(session.spine, actor=OPERATOR, wait_seconds=wait_seconds)
        try:
            done = rotation.rotate(new, reason=reason, compromised=compromised)
        except HocError as error:
            fail(f"{error.code}: {error.detail}")
    show({"logs": done.logs, "halted": list(done.halted)}, as_json=as_json)
