"""Unit: each row of each gate of the plane lifecycle, by injected facts and clock (GAP-089)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.domains.knowledge.engines import gates
from app.domains.knowledge.engines.gates import Approval, DeactivationFacts, GateResult, PurgeFacts
from app.domains.knowledge.models.vocabulary import (
    GateDecision,
    JobStatus,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
FREE = DeactivationFacts(live_policy_ids=(), grace_until=NOW, running_run_ids=(), running_run_count=0)
CONSENT = Approval("kpa_1", approved_by="bob", expires_at=NOW + HOUR)
PURGEABLE = PurgeFacts(
    hold_ids=(), archive_status=JobStatus.SUCCEEDED, retention_until=NOW, approvals=(CONSENT,)
)


def outcome(result: GateResult) -> tuple[str, str | None, datetime | None]:
    return result.decision.value, result.required_action, result.not_before


def deactivation(facts: DeactivationFacts, *, force: bool = False) -> GateResult:
    return gates.decide_deactivation(facts, now=NOW, force=force)


def purge(facts: PurgeFacts, *, actor_id: str = "alice", alone: bool = False) -> GateResult:
    return gates.decide_purge(facts, now=NOW, actor_id=actor_id, allow_self_approval=alone)


def test_one_active_allow_rule_opens_the_way_to_active() -> None:
    result = gates.decide_activation(active_allow_rules=1, may_bind=True)
    assert outcome(result) == ("ALLOWED", None, None)
    assert result.allowed


def test_without_an_allow_rule_activation_asks_for_a_binding() -> None:
    result = gates.decide_activation(active_allow_rules=0, may_bind=True)
    assert outcome(result) == ("BLOCKED", "bind_policy", None)
    assert not result.allowed


def test_where_binding_is_closed_nothing_is_asked_for() -> None:
    assert outcome(gates.decide_activation(active_allow_rules=0, may_bind=False)) == ("BLOCKED", None, None)


def test_a_plane_without_dependents_after_its_grace_period_is_deactivated() -> None:
    assert outcome(deactivation(FREE)) == ("ALLOWED", None, None)
    assert outcome(deactivation(replace(FREE, grace_until=None))) == ("ALLOWED", None, None)


def test_a_live_binding_blocks_deactivation_and_names_the_first_twenty() -> None:
    policies = [f"rule-{number:02}" for number in range(25)]
    result = deactivation(replace(FREE, live_policy_ids=policies))
    assert outcome(result) == ("BLOCKED", "unbind_policies", None)
    assert (result.checks[0].count, result.checks[0].ids) == (25, tuple(policies[:20]))


@pytest.mark.parametrize("before", [timedelta(microseconds=1), HOUR, timedelta(days=90)])
def test_deactivation_waits_for_the_end_of_the_grace_period(before: timedelta) -> None:
    end = NOW + before
    assert outcome(deactivation(replace(FREE, grace_until=end))) == ("PENDING", "wait_grace_period", end)


def test_deactivation_waits_for_running_runs_and_names_the_first_twenty() -> None:
    runs = [f"run-{number:02}" for number in range(25)]
    result = deactivation(replace(FREE, running_run_ids=runs, running_run_count=25))
    assert outcome(result) == ("PENDING", "wait_running_runs", None)
    assert (result.checks[2].count, result.checks[2].ids) == (25, tuple(runs[:20]))


def test_force_skips_grace_period_and_running_runs_but_not_bindings() -> None:
    busy = replace(FREE, grace_until=NOW + HOUR, running_run_ids=["run-1"], running_run_count=1)
    result = deactivation(busy, force=True)
    assert outcome(result) == ("ALLOWED", None, None)
    assert [check.skipped for check in result.checks] == [False, True, True]
    bound = replace(busy, live_policy_ids=["rule-1"])
    assert outcome(deactivation(bound, force=True)) == ("BLOCKED", "unbind_policies", None)


def test_all_checks_of_deactivation_are_listed_and_the_first_failing_one_decides() -> None:
    everything = DeactivationFacts(
        live_policy_ids=["rule-1"], grace_until=NOW + HOUR, running_run_ids=["run-1"], running_run_count=1
    )
    result = deactivation(everything)
    assert outcome(result) == ("BLOCKED", "unbind_policies", None)
    assert [(check.check, check.passed) for check in result.checks] == [
        ("policies_unbound", False),
        ("grace_period", False),
        ("running_runs", False),
    ]
    assert result.checks[1].not_before == NOW + HOUR


def test_a_plane_that_meets_everything_is_purged() -> None:
    assert outcome(purge(PURGEABLE)) == ("ALLOWED", None, None)


def test_a_legal_hold_blocks_the_purge_before_anything_else() -> None:
    held = PurgeFacts(hold_ids=["hold-1"], archive_status=None, retention_until=NOW + HOUR, approvals=())
    result = purge(held)
    assert outcome(result) == ("BLOCKED", "release_hold", None)
    assert [check.passed for check in result.checks] == [False, False, False, False]


@pytest.mark.parametrize(
    ("status", "action"),
    [
        (None, "await_job"),
        (JobStatus.QUEUED, "await_job"),
        (JobStatus.RUNNING, "await_job"),
        (JobStatus.CANCELLED, "await_job"),
        (JobStatus.FAILED, "retry_job"),
    ],
)
def test_the_purge_waits_for_the_archive(status: JobStatus | None, action: str) -> None:
    assert outcome(purge(replace(PURGEABLE, archive_status=status))) == ("PENDING", action, None)


def test_the_purge_waits_for_the_end_of_retention() -> None:
    end = NOW + timedelta(microseconds=1)
    assert outcome(purge(replace(PURGEABLE, retention_until=end))) == ("PENDING", "wait_retention", end)
    assert outcome(purge(replace(PURGEABLE, retention_until=None))) == ("ALLOWED", None, None)


def test_the_purge_asks_for_a_consent_that_is_there_and_has_not_expired() -> None:
    assert outcome(purge(replace(PURGEABLE, approvals=()))) == ("PENDING", "get_purge_approval", None)
    expired = replace(CONSENT, expires_at=NOW)
    assert outcome(purge(replace(PURGEABLE, approvals=(expired,)))) == ("PENDING", "get_purge_approval", None)


def test_nobody_purges_on_their_own_consent_unless_the_tenant_allows_it() -> None:
    assert outcome(purge(PURGEABLE, actor_id="bob")) == ("PENDING", "get_purge_approval", None)
    assert outcome(purge(PURGEABLE, actor_id="bob", alone=True)) == ("ALLOWED", None, None)


def test_the_newest_usable_consent_is_the_one_that_is_used() -> None:
    own = Approval("kpa_2", approved_by="alice", expires_at=NOW + HOUR)
    found = gates.find_approval([own, CONSENT], now=NOW, actor_id="alice", allow_self_approval=False)
    assert found == CONSENT
    assert gates.find_approval([own, CONSENT], now=NOW, actor_id="alice", allow_self_approval=True) == own


def test_a_gate_is_told_in_json_values() -> None:
    shown = deactivation(replace(FREE, grace_until=NOW + HOUR)).as_json()
    assert shown["decision"] == GateDecision.PENDING.value
    assert shown["not_before"] == "2030-01-01T01:00:00.000000Z"
    assert [check["check"] for check in shown["checks"]] == [
        "policies_unbound",
        "grace_period",
        "running_runs",
    ]
    assert shown["checks"][1]["required_action"] == "wait_grace_period"
