"""L2: `hoc maintenance`."""

import typer

from app.cli.options import AsJson
from app.cli.output import show
from app.cli.session import Session
from app.hoc_spine.maintenance import drain

group = typer.Typer(help="Due work.", no_args_is_help=True)


@group.command("run")
def run_maintenance(as_json: AsJson = False) -> None:
    """Work off what is due now: plane jobs, each tenant's due work, undelivered events."""
    with Session() as session:
        jobs, report = drain(session.spine)
    counts = {
        "plane_jobs": jobs,
        "runs_expired": report.runs_expired,
        "events_delivered": report.events_delivered,
    }
    show(counts, as_json=as_json)
