"""Spine handlers: policies: what rules have done and would do; all of it is read."""

from __future__ import annotations

from app.db.connection import Row
from app.domains.activity.engines import run_counts
from app.domains.activity.models.runs import EvaluationView
from app.domains.incidents.engines import incident_views, signatures
from app.domains.lessons.engines import lessons
from app.domains.policies.engines import effects
from app.domains.policies.models.judgements import (
    EffectChain,
    ListEvaluations,
    ListPreventions,
    PreventionView,
    RuleEffect,
    Simulate,
    Simulated,
)
from app.domains.policies.models.rules import RuleRef
from app.hoc_spine.coordinators import policy_simulation
from app.hoc_spine.operation_context import OperationContext
from app.hoc_spine.operation_registry import OperationsOf
from app.kernel.pages import Page


def list_preventions(ctx: OperationContext, given: ListPreventions) -> Page[PreventionView]:
    """List prevention records, newest first."""
    return effects.list_prevention_views(ctx.connection, given, tenant_id=ctx.tenant_id)


def list_evaluations(ctx: OperationContext, given: ListEvaluations) -> Page[EvaluationView]:
    """List the evaluations of ended attempts, newest first."""
    return run_counts.list_evaluation_views(
        ctx.connection, given, tenant_id=ctx.tenant_id, run_id=given.run_id
    )


def get_effect(ctx: OperationContext, given: RuleRef) -> RuleEffect:
    """Show what a rule came from and what it has changed; refuse RULE_NOT_FOUND."""
    origin = effects.require_origin(ctx.connection, tenant_id=ctx.tenant_id, rule_id=given.rule_id)
    chain, signature = _chain(ctx, origin)
    since = origin["activated_at"]
    before = after = None
    if signature is not None and since is not None:
        before, after = (
            signatures.count_between(
                ctx.connection, tenant_id=ctx.tenant_id, signature=signature, since=begin, until=end
            )
            for begin, end in ((since - effects.WINDOW, since), (since, since + effects.WINDOW))
        )
    snapshot_ids = effects.list_governing_snapshots(ctx.connection, origin, tenant_id=ctx.tenant_id)
    return RuleEffect(
        rule_id=given.rule_id,
        status=origin["status"],
        source=origin["source"],
        activated_at=since,
        chain=chain,
        preventions=effects.count_outcomes(ctx.connection, tenant_id=ctx.tenant_id, rule_id=given.rule_id),
        runs_governed=run_counts.count_governed(
            ctx.connection, tenant_id=ctx.tenant_id, snapshot_ids=snapshot_ids, since=since
        ),
        signature=signature,
        window_days=effects.WINDOW.days,
        incidents_before=before,
        incidents_after=after,
    )


def simulate(ctx: OperationContext, given: Simulate) -> Simulated:
    """Judge a moment of a run, or stored decisions again, without recording anything."""
    return policy_simulation.simulate(ctx, given)


def _chain(ctx: OperationContext, origin: Row) -> tuple[EffectChain, str | None]:
    """Return where a rule came from, and the signature of the incident it was learned from."""
    lesson_id = incident_id = signature = None
    if origin["proposal_source"] == "LESSON":
        lesson_id = origin["source_ref"]
        lesson = lessons.require(ctx.connection, tenant_id=ctx.tenant_id, lesson_id=lesson_id)
        if lesson["source_event_type"] == "INCIDENT":
            incident_id = lesson["source_event_id"]
    elif origin["proposal_source"] == "INCIDENT":
        incident_id = origin["source_ref"]
    if incident_id is not None:
        incident = incident_views.require(ctx.connection, tenant_id=ctx.tenant_id, incident_id=incident_id)
        signature = incident["recurrence_signature"]
    chain = EffectChain(
        source_run_id=origin["source_run_id"],
        incident_id=incident_id,
        lesson_id=lesson_id,
        proposal_id=origin["proposal_id"],
        rule_id=origin["rule_id"],
    )
    return chain, signature


declare = OperationsOf("policies")
OPERATIONS = (
    declare.read("policies.rules.effect", RuleRef, RuleEffect, get_effect),
    declare.read("policies.preventions.list", ListPreventions, Page[PreventionView], list_preventions),
    declare.read("policies.evaluations.list", ListEvaluations, Page[EvaluationView], list_evaluations),
    declare.read("policies.simulate", Simulate, Simulated, simulate),
)
