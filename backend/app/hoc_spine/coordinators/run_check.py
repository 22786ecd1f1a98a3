"""Spine: the governed check before a side effect: what it is judged by, its verdict, its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from app.db.check_read import CheckFacts, lock_check
from app.domains.activity.models.vocabulary import RunStatus
from app.domains.controls.models.usage import LimitFinding
from app.domains.decisions.engines.emitting import About, emit_policy_evaluation_decision
from app.domains.decisions.models.vocabulary import (
    CausalRole,
)
from app.domains.policies.engines.guards import GuardMatch
from app.domains.policies.engines.preventions import PreventionDraft, record_preventions
from app.domains.policies.engines.snapshot_cache import SnapshotCache
from app.domains.policies.models.checks import (
    CheckResult,
    CheckRun,
    HeldReservation,
    LimitStand,
    Reason,
)
from app.domains.policies.models.vocabulary import Moment, PreventionOutcome
from app.domains.tenants.engines import state
from app.domains.tenants.models import Standing
from app.hoc_spine.coordinators.check_judgement import Judgement, PreparedCheck, counters_of
from app.hoc_spine.coordinators.limit_breaches import record_breaches
from app.hoc_spine.coordinators.limit_use import keep_reservation
from app.hoc_spine.coordinators.run_halting import halt_on_limit, halt_on_rule
from app.hoc_spine.operation_context import OperationContext, PrepareContext
from app.kernel.amounts import as_number
from app.kernel.errors import ErrorKind, HocError
from app.kernel.redaction import redact_json

_OUTCOMES: Mapping[str, PreventionOutcome] = {
    "AUDIT": PreventionOutcome.AUDITED,
    "WARN": PreventionOutcome.WARNED,
    "BLOCK": PreventionOutcome.BLOCKED,
}


def prepare_check(ctx: PrepareContext, command: CheckRun) -> PreparedCheck:
    """Redact what is asked: what is stored is what was judged."""
    action, _ = redact_json(command.action.model_dump(mode="json"))
    inputs = {
        "action": action,
        "estimate": dict(command.estimate),
        "ttl_seconds": command.ttl_seconds,
        "step_index": command.step_index,
    }
    # A check without an id gets one here, so that a second try of this dispatch is the same check.
    check_id = command.check_id or ctx.new_id("chk")
    return PreparedCheck(ctx.new_id("dec"), ctx.new_id("rsv"), f"check:{command.run_id}:{check_id}", inputs)


def look_at_check(ctx: OperationContext, command: CheckRun) -> Standing | None:
    """Hold run and trace, keep what the check is judged by, and return the caller's standing."""
    prepared: PreparedCheck = ctx.prepared
    cache: SnapshotCache = ctx.services.caches["snapshots"]
    snapshot = cache.of_run(ctx.tenant_id, command.run_id) if prepared.reads_counters else None
    counters = None if snapshot is None else counters_of(snapshot, command.run_id, ctx.now)
    facts = prepared.facts = _read(ctx, command, prepared, counters)
    if facts is None:
        return state.load_standing(ctx.connection, tenant_id=ctx.tenant_id, key_id=ctx.request.key_id)
    if snapshot is None:
        cache.remember_run(ctx.tenant_id, command.run_id, facts.run["policy_snapshot_id"])
    return Standing(**facts.standing)


def _read(
    ctx: OperationContext,
    command: CheckRun,
    prepared: PreparedCheck,
    counters: Sequence[tuple[str, str]] | None,
) -> CheckFacts | None:
    try:
        return lock_check(
            ctx.connection,
            tenant_id=ctx.tenant_id,
            run_id=command.run_id,
            key_id=ctx.request.key_id,
            idempotency_key=prepared.idempotency_key,
            counters=counters,
        )
    except Exception as error:
        if not counters:
            raise
        # A counter that cannot be read blocks, and that is recorded: once more, and without them.
        prepared.reads_counters = False
        raise unrecorded() from error


def unrecorded() -> HocError:
    """The check could not be judged or recorded; whoever asked must not go on."""
    return HocError(
        ErrorKind.UNAVAILABLE,
        "BUSY",
        "The check could not be recorded; the action is not permitted.",
        retry_after=1,
    )


def record_check(
    ctx: OperationContext,
    prepared: PreparedCheck,
    facts: CheckFacts,
    found: Judgement,
) -> CheckResult:
    """Write what a check came to, with all that follows from it, and return its answer."""
    run = facts.run
    result = _result(prepared, facts, found, ctx.now)
    emit_policy_evaluation_decision(
        ctx,
        found.outcome,
        prepared.inputs,
        About(
            reason=_words(found.reasons),
            run_id=run["run_id"],
            attempt=run["attempt"],
            request_id=ctx.request.request_id,
            snapshot_id=run["policy_snapshot_id"],
            details={"answer": result.model_dump(mode="json"), "judged_by": dict(found.judged_by)},
        ),
        role=CausalRole.IN_RUN,
        matched=[match.as_json() for match in found.matches],
        key=prepared.idempotency_key,
        reservation_id=prepared.reservation_id if found.limits.reserved else None,
        decision_id=prepared.decision_id,
    )
    ids = record_preventions(
        ctx, [_prevention(match, facts, found, prepared.decision_id) for match in found.matches]
    )
    if found.limits.taken:
        keep_reservation(ctx, run, found.limits)
    if found.limits.refused:
        record_breaches(
            ctx, run, found.limits.refused, snapshot=found.snapshot, decision_id=prepared.decision_id
        )
    if found.halts:
        _halt(ctx, prepared, facts, found, ids)
    return result


def _result(prepared: PreparedCheck, facts: CheckFacts, found: Judgement, now: datetime) -> CheckResult:
    held = None
    if found.limits.reserved and found.limits.expires_at is not None:
        held = HeldReservation(reservation_id=prepared.reservation_id, expires_at=found.limits.expires_at)
    return CheckResult(
        decision_id=prepared.decision_id,
        verdict=found.verdict,
        outcome=found.outcome,
        reasons=found.reasons,
        limits=[limit_stand(finding) for finding in found.limits.findings],
        reservation=held,
        run_status=RunStatus.HALTED if found.halts else facts.run["status"],
        decided_at=now,
    )


def limit_stand(finding: LimitFinding) -> LimitStand:
    """Return how a limit stands, as a check shows it."""
    return LimitStand(
        limit_id=finding.limit_id,
        metric=finding.metric.value,
        evaluation=finding.evaluation.value,
        value=as_number(finding.value),
        max_value=as_number(finding.max_value),
        proximity_pct=finding.proximity_pct,
        headroom=as_number(finding.headroom),
    )


def _halt(
    ctx: OperationContext,
    prepared: PreparedCheck,
    facts: CheckFacts,
    found: Judgement,
    prevention_ids: Sequence[str],
) -> None:
    stated = prepared.inputs["step_index"]
    step = facts.trace["step_count"] if stated is None else stated
    run_id = facts.run["run_id"]
    if found.halting is not None:
        rule_id = found.halting.rule.rule_id
        prevention_id = prevention_ids[found.matches.index(found.halting)]
        halt_on_rule(ctx, run_id, rule_id=rule_id, prevention_id=prevention_id, stopped_at_step=step)
    elif found.limits.halting is not None:
        halt_on_limit(ctx, run_id, found.limits.halting, stopped_at_step=step)


def _prevention(match: GuardMatch, facts: CheckFacts, found: Judgement, decision_id: str) -> PreventionDraft:
    run, rule = facts.run, match.rule
    outcome = _OUTCOMES[match.mode]
    if outcome is PreventionOutcome.BLOCKED and found.halts and rule.halts_run:
        outcome = PreventionOutcome.STOPPED
    return PreventionDraft(
        match=match,
        outcome=outcome,
        moment=Moment.STEP if Moment.STEP in rule.moments else Moment.USAGE,
        decision_id=decision_id,
        run_id=run["run_id"],
        attempt=run["attempt"],
        snapshot_id=run["policy_snapshot_id"],
        is_synthetic=run["is_synthetic"],
    )


def _words(reasons: Sequence[Reason]) -> str:
    if not reasons:
        return "No rule and no limit speaks against it."
    return "; ".join(f"{reason.code}: {reason.message}" for reason in reasons)[:4096]
