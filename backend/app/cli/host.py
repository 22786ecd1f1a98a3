"""L2: the commands of the host: migrate, serve, demo, doctor."""

import os
from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import sqlalchemy as sa
import typer

from app.cli.database import read_settings, require_schema, trouble_of, upgrade_database
from app.cli.options import AsJson
from app.cli.output import fail, show
from app.cli.session import Session, all_tenants
from app.db.migrations import head_revision

group = typer.Typer()


@group.command()
def migrate() -> None:
    """Bring the database of HOC_DATABASE_URL to the newest schema."""
    upgrade_database(read_settings())
    typer.echo(f"schema at {head_revision()}")


@group.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
) -> None:
    """Serve HTTP and run the background jobs; refuse a database that is not at the newest schema."""
    # Each command loads what it alone needs.
    import uvicorn

    require_schema(read_settings())
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


@group.command()
def demo() -> None:
    """Migrate, serve, play one governed run over the project's documents, and verify its proof offline."""
    from app.demo import DemoError, play

    settings = read_settings()
    upgrade_database(settings)
    try:
        play(settings)
    except DemoError as error:
        fail(str(error))


@group.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at the settings and the database and say what is wrong, with the command that mends it."""
    settings = read_settings()
    report: dict[str, Any] = {
        "database": sa.make_url(settings.database_url).render_as_string(),
        "head": head_revision(),
    }
    code, mend = trouble_of(settings) or ("ok", None)
    report |= {"schema": code, "mend": mend}
    drifting = _drifting_counters() if code == "ok" else []
    if code == "ok":
        report["counters"] = "; ".join(drifting) or "ok"
    show(report, as_json=as_json)
    if code != "ok" or drifting:
        raise typer.Exit(1)


def _drifting_counters() -> list[str]:
    """Name the counters of limits that are not the sums of their entries, in any tenant."""
    found = []
    with Session() as session:
        for tenant_id in all_tenants(session):
            checked = session.call("controls.counters.check", {}, tenant_id=tenant_id)
            found += [f"{tenant_id}: {item.limit_id} {item.window_key}" for item in checked.drifting]
    return found
