"""Spine: operations on policy proposals: made, edited, approved into a rule or limit, rejected."""

from __future__ import annotations

from app.db.connection import Row
from app.domains.incidents.engines import incidents
from app.domains.incidents.errors import cited_incident_not_found
from app.domains.policies.engines import proposals
from app.domains.policies.errors import proposal_exists
from app.domains.policies.models.proposals import (
    CreateProposal,
    ListProposals,
    ProposalRef,
    ProposalView,
    ReviewProposal,
    UpdateProposal,
)
from app.domains.policies.models.vocabulary import ProposalKind, ProposalSource, ProposalStatus
from app.hoc_spine.coordinators.policy_proposals import adopt, check_proposed
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.pages import Page

ENTITY = "POLICY_PROPOSAL"


def create_proposal(ctx: OperationContext, given: CreateProposal) -> ProposalView:
    """Propose a rule or a limit; refuse content that would not create one."""
    check_proposed(ctx, given.kind, given.proposed)
    incident = _cited_incident(ctx, given.source_incident_id)
    row = proposals.insert(
        ctx,
        proposal_id=given.proposal_id,
        kind=given.kind,
        source=ProposalSource.MANUAL if incident is None else ProposalSource.INCIDENT,
        source_ref=None if incident is None else incident["incident_id"],
        source_run_id=None if incident is None else incident["source_run_id"],
        title=given.title,
        rationale=given.rationale,
        proposed=given.proposed,
    )
    if row is None:
        raise proposal_exists()
    _audit(ctx, "PolicyProposalCreated", None, row)
    return proposals.view(row)


def update_proposal(ctx: OperationContext, given: UpdateProposal) -> ProposalView:
    """Change a DRAFT; If-Match is demanded. Refuses PROPOSAL_REVIEWED."""
    row = proposals.lock(ctx.connection, tenant_id=ctx.tenant_id, proposal_id=given.proposal_id)
    ctx.require_version(row["version"], required=True)
    proposals.check_open(row)
    changes = given.model_dump(exclude={"proposal_id"}, exclude_none=True)
    if given.proposed is not None:
        check_proposed(ctx, ProposalKind(row["kind"]), given.proposed)
    changed = proposals.edit(ctx, row, changes)
    if changed is not row:
        _audit(ctx, "PolicyProposalModified", row, changed)
    return proposals.view(changed)


def approve_proposal(ctx: OperationContext, given: ReviewProposal) -> ProposalView:
    """Let a proposal become an ACTIVE rule or a limit, in one transaction.

    Refuses PROPOSAL_REVIEWED, HUMAN_REQUIRED, SELF_APPROVAL, and what making the rule or limit refuses.
    """
    row = _open(ctx, given)
    proposals.check_approver(row, ctx.actor, allow_self_approval=ctx.standing.allow_self_approval)
    result_ref = adopt(ctx, row)
    approved = proposals.review(ctx, row, ProposalStatus.APPROVED, notes=given.notes, result_ref=result_ref)
    _audit(ctx, "PolicyProposalApproved", row, approved)
    return proposals.view(approved)


def reject_proposal(ctx: OperationContext, given: ReviewProposal) -> ProposalView:
    """Decide against a proposal, for good; refuse PROPOSAL_REVIEWED."""
    row = _open(ctx, given)
    rejected = proposals.review(ctx, row, ProposalStatus.REJECTED, notes=given.notes)
    _audit(ctx, "PolicyProposalRejected", row, rejected)
    return proposals.view(rejected)


def get_proposal(ctx: OperationContext, query: ProposalRef) -> ProposalView:
    """Show one proposal; refuse PROPOSAL_NOT_FOUND."""
    return proposals.view(
        proposals.require(ctx.connection, tenant_id=ctx.tenant_id, proposal_id=query.proposal_id)
    )


def list_proposals(ctx: OperationContext, query: ListProposals) -> Page[ProposalView]:
    """List proposals, newest first."""
    return proposals.list_page(ctx.connection, query, tenant_id=ctx.tenant_id)


def _cited_incident(ctx: OperationContext, incident_id: str | None) -> Row | None:
    if incident_id is None:
        return None
    incident = incidents.find_known(
        ctx.connection, tenant_id=ctx.tenant_id, incident_id=incident_id, dedupe_key=None
    )
    if incident is None:
        raise cited_incident_not_found("source_incident_id")
    return incident


def _open(ctx: OperationContext, given: ReviewProposal) -> Row:
    row = proposals.lock(ctx.connection, tenant_id=ctx.tenant_id, proposal_id=given.proposal_id)
    ctx.require_version(row["version"])
    proposals.check_open(row)
    return row


def _audit(ctx: OperationContext, event: str, before: Row | None, after: Row) -> None:
    ctx.audit(
        event,
        ENTITY,
        after["proposal_id"],
        before=None if before is None else proposals.image(before),
        after=proposals.image(after),
        run_id=after["source_run_id"],
    )


declare = OperationsOf("policies")
OPERATIONS = (
    declare.write("policies.proposals.create", CreateProposal, ProposalView, create_proposal, creates=True),
    declare.write("policies.proposals.update", UpdateProposal, ProposalView, update_proposal),
    declare.write("policies.proposals.approve", ReviewProposal, ProposalView, approve_proposal, verb="admin"),
    declare.write("policies.proposals.reject", ReviewProposal, ProposalView, reject_proposal, verb="admin"),
    declare.read("policies.proposals.list", ListProposals, Page[ProposalView], list_proposals),
    declare.read("policies.proposals.get", ProposalRef, ProposalView, get_proposal),
)
