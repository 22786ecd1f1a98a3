"""Spine: what an attempt that ends leaves behind, asked of all slices in one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.db.connection import Row
from app.db.gather import Finding, gather
from app.domains.activity.models.vocabulary import RiskLevel
from app.domains.controls.engines import attempt_end as controls
from app.domains.controls.engines.judging import NEAR_PCT, Standing
from app.domains.controls.models.limits import LimitRule
from app.domains.controls.models.vocabulary import LimitCategory
from app.domains.decisions.engines import attempt_end as decisions
from app.domains.incidents.engines import incidents
from app.domains.policies.engines import preventions
from app.domains.policies.models.vocabulary import PreventionOutcome
from app.domains.repository.engines import operation_runs
from app.domains.traces.engines import traces
from app.hoc_spine.operation_context import OperationContext
from app.kernel.amounts import Metric

_STOPS = (PreventionOutcome.BLOCKED, PreventionOutcome.STOPPED)


@dataclass(frozen=True, slots=True)
class JudgingLimit:
    """A judging limit at the end of an attempt: what is committed of what is in force, in millionths."""

    rule: LimitRule
    value: int
    most: int

    @property
    def percent(self) -> float:
        return self.value * 100 / self.most

    @property
    def is_budget(self) -> bool:
        return self.rule.category is LimitCategory.BUDGET


@dataclass(frozen=True, slots=True)
class AttemptFindings:
    """What an attempt leaves behind; incidents are counted by category, preventions by outcome."""

    traces: Sequence[Finding]
    incidents: Mapping[str, int]
    preventions: Mapping[str, int]
    breaches: Sequence[str]
    blocking_decisions: Sequence[str]
    open_reservations: int
    has_operation_run: bool
    limits: Sequence[JudgingLimit]

    def step_count(self, attempt: int) -> int:
        """Return the steps of an attempt of the run."""
        return next((trace.number or 0 for trace in self.traces if trace.text == str(attempt)), 0)

    @property
    def risk(self) -> RiskLevel:
        """How near to trouble the attempt came."""
        if self.breaches or any(self.preventions.get(outcome) for outcome in _STOPS):
            return RiskLevel.AT_RISK
        if any(limit.value * 100 >= limit.most * NEAR_PCT for limit in self.limits):
            return RiskLevel.NEAR_THRESHOLD
        return RiskLevel.NORMAL


def find_attempt(ctx: OperationContext, run: Row, standing: Standing) -> AttemptFindings:
    """Return what the current attempt of a locked run leaves behind; `standing` is that of its limits."""
    of_run = {"tenant_id": ctx.tenant_id, "run_id": run["run_id"]}
    of_attempt = {**of_run, "attempt": run["attempt"]}
    found = gather(
        ctx.connection,
        [
            traces.ask_traces(ctx.connection, **of_run),
            incidents.ask_attempt(ctx.connection, **of_attempt),
            preventions.ask_attempt(ctx.connection, **of_attempt),
            decisions.ask_blocking(ctx.connection, **of_attempt),
            operation_runs.ask_open_run(ctx.connection, **of_run),
            *controls.ask_end(ctx.connection, standing, **of_attempt),
        ],
    )
    by: dict[str, list[Finding]] = {}
    for row in found:
        by.setdefault(row.source, []).append(row)
    return AttemptFindings(
        traces=by.get("trace", ()),
        incidents=_counts(by.get("incident", ())),
        preventions=_counts(by.get("prevention", ())),
        breaches=_refs(by.get("breach", ())),
        blocking_decisions=_refs(by.get("decision", ())),
        open_reservations=sum(row.number or 0 for row in by.get("reservation", ())),
        has_operation_run="operation_run" in by,
        limits=_limits(standing, {row.ref: row.number or 0 for row in by.get("counter", ())}),
    )


def _limits(standing: Standing, committed: Mapping[str | None, int]) -> list[JudgingLimit]:
    found = []
    for rule in standing.rules:
        if rule.limit_id in standing.judging:
            is_clock = rule.metric is Metric.RUN_TIME_MS
            value = standing.elapsed if is_clock else committed.get(rule.limit_id, 0)
            found.append(JudgingLimit(rule, value, standing.most(rule)))
    return found


def _counts(rows: Sequence[Finding]) -> dict[str, int]:
    return {str(row.word): row.number or 0 for row in rows}


def _refs(rows: Sequence[Finding]) -> list[str]:
    return sorted(str(row.ref) for row in rows)
