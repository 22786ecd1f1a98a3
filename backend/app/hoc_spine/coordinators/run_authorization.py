"""Spine: whether a run may start: its snapshot, the START rules on it, and the record of a refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.domains.activity.models.runs import StartRun
from app.domains.controls.engines import limits
from app.domains.decisions.engines import decisions
from app.domains.decisions.engines.emitting import About, emit_policy_evaluation_decision
from app.domains.decisions.engines.recording import DecisionDraft, inputs_digest, record_decisions
from app.domains.decisions.models.vocabulary import (
    CausalRole,
    DecisionOutcome,
    DecisionSource,
    DecisionTrigger,
    DecisionType,
)
from app.domains.knowledge.engines import bindings
from app.domains.policies.engines import guards, snapshots
from app.domains.policies.engines.guards import GuardMatch, GuardVerdict
from app.domains.policies.engines.preventions import PreventionDraft, record_preventions
from app.domains.policies.engines.snapshot_cache import ScopeKey, SnapshotCache
from app.domains.policies.engines.snapshots import CompiledSnapshot
from app.domains.policies.models.vocabulary import EnforcementMode, Moment, PreventionOutcome
from app.hoc_spine.operation_context import OperationContext
from app.kernel.errors import HocError
from app.kernel.redaction import redact_json

_OUTCOMES: Mapping[EnforcementMode, PreventionOutcome] = {
    EnforcementMode.AUDIT: PreventionOutcome.AUDITED,
    EnforcementMode.WARN: PreventionOutcome.WARNED,
    EnforcementMode.BLOCK: PreventionOutcome.BLOCKED,
}


@dataclass(frozen=True, slots=True)
class Authorization:
    """What the START rules of a snapshot say of a run, and for which policy version that holds."""

    policy_version: int
    snapshot: CompiledSnapshot
    verdict: GuardVerdict

    @property
    def blocked(self) -> bool:
        return bool(self.verdict.blocking)

    def granted(self) -> dict[str, Any]:
        """Return the `authorization` that the run carries."""
        return {
            "decision": "GRANTED",
            "rules_judged": self.verdict.judged,
            "warned": [match.rule.rule_id for match in self.verdict.warned],
        }

    def warnings(self) -> list[dict[str, Any]]:
        """Return what the caller is warned of."""
        return [_said(match) for match in self.verdict.warned]


def _said(match: GuardMatch) -> dict[str, Any]:
    return {
        "code": match.code,
        "rule_id": match.rule.rule_id,
        "rule_version": match.rule.rule_version,
        "message": match.message,
    }


def judge_known(ctx: OperationContext, command: StartRun) -> Authorization | None:
    """Judge by the snapshot that this process knows for the policy version at hand, None without one."""
    version = ctx.standing.policy_version
    known = _cache(ctx).for_scope(_scope(ctx, command, version))
    return None if known is None else _judge(ctx, command, known, version)


def judge_start(
    ctx: OperationContext, command: StartRun, policy_version: int, before: Authorization | None
) -> Authorization:
    """Judge a start that holds the tenant's state; again only where the policy version moved meanwhile.

    A snapshot that is new is stored. Refuses POLICY_INTEGRITY where a rule or limit lost its hash.
    """
    if before is not None and before.policy_version == policy_version:
        return before
    key = _scope(ctx, command, policy_version)
    cache = _cache(ctx)
    snapshot = cache.for_scope(key)
    if snapshot is None:
        made = snapshot = snapshots.ensure(
            ctx.connection,
            tenant_id=ctx.tenant_id,
            project_id=key.project_id,
            agent_id=key.agent_id,
            bindings=bindings.list_live(ctx.connection, tenant_id=ctx.tenant_id),
            limits=limits.snapshot_limits(
                ctx.connection, tenant_id=ctx.tenant_id, project_id=key.project_id, agent_id=key.agent_id
            ),
            facts=ctx.facts,
            now=ctx.now,
            programs=cache,
        )
        ctx.after_commit(lambda: cache.remember(key, made))
    return _judge(ctx, command, snapshot, policy_version)


def _judge(
    ctx: OperationContext, command: StartRun, snapshot: CompiledSnapshot, policy_version: int
) -> Authorization:
    inputs = {"run": start_inputs(command), "now": ctx.now}
    return Authorization(policy_version, snapshot, guards.judge(snapshot, Moment.START, inputs))


def _scope(ctx: OperationContext, command: StartRun, policy_version: int) -> ScopeKey:
    return ScopeKey(ctx.tenant_id, policy_version, command.project_id, str(command.agent_id))


def _cache(ctx: OperationContext) -> SnapshotCache:
    cache: SnapshotCache = ctx.services.caches["snapshots"]
    return cache


def start_inputs(command: StartRun) -> dict[str, Any]:
    """Return the `run` names of conditions for a run that is to start."""
    names = ("run_id", "agent_id", "project_id", "actor_type", "origin_system_id", "labels")
    return {**{name: getattr(command, name) for name in names}, "attempt": 1}


def record_granted(ctx: OperationContext, command: StartRun, run_id: str, given: Authorization) -> None:
    """Record what the START rules said of a run that started, when one of them matched."""
    matches = given.verdict.matches
    if not matches:
        return
    outcome = DecisionOutcome.WARNED if given.verdict.warned else DecisionOutcome.AUDITED
    decision_id = emit_policy_evaluation_decision(
        ctx,
        outcome,
        _inputs(command),
        About(
            reason=_words(matches),
            run_id=run_id,
            attempt=1,
            request_id=ctx.request.request_id,
            snapshot_id=given.snapshot.snapshot_id,
        ),
        role=CausalRole.PRE_RUN,
        matched=[match.as_json() for match in matches],
    )
    _record_matches(ctx, command, matches, given, decision_id, run_id=run_id)


def record_blocked(ctx: OperationContext, command: StartRun, given: Authorization) -> str:
    """Record that the START rules forbid a run, and return the decision's id; there is no run."""
    matches = given.verdict.matches
    decision_id, known = _record_stop(
        ctx,
        command,
        decision_type=DecisionType.POLICY_PRE_CHECK,
        outcome=DecisionOutcome.POLICY_BLOCKED,
        reason=_words(given.verdict.blocking),
        key=f"precheck:{ctx.request.request_id}:{DecisionOutcome.POLICY_BLOCKED.value}",
        snapshot_id=given.snapshot.snapshot_id,
        matched=[match.as_json() for match in matches],
    )
    if not known:
        _record_matches(ctx, command, matches, given, decision_id, run_id=None)
    return decision_id


def record_quota_stop(ctx: OperationContext, command: StartRun, refusal: HocError) -> str:
    """Record that the tenant's plan allows no further run, and return the decision's id."""
    decision_id, _ = _record_stop(
        ctx,
        command,
        decision_type=DecisionType.BUDGET,
        outcome=DecisionOutcome.BLOCKED,
        reason=refusal.detail,
        details={"quota": refusal.extra.get("quota")},
    )
    return decision_id


def _record_stop(
    ctx: OperationContext,
    command: StartRun,
    *,
    decision_type: DecisionType,
    outcome: DecisionOutcome,
    reason: str,
    key: str | None = None,
    snapshot_id: str | None = None,
    matched: Sequence[Mapping[str, Any]] = (),
    details: Mapping[str, Any] | None = None,
) -> tuple[str, bool]:
    inputs = _inputs(command)
    if key is not None:
        known = decisions.find_by_key(ctx.connection, tenant_id=ctx.tenant_id, idempotency_key=key)
        if known is not None:
            if known["inputs_digest"] == inputs_digest(ctx.digest_key(), inputs):
                return known["decision_id"], True
            # One request id for two different starts: the refusal is recorded all the same.
            key = None
    (decision_id,) = record_decisions(
        ctx,
        [
            DecisionDraft(
                decision_type=decision_type,
                decision_source=DecisionSource.SYSTEM,
                decision_trigger=DecisionTrigger.EXPLICIT,
                causal_role=CausalRole.PRE_RUN,
                decision_outcome=outcome,
                decision_reason=reason,
                decision_inputs=inputs,
                request_id=ctx.request.request_id,
                snapshot_id=snapshot_id,
                matched=matched,
                idempotency_key=key,
                details=details or {},
            )
        ],
    )
    return decision_id, False


def _inputs(command: StartRun) -> dict[str, Any]:
    inputs: dict[str, Any] = redact_json({"moment": Moment.START.value, "run": start_inputs(command)})[0]
    return inputs


def _record_matches(
    ctx: OperationContext,
    command: StartRun,
    matches: Sequence[GuardMatch],
    given: Authorization,
    decision_id: str,
    *,
    run_id: str | None,
) -> None:
    drafts = [
        PreventionDraft(
            match=match,
            outcome=_OUTCOMES[match.mode],
            moment=Moment.START,
            decision_id=decision_id,
            run_id=run_id,
            attempt=None if run_id is None else 1,
            snapshot_id=given.snapshot.snapshot_id,
            is_synthetic=command.is_synthetic,
        )
        for match in matches
    ]
    record_preventions(ctx, drafts)


def _words(matches: Sequence[GuardMatch]) -> str:
    return "; ".join(f"{match.code}: {match.message}" for match in matches)[:4096]


def naming(refusal: HocError, decision_id: str) -> HocError:
    """Return the refusal with the decision that recorded it in its body."""
    return HocError(
        refusal.kind,
        refusal.code,
        refusal.detail,
        errors=refusal.errors,
        extra={**refusal.extra, "decision_id": decision_id},
        retry_after=refusal.retry_after,
    )
