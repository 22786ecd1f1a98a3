"""Spine: whatever happens in a run, its end explains it once, and its row counts what is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.factories.limits import limit, rows
from tests.factories.tenants import Tenant
from tests.factories.worlds import start_run, step

RANKS = ("NORMAL", "NEAR_THRESHOLD", "AT_RISK", "VIOLATED")
DURING = ("check", "blocked", "stopped", "use", "overuse", "report", "violation", "known", "step", "retry")
ENDINGS = ("succeeded", "failed", "halted", "cancelled", "halt", "cancel", "known")


@pytest.fixture
def governed(tenant: Tenant) -> Tenant:
    """A tenant with limits and rules of every kind; each run of the test has an agent of its own."""
    limit(tenant, category="THRESHOLD", reset_period=None, consequence="INCIDENT", halts_run=True)
    guards = (
        ("STEP", "BLOCK", 'action.name == "blocked"', False),
        ("STEP", "BLOCK", 'action.name == "stopped"', True),
        ("COMPLETION", "BLOCK", "outcome.step_count == 2", False),
        ("COMPLETION", "WARN", "outcome.step_count == 1", False),
        ("INCIDENT", "BLOCK", 'incident.error_code == "KNOWN"', False),
        ("INCIDENT", "AUDIT", 'incident.severity == "LOW"', False),
    )
    for number, (moment, mode, condition, halts) in enumerate(guards):
        rule: dict[str, Any] = {
            "kind": "GUARD",
            "name": f"g-{number}",
            "moments": [moment],
            "condition": condition,
        }
        rule |= {"enforcement_mode": mode, "halts_run": halts, "activate": True}
        tenant.call("policies.rules.create", rule)
    return tenant


def act(tenant: Tenant, run_id: str, deed: str, number: int) -> None:
    """Do one thing in a run; what the run no longer takes is refused, and that is fine."""
    run = {"run_id": run_id}
    report = {"title": "x", "source_run_id": run_id}
    action = {"kind": "TOOL", "name": deed}
    calls: dict[str, Callable[[], tuple[str, dict[str, Any]]]] = {
        "check": lambda: ("runs.check", run | {"action": action, "estimate": {"COST_USD": 1}}),
        "blocked": lambda: ("runs.check", run | {"action": action}),
        "stopped": lambda: ("runs.check", run | {"action": action}),
        "use": lambda: ("runs.usage.record", run | {"usage_id": f"u-{number}", "usage": {"COST_USD": 41}}),
        "overuse": lambda: (
            "runs.usage.record",
            run | {"usage_id": f"u-{number}", "usage": {"COST_USD": 101}},
        ),
        "report": lambda: ("incidents.create", report | {"severity": "LOW"}),
        "violation": lambda: ("incidents.create", report | {"category": "POLICY_VIOLATION"}),
        "known": lambda: ("incidents.create", report | {"error_code": "KNOWN"}),
        "step": lambda: ("traces.steps.append", run | {"steps": [step(_steps(tenant, run_id))]}),
        "retry": lambda: (
            "runs.retry",
            run | {"from_attempt": tenant.call("runs.get", run).attempt, "reason": "r"},
        ),
    }
    result = tenant.dispatch(*calls[deed]())
    assert result.success or result.error_code in (
        "RUN_NOT_RUNNING",
        "TRACE_SEALED",
        "MAX_ATTEMPTS_REACHED",
        "RUN_TERMINAL",
    )


def _steps(tenant: Tenant, run_id: str) -> int:
    return int(tenant.call("attempts.list", {"run_id": run_id}).items[-1].step_count)


def end(tenant: Tenant, run_id: str, ending: str) -> None:
    if ending in ("halt", "cancel"):
        result = tenant.dispatch(f"runs.{ending}", {"run_id": run_id, "reason": "r"})
    else:
        code = "KNOWN" if ending == "known" else "STEP_FAILURE"
        status = "failed" if ending == "known" else ending
        payload = {"run_id": run_id, "status": status, "error_code": code}
        result = tenant.dispatch("runs.complete", payload)
    assert result.success or result.error_code == "RUN_TERMINAL"


# The connection is only read through; what an example did stays apart by its run.
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deeds=st.lists(st.sampled_from(DURING), max_size=6), ending=st.sampled_from(ENDINGS))
def test_every_ended_run_is_explained_exactly_once_and_counted_right(
    governed: Tenant, second_connection: sa.Connection, deeds: list[str], ending: str
) -> None:
    run_id = f"r-{uuid4().hex}"
    start_run(governed, run_id=run_id, agent_id=run_id)
    for number, deed in enumerate(deeds):
        act(governed, run_id, deed, number)
    end(governed, run_id, ending)
    run = governed.call("runs.get", {"run_id": run_id})

    def of_run(table: str, name: str = "run_id") -> list[dict[str, Any]]:
        return rows(second_connection, governed, table, f"{name} = '{run_id}'")

    evaluations = {row["attempt"]: row for row in of_run("policy_evaluations")}
    assert sorted(evaluations) == list(range(1, run.attempt + 1))
    incidents, preventions = of_run("incidents", "source_run_id"), of_run("prevention_records")
    known = {
        "INCIDENT": {row["incident_id"] for row in incidents},
        "PREVENTION": {row["prevention_id"] for row in preventions},
        "NONE": {None},
    }
    for attempt, row in evaluations.items():
        assert row["outcome_ref"] in known[row["outcome_kind"]]
        explained = attempt == run.attempt and run.status in ("failed", "halted")
        assert (row["outcome_kind"] != "NONE") == explained
    assert sum(row["source_type"] == "RUN" for row in incidents) <= 1
    assert run.incident_count == len(incidents)
    violated = any(row["category"] == "POLICY_VIOLATION" for row in incidents)
    assert (run.policy_violation, run.risk_level == "VIOLATED") == (violated, violated)
    stopped = {row["outcome"] for row in preventions} & {"BLOCKED", "STOPPED"}
    if stopped or of_run("limit_breaches"):
        assert RANKS.index(run.risk_level) >= RANKS.index("AT_RISK")
    assert {row["status"] for row in of_run("aos_traces")} == {"SEALED"}
    assert {row["status"] for row in of_run("usage_reservations")} <= {"RELEASED"}
    assert {row["source_event_id"] for row in of_run("lessons_learned", "source_run_id")} >= (
        known["INCIDENT"]
    )
    if deeds and _steps(governed, run_id):
        proof = governed.call("runs.proof", {"run_id": run_id})
        assert proof.integrity.verification_status == "VERIFIED"
