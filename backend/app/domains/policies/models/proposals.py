"""Policies: inputs and views of proposals."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from app.domains.policies.models.vocabulary import ProposalKind, ProposalSource, ProposalStatus
from app.kernel.canonical_json import CanonicalJsonError, dumps
from app.kernel.inputs import Identifier, Input, ListInput, LongText, Name, Output, OutputTime, Reason

MAX_PROPOSED_BYTES = 64 * 1024


def _bounded(value: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(dumps(value).encode())
    except (CanonicalJsonError, RecursionError) as error:
        raise ValueError("is not canonical JSON") from error
    if size > MAX_PROPOSED_BYTES:
        raise ValueError(f"has {size} bytes as canonical JSON; {MAX_PROPOSED_BYTES} is the most")
    return value


Proposed = Annotated[dict[str, Any], AfterValidator(_bounded)]


class CreateProposal(Input):
    """Propose a rule or a limit: `proposed` is what would create it; an incident may be the occasion."""

    proposal_id: Identifier | None = None
    kind: ProposalKind
    title: Name
    rationale: Reason
    proposed: Proposed
    source_incident_id: Identifier | None = None


class UpdateProposal(Input):
    """Change a DRAFT; a member that is absent stays as it is."""

    proposal_id: Identifier
    title: Name | None = None
    rationale: Reason | None = None
    proposed: Proposed | None = None


class ReviewProposal(Input):
    """Approve or reject a DRAFT, once."""

    proposal_id: Identifier
    notes: LongText | None = None


class ProposalRef(Input):
    """Name one proposal."""

    proposal_id: Identifier


class ListProposals(ListInput):
    """List the proposals of the tenant, newest first."""

    status: ProposalStatus | None = None


class ProposalView(Output):
    """A proposal as it stands; texts and content are null once erased."""

    proposal_id: str
    kind: ProposalKind
    source: ProposalSource
    source_ref: str | None
    source_run_id: str | None
    created_by: str
    title: str | None
    rationale: str | None
    proposed: dict[str, Any] | None
    status: ProposalStatus
    reviewed_at: OutputTime | None
    reviewed_by: str | None
    review_notes: str | None
    result_ref: str | None
    protected_state: Literal["INTACT", "ERASED"]
    created_at: OutputTime
    updated_at: OutputTime
    version: int
