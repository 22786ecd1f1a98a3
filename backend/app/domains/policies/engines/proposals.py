"""Policies L5: proposals: who may decide on one, their storing, and their views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from app.db.connection import DriverConnection, Row
from app.db.governed import row_image
from app.db.unit import GovernedUnit
from app.domains.policies.drivers import proposals as driver
from app.domains.policies.errors import (
    human_required,
    proposal_not_found,
    proposal_reviewed,
    self_approval,
)
from app.domains.policies.models.proposals import ListProposals, ProposalView
from app.domains.policies.models.vocabulary import ProposalKind, ProposalSource, ProposalStatus
from app.kernel.canonical_json import dumps, loads
from app.kernel.context import Actor
from app.kernel.pages import Page, newest_first
from app.kernel.redaction import redact_text

_PROTECTED: Final = ("title", "rationale", "proposed", "review_notes")
_PLAIN = tuple(name for name in ProposalView.model_fields if name not in ("proposed", "protected_state"))


def check_open(row: Row) -> None:
    """Refuse PROPOSAL_REVIEWED: a review is final."""
    if row["status"] != ProposalStatus.DRAFT:
        raise proposal_reviewed(row["status"])


def check_approver(row: Row, actor: Actor, *, allow_self_approval: bool) -> None:
    """Refuse HUMAN_REQUIRED for any other actor, SELF_APPROVAL for the one who proposed."""
    if actor.type != "HUMAN":
        raise human_required()
    if row["created_by"] == actor.id and not allow_self_approval:
        raise self_approval()


def insert(
    unit: GovernedUnit,
    *,
    proposal_id: str | None,
    kind: ProposalKind,
    source: ProposalSource,
    source_ref: str | None,
    source_run_id: str | None,
    title: str,
    rationale: str,
    proposed: Mapping[str, Any],
) -> Row | None:
    """Store a DRAFT and return it; None when its id is taken."""
    row: dict[str, Any] = {
        "proposal_id": proposal_id or unit.new_id("prop"),
        "kind": kind.value,
        "source": source.value,
        "source_ref": source_ref,
        "source_run_id": source_run_id,
        "created_by": unit.actor.id,
        "status": ProposalStatus.DRAFT.value,
        "reviewed_at": None,
        "reviewed_by": None,
        "result_ref": None,
        "created_at": unit.now,
        "updated_at": unit.now,
        "version": 1,
        **unit.protect(
            {
                "title": redact_text(title)[0],
                "rationale": redact_text(rationale)[0],
                "proposed": dumps(dict(proposed)),
                "review_notes": None,
            }
        ),
    }
    return row if driver.insert_proposal(unit.connection, tenant_id=unit.tenant_id, row=row) else None


def require(connection: DriverConnection, *, tenant_id: str, proposal_id: str) -> Row:
    """Return a proposal's row; refuse PROPOSAL_NOT_FOUND."""
    row = driver.get_proposal(connection, tenant_id=tenant_id, proposal_id=proposal_id)
    if row is None:
        raise proposal_not_found()
    return row


def lock(connection: DriverConnection, *, tenant_id: str, proposal_id: str) -> Row:
    """Return a proposal and hold it until the transaction ends; refuse PROPOSAL_NOT_FOUND."""
    row = driver.lock_proposal(connection, tenant_id=tenant_id, proposal_id=proposal_id)
    if row is None:
        raise proposal_not_found()
    return row


def edit(unit: GovernedUnit, row: Row, given: Mapping[str, Any]) -> Row:
    """Store changed texts or content of a held DRAFT; return the same row when nothing differs."""
    wanted = {name: redact_text(given[name])[0] for name in ("title", "rationale") if name in given}
    if "proposed" in given:
        wanted["proposed"] = dumps(given["proposed"])
    if all(row[name] == value for name, value in wanted.items()):
        return row
    return _change(unit, row, {}, wanted)


def review(
    unit: GovernedUnit, row: Row, status: ProposalStatus, *, notes: str | None, result_ref: str | None = None
) -> Row:
    """Store the one review of a held DRAFT."""
    values = {
        "status": status.value,
        "reviewed_at": unit.now,
        "reviewed_by": unit.actor.id,
        "result_ref": result_ref,
    }
    return _change(unit, row, values, {} if notes is None else {"review_notes": redact_text(notes)[0]})


def _change(unit: GovernedUnit, row: Row, values: Mapping[str, Any], texts: Mapping[str, Any]) -> Row:
    protected: dict[str, Any] = {}
    # An erased proposal takes no new texts: its commitment is the one that the erasure fact lists.
    if texts and row["erased_fact_id"] is None:
        protected = unit.protect({**{name: row[name] for name in _PROTECTED}, **texts})
    changed = driver.set_proposal(
        unit.connection,
        tenant_id=unit.tenant_id,
        proposal_id=row["proposal_id"],
        version=row["version"],
        values={**values, **protected, "updated_at": unit.now},
    )
    if changed is None:
        raise RuntimeError(f"proposal {row['proposal_id']} moved under its own lock")
    return changed


def image(row: Row) -> dict[str, Any]:
    """Return the audit image of a proposal."""
    return row_image("policy_proposals", row)


def view(row: Row) -> ProposalView:
    """Return what a caller sees of a proposal."""
    return ProposalView.model_validate(
        {
            **{name: row[name] for name in _PLAIN},
            "proposed": None if row["proposed"] is None else loads(row["proposed"]),
            "protected_state": "INTACT" if row["erased_fact_id"] is None else "ERASED",
        }
    )


def list_page(connection: DriverConnection, query: ListProposals, *, tenant_id: str) -> Page[ProposalView]:
    """Return one page of proposals, newest first."""
    equal = {"status": None if query.status is None else query.status.value}
    return newest_first(
        query,
        tenant_id=tenant_id,
        operation="policies.proposals.list",
        columns=("created_at", "proposal_id"),
        fetch=lambda before, count: driver.list_proposals(
            connection, tenant_id=tenant_id, equal=equal, before=before, limit=count
        ),
        view=view,
    )
