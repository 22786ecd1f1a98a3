"""L2: the options that several commands share."""

from typing import Annotated

import typer

TenantId = Annotated[str, typer.Option("--tenant-id", help="The tenant.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it goes into the audit ledger.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
