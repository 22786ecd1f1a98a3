"""L2: `hoc erase`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from app.cli.options import AsJson, TenantId
from app.cli.output import fail, show
from app.cli.session import Session, list_all
from app.domains.logs.models.erasure import EraseEvidence
from app.kernel.errors import HocError

group = typer.Typer(help="Erasure of protected values, and its records.", no_args_is_help=True)

Why = Annotated[str, typer.Option("--reason", help="Why; it stays readable for ever.")]
FactId = Annotated[str, typer.Argument(help="The fact.")]
RunId = Annotated[str, typer.Argument(help="The run.")]
SubjectRef = Annotated[str, typer.Argument(help="Whom the runs are about, as their start says.")]
Basis = Annotated[str | None, typer.Option("--legal-basis", help="The rule that asks for it.")]
COLUMNS = ("erasure_id", "scope", "scope_id", "values", "created_at", "reason")
# Reason and author of what maintenance takes for its age.
BY_AGE = ("RETENTION", "maintenance")
# What a restored database answers for what is gone already, or came after the backup.
SETTLED = ("NOTHING_TO_ERASE", "REFERENCE_NOT_FOUND")


def _erase(session: Session, payload: Mapping[str, Any], tenant_id: str) -> dict[str, Any]:
    """Erase until nothing of the scope remains, and return what all transactions did together."""
    erasure_ids: list[str] = []
    erased = 0
    while True:
        done = session.attempt("evidence.erase", payload, tenant_id=tenant_id).unwrap()
        erasure_ids += done.erasure_ids
        erased += done.erased
        if not done.remaining:
            return {"erasure_ids": erasure_ids, "erased": erased, "remaining": 0}


def _erase_scope(payload: Mapping[str, Any], tenant_id: str, *, as_json: bool) -> None:
    with Session() as session:
        try:
            done = _erase(session, payload, tenant_id)
        except HocError as error:
            fail(f"{error.code}: {error.detail}")
        show(done, as_json=as_json)


@group.command("fact")
def erase_fact(
    fact_id: FactId, tenant_id: TenantId, reason: Why, legal_basis: Basis = None, as_json: AsJson = False
) -> None:
    """Erase the values that one fact commits to."""
    payload = {"scope": "FACT", "scope_id": fact_id, "reason": reason, "legal_basis": legal_basis}
    _erase_scope(payload, tenant_id, as_json=as_json)


@group.command("run")
def erase_run(
    run_id: RunId, tenant_id: TenantId, reason: Why, legal_basis: Basis = None, as_json: AsJson = False
) -> None:
    """Erase all values of a run."""
    payload = {"scope": "RUN", "scope_id": run_id, "reason": reason, "legal_basis": legal_basis}
    _erase_scope(payload, tenant_id, as_json=as_json)


@group.command("subject")
def erase_subject(
    subject_ref: SubjectRef,
    tenant_id: TenantId,
    reason: Why,
    legal_basis: Basis = None,
    as_json: AsJson = False,
) -> None:
    """Erase all values of every run about a subject."""
    payload = {"scope": "SUBJECT", "scope_id": subject_ref, "reason": reason, "legal_basis": legal_basis}
    _erase_scope(payload, tenant_id, as_json=as_json)


@group.command("list")
def list_erasures(tenant_id: TenantId, as_json: AsJson = False) -> None:
    """List the records of erasures, newest first; as JSON they are what `replay` reads."""
    list_all("evidence.erasures.list", {}, COLUMNS, tenant_id=tenant_id, as_json=as_json)


@group.command("replay")
def replay(
    tenant_id: TenantId,
    source: Annotated[Path, typer.Option("--from", help="What `hoc erase list --json` printed.")],
) -> None:
    """Repeat erasures after a restore; exit 1 when one of them is refused, as by a legal hold."""
    wanted = _read(source)
    refused = False
    with Session() as session:
        for payload in wanted:
            name = f"{payload['scope']} {payload['scope_id']}"
            try:
                typer.echo(f"{name}: {_erase(session, payload, tenant_id)['erased']} erased")
            except HocError as error:
                typer.echo(f"{name}: {error.code}")
                refused = refused or error.code not in SETTLED
    if refused:
        raise typer.Exit(1)


def _read(source: Path) -> list[dict[str, Any]]:
    """Return what to erase, oldest first, each scope once; a file of another kind ends the program."""
    try:
        every = TypeAdapter(list[dict[str, Any]]).validate_json(source.read_bytes())
        # A restored database takes that again by itself.
        items = [item for item in every if (item["reason"], item["requested_by"]) != BY_AGE]
        given = [EraseEvidence(**{name: item[name] for name in EraseEvidence.model_fields}) for item in items]
    except OSError as error:
        fail(f"{source}: {error.strerror}")
    except (ValueError, KeyError):
        fail(f"{source} is no list that `hoc erase list --json` printed")
    scopes = {(request.scope, request.scope_id): request for request in reversed(given)}
    return [request.model_dump(mode="json") for request in scopes.values()]
