"""Spine: limits of a run: what they are worth now, what a check reserves, what use commits."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import structlog

from app.db.connection import DriverConnection, Row
from app.domains.activity.models.vocabulary import OutcomeKind, RunStatus
from app.domains.controls.engines import ledger, overrides, reserving
from app.domains.controls.engines.judging import (
    Standing,
    complete_use,
    plan_reserving,
    standing_of,
)
from app.domains.controls.models.usage import (
    BreachView,
    LimitFinding,
    LimitJudgement,
    OverrideInForce,
    Use,
)
from app.domains.controls.models.vocabulary import LimitEnforcement
from app.domains.policies.errors import SnapshotInvalidError
from app.hoc_spine.coordinators.limit_breaches import ordered, record_breaches, signal_near
from app.hoc_spine.coordinators.run_policies import load_snapshot
from app.hoc_spine.operation_context import OperationContext
from app.kernel.amounts import Metric
from app.kernel.errors import safe_trace

OVERRIDES: Final = "live_overrides"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UseResult:
    """What committed use led to; `halting` halts the running run, and `outcome` is what its breach opened."""

    findings: tuple[LimitFinding, ...] = ()
    breaches: tuple[BreachView, ...] = ()
    must_stop: bool = False
    halting: LimitFinding | None = None
    outcome: tuple[OutcomeKind, str | None] | None = None


class LiveOverrides:
    """Which overrides of a tenant are approved, read once for each live_epoch."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, tuple[OverrideInForce, ...]]] = {}
        self._lock = threading.Lock()

    def get(
        self, connection: DriverConnection, *, tenant_id: str, live_epoch: int
    ) -> tuple[OverrideInForce, ...]:
        """Return the approved overrides as of this epoch."""
        known = self._known.get(tenant_id)
        if known is not None and known[0] == live_epoch:
            return known[1]
        approved = overrides.list_approved(connection, tenant_id=tenant_id)
        with self._lock:
            self._known[tenant_id] = (live_epoch, approved)
        return approved


class _RefusedError(Exception):
    """A limit refused: leaves the savepoint, which takes back what other limits had granted."""

    def __init__(self, findings: Sequence[LimitFinding]) -> None:
        super().__init__("a limit refused")
        self.findings = findings


def run_standing(ctx: OperationContext, run: Row, members: Sequence[Mapping[str, Any]]) -> Standing:
    """Return how a snapshot's limits judge a run now, with the overrides in force."""
    return standing_of(members, live_overrides(ctx), run=run, now=ctx.now)


def live_overrides(ctx: OperationContext) -> tuple[OverrideInForce, ...]:
    """Return the tenant's approved overrides as of this unit's first statement."""
    approved: tuple[OverrideInForce, ...] = ctx.services.caches[OVERRIDES].get(
        ctx.connection, tenant_id=ctx.tenant_id, live_epoch=ctx.standing.live_epoch
    )
    return approved


def reserve_estimate(
    ctx: OperationContext,
    run: Row,
    members: Sequence[Mapping[str, Any]],
    estimate: Mapping[Metric, int],
    *,
    decision_id: str,
    reservation_id: str,
    expires_at: datetime,
) -> LimitJudgement:
    """Take a check's estimate of every limit, or of none when a BLOCK limit refuses it.

    A limit that cannot be evaluated leaves `unavailable`, which blocks. `keep_reservation` writes the
    entries once the decision is recorded; `record_breaches` writes the refusals.
    """
    if not members:
        return LimitJudgement()
    try:
        with ctx.savepoint():
            standing = run_standing(ctx, run, members)
            planned = plan_reserving(standing, estimate)
            findings, refused = reserving.reserve(
                ctx.connection,
                standing,
                planned,
                tenant_id=ctx.tenant_id,
                run_time=estimate.get(Metric.RUN_TIME_MS, 0),
            )
            if refused:
                raise _RefusedError(findings)
    except _RefusedError as refusal:
        return LimitJudgement(findings=ordered(refusal.findings))
    except Exception as error:  # noqa: BLE001 - whatever it was, a limit that cannot be evaluated blocks
        _log.error("limits.unavailable", run_id=run["run_id"], trace=safe_trace(error))
        return LimitJudgement(unavailable=True)
    signal_near(ctx, run, findings)
    return LimitJudgement(
        findings=ordered(findings),
        taken=tuple(item for item in planned if item.amount),
        amounts=complete_use(estimate),
        decision_id=decision_id,
        reservation_id=reservation_id,
        expires_at=expires_at,
    )


def keep_reservation(ctx: OperationContext, run: Row, judgement: LimitJudgement) -> None:
    """Write the reservation and the entries of what a check took; its decision is recorded already."""
    reserving.keep(ctx, judgement, run_id=run["run_id"], attempt=run["attempt"])


def look_at_limits(
    ctx: OperationContext, run: Row, members: Sequence[Mapping[str, Any]]
) -> tuple[LimitFinding, ...]:
    """Return how every judging limit of a run stands now; nothing is taken."""
    if not members:
        return ()
    standing = run_standing(ctx, run, members)
    return tuple(reserving.look_at_all(ctx.connection, standing, tenant_id=ctx.tenant_id))


def commit_use(ctx: OperationContext, run: Row, trace: Row, uses: Sequence[Use]) -> UseResult:
    """Commit use of the run's attempt that `trace` is of; use is a fact, and no limit refuses it.

    First crossings become breaches with all that follows from them. `halting` names the limit that halts
    a running run: the caller ends the run in this transaction.
    """
    try:
        snapshot = load_snapshot(ctx, run)
    except SnapshotInvalidError:
        # What the snapshot governs is blocked; which limits count the use, nobody knows.
        return UseResult(must_stop=True)
    if not snapshot.limits:
        return UseResult()
    standing = run_standing(ctx, run, snapshot.limits)
    findings = ledger.count_use(ctx, standing, uses, run_id=run["run_id"], attempt=trace["attempt"])
    running = run["status"] == RunStatus.RUNNING
    if running:
        findings += reserving.clock_findings(standing)
    signal_near(ctx, run, findings)
    exceeded = [finding for finding in findings if finding.is_breach]
    made = record_breaches(
        ctx,
        run,
        exceeded,
        attempt=trace["attempt"],
        snapshot=snapshot,
        source_ref=uses[-1].source_ref if uses else None,
    )
    stopping = [finding for finding in exceeded if finding.enforcement is LimitEnforcement.BLOCK]
    halting = next((finding for finding in stopping if finding.halts_run), None) if running else None
    by_limit = {breach.limit_id: breach.outcome for breach in made}
    return UseResult(
        findings=ordered(findings),
        breaches=tuple(breach.view for breach in made),
        must_stop=bool(stopping),
        halting=halting,
        outcome=None if halting is None else by_limit.get(halting.limit_id),
    )


def release_open(ctx: OperationContext, run: Row, attempt: int) -> None:
    """Release what an attempt that ends still holds."""
    ledger.release_attempt(ctx, run_id=run["run_id"], attempt=attempt)
