"""Spine: halt a running run because a rule or a limit that halts has spoken, in its own transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from app.domains.activity.engines import runs
from app.domains.activity.models.vocabulary import OutcomeKind, TerminationReason
from app.domains.controls.models.usage import LimitFinding
from app.domains.controls.models.vocabulary import LimitCategory
from app.hoc_spine.coordinators.incident_opening import find_explanation
from app.hoc_spine.coordinators.run_completion import halt_by_rule
from app.hoc_spine.operation_context import OperationContext

_REASONS: Final[Mapping[LimitCategory, TerminationReason]] = {
    LimitCategory.BUDGET: TerminationReason.BUDGET_EXCEEDED,
    LimitCategory.RATE: TerminationReason.RATE_LIMITED,
    LimitCategory.THRESHOLD: TerminationReason.BUDGET_EXCEEDED,
}


def halt_on_rule(
    ctx: OperationContext, run_id: str, *, rule_id: str, prevention_id: str, stopped_at_step: int
) -> None:
    """Halt a run that is held; the STOPPED record of the rule is the one that explains it."""
    halt_by_rule(
        ctx,
        runs.require_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id),
        reason=TerminationReason.POLICY_BLOCK,
        stopped_at_step=stopped_at_step,
        violation_rule_id=rule_id,
        outcome=(OutcomeKind.PREVENTION, prevention_id),
    )


def halt_on_limit(ctx: OperationContext, run_id: str, finding: LimitFinding, *, stopped_at_step: int) -> None:
    """Halt a run that is held; what became of its breach explains it, or else the halt opens an incident."""
    run = runs.require_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id)
    halt_by_rule(
        ctx,
        run,
        reason=_REASONS[finding.rule.category],
        stopped_at_step=stopped_at_step,
        violation_rule_id=finding.limit_id,
        outcome=find_explanation(ctx, f"{run_id}:{run['attempt']}:{finding.limit_id}"),
    )
