"""Spine: the rules that govern a run: its verified snapshot, what was revoked since, what is judged."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from app.domains.policies.engines import snapshots
from app.domains.policies.engines.snapshots import CompiledSnapshot
from app.domains.policies.errors import SnapshotInvalidError
from app.hoc_spine.operation_context import OperationContext
from app.kernel.amounts import MICRO
from app.kernel.canonical_json import loads

Row = Mapping[str, Any]
_PLAIN = ("run_id", "agent_id", "project_id", "actor_type", "origin_system_id", "attempt")


def load_snapshot(ctx: OperationContext, run: Row) -> CompiledSnapshot:
    """Return the run's verified snapshot, from the process cache where it is known.

    Raises SnapshotInvalidError when its text does not have its hash, or it is missing.
    """
    snapshot_id = run["policy_snapshot_id"]
    snapshot = snapshots.load_verified(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        snapshot_id=snapshot_id,
        cache=ctx.services.caches["snapshots"],
    )
    if snapshot is None:
        raise SnapshotInvalidError(snapshot_id)
    return snapshot


def load_active(ctx: OperationContext) -> CompiledSnapshot:
    """Return the tenant's ACTIVE rules as they stand, for what no run's snapshot governs.

    Only rules of the scope TENANT speak there; a rule that lost its content hash does not.
    """
    return snapshots.compile_active(
        ctx.connection, tenant_id=ctx.tenant_id, programs=ctx.services.caches["snapshots"]
    )


def revoked_rules(ctx: OperationContext) -> frozenset[str]:
    """Return the ids of the rules revoked as of this unit's first statement."""
    revoked: frozenset[str] = ctx.services.caches["revoked_rules"].get(
        ctx.connection, tenant_id=ctx.tenant_id, live_epoch=ctx.standing.live_epoch
    )
    return revoked


def run_inputs(run: Row) -> dict[str, Any]:
    """Return the `run` names of conditions from a run's row."""
    labels = run["labels"]
    return {
        **{name: run[name] for name in _PLAIN},
        "labels": loads(labels) if isinstance(labels, str) else dict(labels),
    }


def usage_inputs(trace: Row, *, now: datetime, estimate: Mapping[str, int] | None = None) -> dict[str, float]:
    """Return the `usage` names of conditions: an attempt's totals so far and the estimate (micro-units).

    Tokens in all are input and output, unless the estimate names them.
    """
    tokens_in, tokens_out = trace["input_tokens"] or 0, trace["output_tokens"] or 0
    totals = {
        "COST_USD": trace["cost_micro"] / MICRO,
        "TOKENS_INPUT": float(tokens_in),
        "TOKENS_OUTPUT": float(tokens_out),
        "TOKENS_TOTAL": float(tokens_in + tokens_out),
        "STEPS": float(trace["step_count"]),
        "RUN_TIME_MS": (now - trace["started_at"]).total_seconds() * 1000,
    }
    asked = dict(estimate or {})
    asked.setdefault("TOKENS_TOTAL", asked.get("TOKENS_INPUT", 0) + asked.get("TOKENS_OUTPUT", 0))
    for metric, amount in asked.items():
        if metric in totals:
            totals[metric] += amount / MICRO
    return totals
