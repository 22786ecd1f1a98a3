"""Spine: lessons: their life, what they propose, and the debounce under races."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from app.hoc_spine.operation_registry import OperationResult
from tests.factories.limits import limit, record, rows
from tests.factories.steering import SteerableClock
from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run

WORKER: dict[str, Any] = {"door": "worker", "actor_type": "SYSTEM", "actor_id": "w"}
NEAR: dict[str, Any] = {
    "metric": "COST_USD",
    "utilization": 91,
    "threshold_value": 100,
    "current_value": 91,
    "source_event_id": "e-1",
}


def learn(tenant: Tenant, **members: Any) -> Any:
    return tenant.call("lessons.learn_near_threshold", NEAR | members, **WORKER)


def failure(tenant: Tenant, run_id: str = "r-1", **members: Any) -> Any:
    start_run(tenant, run_id=run_id)
    tenant.call("runs.complete", {"run_id": run_id, "status": "failed", **members})
    (lesson,) = tenant.call("lessons.list", {"source_run_id": run_id}).items
    return lesson


def test_a_lesson_is_deferred_and_comes_back_when_it_is_due(
    tenant: Tenant, clock: SteerableClock, second_connection: sa.Connection
) -> None:
    lesson_id = failure(tenant).lesson_id
    until = clock.now() + timedelta(days=2)
    deferred = tenant.call("lessons.defer", {"lesson_id": lesson_id, "until": until})
    assert (deferred.status, deferred.deferred_until) == ("DEFERRED", until)
    for name, more in (
        ("lessons.convert", {}),
        ("lessons.defer", {"until": until}),
        ("lessons.dismiss", {"reason": "x"}),
    ):
        refused = tenant.dispatch(name, {"lesson_id": lesson_id, **more})
        assert refused.error_code == "INVALID_TRANSITION"
    again = tenant.call("lessons.reactivate", {"lesson_id": lesson_id})
    assert (again.status, again.deferred_until) == ("PENDING", None)
    tenant.call("lessons.defer", {"lesson_id": lesson_id, "until": until})
    assert tenant.call("lessons.reactivate_due", {}, **WORKER).reactivated == []
    clock.advance(days=2)
    # As a round of maintenance asks it, which would go through every tenant of this shared database.
    maintenance = {"door": "worker", "actor_type": "SYSTEM", "actor_id": "maintenance"}
    assert tenant.call("lessons.reactivate_due", {}, **maintenance).reactivated == [lesson_id]
    assert tenant.call("lessons.get", {"lesson_id": lesson_id}).status == "PENDING"
    entries = rows(second_connection, tenant, "audit_ledger", "entity_type = 'LESSON'")
    found = sorted(entries, key=lambda row: str(row["entry_id"]))
    assert [(row["event_type"], row["actor_id"]) for row in found] == [
        ("LessonDeferred", "user-1"),
        ("LessonReactivated", "user-1"),
        ("LessonDeferred", "user-1"),
        ("LessonReactivated", "maintenance"),
    ]
    assert {row["run_id"] for row in found} == {"r-1"}


def test_a_dismissed_lesson_stays_so_with_its_reason(tenant: Tenant) -> None:
    lesson_id = failure(tenant).lesson_id
    gone = tenant.call("lessons.dismiss", {"lesson_id": lesson_id, "reason": "see bob@example.com"})
    assert (gone.status, gone.dismissed_by) == ("DISMISSED", "user-1")
    assert gone.dismissed_reason == "see <REDACTED_EMAIL>"
    assert gone.title == "Failure: Unknown Error"
    refused = tenant.dispatch("lessons.reactivate", {"lesson_id": lesson_id})
    assert refused.error_code == "INVALID_TRANSITION"


def test_a_failure_proposes_a_rule_that_is_as_hard_as_it_was_grave(tenant: Tenant) -> None:
    proposed = {}
    for run_id, code in (("grave", "AGENT_CRASH"), ("mild", "RETRY_EXHAUSTED"), ("unknown", None)):
        lesson = failure(tenant, run_id, error_code=code)
        made = tenant.call("lessons.convert", {"lesson_id": lesson.lesson_id})
        proposal = tenant.call("policies.proposals.get", {"proposal_id": made.draft_proposal_id})
        proposed[run_id] = proposal.proposed
        assert tenant.dispatch("lessons.convert", {"lesson_id": lesson.lesson_id}).error_code == (
            "INVALID_TRANSITION"
        )
    assert {name: rule["enforcement_mode"] for name, rule in proposed.items()} == {
        "grave": "BLOCK",
        "mild": "WARN",
        "unknown": "WARN",
    }
    assert proposed["grave"]["condition"] == 'incident.error_code == "AGENT_CRASH"'
    assert 'incident.category == "EXECUTION_FAILURE"' in proposed["unknown"]["condition"]


def test_an_agent_whose_name_is_no_id_is_named_in_the_condition(tenant: Tenant) -> None:
    start_run(tenant, run_id="r-1", agent_id='Agent "7" / ü')
    ending = {"run_id": "r-1", "status": "failed", "error_code": "STEP_FAILURE"}
    tenant.call("runs.complete", ending)
    (lesson,) = tenant.call("lessons.list").items
    made = tenant.call("lessons.convert", {"lesson_id": lesson.lesson_id})
    review = {"proposal_id": made.draft_proposal_id}
    tenant.call("policies.proposals.approve", review, actor_id="reviewer")
    start_run(tenant, run_id="r-2", agent_id='Agent "7" / ü')
    start_run(tenant, run_id="r-3", agent_id="Agent 8")
    kinds = [
        tenant.call("runs.complete", ending | {"run_id": run_id}).evaluation.outcome_kind
        for run_id in ("r-2", "r-3")
    ]
    assert kinds == ["PREVENTION", "INCIDENT"]


def test_a_nearly_used_budget_proposes_a_limit_that_warns_earlier(tenant: Tenant) -> None:
    limit(tenant)
    start_run(tenant, run_id="r-1")
    record(tenant, "u-1", usage={"COST_USD": 90.5})
    tenant.call("runs.complete", {"run_id": "r-1", "status": "succeeded"})
    (lesson,) = tenant.call("lessons.list", {"lesson_type": "NEAR_THRESHOLD"}).items
    made = tenant.call("lessons.convert", {"lesson_id": lesson.lesson_id})
    proposal = tenant.call("policies.proposals.get", {"proposal_id": made.draft_proposal_id})
    assert (proposal.kind, proposal.proposed["max_value"]) == ("LIMIT", 81.45)
    approved = tenant.call(
        "policies.proposals.approve", {"proposal_id": proposal.proposal_id}, actor_id="reviewer"
    )
    created = tenant.call("controls.limits.get", {"limit_id": approved.result_ref})
    assert (created.source, created.enforcement, created.max_value) == ("LEARNED", "WARN", 81.45)
    assert (created.metric, created.reset_period, created.status) == ("COST_USD", "NONE", "ACTIVE")


def test_a_success_proposes_nothing(tenant: Tenant) -> None:
    made = tenant.call(
        "lessons.learn_critical_success",
        {"success_type": "cost_efficiency", "metrics": {"password": "x"}, "source_event_id": "e-1"},
        **WORKER,
    )
    refused = tenant.dispatch("lessons.convert", {"lesson_id": made.lesson_id})
    assert refused.error_code == "LESSON_NOT_CONVERTIBLE"
    shown = tenant.call("lessons.get", {"lesson_id": made.lesson_id})
    assert (shown.severity, shown.effect) == ("NONE", None)
    assert shown.detected_pattern["metrics"] == {"password": "<REDACTED>"}
    odd = learn(tenant, metric="PATIENCE")
    assert tenant.dispatch("lessons.convert", {"lesson_id": odd.lesson_id}).error_code == (
        "LESSON_NOT_CONVERTIBLE"
    )


def test_racing_lessons_of_one_band_are_learned_once(
    tenant: Tenant, second_connection: sa.Connection
) -> None:
    results: list[OperationResult] = []
    barrier = threading.Barrier(8)

    def one(number: int) -> None:
        barrier.wait()
        payload = NEAR | {"source_event_id": f"e-{number}"}
        results.append(tenant.dispatch("lessons.learn_near_threshold", payload, **WORKER))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    words = sorted(result.unwrap().result for result in results)
    assert words == ["CREATED", *["DEBOUNCED"] * 7]
    assert len(rows(second_connection, tenant, "lessons_learned")) == 1


def test_an_event_teaches_the_same_kind_once(tenant: Tenant, clock: SteerableClock) -> None:
    first = learn(tenant)
    assert (first.result, learn(tenant).result) == ("CREATED", "DEBOUNCED")
    clock.advance(hours=24)
    again = learn(tenant)
    assert (again.result, again.lesson_id) == ("EXISTS", first.lesson_id)
    assert learn(tenant, utilization=84).result == "BELOW_THRESHOLD"
    assert learn(tenant, utilization=100.5).result == "BELOW_THRESHOLD"
    lost = tenant.dispatch("lessons.learn_near_threshold", NEAR | {"run_id": "nobody"}, **WORKER)
    assert lost.error_code == "REFERENCE_NOT_FOUND"


def test_lists_and_counts_leave_synthetic_lessons_out_unless_asked(tenant: Tenant) -> None:
    failure(tenant, "real", error_code="AGENT_CRASH")
    start_run(tenant, run_id="drill", is_synthetic=True, synthetic_scenario_id="s-1")
    tenant.call("runs.complete", {"run_id": "drill", "status": "failed"})
    learn(tenant)

    def runs(**query: Any) -> set[str | None]:
        return {item.source_run_id for item in tenant.call("lessons.list", query).items}

    assert runs() == {"real", None}
    assert runs(include_synthetic=True) == {"real", "drill", None}
    assert runs(lesson_type="FAILURE", include_synthetic=True) == {"real", "drill"}
    assert runs(severity="CRITICAL") == {"real"}
    assert runs(status="DISMISSED") == set()
    counted = tenant.call("lessons.stats")
    assert (counted.total, counted.by_type["FAILURE"], counted.by_status["PENDING"]) == (2, 1, 2)
    assert tenant.call("lessons.stats", {"include_synthetic": True}).total == 3
