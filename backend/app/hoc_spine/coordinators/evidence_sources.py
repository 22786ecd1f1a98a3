"""Spine: the sources of a run's evidence, each read on its own, so that one that fails fails alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from app.db.connection import Row
from app.domains.activity.engines import evaluation
from app.domains.controls.engines import breaches
from app.domains.decisions.engines import decisions
from app.domains.incidents.engines import run_incidents
from app.domains.policies.engines import preventions
from app.domains.retrieval.engines import evidence as retrievals
from app.hoc_spine.coordinators.repository_runs import list_run_artifacts
from app.hoc_spine.coordinators.run_evidence import (
    MAX_ITEMS,
    DecisionMade,
    IncidentCaused,
    LimitHit,
    PolicyEvaluated,
    SourceRead,
    read_source,
)
from app.hoc_spine.operation_context import OperationContext
from app.kernel.amounts import as_number

Reader = Callable[[OperationContext, str], SourceRead]
_log = structlog.get_logger(__name__)


def read_sources(ctx: OperationContext, run_id: str) -> dict[str, SourceRead]:
    """Return what each source says of the run; the statement of one that fails is taken back alone."""
    return {name: _read(ctx, name, reader, run_id) for name, reader in READERS.items()}


def _read(ctx: OperationContext, name: str, reader: Reader, run_id: str) -> SourceRead:
    def in_savepoint() -> SourceRead:
        with ctx.savepoint():
            return reader(ctx, run_id)

    def log(error: Exception) -> None:
        _log.error("run_evidence.source_failed", source=name, error=type(error).__name__)

    return read_source(in_savepoint, log)


def _of(
    list_run: Callable[..., Sequence[Any]], count_run: Callable[..., int], view: Callable[[Any], Any]
) -> Reader:
    def reader(ctx: OperationContext, run_id: str) -> SourceRead:
        found = list_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id, limit=MAX_ITEMS)
        total = len(found)
        if total == MAX_ITEMS:
            total = count_run(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id)
        return SourceRead(items=[view(item) for item in found], total=total)

    return reader


def _incident(row: Row) -> IncidentCaused:
    return IncidentCaused(
        incident_id=row["incident_id"],
        severity=row["severity"],
        title=row["title"] or "Untitled",
        lifecycle_state=row["lifecycle_state"],
        created_at=row["created_at"],
    )


def _prevention(row: Row) -> PolicyEvaluated:
    return PolicyEvaluated(
        prevention_id=row["prevention_id"],
        policy_id=row["rule_id"],
        policy_name=row["policy_name"],
        outcome=row["outcome"],
        evaluated_at=row["created_at"],
    )


def _breach(row: Row) -> LimitHit:
    # Both values are the breach's own: the limit may have been changed since.
    return LimitHit(
        breach_id=row["breach_id"],
        limit_id=row["limit_id"],
        limit_name=row["limit_name"],
        breached_value=as_number(row["value_at_breach"]),
        threshold_value=as_number(row["limit_value"]),
        breach_type=row["breach_type"],
        breached_at=row["breached_at"],
    )


def _decision(row: Row) -> DecisionMade:
    return DecisionMade(
        decision_id=row["decision_id"],
        decision_type=row["decision_type"],
        outcome=row["decision_outcome"],
        decided_at=row["decided_at"],
        attempt=row["attempt"],
    )


def _evaluations(ctx: OperationContext, run_id: str) -> SourceRead:
    found = evaluation.list_evaluations(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id)
    return SourceRead(items=list(reversed(found)))


def _artifacts(ctx: OperationContext, run_id: str) -> SourceRead:
    items, total = list_run_artifacts(ctx, run_id, limit=MAX_ITEMS)
    return SourceRead(items=items, total=total)


READERS: Mapping[str, Reader] = {
    "incidents": _of(run_incidents.list_run, run_incidents.count_run, _incident),
    "policies": _of(preventions.list_run, preventions.count_run, _prevention),
    "limits": _of(breaches.list_run, breaches.count_run, _breach),
    "decisions": _of(decisions.list_run, decisions.count_run, _decision),
    "policy_evaluations": _evaluations,
    "retrievals": _of(retrievals.list_run, retrievals.count_run, retrievals.view),
    "artifacts": _artifacts,
}
