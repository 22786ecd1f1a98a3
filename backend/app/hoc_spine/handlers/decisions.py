"""Spine L4: decisions of the caller's own, recorded from their facts, and all decisions shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from pydantic import ValidationError

from app.domains.activity.engines import runs
from app.domains.activity.errors import cited_run_not_found
from app.domains.decisions.engines import decisions as engine
from app.domains.decisions.engines import emitting
from app.domains.decisions.engines.emitting import About, Emitted
from app.domains.decisions.errors import DecisionRacedError, source_forbidden
from app.domains.decisions.models.facts import (
    BudgetEnforcementFacts,
    BudgetFacts,
    CareFacts,
    EmitDecision,
    EmittedDecision,
    MemoryFacts,
    PolicyFacts,
    PolicyPrecheckFacts,
    RecoveryEvaluationFacts,
    RecoveryFacts,
    RoutingFacts,
)
from app.domains.decisions.models.records import DecisionPath, DecisionView, ListDecisions
from app.domains.decisions.models.vocabulary import DecisionSource
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.hoc_spine.payload import refusal_of
from app.kernel.canonical_json import dumps
from app.kernel.inputs import Input
from app.kernel.pages import Page, page_of, read_cursor
from app.kernel.redaction import redact_json, redact_text

Emitter = Callable[..., Emitted | None]
EMITTERS: Mapping[str, tuple[type[Input], Emitter]] = {
    "ROUTING": (RoutingFacts, emitting.emit_routing_decision),
    "RECOVERY": (RecoveryFacts, emitting.emit_recovery_decision),
    "MEMORY": (MemoryFacts, emitting.emit_memory_decision),
    "POLICY": (PolicyFacts, emitting.emit_policy_decision),
    "BUDGET": (BudgetFacts, emitting.emit_budget_decision),
    "BUDGET_ENFORCEMENT": (BudgetEnforcementFacts, emitting.emit_budget_enforcement_decision),
    "POLICY_PRE_CHECK": (PolicyPrecheckFacts, emitting.emit_policy_precheck_decision),
    "RECOVERY_EVALUATION": (RecoveryEvaluationFacts, emitting.emit_recovery_evaluation_decision),
    "CARE_ROUTING_OPTIMIZED": (CareFacts, emitting.emit_care_optimization_decision),
}


def emit_decision(ctx: OperationContext, payload: EmitDecision) -> EmittedDecision:
    """Record a decision whose outcome follows from its facts; the caller states none.

    Refuses DECISION_CONFLICT for a known decision of other facts, CARE_SIGNAL_FORBIDDEN, and
    REFERENCE_NOT_FOUND for a run that is not there.
    """
    model, emitter = EMITTERS[payload.decision_type]
    try:
        facts = model.model_validate_json(dumps(redact_json(payload.facts)[0]), strict=True)
    except ValidationError as error:
        raise refusal_of(error, under=("facts",)) from None
    about = _about(ctx, payload)
    try:
        with ctx.savepoint():
            emitted = emitter(ctx, facts, about)
    except DecisionRacedError:
        # Another request recorded it after our look; now it is there, equal or in conflict.
        emitted = emitter(ctx, facts, about)
    if emitted is None:
        return EmittedDecision(result="NONE", decision=None)
    return EmittedDecision(
        result="KNOWN" if emitted.known else "RECORDED",
        decision=engine.get(ctx.connection, tenant_id=ctx.tenant_id, decision_id=emitted.decision_id),
    )


def _about(ctx: OperationContext, payload: EmitDecision) -> About:
    # Only a person's key may say that a person decided.
    if payload.decision_source is not DecisionSource.SYSTEM and ctx.actor.type != "HUMAN":
        raise source_forbidden(payload.decision_source)
    run_id, attempt = payload.run_id or ctx.request.run_id, None
    if run_id is not None:
        if not runs.run_exists(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id):
            raise cited_run_not_found()
        _, attempt = runs.lock_run_state(ctx.connection, tenant_id=ctx.tenant_id, run_id=run_id)
    return About(
        reason=redact_text(payload.decision_reason)[0],
        source=payload.decision_source,
        run_id=run_id,
        attempt=attempt,
        request_id=payload.request_id or ctx.request.request_id,
        workflow_id=payload.workflow_id,
        details=redact_json(payload.details)[0],
    )


def list_decisions(ctx: OperationContext, payload: ListDecisions) -> Page[DecisionView]:
    """Return decisions newest first."""
    filters = payload.model_dump(mode="json", exclude={"limit", "cursor"})
    binding = dumps([ctx.tenant_id, "decisions.list", filters])
    found = engine.list_page(
        ctx.connection,
        payload,
        tenant_id=ctx.tenant_id,
        before=read_cursor(payload.cursor, binding, datetime, str),
        limit=payload.limit + 1,
    )
    return page_of(
        found,
        limit=payload.limit,
        binding=binding,
        key=lambda row: (row["decided_at"], row["decision_id"]),
        view=engine.view,
    )


def get_decision(ctx: OperationContext, payload: DecisionPath) -> DecisionView:
    """Return one decision; refuse DECISION_NOT_FOUND."""
    return engine.get(ctx.connection, tenant_id=ctx.tenant_id, decision_id=payload.decision_id)


declare = OperationsOf("decisions")
OPERATIONS = (
    declare.write(
        "decisions.emit",
        EmitDecision,
        EmittedDecision,
        emit_decision,
        gate="fact",
        creates=True,
        no_audit="the decision is a governed fact itself",
    ),
    declare.read("decisions.list", ListDecisions, Page[DecisionView], list_decisions),
    declare.read("decisions.get", DecisionPath, DecisionView, get_decision),
)
