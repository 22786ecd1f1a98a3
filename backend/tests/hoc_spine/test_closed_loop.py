"""Spine: the loop closes: a failure becomes incident, lesson, proposal, rule, and then a prevention."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run, step

REVIEWER = {"actor_id": "reviewer"}


def fail(tenant: Tenant, run_id: str) -> Any:
    start_run(tenant, run_id=run_id)
    tenant.call("traces.steps.append", {"run_id": run_id, "steps": [step(0)]})
    return tenant.call("runs.complete", {"run_id": run_id, "status": "failed", "error_code": "STEP_FAILURE"})


def test_what_failed_once_is_prevented_by_the_rule_that_it_taught(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    ended = fail(tenant, "r-1")
    assert ended.evaluation.outcome_kind == "INCIDENT"
    incident = tenant.call("incidents.get", {"incident_id": ended.evaluation.outcome_ref})
    assert (incident.source_run_id, incident.severity, incident.category) == (
        "r-1",
        "HIGH",
        "EXECUTION_FAILURE",
    )
    (lesson,) = tenant.call("lessons.list", {"source_run_id": "r-1"}).items
    assert (lesson.lesson_type, lesson.title, lesson.source_event_id) == (
        "FAILURE",
        "Failure: STEP_FAILURE",
        incident.incident_id,
    )
    assert [known["lesson_id"] for known in ended.lessons] == [lesson.lesson_id]

    converted = tenant.call("lessons.convert", {"lesson_id": lesson.lesson_id})
    proposal = tenant.call("policies.proposals.get", {"proposal_id": converted.draft_proposal_id})
    assert (proposal.source, proposal.source_ref, proposal.source_run_id) == (
        "LESSON",
        lesson.lesson_id,
        "r-1",
    )
    assert tenant.call("runs.get", {"run_id": "r-1"}).policy_draft_count == 1
    approved = tenant.call("policies.proposals.approve", {"proposal_id": proposal.proposal_id}, **REVIEWER)
    rule = tenant.call("policies.rules.get", {"rule_id": approved.result_ref})
    assert (rule.status, rule.source, rule.source_proposal_id) == (
        "ACTIVE",
        "LEARNED",
        proposal.proposal_id,
    )
    assert (rule.enforcement_mode, rule.moments, rule.scope_id) == ("BLOCK", ["INCIDENT"], "support-agent")

    prevented = fail(tenant, "r-2")
    assert prevented.evaluation.outcome_kind == "PREVENTION"
    (record,) = tenant.call("policies.preventions.list", {"run_id": "r-2"}).items
    assert (record.prevention_id, record.outcome, record.rule_id) == (
        prevented.evaluation.outcome_ref,
        "PREVENTED",
        rule.rule_id,
    )
    assert record.signature == incident.recurrence_signature
    assert prevented.incident_count == 0
    assert [item.source_run_id for item in tenant.call("incidents.list").items] == ["r-1"]

    effect = tenant.call("lessons.get", {"lesson_id": lesson.lesson_id}).effect
    assert (effect.proposal_id, effect.proposal_status, effect.result_ref) == (
        proposal.proposal_id,
        "APPROVED",
        rule.rule_id,
    )
    assert effect.preventions["PREVENTED"] == 1
    assert effect.latest_prevention_ids == [record.prevention_id]
    measured = tenant.call("policies.rules.effect", {"rule_id": rule.rule_id})
    assert (measured.signature, measured.preventions["PREVENTED"]) == (incident.recurrence_signature, 1)
    assert (measured.incidents_before, measured.incidents_after, measured.runs_governed) == (1, 0, 1)
    assert (measured.chain.lesson_id, measured.chain.proposal_id, measured.chain.incident_id) == (
        lesson.lesson_id,
        proposal.proposal_id,
        incident.incident_id,
    )
    stored = second_connection.execute(
        sa.text("SELECT count(*) FROM prevention_records WHERE tenant_id = :t AND rule_id = :r"),
        {"t": tenant.tenant_id, "r": rule.rule_id},
    )
    assert stored.scalar_one() == 1
    # What was changed and added since the runs ended are late facts of theirs, and all of it is proved.
    for run_id in ("r-1", "r-2"):
        proof = tenant.call("runs.proof", {"run_id": run_id})
        assert (proof.integrity.verification_status, proof.facts.status) == ("VERIFIED", "COMPLETE")
