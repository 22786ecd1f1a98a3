"""L5 gates of the lifecycle: facts in, a decision with every check out; nothing is read here (GAP-089)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.domains.knowledge.models.vocabulary import (
    GateDecision,
    JobStatus,
)
from app.kernel.clock import format_time

SHOWN_IDS = 20
"""How many ids of dependents a check names; the count is always exact."""


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One check of a gate: passed, or the decision and the action it asks for."""

    check: str
    passed: bool
    decision: GateDecision
    required_action: str | None = None
    not_before: datetime | None = None
    skipped: bool = False
    count: int | None = None
    ids: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the check as JSON values."""
        return {
            "check": self.check,
            "passed": self.passed,
            "decision": self.decision.value,
            "required_action": self.required_action,
            "not_before": None if self.not_before is None else format_time(self.not_before),
            "skipped": self.skipped,
            "count": self.count,
            "ids": list(self.ids),
        }


@dataclass(frozen=True, slots=True)
class GateResult:
    """The decision of a gate: that of its first failing check, with all checks listed."""

    decision: GateDecision
    reason: str
    required_action: str | None
    not_before: datetime | None
    checks: tuple[GateCheck, ...]

    @property
    def allowed(self) -> bool:
        """Tell whether the edge is free."""
        return self.decision is GateDecision.ALLOWED

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values, as answers and events carry it."""
        return {
            "decision": self.decision.value,
            "reason": self.reason,
            "required_action": self.required_action,
            "not_before": None if self.not_before is None else format_time(self.not_before),
            "checks": [check.as_json() for check in self.checks],
        }


@dataclass(frozen=True, slots=True)
class DeactivationFacts:
    """What the gate to DEACTIVATED looks at."""

    live_policy_ids: Sequence[str]
    grace_until: datetime | None
    running_run_ids: Sequence[str]
    running_run_count: int


@dataclass(frozen=True, slots=True)
class Approval:
    """A consent to purge."""

    approval_id: str
    approved_by: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class PurgeFacts:
    """What the gate to PURGED looks at; approvals newest first."""

    hold_ids: Sequence[str]
    archive_status: JobStatus | None
    retention_until: datetime | None
    approvals: Sequence[Approval]


def decide_activation(*, active_allow_rules: int, may_bind: bool) -> GateResult:
    """Return the gate to ACTIVE: one bound ACTIVE ACCESS rule with effect ALLOW (LIFECYCLE-004).

    On the way back from PENDING_DEACTIVATE binding is closed, so nothing can be asked for.
    """
    passed = active_allow_rules > 0
    check = GateCheck(
        check="bound_policy",
        passed=passed,
        decision=_decision(passed, GateDecision.BLOCKED),
        required_action="bind_policy" if not passed and may_bind else None,
        count=active_allow_rules,
    )
    return _conclude([check], {"bound_policy": "no bound ACTIVE ACCESS rule allows anything"})


def decide_deactivation(facts: DeactivationFacts, *, now: datetime, force: bool) -> GateResult:
    """Return the gate to DEACTIVATED: nothing bound, grace period over, no run that reads (LIFECYCLE-006)."""
    bound = len(facts.live_policy_ids)
    waiting = facts.grace_until is not None and now < facts.grace_until
    running = facts.running_run_count
    checks = [
        GateCheck(
            check="policies_unbound",
            passed=bound == 0,
            decision=_decision(bound == 0, GateDecision.BLOCKED),
            required_action=None if bound == 0 else "unbind_policies",
            count=bound,
            ids=tuple(facts.live_policy_ids[:SHOWN_IDS]),
        ),
        GateCheck(
            check="grace_period",
            passed=force or not waiting,
            decision=_decision(force or not waiting, GateDecision.PENDING),
            required_action="wait_grace_period" if waiting and not force else None,
            not_before=facts.grace_until if waiting else None,
            skipped=force,
        ),
        GateCheck(
            check="running_runs",
            passed=force or running == 0,
            decision=_decision(force or running == 0, GateDecision.PENDING),
            required_action="wait_running_runs" if running and not force else None,
            skipped=force,
            count=running,
            ids=tuple(facts.running_run_ids[:SHOWN_IDS]),
        ),
    ]
    return _conclude(
        checks,
        {
            "policies_unbound": "policies are still bound",
            "grace_period": "the grace period is not over",
            "running_runs": "running runs have read this plane",
        },
    )


def decide_purge(facts: PurgeFacts, *, now: datetime, actor_id: str, allow_self_approval: bool) -> GateResult:
    """Return the gate to PURGED: no hold, archive finished, retention over, another person's consent."""
    archived = facts.archive_status is JobStatus.SUCCEEDED
    archive_action = "retry_job" if facts.archive_status is JobStatus.FAILED else "await_job"
    retained = facts.retention_until is not None and now < facts.retention_until
    consented = (
        find_approval(facts.approvals, now=now, actor_id=actor_id, allow_self_approval=allow_self_approval)
        is not None
    )
    checks = [
        GateCheck(
            check="legal_hold",
            passed=not facts.hold_ids,
            decision=_decision(not facts.hold_ids, GateDecision.BLOCKED),
            required_action="release_hold" if facts.hold_ids else None,
            count=len(facts.hold_ids),
            ids=tuple(facts.hold_ids[:SHOWN_IDS]),
        ),
        GateCheck(
            check="archive",
            passed=archived,
            decision=_decision(archived, GateDecision.PENDING),
            required_action=None if archived else archive_action,
        ),
        GateCheck(
            check="retention",
            passed=not retained,
            decision=_decision(not retained, GateDecision.PENDING),
            required_action="wait_retention" if retained else None,
            not_before=facts.retention_until if retained else None,
        ),
        GateCheck(
            check="approval",
            passed=consented,
            decision=_decision(consented, GateDecision.PENDING),
            required_action=None if consented else "get_purge_approval",
        ),
    ]
    return _conclude(
        checks,
        {
            "legal_hold": "a legal hold covers the plane",
            "archive": "the archive is not complete",
            "retention": "the retention period is not over",
            "approval": "no unexpired approval of another person",
        },
    )


def find_approval(
    approvals: Sequence[Approval], *, now: datetime, actor_id: str, allow_self_approval: bool
) -> Approval | None:
    """Return the newest approval that this actor may use now, or None."""
    for approval in approvals:
        if now < approval.expires_at and (allow_self_approval or approval.approved_by != actor_id):
            return approval
    return None


def _decision(passed: bool, otherwise: GateDecision) -> GateDecision:
    return GateDecision.ALLOWED if passed else otherwise


def _conclude(checks: list[GateCheck], reasons: dict[str, str]) -> GateResult:
    failing = next((check for check in checks if not check.passed), None)
    if failing is None:
        return GateResult(GateDecision.ALLOWED, "all checks passed", None, None, tuple(checks))
    return GateResult(
        failing.decision, reasons[failing.check], failing.required_action, failing.not_before, tuple(checks)
    )
