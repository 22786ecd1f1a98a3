"""Spine: the operation that judges a run's action before it is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.domains.activity.errors import run_not_found, run_not_running
from app.domains.activity.models.vocabulary import RunStatus
from app.domains.decisions.engines.recording import inputs_digest
from app.domains.decisions.models.vocabulary import DecisionOutcome
from app.domains.policies.errors import check_conflict
from app.domains.policies.models.checks import CheckResult, CheckRun, Verdict
from app.hoc_spine.coordinators.check_judgement import PreparedCheck, judge_check
from app.hoc_spine.coordinators.run_check import look_at_check, prepare_check, record_check, unrecorded
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.hoc_spine.operation_registry import OperationsOf, Settlement
from app.kernel.canonical_json import loads

_VERDICTS: Mapping[str, Verdict] = {
    DecisionOutcome.ALLOWED: Verdict.ALLOW,
    DecisionOutcome.AUDITED: Verdict.ALLOW,
    DecisionOutcome.WARNED: Verdict.WARN,
}


def check_run(ctx: OperationContext, command: CheckRun) -> CheckResult:
    """Judge one action of a running run and record the judgement.

    Refuses RUN_NOT_FOUND, RUN_NOT_RUNNING, and CHECK_CONFLICT for a check_id of another content.
    """
    prepared: PreparedCheck = ctx.prepared
    if prepared.facts is None:
        # Joined to another unit there was no first look; and a retry that we waited for had moved the
        # run to a trace that the first look could not see.
        look_at_check(ctx, command)
    facts = prepared.facts
    if facts is None:
        raise run_not_found()
    if facts.earlier is not None:
        return _replayed(ctx, prepared, facts.earlier, facts.run)
    if facts.run["status"] != RunStatus.RUNNING:
        raise run_not_running(command.run_id, facts.run["status"])
    return record_check(ctx, prepared, facts, judge_check(ctx, prepared, facts))


def _replayed(
    ctx: OperationContext, prepared: PreparedCheck, earlier: Mapping[str, Any], run: Mapping[str, Any]
) -> CheckResult:
    if earlier["inputs_digest"] != inputs_digest(ctx.digest_key(), prepared.inputs):
        raise check_conflict(earlier["decision_id"])
    if earlier["details"] is not None:
        return CheckResult.model_validate(loads(earlier["details"])["answer"], strict=False)
    # The answer was erased with the personal data in it; its verdict was not.
    outcome = earlier["decision_outcome"]
    return CheckResult(
        decision_id=earlier["decision_id"],
        verdict=_VERDICTS.get(outcome, Verdict.BLOCK),
        outcome=outcome,
        reasons=[],
        limits=[],
        run_status=run["status"],
        decided_at=earlier["decided_at"],
    )


def _is_recorded(_ctx: PrepareContext, _prepared: PreparedCheck) -> bool:
    # The second try finds the record by its key and answers from it, or makes it.
    return False


declare = OperationsOf("policies", "runs")
OPERATIONS = (
    declare.write(
        "runs.check",
        CheckRun,
        CheckResult,
        check_run,
        prepare=prepare_check,
        look=look_at_check,
        gate="fact",
        settlement=Settlement(_is_recorded, unrecorded),
        no_audit="the decision record is the record",
    ),
)
