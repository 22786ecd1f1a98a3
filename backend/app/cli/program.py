"""L2: the `hoc` command, the operator's door to the operations (exit 0 ok, 1 refused or failed, 2 usage)."""

import typer

from app.cli import (
    cosign,
    erase,
    hold,
    host,
    keys,
    log,
    log_checks,
    maintenance,
    outbox,
    proof,
    repository,
    retention,
    retention_archive,
    snapshot,
    tenants,
)

cli = typer.Typer(
    help="HOC Spine: governed, provable AI runs.",
    no_args_is_help=True,
    add_completion=False,
    # A plain traceback, should there be one: the pretty one may show values, and values may be secrets.
    pretty_exceptions_enable=False,
)
cli.add_typer(host.group)
cli.add_typer(proof.group)
cli.add_typer(tenants.group, name="tenants")
cli.add_typer(keys.group, name="keys")
cli.add_typer(erase.group, name="erase")
cli.add_typer(hold.group, name="hold")
cli.add_typer(maintenance.group, name="maintenance")
log.group.command("cosign")(cosign.cosign_log)
log.group.command("export")(proof.export_log)
log.group.command("verify")(log_checks.verify_logs)
log.group.command("fsck")(log_checks.check_logs)
log.group.command("resume")(log_checks.resume_log)
cli.add_typer(log.group, name="log")
cli.add_typer(outbox.group, name="outbox")
cli.add_typer(repository.group, name="repository")
retention.group.command("set")(retention_archive.set_retention)
retention.group.command("show")(retention_archive.show_retention)
retention.group.command("archive")(retention_archive.archive)
cli.add_typer(retention.group, name="retention")
cli.add_typer(snapshot.group, name="snapshot")
