"""Decisions: outcomes follow from facts, each decision is recorded once, and leads to its run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from app.domains.decisions.engines.emitting import About, emit_policy_evaluation_decision
from app.domains.decisions.engines.recording import link_pre_run
from app.domains.decisions.errors import DecisionRacedError
from app.domains.decisions.models.vocabulary import CausalRole, DecisionOutcome
from app.hoc_spine.handlers.decisions import EMITTERS
from app.hoc_spine.operation_registry import OperationResult
from app.hoc_spine.spine import Spine
from app.kernel.errors import HocError
from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run

CARE = {"baseline_agent_id": "a", "optimized_agent_id": "b", "confidence": 0.5}
# decision_type, facts, outcome; None: these facts leave no record.
OUTCOMES: list[tuple[str, dict[str, Any], str | None]] = [
    ("ROUTING", {"routed": True, "agent_id": "a"}, "SELECTED"),
    ("ROUTING", {"routed": False, "rejection_reason": "nobody is free"}, "REJECTED"),
    ("ROUTING", {"routed": False}, "NONE"),
    ("ROUTING", {"routed": True}, "NONE"),
    ("RECOVERY", {"evaluated": False, "triggered": True}, "SKIPPED"),
    ("RECOVERY", {"evaluated": True, "triggered": True}, "SELECTED"),
    ("RECOVERY", {"evaluated": True}, "NONE"),
    ("MEMORY", {"queried": False, "matched": True}, "SKIPPED"),
    ("MEMORY", {"queried": True}, "NONE"),
    ("MEMORY", {"queried": True, "matched": True, "injected": True}, "SELECTED"),
    ("MEMORY", {"queried": True, "matched": True}, "BLOCKED"),
    ("POLICY", {"evaluated": False, "violated": True}, "SKIPPED"),
    ("POLICY", {"evaluated": True, "violated": True, "severity": "error"}, "BLOCKED"),
    ("POLICY", {"evaluated": True, "violated": True, "severity": "warning"}, "REJECTED"),
    ("POLICY", {"evaluated": True}, "SELECTED"),
    ("BUDGET", {"exceeded": True, "hard": True}, "BLOCKED"),
    ("BUDGET", {"exceeded": True, "proceeded": False}, "REJECTED"),
    ("BUDGET", {"exceeded": True}, "SELECTED"),
    ("BUDGET", {"exceeded": False, "hard": True}, "SELECTED"),
    ("BUDGET_ENFORCEMENT", {"limit": 1.0, "used": 1.5}, "EXECUTION_HALTED"),
    ("POLICY_PRE_CHECK", {"available": False, "passed": True}, "POLICY_UNAVAILABLE"),
    ("POLICY_PRE_CHECK", {"available": True}, "POLICY_BLOCKED"),
    ("POLICY_PRE_CHECK", {"available": True, "passed": True}, None),
    ("RECOVERY_EVALUATION", {"failure_type": "x", "recovery_class": "R1"}, "RECOVERY_APPLIED"),
    ("RECOVERY_EVALUATION", {"failure_type": "y", "recovery_class": "R2"}, "RECOVERY_SUGGESTED"),
    ("RECOVERY_EVALUATION", {"failure_type": "z"}, "RECOVERY_SKIPPED"),
    ("CARE_ROUTING_OPTIMIZED", {**CARE, "signals": {"latency_p95": 2.5}}, "OPTIMIZED_SELECTED"),
    ("CARE_ROUTING_OPTIMIZED", {**CARE, "confidence": 0.49}, "BASELINE_SELECTED"),
    ("CARE_ROUTING_OPTIMIZED", {**CARE, "optimized_agent_id": "a"}, None),
]
# decision_type: trigger, role
SHAPES = {
    "ROUTING": ("EXPLICIT", "PRE_RUN"),
    "RECOVERY": ("REACTIVE", "IN_RUN"),
    "MEMORY": ("EXPLICIT", "IN_RUN"),
    "POLICY": ("EXPLICIT", "IN_RUN"),
    "BUDGET": ("EXPLICIT", "PRE_RUN"),
    "BUDGET_ENFORCEMENT": ("REACTIVE", "IN_RUN"),
    "POLICY_PRE_CHECK": ("EXPLICIT", "PRE_RUN"),
    "RECOVERY_EVALUATION": ("REACTIVE", "POST_RUN"),
    "CARE_ROUTING_OPTIMIZED": ("AUTONOMOUS", "PRE_RUN"),
}


def emit(
    tenant: Tenant, kind: str, facts: dict[str, Any], *, context: dict[str, Any] | None = None, **members: Any
) -> OperationResult:
    payload = {"decision_type": kind, "facts": facts, "decision_reason": "because", **members}
    return tenant.dispatch("decisions.emit", payload, **(context or {}))


def test_each_outcome_follows_from_its_facts(tenant: Tenant, second_connection: sa.Connection) -> None:
    run_id = start_run(tenant)
    recorded = []
    for kind, facts, outcome in OUTCOMES:
        data = emit(tenant, kind, facts, run_id=run_id, request_id=f"req-{len(recorded)}").unwrap()
        if outcome is None:
            assert (data.result, data.decision) == ("NONE", None), (kind, facts)
            continue
        decision = data.decision
        recorded.append(decision.decision_id)
        assert (data.result, decision.decision_outcome) == ("RECORDED", outcome), (kind, facts)
        assert (decision.decision_trigger, decision.causal_role) == SHAPES[kind]
        assert (decision.run_id, decision.attempt, decision.decision_source) == (run_id, 1, "SYSTEM")
        assert decision.decision_inputs is not None
        assert facts.items() <= decision.decision_inputs.items()
    kept = second_connection.execute(
        sa.text(
            "SELECT d.decision_id FROM decision_records d JOIN log_leaves l"
            " ON l.tenant_id = d.tenant_id AND l.fact_id = d.fact_id AND l.type = 'decision'"
            " AND l.run_id = d.run_id WHERE d.tenant_id = :t"
        ),
        {"t": tenant.tenant_id},
    )
    assert sorted(kept.scalars()) == sorted(recorded)
    assert {kind for kind, _, _ in OUTCOMES} == set(EMITTERS)


def test_a_known_decision_is_returned_and_other_facts_of_its_key_conflict(tenant: Tenant) -> None:
    run_id = start_run(tenant)
    keyed = [
        ("BUDGET_ENFORCEMENT", {"limit": 1.0, "used": 2.0}, {"used": 3.0}),
        ("POLICY_PRE_CHECK", {"available": True, "violations": ["a"]}, {"violations": ["b"]}),
        ("RECOVERY_EVALUATION", {"failure_type": "x"}, {"recovery_class": "R1"}),
        ("CARE_ROUTING_OPTIMIZED", CARE, {"confidence": 0.9}),
    ]
    for kind, facts, change in keyed:
        first = emit(tenant, kind, facts, run_id=run_id, request_id="req-1").unwrap()
        again = emit(
            tenant, kind, facts, run_id=run_id, request_id="req-1", decision_reason="other words"
        ).unwrap()
        assert (again.result, again.decision) == ("KNOWN", first.decision), kind
        refused = emit(tenant, kind, facts | change, run_id=run_id, request_id="req-1")
        assert refused.error_code == "DECISION_CONFLICT", kind
        assert refused.error is not None
        assert refused.error.extra["decision_id"] == first.decision.decision_id
    # The outcome is part of the key of a pre-check: the same request may be blocked, and later unavailable.
    other = emit(tenant, "POLICY_PRE_CHECK", {"available": False}, request_id="req-1").unwrap()
    assert other.result == "RECORDED"


@pytest.mark.parametrize(
    ("members", "code", "field"),
    [
        ({"facts": {"routed": "yes"}}, "INVALID_INPUT", "/facts/routed"),
        ({"facts": {"routed": True, "outcome": "SELECTED"}}, "INVALID_INPUT", "/facts/outcome"),
        ({"decision_reason": " \n"}, "INVALID_INPUT", "/decision_reason"),
        ({"decision_type": "POLICY_EVALUATION"}, "INVALID_INPUT", "/decision_type"),
        ({"run_id": "run_unknown"}, "REFERENCE_NOT_FOUND", "/run_id"),
        ({"decision_type": "MEMORY", "facts": {"queried": True}}, "INVALID_INPUT", "/run_id"),
        ({"decision_source": "HUMAN"}, "INVALID_INPUT", "/decision_source"),
        (
            {"decision_type": "CARE_ROUTING_OPTIMIZED", "facts": {**CARE, "signals": {"age": 3}}},
            "CARE_SIGNAL_FORBIDDEN",
            "/facts/signals/age",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_leaves_nothing(
    tenant: Tenant, members: dict[str, Any], code: str, field: str
) -> None:
    payload = {"decision_type": "ROUTING", "facts": {"routed": True}, "decision_reason": "because"}
    refused = tenant.dispatch("decisions.emit", payload | members, actor_type="AGENT")
    assert refused.error_code == code
    assert refused.error is not None
    assert refused.error.errors[0]["field"] == field
    assert tenant.call("decisions.list").items == []


def test_secrets_are_taken_out_before_a_decision_is_judged_and_kept(tenant: Tenant) -> None:
    told = "no agent for jane@example.org"
    facts = {"routed": False, "rejection_reason": told}
    decision = (
        emit(
            tenant,
            "ROUTING",
            facts,
            decision_reason=told,
            details={"password": "x"},
            decision_source="HYBRID",
        )
        .unwrap()
        .decision
    )
    assert decision.decision_inputs["rejection_reason"] == "no agent for <REDACTED_EMAIL>"
    assert decision.decision_reason == "no agent for <REDACTED_EMAIL>"
    assert decision.details == {"password": "<REDACTED>"}
    assert (decision.decision_source, decision.protected_state) == ("HYBRID", "INTACT")


def test_what_led_to_a_run_is_linked_to_it_and_counted_among_its_decisions(tenant: Tenant) -> None:
    spine = tenant.spine
    before = [
        emit(tenant, "ROUTING", {"routed": True, "agent_id": "a"}, request_id="req-start").unwrap(),
        emit(tenant, "BUDGET", {"exceeded": False}, request_id="req-start").unwrap(),
    ]
    emit(tenant, "BUDGET", {"exceeded": False}, request_id="req-other").unwrap()
    run_id = start_run(tenant)
    with spine.unit(tenant.context()) as unit:
        linked = link_pre_run(unit._ctx, run_id, "req-start")
    assert linked == [data.decision.decision_id for data in before]
    # A decision of the run that X-Run-ID names needs no other name for it.
    own = emit(tenant, "MEMORY", {"queried": False}, context={"run_id": run_id}).unwrap().decision.decision_id
    expected = [own, *reversed(linked)]
    listed = tenant.call("decisions.list", {"run_id": run_id})
    assert [item.decision_id for item in listed.items] == expected
    seen: list[str] = []
    cursor = None
    while True:
        page = tenant.call("decisions.list", {"run_id": run_id, "limit": 2, "cursor": cursor})
        seen += [item.decision_id for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == expected
    proof = tenant.call("runs.proof", {"run_id": run_id})
    assert proof.integrity.failure_code is None


def test_a_list_keeps_what_its_filters_say(tenant: Tenant) -> None:
    run_id = start_run(tenant)
    for kind, facts, _ in OUTCOMES:
        emit(tenant, kind, facts, run_id=run_id, request_id="req-1")
    everything = tenant.call("decisions.list", {"limit": 500}).items
    assert len({item.decision_id for item in everything}) == len(everything) > 20
    middle = everything[len(everything) // 2].decided_at
    filters: list[tuple[dict[str, Any], Any]] = [
        ({"decision_type": "MEMORY"}, lambda item: item.decision_type == "MEMORY"),
        ({"outcome": "BLOCKED"}, lambda item: item.decision_outcome == "BLOCKED"),
        ({"causal_role": "POST_RUN"}, lambda item: item.causal_role == "POST_RUN"),
        ({"request_id": "req-none"}, lambda item: item.request_id == "req-none"),
        ({"since": middle.isoformat()}, lambda item: item.decided_at >= middle),
        (
            {"run_id": run_id, "outcome": "SELECTED", "causal_role": "IN_RUN"},
            lambda item: (item.decision_outcome, item.causal_role) == ("SELECTED", "IN_RUN"),
        ),
    ]
    for query, keeps in filters:
        found = tenant.call("decisions.list", {**query, "limit": 500}).items
        assert found == [item for item in everything if keeps(item)], query
    one = tenant.call("decisions.get", {"decision_id": everything[0].decision_id})
    assert one == everything[0]


def test_the_product_itself_records_evaluations_under_their_own_key_and_role(tenant: Tenant) -> None:
    about = About(reason="a rule blocks the start", request_id="req-1")
    blocked = partial(emit_policy_evaluation_decision, outcome=DecisionOutcome.BLOCKED, inputs={"rules": 1})
    with tenant.spine.unit(tenant.context()) as unit:
        made = blocked(unit._ctx, about=about, role=CausalRole.PRE_RUN, key="k")
        with pytest.raises(DecisionRacedError), unit.inner():
            blocked(unit._ctx, about=about, role=CausalRole.PRE_RUN, key="k")
        with pytest.raises(HocError, match="reason"), unit.inner():
            blocked(unit._ctx, about=About(reason=" "), role=CausalRole.PRE_RUN)
    view = tenant.call("decisions.get", {"decision_id": made})
    assert (view.decision_type, view.causal_role, view.idempotency_key) == (
        "POLICY_EVALUATION",
        "PRE_RUN",
        "k",
    )


def test_no_outcome_is_out_of_reach() -> None:
    of_evaluations = {"ALLOWED", "AUDITED", "WARNED", "BLOCKED", "STOPPED", "KILLED", "PREVENTED"}
    reached = {outcome for _, _, outcome in OUTCOMES if outcome is not None}
    assert reached | of_evaluations == {outcome.value for outcome in DecisionOutcome}


def test_one_decision_told_by_many_at_once_is_recorded_once(
    tenant: Tenant, make_spine: Callable[..., Spine]
) -> None:
    here = Tenant(make_spine(pool_size=4), tenant.tenant_id)

    def tell(_: int) -> Any:
        return emit(here, "CARE_ROUTING_OPTIMIZED", CARE, request_id="req-1").unwrap()

    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(tell, range(8)))
    assert sorted(data.result for data in told) == ["KNOWN"] * 7 + ["RECORDED"]
    (record,) = tenant.call("decisions.list").items
    assert {data.decision.decision_id for data in told} == {record.decision_id}


def test_over_http_a_decision_is_made_once_and_needs_its_scope(client: TestClient, tenant: Tenant) -> None:
    body = {
        "decision_type": "POLICY_PRE_CHECK",
        "facts": {"available": True, "violations": ["no"]},
        "decision_reason": "not allowed",
        "request_id": "req-1",
    }
    headers = tenant.headers(scopes=["decisions:write"])
    made = client.post("/api/v1/decisions", json=body, headers=headers)
    assert (made.status_code, made.json()["decision"]["decision_outcome"]) == (201, "POLICY_BLOCKED")
    assert client.post("/api/v1/decisions", json=body, headers=headers).status_code == 200
    passed = client.post(
        "/api/v1/decisions",
        json={**body, "facts": {"available": True, "passed": True}},
        headers=headers,
    )
    assert (passed.status_code, passed.json()) == (200, {"result": "NONE", "decision": None})
    conflict = client.post(
        "/api/v1/decisions", json={**body, "facts": {"available": True, "violations": []}}, headers=headers
    )
    assert (conflict.status_code, conflict.json()["code"]) == (409, "DECISION_CONFLICT")
    decision_id = made.json()["decision"]["decision_id"]
    path = f"/api/v1/decisions/{decision_id}"
    assert client.get(path, headers=headers).status_code == 403
    shown = client.get(path, headers=tenant.headers(scopes=["decisions:read"]))
    assert shown.json() == made.json()["decision"]
