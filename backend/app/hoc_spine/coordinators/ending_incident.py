"""Spine: the incident that a failed or halted run's ending is, unless a rule prevents it."""

from __future__ import annotations

from collections.abc import Mapping

from app.db.connection import Row
from app.domains.activity.models.facts import Ending
from app.domains.activity.models.vocabulary import RunStatus, TerminationReason
from app.domains.incidents.models.records import IncidentDraft
from app.domains.incidents.models.vocabulary import CauseType, IncidentCategory, Severity, SourceType
from app.hoc_spine.coordinators.completion_rules import Governing

# Category and, where the caller names none, the error code of each reason to end.
_KINDS: Mapping[TerminationReason, tuple[IncidentCategory, str | None]] = {
    TerminationReason.SYSTEM_FAILURE: (IncidentCategory.EXECUTION_FAILURE, None),
    TerminationReason.TIMEOUT: (IncidentCategory.EXECUTION_FAILURE, "EXECUTION_TIMEOUT"),
    # A policy that stopped the run in time is no violation of one.
    TerminationReason.POLICY_BLOCK: (IncidentCategory.EXECUTION_FAILURE, "POLICY_BLOCK"),
    TerminationReason.BUDGET_EXCEEDED: (IncidentCategory.BUDGET_EXCEEDED, "BUDGET_EXCEEDED"),
    TerminationReason.RATE_LIMITED: (IncidentCategory.RATE_LIMIT, "RATE_LIMIT_EXCEEDED"),
    TerminationReason.USER_ABORT: (IncidentCategory.EXECUTION_FAILURE, "MANUAL_STOP"),
}


def incident_of_ending(
    run: Row, ending: Ending, governing: Governing, *, reason: str | None
) -> IncidentDraft:
    """Return the draft of the one incident of a failed or halted run; `reason` is its caller's, if any."""
    verb = "halted" if ending.status is RunStatus.HALTED else "failed"
    dedupe_key = f"{run['run_id']}:{run['attempt']}:outcome"
    if governing.snapshot is None:
        return IncidentDraft(
            title=f"Run {verb}: its policy snapshot is invalid",
            category=IncidentCategory.INTEGRITY,
            cause_type=CauseType.SYSTEM,
            source_type=SourceType.POLICY,
            severity=Severity.HIGH,
            error_code="SNAPSHOT_INVALID",
            description=reason,
            error_message=ending.error_message,
            trigger_ref=run["policy_snapshot_id"],
            dedupe_key=dedupe_key,
        )
    category, code = _KINDS[ending.termination_reason]
    error_code = ending.error_code or code
    return IncidentDraft(
        title=f"Run {verb}: {error_code or ending.termination_reason.value}",
        category=category,
        cause_type=CauseType.LLM_RUN,
        source_type=SourceType.RUN,
        error_code=error_code,
        description=reason,
        error_message=ending.error_message,
        dedupe_key=dedupe_key,
    )
