"""The `hoc` command: the operator's door to the same operations (exit 0 ok, 1 refused or failed, 2 usage)."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NoReturn, Self

import orjson
import sqlalchemy as sa
import typer
import uvicorn
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from app.bootstrap import build_spine
from app.db.migrations import SchemaError, check_schema, head_revision, upgrade
from app.demo import DemoError, play
from app.hoc_spine.coordinators.log_files import write_new_key
from app.hoc_spine.maintenance import drain
from app.hoc_spine.payload import LaxPayload
from app.hoc_spine.sequencer import LogSequencer, sequence_until_stopped
from app.hoc_spine.spine import Spine
from app.kernel.context import Actor, RequestContext
from app.kernel.errors import HocError
from app.kernel.files import LocalFile
from app.kernel.ids import Uuid7Ids
from app.library_face.delivery import save_snapshot
from app.settings import Settings

cli = typer.Typer(
    help="HOC Spine: governed, provable AI runs.",
    no_args_is_help=True,
    add_completion=False,
    # A plain traceback, should there be one: the pretty one may show values, and values may be secrets.
    pretty_exceptions_enable=False,
)
tenants = typer.Typer(help="Tenants.", no_args_is_help=True)
keys = typer.Typer(help="API keys of a tenant.", no_args_is_help=True)
maintenance = typer.Typer(help="Due work.", no_args_is_help=True)
log = typer.Typer(help="The Merkle logs of the tenants.", no_args_is_help=True)
repository = typer.Typer(help="The knowledge repository of a tenant.", no_args_is_help=True)
snapshot = typer.Typer(help="Snapshots of a tenant's knowledge repository.", no_args_is_help=True)
cli.add_typer(tenants, name="tenants")
cli.add_typer(keys, name="keys")
cli.add_typer(maintenance, name="maintenance")
cli.add_typer(log, name="log")
cli.add_typer(repository, name="repository")
cli.add_typer(snapshot, name="snapshot")

TenantId = Annotated[str, typer.Option("--tenant-id", help="The tenant.")]
KeyId = Annotated[str, typer.Option("--key-id", help="The key.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it goes into the audit ledger.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SnapshotPath = Annotated[Path, typer.Argument(help="A snapshot, zip or folder.", exists=True, readable=True)]
Payload = Mapping[str, Any]
OPERATOR = Actor("HUMAN", "operator")


@cli.command()
def migrate() -> None:
    """Bring the database of HOC_DATABASE_URL to the newest schema."""
    _upgrade(_settings())
    typer.echo(f"schema at {head_revision()}")


@cli.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
) -> None:
    """Serve HTTP and run the background jobs; refuse a database that is not at the newest schema."""
    _check_schema(_settings())
    with ExitStack() as stack:
        if workers > 1 and "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            # Worker processes put their metrics together through files; each of them answers for all.
            directory = stack.enter_context(TemporaryDirectory(prefix="hoc-metrics-"))
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        try:
            uvicorn.run(
                "app.main:create_app",
                factory=True,
                host=host,
                port=port,
                workers=workers,
                access_log=False,
                log_config=None,
                http="app.api.http_protocol:BoundedHttpProtocol",
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=30,
            )
        except SystemExit as stopped:
            # uvicorn has its own code for a server that did not start; it has said why.
            raise typer.Exit(1 if stopped.code else 0) from None


@cli.command()
def demo() -> None:
    """Migrate, start a server, play one governed run over the project's documents, verify its proof, stop."""
    settings = _settings()
    _upgrade(settings)
    try:
        play(settings.database_url)
    except DemoError as error:
        _fail(str(error))


@cli.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at the settings and the database and say what is wrong, with the command that mends it."""
    settings = _settings()
    report: dict[str, Any] = {
        "database": sa.make_url(settings.database_url).render_as_string(),
        "head": head_revision(),
    }
    code, mend = _trouble(settings) or ("ok", None)
    report |= {"schema": code, "mend": mend}
    _show(report, as_json=as_json)
    if report["schema"] != "ok":
        raise typer.Exit(1)


@tenants.command("create")
def create_tenant(
    tenant_id: TenantId,
    name: Annotated[str | None, typer.Option(help="Display name; the id when left out.")] = None,
    plan: Annotated[str, typer.Option(help="FREE, PRO or ENTERPRISE.")] = "FREE",
    as_json: AsJson = False,
) -> None:
    """Create a tenant."""
    payload = {"tenant_id": tenant_id, "name": name or tenant_id, "plan": plan.upper()}
    _operate("ops.tenants.create", payload, as_json=as_json)


@tenants.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """List all tenants."""
    _list("ops.tenants.list", {}, ("tenant_id", "name", "plan", "status"), as_json=as_json)


@tenants.command("suspend")
def suspend_tenant(tenant_id: TenantId, reason: ReasonOption, as_json: AsJson = False) -> None:
    """Suspend a tenant: its keys stop working at once."""
    _operate("ops.tenants.suspend", {"tenant_id": tenant_id, "reason": reason}, as_json=as_json)


@tenants.command("activate")
def activate_tenant(tenant_id: TenantId, reason: ReasonOption, as_json: AsJson = False) -> None:
    """Activate a suspended tenant."""
    _operate("ops.tenants.activate", {"tenant_id": tenant_id, "reason": reason}, as_json=as_json)


@keys.command("create")
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
    with _Session() as session:
        made = session.dispatch("ops.keys.create", payload)
    typer.echo(orjson.dumps({"key_id": made["key_id"], "api_key": made["api_key"]}).decode())


@keys.command("list")
def list_keys(tenant_id: TenantId, as_json: AsJson = False) -> None:
    """List a tenant's keys, newest first."""
    _list(
        "keys.list",
        {},
        ("key_id", "name", "status", "prefix", "actor_id"),
        tenant_id=tenant_id,
        as_json=as_json,
    )


@keys.command("freeze")
def freeze_key(tenant_id: TenantId, key_id: KeyId, reason: ReasonOption, as_json: AsJson = False) -> None:
    """Freeze a key."""
    _operate("keys.freeze", {"key_id": key_id, "reason": reason}, tenant_id=tenant_id, as_json=as_json)


@keys.command("unfreeze")
def unfreeze_key(tenant_id: TenantId, key_id: KeyId, reason: ReasonOption, as_json: AsJson = False) -> None:
    """Make a frozen key work again."""
    _operate("keys.unfreeze", {"key_id": key_id, "reason": reason}, tenant_id=tenant_id, as_json=as_json)


@keys.command("revoke")
def revoke_key(tenant_id: TenantId, key_id: KeyId, reason: ReasonOption, as_json: AsJson = False) -> None:
    """Revoke a key for good."""
    payload = {"tenant_id": tenant_id, "key_id": key_id, "reason": reason}
    _operate("ops.keys.revoke", payload, as_json=as_json)


@snapshot.command("export")
def export_snapshot(
    path: Annotated[Path, typer.Argument(help="Where to: a file that ends in .zip, or a new folder.")],
    tenant_id: TenantId,
    collection: Annotated[list[str] | None, typer.Option(help="Only these collections; repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a snapshot of a tenant's repository, or of some of its collections."""
    with _Session() as session:
        made = session.call("repository.snapshots.export", {"collections": collection}, tenant_id=tenant_id)
        try:
            save_snapshot(made, path, now=session.spine.services.clock.now())
        except OSError as error:
            _fail(f"STORAGE_FAILED: {error.strerror or error}")
        _show(made.model_dump(mode="json"), as_json=as_json)


@snapshot.command("import")
def import_snapshot(
    path: SnapshotPath,
    tenant_id: TenantId,
    policy: Annotated[str, typer.Option(help="fail, skip_identical or fast_forward.")] = "fail",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would become of it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a snapshot into a tenant's repository, all or nothing."""
    given = LaxPayload(content=LocalFile(path), policy=policy, dry_run=dry_run)
    with _Session() as session:
        report = session.dispatch("repository.snapshots.import", given, tenant_id=tenant_id)
    _show(report, as_json=as_json)
    if report["errors"] or report["conflicts_total"]:
        raise typer.Exit(1)


@snapshot.command("verify")
def verify_snapshot(path: SnapshotPath, tenant_id: TenantId, as_json: AsJson = False) -> None:
    """Read a snapshot from end to end and say whether it is whole."""
    with _Session() as session:
        given = LaxPayload(content=LocalFile(path))
        report = session.dispatch("repository.snapshots.verify", given, tenant_id=tenant_id)
    _show(report, as_json=as_json)
    if not report["valid"]:
        raise typer.Exit(1)


@log.command("sequence")
def sequence_log(
    once: Annotated[bool, typer.Option("--once", help="Work off what waits, sign, and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Sequence the facts of all tenants and sign their logs, until it is stopped."""
    with _Session() as session:
        done = LogSequencer(session.spine).drain() if once else sequence_until_stopped(session.spine)
    if done.held:
        _fail("LEASE_HELD: another sequencer is at work")
    _show({"sequenced": done.taken, "signed": done.signed, "halted": done.halted}, as_json=as_json)


@log.command("status")
def show_log_status(
    tenant_id: Annotated[str | None, typer.Option(help="A tenant; all when left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show how far a tenant's log is, or whether the logs of all keep up; exit 1 when they do not."""
    if tenant_id is not None:
        _operate("log.status", {}, tenant_id=tenant_id, as_json=as_json)
        return
    with _Session() as session:
        report = session.spine.services.caches["log_watch"].report()
    _show(report, as_json=as_json)
    if report["status"] == "failed":
        raise typer.Exit(1)


@log.command("keygen")
def make_log_key(
    if_missing: Annotated[bool, typer.Option("--if-missing", help="One that is there is fine.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the signing key in HOC_LOG_KEY_FILE, mode 0600; refuse to replace one."""
    file = _settings().log_key_path
    if file is None:
        _fail("NO_KEY_FILE: set HOC_LOG_KEY_FILE to where the key belongs")
    try:
        if not write_new_key(file) and not if_missing:
            _fail(f"KEY_EXISTS: {file} is there already")
    except OSError as error:
        _fail(f"KEY_FILE_FAILED: {error.strerror}")
    _show({"file": str(file)}, as_json=as_json)


class _Session:
    """One spine for one command; a refusal ends the program with exit code 1."""

    def __init__(self) -> None:
        settings = _settings()
        _check_schema(settings)
        self.spine: Spine = build_spine(settings, verify_schema=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.spine.close()

    def dispatch(self, name: str, payload: Payload, *, tenant_id: str | None = None) -> dict[str, Any]:
        """Dispatch as the operator, or inside a tenant as the trusted host, and return JSON members."""
        data = self.call(name, payload, tenant_id=tenant_id)
        return dict(orjson.loads(TypeAdapter(self.spine.registry.get(name).output).dump_json(data)))

    def call(self, name: str, payload: Payload, *, tenant_id: str | None = None) -> Any:
        """Dispatch and return the answer as it is; a refusal ends the program."""
        context = RequestContext(
            tenant_id=tenant_id or "_system",
            actor=OPERATOR,
            request_id=Uuid7Ids().new("req"),
            door="worker" if tenant_id else "operator",
        )
        try:
            return self.spine.dispatch(name, context, payload).unwrap()
        except HocError as error:
            for item in error.errors:
                typer.echo(f"  {item.get('field', '')}: {item.get('detail', '')}", err=True)
            _fail(f"{error.code}: {error.detail}")


def _operate(name: str, payload: Payload, *, as_json: bool, tenant_id: str | None = None) -> None:
    with _Session() as session:
        _show(session.dispatch(name, payload, tenant_id=tenant_id), as_json=as_json)


def _list(
    name: str,
    payload: Payload,
    columns: tuple[str, ...],
    *,
    as_json: bool,
    tenant_id: str | None = None,
) -> None:
    items: list[dict[str, Any]] = []
    with _Session() as session:
        cursor: str | None = None
        while True:
            page = session.dispatch(name, {**payload, "limit": 500, "cursor": cursor}, tenant_id=tenant_id)
            items.extend(page["items"])
            cursor = page["next_cursor"]
            if cursor is None:
                break
    if as_json:
        typer.echo(orjson.dumps(items, option=orjson.OPT_INDENT_2).decode())
        return
    table = Table(box=None)
    for column in columns:
        # An id that is cut off is of no use.
        table.add_column(column, overflow="fold")
    for item in items:
        table.add_row(*(str(item[column]) for column in columns))
    console = Console()
    if not console.is_terminal:
        # Whoever reads a pipe counts lines.
        console.width = 1000
    console.print(table)


def _show(data: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode())
        return
    width = max(len(name) for name in data)
    for name, value in data.items():
        if value is not None:
            typer.echo(f"{name:<{width}}  {value}")


def _settings() -> Settings:
    try:
        settings = Settings()
    except ValidationError as error:
        for item in error.errors():
            typer.echo(f"HOC_{str(item['loc'][0]).upper()}: {item['msg']}", err=True)
        raise typer.Exit(2) from None
    if _backend(settings) not in ("sqlite", "postgresql"):
        # The URL may hold a password, so it is not repeated.
        typer.echo("HOC_DATABASE_URL: must be sqlite:///FILE or postgresql+psycopg://...", err=True)
        raise typer.Exit(2)
    return settings


def _backend(settings: Settings) -> str | None:
    try:
        return settings.backend
    except sa.exc.ArgumentError:
        return None


def _upgrade(settings: Settings) -> None:
    """Migrate to the newest schema; refuse a database whose tables are not of this program's making."""
    trouble = _trouble(settings)
    if trouble is not None and trouble[0] not in ("SCHEMA_MISSING", "SCHEMA_OUTDATED"):
        _fail(trouble[1])
    try:
        upgrade(settings.database_url)
    except sa.exc.SQLAlchemyError as error:
        _fail(_database_trouble(error)[1])
    except OSError as error:
        _fail(f"DATABASE_FAILED: {error.strerror}")


def _check_schema(settings: Settings) -> None:
    trouble = _trouble(settings)
    if trouble is not None:
        _fail(trouble[1])


def _trouble(settings: Settings) -> tuple[str, str] | None:
    """Return code and message of what keeps the database from serving; None when nothing does."""
    try:
        check_schema(settings.database_url)
    except SchemaError as error:
        return error.code, str(error)
    except sa.exc.SQLAlchemyError as error:
        return _database_trouble(error)
    return None


def _database_trouble(error: sa.exc.SQLAlchemyError) -> tuple[str, str]:
    if isinstance(error, sa.exc.OperationalError):
        name = type(error.orig).__name__
        return "UNREACHABLE", f"UNREACHABLE: the database does not answer ({name})"
    # The first line is the server's own; the statement and its values come after it.
    return "DATABASE_FAILED", f"DATABASE_FAILED: {str(error).splitlines()[0]}"


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)


@maintenance.command("run")
def run_maintenance(as_json: AsJson = False) -> None:
    """Work off what is due now: plane jobs, runs past their deadline."""
    with _Session() as session:
        jobs, report = drain(session.spine)
    _show({"plane_jobs": jobs, "runs_expired": report.runs_expired}, as_json=as_json)


@repository.command("fsck")
def check_repository(
    tenant_id: TenantId,
    scope: Annotated[str, typer.Option(help="An artifact id, or all.")] = "all",
    read_content: Annotated[bool, typer.Option(help="Hash the stored bytes again.")] = True,
    as_json: AsJson = False,
) -> None:
    """Check a tenant's repository; exit 1 when anything but a warning was found."""
    payload = {"scope": scope, "read_content": read_content}
    with _Session() as session:
        report = session.dispatch("repository.verify", payload, tenant_id=tenant_id)
    if as_json:
        _show(report, as_json=True)
    else:
        for finding in report["findings"]:
            typer.echo(f"{finding['code']}  {finding['entity']}  {finding['detail']}")
        counts = ", ".join(f"{number} {name}" for name, number in report["checked"].items())
        typer.echo(f"{'clean' if report['clean'] else 'DAMAGED'}: {report['total']} findings in {counts}")
    if not report["clean"]:
        raise typer.Exit(1)


@repository.command("gc")
def collect_garbage(
    tenant_id: TenantId,
    grace_days: Annotated[int | None, typer.Option(help="Days after deletion; else the setting.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without it, only count.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give up bytes that nothing live or cited needs; without --apply only tell what would go."""
    payload = {"dry_run": not apply, "grace_days": grace_days}
    _operate("repository.gc", payload, tenant_id=tenant_id, as_json=as_json)


def main() -> None:
    """Entry of the console script."""
    cli()


if __name__ == "__main__":
    main()
