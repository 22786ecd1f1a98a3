"""Operations: long random histories of a plane against a small model of the lifecycle (Hypothesis)."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState as State,
)
from tests.factories.lifecycle import (
    SQL_CONFIG,
    bind,
    end_job,
    events_of,
    make_allow_rule,
    register_plane,
    rows_of,
    transition,
    unbind,
)
from tests.factories.tenants import Tenant

# The matrix of GAP-089 once more, not taken from the code: state -> action -> target.
ONBOARDING: dict[str, dict[str, str]] = {
    "DRAFT": {"verify_knowledge_plane": "PENDING_VERIFY"},
    "PENDING_VERIFY": {"retry_knowledge_plane": "DRAFT"},
    "VERIFIED": {"ingest_knowledge_plane": "INGESTING"},
    "INGESTING": {"index_knowledge_plane": "INDEXED", "retry_knowledge_plane": "VERIFIED"},
    "INDEXED": {"classify_knowledge_plane": "CLASSIFIED"},
    "CLASSIFIED": {"request_activation": "PENDING_ACTIVATE"},
    "PENDING_ACTIVATE": {"activate_knowledge_plane": "ACTIVE", "retry_knowledge_plane": "CLASSIFIED"},
    "ACTIVE": {"deregister_knowledge_plane": "PENDING_DEACTIVATE"},
    "PENDING_DEACTIVATE": {
        "deactivate_knowledge_plane": "DEACTIVATED",
        "cancel_deregister_knowledge_plane": "ACTIVE",
    },
    "DEACTIVATED": {"archive_knowledge_plane": "ARCHIVED"},
    "ARCHIVED": {"purge_knowledge_plane": "PURGED"},
    "PURGED": {},
    "FAILED": {},
}
FINAL = ("PURGED", "FAILED")
UNFAILING = ("ACTIVE", *FINAL)
ACTIONS = sorted({action for edges in ONBOARDING.values() for action in edges} | {"job_complete"})
RULES = ("rule-1", "rule-2")


class PlaneHistory(RuleBasedStateMachine):
    """One plane, and what should have become of it."""

    tenant: Tenant
    connection: sa.Connection
    serial = 0

    @initialize()
    def register(self) -> None:
        config = SQL_CONFIG | {
            "declared_sensitivity": "internal",
            "auto_advance": False,
            "grace_period_days": 0,
        }
        self.plane_id = str(register_plane(self.tenant, config=config).plane_id)
        self.state, self.version, self.moves = "DRAFT", 1, 1
        self.bound: set[str] = set()
        self.suspended = self.job_done = self.approved = False

    @rule(action=st.sampled_from(ACTIONS))
    def move(self, action: str) -> None:
        expected = self._expect(action)
        reason = {"reason": "the end"} if action == "purge_knowledge_plane" else {}
        result = transition(self.tenant, self.plane_id, action, **reason)
        self.moves += 1
        assert result.error_code == expected
        if expected is None:
            self._enter(ONBOARDING[self.state][action])

    @rule()
    def go_on(self) -> None:
        """Take the way a plane usually goes, so that histories get somewhere."""
        if self.state in ("PENDING_VERIFY", "INGESTING", "ARCHIVED"):
            self.job_succeeds()
        if self.state == "ARCHIVED":
            self.approve()
        if self.state == "PENDING_ACTIVATE":
            self.bind_rule(RULES[0])
        if self.state == "PENDING_DEACTIVATE":
            for rule_id in sorted(self.bound):
                self.unbind_rule(rule_id)
        if self.state == "PENDING_VERIFY":
            self.verified_by_target()
        elif ONBOARDING[self.state]:
            self.move(next(iter(ONBOARDING[self.state])))

    @rule()
    def verified_by_target(self) -> None:
        result = transition(self.tenant, self.plane_id, to_state="VERIFIED")
        self.moves += 1
        if (self.state == "PENDING_VERIFY" and self.job_done) or self.state == "INGESTING":
            assert result.success
            self._enter("VERIFIED")
        else:
            waiting = self.state == "PENDING_VERIFY"
            assert result.error_code == ("JOB_INCOMPLETE" if waiting else "INVALID_TRANSITION")

    @rule(weary=st.integers(0, 7))
    def give_up(self, weary: int) -> None:
        """Fail the plane, now and then; from a final state begin with a new one."""
        if self.state in FINAL:
            self.register()
        elif weary == 0:
            result = transition(self.tenant, self.plane_id, "fail_knowledge_plane", reason="enough")
            self.moves += 1
            assert result.error_code == ("INVALID_ACTION" if self.state in UNFAILING else None)
            if result.success:
                self._enter("FAILED")

    @rule()
    def approve(self) -> None:
        payload = {"plane_id": self.plane_id, "reason": "seen"}
        result = self.tenant.dispatch("knowledge.planes.approve_purge", payload, actor_id="bob")
        assert result.error_code == (None if self.state == "ARCHIVED" else "PLANE_NOT_ARCHIVED")
        if result.success:
            self.approved = True
            self._changed(True)

    @rule()
    def job_succeeds(self) -> None:
        end_job(self.connection, self.tenant, self.plane_id)
        self.job_done = True

    @rule(rule_id=st.sampled_from(RULES))
    def bind_rule(self, rule_id: str) -> None:
        result = bind(self.tenant, self.plane_id, rule_id)
        if self.state not in ("PENDING_ACTIVATE", "ACTIVE"):
            assert result.error_code == "BINDING_NOT_ALLOWED"
        else:
            assert result.unwrap().changed is (rule_id not in self.bound)
            self._changed(rule_id not in self.bound)
            self.bound.add(rule_id)

    @rule(rule_id=st.sampled_from(RULES))
    def unbind_rule(self, rule_id: str) -> None:
        result = unbind(self.tenant, self.plane_id, rule_id)
        if self.state not in ("PENDING_ACTIVATE", "ACTIVE", "PENDING_DEACTIVATE"):
            assert result.error_code == "BINDING_NOT_ALLOWED"
        elif self.state == "ACTIVE" and self.bound == {rule_id}:
            assert result.error_code == "LAST_BINDING"
        else:
            assert result.unwrap().changed is (rule_id in self.bound)
            self._changed(rule_id in self.bound)
            self.bound.discard(rule_id)

    @rule(suspended=st.booleans())
    def suspend(self, suspended: bool) -> None:
        payload = {"plane_id": self.plane_id, "suspended": suspended, "reason": "drill"}
        result = self.tenant.dispatch("knowledge.planes.set_suspension", payload)
        if suspended and not self.suspended and self.state != "ACTIVE":
            assert result.error_code == "PLANE_NOT_ACTIVE"
        else:
            assert result.unwrap().changed is (suspended is not self.suspended)
            self._changed(suspended is not self.suspended)
            self.suspended = suspended

    @invariant()
    def the_database_agrees(self) -> None:
        (row,) = rows_of(self.connection, "knowledge_plane_registry", self.tenant, self.plane_id)
        assert State(row["lifecycle_state_value"]).name == self.state
        assert row["version"] == self.version
        assert (row["suspended_at"] is not None) is self.suspended
        bindings = rows_of(self.connection, "plane_policy_bindings", self.tenant, self.plane_id)
        assert {binding["policy_id"] for binding in bindings if binding["unbound_at"] is None} == self.bound
        if self.state == "ACTIVE":
            assert self.bound

    @invariant()
    def the_events_are_gapless_and_tell_every_attempt(self) -> None:
        events = events_of(self.connection, self.tenant, self.plane_id)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        attempts = ("LIFECYCLE_TRANSITION", "LIFECYCLE_ROLLBACK", "LIFECYCLE_BLOCKED")
        assert sum(event["event_type"] in attempts for event in events) == self.moves

    def _expect(self, action: str) -> str | None:
        if action not in ONBOARDING[self.state]:
            return "INVALID_ACTION"
        target = ONBOARDING[self.state][action]
        if self.state == "INGESTING" and target == "INDEXED" and not self.job_done:
            return "JOB_INCOMPLETE"
        if target == "ACTIVE" and not self.bound:
            return "POLICY_GATE_BLOCKED"
        if target == "DEACTIVATED" and self.bound:
            return "POLICY_GATE_BLOCKED"
        if target == "PURGED" and not (self.job_done and self.approved):
            return "POLICY_GATE_PENDING"
        return None

    def _enter(self, state: str) -> None:
        self.state, self.job_done = state, False
        self._changed(True)

    def _changed(self, changed: bool) -> None:
        self.version += changed


def test_random_histories_agree_with_the_model(second_connection: sa.Connection, tenant: Tenant) -> None:
    for rule_id in RULES:
        make_allow_rule(tenant, rule_id, condition=f"plane.plane_name != '{rule_id}'")
    members: dict[str, Any] = {"tenant": tenant, "connection": second_connection}
    run_state_machine_as_test(
        type("Histories", (PlaneHistory,), members),
        settings=settings(
            max_examples=8,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
