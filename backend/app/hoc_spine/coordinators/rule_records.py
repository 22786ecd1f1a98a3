"""Spine: what the rules of a run said at a moment, on record: one decision, and one record for each match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.db.connection import Row
from app.domains.decisions.engines.emitting import About, emit_policy_evaluation_decision
from app.domains.decisions.models.vocabulary import CausalRole, DecisionOutcome
from app.domains.policies.engines import preventions
from app.domains.policies.engines.guards import GuardMatch
from app.domains.policies.engines.preventions import PreventionDraft
from app.domains.policies.engines.snapshots import CompiledSnapshot
from app.domains.policies.models.vocabulary import Moment, PreventionOutcome
from app.hoc_spine.operation_context import OperationContext


def record_matches(
    ctx: OperationContext,
    run: Row,
    snapshot: CompiledSnapshot,
    moment: Moment,
    inputs: Mapping[str, Any],
    matches: Sequence[GuardMatch],
    outcomes: Sequence[PreventionOutcome],
    *,
    role: CausalRole,
) -> tuple[str, list[str]]:
    """Record matches with what each of them did; return the decision and the records, in their order.

    The decision says what the gravest did, in its words.
    """
    gravest = max(outcomes, key=lambda outcome: list(PreventionOutcome).index(outcome))
    decision_id = emit_policy_evaluation_decision(
        ctx,
        DecisionOutcome(gravest.value),
        {"moment": moment.value, **inputs},
        About(
            reason=matches[outcomes.index(gravest)].message,
            run_id=run["run_id"],
            attempt=run["attempt"],
            request_id=ctx.request.request_id,
            snapshot_id=snapshot.snapshot_id,
        ),
        role=role,
        matched=[match.as_json() for match in matches],
    )
    drafts = [
        PreventionDraft(
            match=match,
            outcome=outcome,
            moment=moment,
            decision_id=decision_id,
            run_id=run["run_id"],
            attempt=run["attempt"],
            snapshot_id=snapshot.snapshot_id,
            is_synthetic=bool(run["is_synthetic"]),
        )
        for match, outcome in zip(matches, outcomes, strict=True)
    ]
    return decision_id, preventions.record_preventions(ctx, drafts)
