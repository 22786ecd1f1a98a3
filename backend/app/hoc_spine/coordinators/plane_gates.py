"""Spine: gather the facts that the gates of the plane lifecycle judge, from every slice that has some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.domains.activity.engines import runs
from app.domains.activity.models.runs import ListRuns
from app.domains.activity.models.vocabulary import RunStatus
from app.domains.knowledge.engines import approvals, bindings, gates, planes
from app.domains.knowledge.engines.bindings import RuleFacts
from app.domains.knowledge.engines.gates import Approval, DeactivationFacts, GateResult, PurgeFacts
from app.domains.knowledge.engines.planes import PlaneRow
from app.domains.knowledge.models.vocabulary import (
    JobType,
    KnowledgePlaneLifecycleState,
)
from app.domains.policies.engines import rules
from app.domains.retrieval.engines import evidence
from app.hoc_spine.coordinators.legal_holds import holds_on_plane
from app.hoc_spine.operation_context import OperationContext
from app.kernel.pages import MAX_LIMIT

State = KnowledgePlaneLifecycleState


@dataclass(frozen=True, slots=True)
class Judged:
    """A gate's result, and the consent that it let pass with."""

    gate: GateResult
    consent: Approval | None = None


def judge_gate(ctx: OperationContext, plane: PlaneRow, to_state: State, *, force: bool) -> Judged | None:
    """Return the judgement of the gate on this edge, None where there is none."""
    if to_state is State.ACTIVE:
        return Judged(_activation(ctx, plane))
    if to_state is State.DEACTIVATED:
        return Judged(_deactivation(ctx, plane, force=force))
    if to_state is State.PURGED:
        return _purge(ctx, plane)
    return None


def bound_rules(ctx: OperationContext, plane_id: str) -> list[RuleFacts]:
    """Return what the rules bound to a plane say now."""
    rule_ids = bindings.list_policy_ids(ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane_id)
    found = rules.list_facts(ctx.connection, tenant_id=ctx.tenant_id, rule_ids=rule_ids)
    return [RuleFacts(rule.rule_id, rule.kind, rule.status, rule.effect) for rule in found]


def running_readers(ctx: OperationContext, plane_id: str) -> Sequence[str]:
    """Return the running runs, at most 20, that were given knowledge of this plane."""
    # Every plan runs far fewer runs at once than one page holds.
    query = ListRuns(status=RunStatus.RUNNING, limit=MAX_LIMIT)
    running = runs.list_runs(ctx.connection, tenant_id=ctx.tenant_id, query=query, after=None)
    return evidence.list_readers(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        plane_id=plane_id,
        run_ids=[run["run_id"] for run in running],
        limit=gates.SHOWN_IDS,
    )


def _activation(ctx: OperationContext, plane: PlaneRow) -> GateResult:
    return gates.decide_activation(
        active_allow_rules=bindings.count_allowing(bound_rules(ctx, plane["plane_id"])),
        may_bind=planes.state_of(plane).allows_policy_binding,
    )


def _deactivation(ctx: OperationContext, plane: PlaneRow, *, force: bool) -> GateResult:
    plane_id = plane["plane_id"]
    readers = running_readers(ctx, plane_id)
    facts = DeactivationFacts(
        live_policy_ids=bindings.list_policy_ids(ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane_id),
        grace_until=plane["grace_until"],
        running_run_ids=readers,
        running_run_count=len(readers),
    )
    return gates.decide_deactivation(facts, now=ctx.now, force=force)


def _purge(ctx: OperationContext, plane: PlaneRow) -> Judged:
    consents = approvals.list_open(
        ctx.connection, tenant_id=ctx.tenant_id, plane_id=plane["plane_id"], now=ctx.now
    )
    facts = PurgeFacts(
        hold_ids=holds_on_plane(ctx.connection, plane["plane_id"], tenant_id=ctx.tenant_id),
        archive_status=planes.get_visit_job_status(
            ctx.connection, tenant_id=ctx.tenant_id, plane=plane, job_type=JobType.ARCHIVE_DATA
        ),
        retention_until=plane["retention_until"],
        approvals=consents,
    )
    actor_id, alone = ctx.actor.id, ctx.standing.allow_self_approval
    gate = gates.decide_purge(facts, now=ctx.now, actor_id=actor_id, allow_self_approval=alone)
    consent = gates.find_approval(consents, now=ctx.now, actor_id=actor_id, allow_self_approval=alone)
    return Judged(gate, consent)
