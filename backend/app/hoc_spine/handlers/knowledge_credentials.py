"""Spine: the operation that seals a credential for a plane's configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.inputs import Input, Output, Text


class SealCredential(Input):
    """Input of knowledge.credentials.seal: a secret, such as a DSN or a token, that nothing keeps."""

    secret: Annotated[Text, StringConstraints(min_length=1, max_length=4096)]


class SealedCredential(Output):
    """What a configuration names instead of the secret; it works for this tenant alone."""

    credential_ref: str


def seal_credential(ctx: OperationContext, request: SealCredential) -> SealedCredential:
    """Return a reference that only this server opens, for this tenant; refuse CREDENTIAL_KEY_MISSING."""
    credentials = ctx.services.caches["credentials"]
    return SealedCredential(credential_ref=credentials.seal(request.secret, tenant_id=ctx.tenant_id))


declare = OperationsOf("knowledge")
OPERATIONS = (
    declare.read(
        "knowledge.credentials.seal", SealCredential, SealedCredential, seal_credential, verb="write"
    ),
)
