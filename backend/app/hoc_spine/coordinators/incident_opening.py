"""Spine: the one create path of incidents: known ones, the rules that prevent them, the rows that stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.db.connection import Row
from app.domains.activity.engines import runs
from app.domains.activity.models.facts import Projections
from app.domains.activity.models.vocabulary import OutcomeKind, RunStatus
from app.domains.decisions.engines import decisions
from app.domains.decisions.engines.emitting import About, emit_policy_evaluation_decision
from app.domains.decisions.models.vocabulary import (
    CausalRole,
    DecisionOutcome,
)
from app.domains.incidents.engines import incidents
from app.domains.incidents.models.records import IncidentDraft
from app.domains.incidents.models.vocabulary import IncidentCategory, LinkKind
from app.domains.lessons.engines import lessons
from app.domains.lessons.models.records import LessonDraft
from app.domains.policies.engines import preventions
from app.domains.policies.engines.guards import GuardMatch, GuardVerdict, judge
from app.domains.policies.engines.preventions import PreventionDraft
from app.domains.policies.engines.snapshots import CompiledSnapshot
from app.domains.policies.models.vocabulary import EnforcementMode, Moment, PreventionOutcome
from app.hoc_spine.coordinators.lesson_learning import lesson_of_incident
from app.hoc_spine.coordinators.run_policies import load_active, revoked_rules, run_inputs
from app.hoc_spine.operation_context import OperationContext
from app.kernel.canonical_json import loads

__all__ = [
    "IncidentDraft",
    "Opened",
    "create_incident",
    "find_explanation",
    "find_prevented",
    "open_incident",
]
_OUTCOMES = {
    EnforcementMode.WARN: PreventionOutcome.WARNED,
    EnforcementMode.AUDIT: PreventionOutcome.AUDITED,
    # Nothing suppresses this incident; what the rule says is kept all the same.
    EnforcementMode.BLOCK: PreventionOutcome.AUDITED,
}


@dataclass(frozen=True, slots=True)
class Opened:
    """What became of a draft: an incident, new or known, or the record of the rule that prevented it.

    `links` is what a new incident points at and `lesson` what it teaches; neither is stored yet.
    `recorded` are the outcomes of the prevention records that were written on the way; `same` is false for
    a known prevention of other content.
    """

    incident: Row | None
    created: bool
    prevention_id: str | None = None
    decision_id: str | None = None
    rule_id: str | None = None
    lesson: LessonDraft | None = None
    links: Sequence[tuple[LinkKind, str]] = ()
    recorded: Sequence[str] = ()
    same: bool = True


def open_incident(
    ctx: OperationContext, draft: IncidentDraft, *, run: Row | None, snapshot: CompiledSnapshot | None
) -> Opened:
    """Open an incident by the whole create path, with its lesson and what the run's row tells of it.

    The caller holds the run's lock when there is a run. `snapshot` is the run's; where it is None the
    rules of a run cannot be trusted and suppress nothing, and without a run the tenant's ACTIVE rules judge.
    """
    opened = create_incident(ctx, draft, run=run, snapshot=snapshot)
    if not opened.created or opened.incident is None:
        return opened
    incidents.link(ctx, opened.incident, opened.links)
    if run is None:
        return opened
    if opened.lesson is not None:
        lessons.learn(ctx, [opened.lesson])
    violation = opened.incident["category"] == IncidentCategory.POLICY_VIOLATION
    runs.raise_projections(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        run_id=run["run_id"],
        raised=Projections(incidents=1, violation=violation),
        now=ctx.now,
    )
    return opened


def create_incident(
    ctx: OperationContext,
    draft: IncidentDraft,
    *,
    run: Row | None,
    snapshot: CompiledSnapshot | None,
    is_first: bool = False,
) -> Opened:
    """Do as `open_incident` but for links, lesson and the run's row, which the caller writes with its own.

    `is_first` says that nobody can have used the draft's dedupe key before, so nobody looks.
    """
    judged_by = load_active(ctx) if run is None else snapshot
    verdict = _judge(ctx, draft, run, judged_by)
    if verdict.blocking and draft.yields_to_rules:
        known = None if is_first else _find(ctx, draft) or find_prevented(ctx, draft)
        return known or _prevent(ctx, draft, run, judged_by, verdict)
    incident = incidents.insert(ctx, draft, run=run)
    if incident is None:
        known = _find(ctx, draft)
        if known is None:
            raise RuntimeError("an incident is neither insertable nor there")
        return known
    records: Sequence[str] = ()
    if verdict.matches:
        records = _record_matches(ctx, draft, run, judged_by, verdict, incident)
    run_id = incident["source_run_id"]
    ctx.audit(
        "IncidentCreated",
        "INCIDENT",
        incident["incident_id"],
        after=incidents.image(incident),
        run_id=run_id,
    )
    ctx.outbox(
        "IncidentCreated",
        {
            "incident_id": incident["incident_id"],
            "run_id": run_id,
            "category": incident["category"],
            "severity": incident["severity"],
            "error_code": incident["error_code"],
            "recurrence_signature": incident["recurrence_signature"],
            "recurrence_count": incident["recurrence_count"],
        },
    )
    return Opened(
        incident,
        created=True,
        lesson=lesson_of_incident(incident),
        links=[(LinkKind.PREVENTION, prevention_id) for prevention_id in records],
        recorded=[_OUTCOMES[match.mode].value for match in verdict.matches],
    )


def _find(ctx: OperationContext, draft: IncidentDraft) -> Opened | None:
    known = incidents.find_known(
        ctx.connection, tenant_id=ctx.tenant_id, incident_id=draft.incident_id, dedupe_key=draft.dedupe_key
    )
    return None if known is None else Opened(known, created=False)


def _judge(
    ctx: OperationContext, draft: IncidentDraft, run: Row | None, snapshot: CompiledSnapshot | None
) -> GuardVerdict:
    if snapshot is None or not snapshot.guards_at(Moment.INCIDENT):
        return GuardVerdict()
    return judge(snapshot, Moment.INCIDENT, _inputs(ctx, draft, run), revoked_rule_ids=revoked_rules(ctx))


def _inputs(ctx: OperationContext, draft: IncidentDraft, run: Row | None) -> dict[str, Any]:
    return {"now": ctx.now, **({} if run is None else {"run": run_inputs(run)}), "incident": _said(draft)}


def _said(draft: IncidentDraft) -> dict[str, str]:
    return {
        "severity": incidents.severity_of(draft.error_code, draft.severity).value,
        "category": draft.category.value,
        "error_code": draft.error_code or "",
        "title": str(incidents.redacted(draft)["title"]),
    }


def _prevent(
    ctx: OperationContext,
    draft: IncidentDraft,
    run: Row | None,
    snapshot: CompiledSnapshot | None,
    verdict: GuardVerdict,
) -> Opened:
    """Record that the first blocking rule kept the incident from being."""
    match = verdict.blocking[0]
    about = _about(ctx, draft, run, snapshot, match)
    decision_id = _decide(ctx, draft, run, verdict.matches, DecisionOutcome.PREVENTED, about, key=_key(draft))
    agent_id = None if run is None else run["agent_id"]
    prevention = replace(
        _prevention(draft, run, match, PreventionOutcome.PREVENTED, decision_id, about.snapshot_id),
        signature=incidents.signature_of(draft, agent_id),
        prevented_event={
            **incidents.redacted(draft),
            **_said(draft),
            "incident_id": draft.incident_id,
            "trigger_ref": draft.trigger_ref,
            "dedupe_key": draft.dedupe_key,
            "cause_type": draft.cause_type.value,
            "source_type": draft.source_type.value,
        },
        is_synthetic=False if run is None else bool(run["is_synthetic"]),
    )
    (prevention_id,) = preventions.record_preventions(ctx, [prevention])
    recorded = (PreventionOutcome.PREVENTED.value,)
    return Opened(None, False, prevention_id, decision_id, match.rule.rule_id, recorded=recorded)


def find_prevented(ctx: OperationContext, draft: IncidentDraft) -> Opened | None:
    """Return what became of a draft whose id or dedupe key a rule has met before."""
    known = _find_record(ctx, _key(draft))
    if known is None:
        return None
    decision, record = known
    inputs = decision["decision_inputs"]
    return Opened(
        None,
        False,
        record["prevention_id"],
        decision["decision_id"],
        record["rule_id"],
        same=inputs is None or loads(inputs)["incident"] == _said(draft),
    )


def find_explanation(ctx: OperationContext, dedupe_key: str) -> tuple[OutcomeKind, str] | None:
    """Return the incident of a dedupe key, or the record of the rule that prevented it."""
    known = incidents.find_known(
        ctx.connection, tenant_id=ctx.tenant_id, incident_id=None, dedupe_key=dedupe_key
    )
    if known is not None:
        return OutcomeKind.INCIDENT, known["incident_id"]
    met = _find_record(ctx, f"incident:{dedupe_key}")
    return None if met is None else (OutcomeKind.PREVENTION, met[1]["prevention_id"])


def _find_record(ctx: OperationContext, key: str | None) -> tuple[Row, Row] | None:
    """Return the decision of a key that a rule has met before, and its prevention record."""
    if key is None:
        return None
    decision = decisions.find_by_key(ctx.connection, tenant_id=ctx.tenant_id, idempotency_key=key)
    if decision is None:
        return None
    record = preventions.get_by_decision(
        ctx.connection,
        tenant_id=ctx.tenant_id,
        run_id=decision["run_id"],
        decision_id=decision["decision_id"],
    )
    if record is None:
        raise LookupError(f"decision {decision['decision_id']} has no prevention record")
    return decision, record


def _key(draft: IncidentDraft) -> str | None:
    named = draft.incident_id or draft.dedupe_key
    return None if named is None else f"incident:{named}"


def _record_matches(
    ctx: OperationContext,
    draft: IncidentDraft,
    run: Row | None,
    snapshot: CompiledSnapshot | None,
    verdict: GuardVerdict,
    incident: Row,
) -> Sequence[str]:
    """Record the rules that matched an incident which opens: one decision, and one record for each."""
    warned = next(iter(verdict.warned), None)
    outcome = DecisionOutcome.AUDITED if warned is None else DecisionOutcome.WARNED
    about = replace(
        _about(ctx, draft, run, snapshot, warned or verdict.matches[0]),
        details={"incident_id": incident["incident_id"]},
    )
    decision_id = _decide(ctx, draft, run, verdict.matches, outcome, about)
    synthetic = bool(incident["is_synthetic"])
    return preventions.record_preventions(
        ctx,
        [
            replace(
                _prevention(draft, run, match, _OUTCOMES[match.mode], decision_id, about.snapshot_id),
                signature=incident["recurrence_signature"],
                is_synthetic=synthetic,
            )
            for match in verdict.matches
        ],
    )


def _about(
    ctx: OperationContext,
    draft: IncidentDraft,
    run: Row | None,
    snapshot: CompiledSnapshot | None,
    spoken: GuardMatch,
) -> About:
    return About(
        reason=spoken.message,
        run_id=None if run is None else run["run_id"],
        attempt=_attempt(draft, run),
        request_id=ctx.request.request_id,
        # The tenant's ACTIVE rules as they stand are no stored snapshot.
        snapshot_id=None if run is None or snapshot is None else snapshot.snapshot_id,
    )


def _decide(
    ctx: OperationContext,
    draft: IncidentDraft,
    run: Row | None,
    matches: Sequence[GuardMatch],
    outcome: DecisionOutcome,
    about: About,
    *,
    key: str | None = None,
) -> str:
    inputs: Mapping[str, Any] = {
        "moment": Moment.INCIDENT.value,
        **({} if run is None else {"run": run_inputs(run)}),
        "incident": _said(draft),
    }
    running = run is not None and run["status"] == RunStatus.RUNNING
    return emit_policy_evaluation_decision(
        ctx,
        outcome,
        inputs,
        about,
        role=CausalRole.IN_RUN if running else CausalRole.POST_RUN,
        matched=[match.as_json() for match in matches],
        key=key,
    )


def _prevention(
    draft: IncidentDraft,
    run: Row | None,
    match: GuardMatch,
    outcome: PreventionOutcome,
    decision_id: str,
    snapshot_id: str | None,
) -> PreventionDraft:
    return PreventionDraft(
        match=match,
        outcome=outcome,
        moment=Moment.INCIDENT,
        decision_id=decision_id,
        run_id=None if run is None else run["run_id"],
        attempt=_attempt(draft, run),
        snapshot_id=snapshot_id,
    )


def _attempt(draft: IncidentDraft, run: Row | None) -> int | None:
    return draft.attempt or (None if run is None else run["attempt"])
