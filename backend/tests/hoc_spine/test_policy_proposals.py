"""Spine: proposals: drafted, edited, and decided on once by a person who did not propose them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from app.hoc_spine.spine import Spine
from app.kernel.context import Precondition
from app.kernel.hashing import protected_commit
from tests.factories.limits import BUDGET, rows
from tests.factories.tenants import Tenant, make_tenant
from tests.factories.worlds import start_run

RULE: dict[str, Any] = {
    "kind": "GUARD",
    "name": "No drops",
    "enforcement_mode": "BLOCK",
    "moments": ["STEP"],
    "condition": 'action.name == "drop"',
}
REVIEWER: dict[str, Any] = {"actor_id": "reviewer"}


def draft(tenant: Tenant, **members: Any) -> Any:
    plain = {"kind": "RULE", "title": "Stop drops", "rationale": "ask bob@example.com", "proposed": RULE}
    return tenant.call("policies.proposals.create", plain | members)


def approve(tenant: Tenant, proposal_id: str, **context: Any) -> Any:
    return tenant.dispatch(
        "policies.proposals.approve", {"proposal_id": proposal_id, "notes": "fine"}, **(REVIEWER | context)
    )


def test_an_approved_proposal_is_the_rule_at_once(tenant: Tenant, second_connection: sa.Connection) -> None:
    made = draft(tenant, proposal_id="p-1")
    assert (made.status, made.source, made.created_by) == ("DRAFT", "MANUAL", "user-1")
    assert made.rationale == "ask <REDACTED_EMAIL>"
    start_run(tenant, run_id="before")
    approved = approve(tenant, "p-1").unwrap()
    assert (approved.status, approved.reviewed_by, approved.review_notes) == ("APPROVED", "reviewer", "fine")
    rule = tenant.call("policies.rules.get", {"rule_id": approved.result_ref})
    assert (rule.status, rule.source, rule.source_proposal_id) == ("ACTIVE", "MANUAL", "p-1")
    start_run(tenant, run_id="after")
    verdicts = [
        tenant.call("runs.check", {"run_id": run_id, "action": {"kind": "TOOL", "name": "drop"}}).verdict
        for run_id in ("before", "after")
    ]
    assert verdicts == ["ALLOW", "BLOCK"]
    entries = rows(second_connection, tenant, "audit_ledger")
    found = [row["event_type"] for row in sorted(entries, key=lambda row: str(row["entry_id"]))]
    assert found[:3] == ["PolicyProposalCreated", "PolicyRuleCreated", "PolicyProposalApproved"]
    (row,) = rows(second_connection, tenant, "policy_proposals")
    names = ("title", "rationale", "proposed", "review_notes")
    assert row["protected_commit"] == protected_commit(
        row["protected_salt"], {name: row[name] for name in names}
    )


def test_only_a_person_who_did_not_propose_it_approves(tenant: Tenant, spine: Spine) -> None:
    draft(tenant, proposal_id="p-1")
    assert approve(tenant, "p-1", actor_type="AGENT").error_code == "HUMAN_REQUIRED"
    assert approve(tenant, "p-1", actor_id="user-1").error_code == "SELF_APPROVAL"
    assert approve(tenant, "p-1", scopes=("policies:write",)).error_code == "INSUFFICIENT_SCOPE"
    alone = make_tenant(spine, allow_self_approval=True)
    draft(alone, proposal_id="p-1")
    assert approve(alone, "p-1", actor_id="user-1").success


def test_a_review_is_final(tenant: Tenant) -> None:
    for proposal_id, review in (("p-1", "approve"), ("p-2", "reject")):
        made = draft(tenant, proposal_id=proposal_id, proposed=RULE | {"name": proposal_id})
        tenant.call(f"policies.proposals.{review}", {"proposal_id": proposal_id}, **REVIEWER)
        for name in ("policies.proposals.approve", "policies.proposals.reject"):
            again = tenant.dispatch(name, {"proposal_id": proposal_id}, **REVIEWER)
            assert again.error_code == "PROPOSAL_REVIEWED"
        expected = Precondition(frozenset((made.version + 1,)))
        edit = {"proposal_id": proposal_id, "title": "x"}
        refused = tenant.dispatch("policies.proposals.update", edit, precondition=expected)
        assert refused.error_code == "PROPOSAL_REVIEWED"


def test_a_draft_is_edited_under_its_version(tenant: Tenant, second_connection: sa.Connection) -> None:
    made = draft(tenant, proposal_id="p-1")
    edit = {"proposal_id": "p-1", "proposed": RULE | {"name": "Other"}, "title": "Other"}
    assert tenant.dispatch("policies.proposals.update", edit).error_code == "PRECONDITION_REQUIRED"
    expected = Precondition(frozenset((made.version,)))
    changed = tenant.call("policies.proposals.update", edit, precondition=expected)
    assert (changed.title, changed.proposed["name"], changed.version) == ("Other", "Other", 2)
    stale = tenant.dispatch("policies.proposals.update", edit, precondition=expected)
    assert stale.error_code == "VERSION_MISMATCH"
    same = tenant.call("policies.proposals.update", edit, precondition=Precondition(frozenset((2,))))
    assert same.version == 2
    assert len(rows(second_connection, tenant, "audit_ledger", "event_type = 'PolicyProposalModified'")) == 1


@pytest.mark.parametrize(
    ("kind", "proposed", "code", "field"),
    [
        ("RULE", {**RULE, "moments": []}, "INVALID_INPUT", "/moments"),
        ("RULE", {**RULE, "unknown": 1}, "INVALID_INPUT", "/proposed/unknown"),
        ("RULE", {**RULE, "condition": "action.nonsense"}, "INVALID_CONDITION", "/condition"),
        ("RULE", {**RULE, "activate": True}, "INVALID_INPUT", "/proposed/activate"),
        ("LIMIT", {**BUDGET, "max_value": -1}, "INVALID_INPUT", "/proposed/max_value"),
        ("LIMIT", {**BUDGET, "reset_period": None}, "INVALID_INPUT", "/proposed"),
        ("LIMIT", {**BUDGET, "limit_id": "plan-tokens-month"}, "LIMIT_EXISTS", "/limit_id"),
    ],
)
def test_what_could_not_be_created_is_not_proposed(
    tenant: Tenant, kind: str, proposed: dict[str, Any], code: str, field: str
) -> None:
    given = {"kind": kind, "title": "x", "rationale": "x", "proposed": proposed}
    refused = tenant.dispatch("policies.proposals.create", given)
    assert refused.error_code == code
    assert refused.error is not None
    assert [item["field"] for item in refused.error.errors] == [field]


def test_an_approval_that_cannot_be_carried_out_leaves_the_draft(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    tenant.call("policies.rules.create", RULE | {"rule_id": "taken", "activate": True})
    draft(tenant, proposal_id="p-1")
    draft(tenant, proposal_id="p-2", proposed=RULE | {"name": "Allow drops", "enforcement_mode": "DISABLED"})
    before = rows(second_connection, tenant, "tenant_state")
    assert approve(tenant, "p-1").error_code == "RULE_EXISTS"
    assert approve(tenant, "p-2").error_code == "POLICY_CONFLICT"
    assert rows(second_connection, tenant, "tenant_state") == before
    statuses = {row["status"] for row in rows(second_connection, tenant, "policy_proposals")}
    assert statuses == {"DRAFT"}


def test_a_limit_is_proposed_for_an_incident_and_learned(tenant: Tenant) -> None:
    start_run(tenant, run_id="r-1")
    incident = tenant.call("incidents.create", {"title": "Too dear", "source_run_id": "r-1"}).incident
    made = draft(
        tenant, kind="LIMIT", proposed=dict(BUDGET), source_incident_id=incident.incident_id, proposal_id="p"
    )
    assert (made.source, made.source_ref, made.source_run_id) == ("INCIDENT", incident.incident_id, "r-1")
    created = approve(tenant, "p").unwrap()
    found = tenant.call("controls.limits.get", {"limit_id": created.result_ref})
    assert (found.source, found.name, found.max_value) == ("LEARNED", "Budget", 100.0)
    taken = tenant.dispatch(
        "policies.proposals.create",
        {"kind": "RULE", "title": "x", "rationale": "x", "proposed": RULE, "proposal_id": "p"},
    )
    assert taken.error_code == "PROPOSAL_EXISTS"


def test_proposals_are_listed_newest_first_and_by_status(
    tenant: Tenant, new_tenant: Callable[..., Tenant]
) -> None:
    for number in range(3):
        draft(tenant, proposal_id=f"p-{number}", proposed=RULE | {"name": f"rule {number}"})
    tenant.call("policies.proposals.reject", {"proposal_id": "p-1"}, **REVIEWER)
    first = tenant.call("policies.proposals.list", {"limit": 2})
    rest = tenant.call("policies.proposals.list", {"limit": 2, "cursor": first.next_cursor})
    assert [item.proposal_id for item in (*first.items, *rest.items)] == ["p-2", "p-1", "p-0"]
    drafts = tenant.call("policies.proposals.list", {"status": "DRAFT"}).items
    assert [item.proposal_id for item in drafts] == ["p-2", "p-0"]
    assert tenant.call("policies.proposals.get", {"proposal_id": "p-1"}).status == "REJECTED"
    assert new_tenant().call("policies.proposals.list").items == []
