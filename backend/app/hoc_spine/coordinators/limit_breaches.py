"""Spine: what the crossing of a limit leads to: breach, signal, ledger entry, incident, the run's risk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.db.connection import Row
from app.domains.activity.engines import runs, signals
from app.domains.activity.models.facts import Projections
from app.domains.activity.models.vocabulary import OutcomeKind, RiskLevel
from app.domains.controls.engines import breaches, limits
from app.domains.controls.models.usage import BreachView, LimitFinding
from app.domains.controls.models.vocabulary import LimitCategory, LimitConsequence
from app.domains.incidents.models.records import IncidentDraft
from app.domains.incidents.models.vocabulary import CauseType, IncidentCategory, Severity, SourceType
from app.domains.policies.engines.snapshots import CompiledSnapshot
from app.hoc_spine.coordinators.incident_opening import Opened, open_incident
from app.hoc_spine.operation_context import OperationContext
from app.kernel.amounts import as_number

_DETECTOR: Final = "limit-ledger"
_CATEGORIES: Final = {
    LimitCategory.BUDGET: (IncidentCategory.BUDGET_EXCEEDED, "BUDGET_EXCEEDED"),
    LimitCategory.RATE: (IncidentCategory.RATE_LIMIT, "RATE_LIMIT_EXCEEDED"),
    LimitCategory.THRESHOLD: (IncidentCategory.RESOURCE_EXHAUSTION, "RESOURCE_EXHAUSTION"),
}


@dataclass(frozen=True, slots=True)
class RecordedBreach:
    """A first crossing as recorded; `outcome` is the incident that it opened, or what prevented it."""

    limit_id: str
    view: BreachView
    outcome: tuple[OutcomeKind, str | None] | None = None


def ordered(findings: Sequence[LimitFinding]) -> tuple[LimitFinding, ...]:
    """Return findings in the order in which everybody takes what they touch."""
    return tuple(sorted(findings, key=lambda finding: (finding.limit_id, finding.window_key)))


def record_breaches(
    ctx: OperationContext,
    run: Row,
    findings: Sequence[LimitFinding],
    *,
    attempt: int | None = None,
    snapshot: CompiledSnapshot | None,
    decision_id: str | None = None,
    source_ref: str | None = None,
) -> list[RecordedBreach]:
    """Record the first crossings among exceeded limits: row, signal, ledger entry, leaf, incident.

    With a decision they are refusals, without one recorded use. What this run has crossed before in the
    same window is left out.
    """
    made = breaches.record(
        ctx,
        ordered(findings),
        run_id=run["run_id"],
        attempt=attempt or run["attempt"],
        decision_id=decision_id,
        source_ref=source_ref,
    )
    if not made:
        return []
    for finding, row in made:
        _signal(ctx, run, "limit_breach", finding, {"breach_id": row["breach_id"]})
    # Shared locks: the image below is of the row that stays until this transaction ends.
    held = limits.lock_shared(
        ctx.connection, tenant_id=ctx.tenant_id, limit_ids=[row["limit_id"] for _, row in made]
    )
    for finding, row in made:
        limit = limits.image(held[finding.limit_id])
        ctx.audit(
            "LimitBreached",
            "LIMIT",
            finding.limit_id,
            after=limit | {"breach": breaches.image(row)},
            run_id=run["run_id"],
        )
    _raise_risk(ctx, run, RiskLevel.AT_RISK)
    recorded = []
    for finding, row in made:
        outcome = None
        if finding.rule.consequence is LimitConsequence.INCIDENT:
            outcome = _outcome(open_incident(ctx, _incident(finding, row), run=run, snapshot=snapshot))
        view = breaches.view(row, limit_name=finding.name)
        recorded.append(RecordedBreach(finding.limit_id, view, outcome))
    return recorded


def _outcome(opened: Opened) -> tuple[OutcomeKind, str | None]:
    if opened.incident is None:
        return OutcomeKind.PREVENTION, opened.prevention_id
    return OutcomeKind.INCIDENT, opened.incident["incident_id"]


def _incident(finding: LimitFinding, breach: Row) -> IncidentDraft:
    category, code = _CATEGORIES[finding.rule.category]
    value, most = as_number(finding.value), as_number(finding.max_value)
    return IncidentDraft(
        title=f"Limit exceeded: {finding.name}"[:255],
        category=category,
        cause_type=CauseType.LLM_RUN,
        source_type=SourceType.LIMIT,
        severity=Severity.MEDIUM,
        error_code=code,
        description=f"{finding.metric.value} {value} over {most} in window {finding.window_key}.",
        trigger_ref=finding.limit_id,
        attempt=breach["attempt"],
        dedupe_key=f"{breach['run_id']}:{breach['attempt']}:{finding.limit_id}",
    )


def signal_near(ctx: OperationContext, run: Row, findings: Sequence[LimitFinding]) -> None:
    """Tell of the limits that this use has brought to 80 %."""
    near = [finding for finding in ordered(findings) if finding.crossed_near]
    for finding in near:
        _signal(ctx, run, "limit_near_threshold", finding, {})
    if near:
        _raise_risk(ctx, run, RiskLevel.NEAR_THRESHOLD)


def _signal(
    ctx: OperationContext, run: Row, kind: str, finding: LimitFinding, more: Mapping[str, Any]
) -> None:
    signals.emit_signal(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        artifact=f"limit:{finding.limit_id}",
        signal_type=kind,
        evidence={
            "run_id": run["run_id"],
            "metric": finding.metric.value,
            "value": as_number(finding.value),
            "max_value": as_number(finding.max_value),
            "window_key": finding.window_key,
            **more,
        },
        detected_by=_DETECTOR,
        now=ctx.now,
        signal_id=ctx.new_id("sig"),
        run_id=run["run_id"],
    )


def _raise_risk(ctx: OperationContext, run: Row, risk: RiskLevel) -> None:
    runs.raise_projections(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        run_id=run["run_id"],
        raised=Projections(risk=risk),
        now=ctx.now,
    )
