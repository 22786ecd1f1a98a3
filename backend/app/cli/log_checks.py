"""L2: `hoc log verify`, `hoc log fsck` and `hoc log resume`: is the log as it was signed."""

import sys
from contextlib import redirect_stdout
from typing import Annotated, Any

import orjson
import typer

from app.cli.options import AsJson, ReasonOption, TenantId
from app.cli.output import fail, show
from app.cli.session import Session
from app.hoc_spine.log_verifier import LogVerifier
from app.hoc_spine.spine import Spine

VERIFIED, FAILED = "VERIFIED", "FAILED"
OneOrAll = Annotated[str | None, typer.Option("--tenant-id", help="A tenant; all when left out.")]


def verify_logs(as_json: AsJson = False) -> None:
    """Verify what is new of every log, and a part of what is old, as a server does each minute."""
    with Session() as session:
        verifier = LogVerifier(session.spine)
        with redirect_stdout(sys.stderr):
            done = verifier.run_round()
        if done.held:
            fail("LEASE_HELD: another process verifies")
        verifier.release()
    show({"logs": done.logs, "entries": done.entries, "failures": done.failures}, as_json=as_json)
    if done.failures:
        raise typer.Exit(1)


def check_logs(tenant_id: OneOrAll = None, as_json: AsJson = False) -> None:
    """Verify every entry, row, checkpoint and run of a log, or of all; exit 1 on any failure."""
    with Session() as session:
        names = [tenant_id] if tenant_id is not None else LogVerifier(session.spine).list_tenants()
        reports = [_check(session.spine, name) for name in names]
    if as_json:
        typer.echo(orjson.dumps(reports, option=orjson.OPT_INDENT_2).decode())
    else:
        for report in reports:
            _print(report)
    if any(report["status"] == FAILED for report in reports):
        raise typer.Exit(1)


def resume_log(tenant_id: TenantId, reason: ReasonOption, as_json: AsJson = False) -> None:
    """Let a halted log grow again, after all of it was verified."""
    with Session() as session:
        report = _check(session.spine, tenant_id)
        if report["status"] != VERIFIED:
            _print(report, err=True)
            fail("LOG_NOT_SOUND: the log stays halted")
        payload = {"tenant_id": tenant_id, "verification_id": report["verification_id"], "reason": reason}
        resumed = session.dispatch("ops.log.resume", payload)
    show(resumed, as_json=as_json)


def _check(spine: Spine, tenant_id: str) -> dict[str, Any]:
    verification_id = spine.services.ids.new("ver")
    # The bar hides itself where nobody looks; log lines are no part of the answer.
    with (
        redirect_stdout(sys.stderr),
        typer.progressbar(length=1, label=tenant_id, file=sys.stderr) as bar,
    ):

        def progress(done: int, size: int) -> None:
            bar.length = size
            bar.update(done - bar.pos)

        report = LogVerifier(spine).verify_all(tenant_id, verification_id=verification_id, progress=progress)
    return {
        "tenant_id": tenant_id,
        "verification_id": verification_id,
        "status": report.status.value,
        "size": report.size,
        "counts": report.counts,
        "failures": [failure.model_dump(exclude_none=True) for failure in report.failures],
    }


def _print(report: dict[str, Any], *, err: bool = False) -> None:
    for failure in report["failures"]:
        place = "  ".join(f"{name} {value}" for name, value in failure.items() if name != "code")
        typer.echo(f"{failure['code']}  {place}", err=err)
    counts = ", ".join(f"{number} {name}" for name, number in report["counts"].items())
    verdict = f"{report['status']}  {report['tenant_id']}  size {report['size']}"
    typer.echo(f"{verdict}: {counts or 'nothing signed'}", err=err)
