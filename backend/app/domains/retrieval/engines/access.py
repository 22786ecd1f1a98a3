"""Retrieval L5: the deny-by-default judgement around the rules: tenant, run, plane; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.domains.retrieval.models import Outcome, Reason

ACTIVE_STATE = 200
MAX_PAYLOAD_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class LiveFacts:
    """What must still be true when the evidence is committed."""

    tenant_active: bool
    halted: bool
    run_status: str | None
    run_attempt: int | None
    plane_state: int | None
    suspended: bool
    config_digest: str | None
    live_epoch: int


@dataclass(slots=True)
class Attempt:
    """One access on its way: judged, executed, then recorded."""

    evidence_id: str
    requested_at: datetime
    query_hash: str
    outcome: Outcome = Outcome.DENIED
    reason: Reason = Reason.INTERNAL_ERROR
    revoked_in_flight: bool = False
    run: Mapping[str, Any] | None = None
    plane: Mapping[str, Any] | None = None
    plane_config: Mapping[str, Any] = field(default_factory=dict)
    live_epoch: int = 0
    live: LiveFacts | None = None
    journaled: bool = False
    snapshot_hash: str | None = None
    matched_rules: list[dict[str, Any]] = field(default_factory=list)
    max_documents: int | None = None
    max_tokens: int | None = None
    max_response_bytes: int | None = None
    documents: list[dict[str, Any]] = field(default_factory=list)
    citations: list[dict[str, Any]] = field(default_factory=list)
    answer: dict[str, Any] = field(default_factory=dict)
    token_count: int = 0
    bytes_returned: int = 0
    truncated: bool = False

    def settle(self, outcome: Outcome, reason: Reason) -> None:
        """Decide the attempt; anything but ALLOWED drops its data."""
        self.outcome, self.reason = outcome, reason
        if outcome is not Outcome.ALLOWED:
            self.documents, self.citations, self.answer = [], [], {}
            self.token_count = self.bytes_returned = 0
            self.truncated = False


def check_live(facts: LiveFacts, *, attempt: int | None) -> Reason | None:
    """Return the first reason that stops an access to this run and plane, None when nothing does."""
    if not facts.tenant_active:
        return Reason.TENANT_INACTIVE
    if facts.halted:
        return Reason.KILL_SWITCH
    if facts.run_status is None:
        return Reason.RUN_NOT_FOUND
    if facts.run_status != "running":
        return Reason.RUN_NOT_RUNNING
    if attempt is not None and attempt != facts.run_attempt:
        return Reason.ATTEMPT_MISMATCH
    if facts.plane_state is None:
        return Reason.PLANE_NOT_FOUND
    if facts.plane_state != ACTIVE_STATE:
        return Reason.PLANE_NOT_ACTIVE
    if facts.suspended:
        return Reason.PLANE_SUSPENDED
    return None


def check_unchanged(attempt: Attempt, facts: LiveFacts) -> Reason | None:
    """Return why an allowed access may no longer answer: something changed since it was judged."""
    run, plane = attempt.run or {}, attempt.plane or {}
    reason = check_live(facts, attempt=run.get("attempt"))
    if reason is None and facts.config_digest != plane.get("config_digest"):
        return Reason.PLANE_CHANGED
    return reason


def condition_inputs(
    attempt: Attempt,
    *,
    labels: Mapping[str, Any],
    action: str,
    purpose: str | None,
    template_id: str | None,
    step_index: int | None,
    actor_id: str,
) -> dict[str, Any]:
    """Return the names that an ACCESS rule's condition may read."""
    run, plane = attempt.run or {}, attempt.plane or {}
    return {
        "run": {
            **{
                name: run.get(name)
                for name in ("run_id", "agent_id", "project_id", "actor_type", "origin_system_id", "attempt")
            },
            "labels": dict(labels),
        },
        "plane": {
            name: plane.get(name)
            for name in (
                "plane_id",
                "plane_type",
                "plane_name",
                "connector_type",
                "sensitivity_level",
                "pii_detected",
            )
        },
        "request": {
            "action": action,
            "purpose": purpose,
            "actor_id": actor_id,
            "template_id": template_id,
            "step_index": step_index,
        },
        "now": attempt.requested_at,
    }


def smallest(*caps: int | None) -> int | None:
    """Return the least of the caps that are set."""
    return min((cap for cap in caps if cap is not None), default=None)
